"""The command line: the only room that parses, prints and exits.

stdout carries the product (text, JSON), stderr everything else; both are UTF-8 whatever the locale.

Exit status: 0 done, 1 an error that the user can mend, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM.
"""

import os
import signal
import sys
from collections.abc import Sequence

from charlm.cli.arguments import make_parser
from charlm.errors import CharlmError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    arguments = make_parser().parse_args(argv)
    from charlm.cli.commands import COMMANDS

    try:
        return COMMANDS[arguments.verb](arguments)
    except CharlmError as error:
        print(f"charlm: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncharlm: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has seen enough, as in "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
