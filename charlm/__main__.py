"""The command ``charlm``, and ``python -m charlm``."""

import os
import signal
import sys


def run() -> int:
    """Run the command; whoever stops it while it is still being imported sees no traceback."""
    _open_standard_streams()
    try:
        from charlm.cli import main

        status = main()
    except KeyboardInterrupt:
        print("\ncharlm: stopped", file=sys.stderr)
        status = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: let the interpreter end in peace
    return status


def _open_standard_streams() -> None:
    """Open the standard streams that the caller has closed.

    Else the next file that is opened would get the number of one of them, and messages would end up
    in that file. What is written to a closed stdout fails; stdin is empty.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


if __name__ == "__main__":
    sys.exit(run())
