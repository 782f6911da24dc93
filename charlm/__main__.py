"""The command ``charlm``, and ``python -m charlm``."""

import os
import signal
import sys
from types import FrameType


def run() -> int:
    """Run the command; whoever stops it before it can say so itself sees no traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)
    try:
        _open_standard_streams()
        from charlm.cli import main

        status = main()
        signal.signal(signal.SIGINT, _ignore)  # all is done: let the interpreter end in peace
        return status
    except KeyboardInterrupt:
        print("\ncharlm: stopped", file=sys.stderr)
        return 130


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _ignore)  # a second Ctrl-C could hit where nothing catches it
    raise KeyboardInterrupt


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing. (SIG_IGN would make Python complain of a signal that is still pending.)"""


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
