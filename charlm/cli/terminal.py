"""Words for a terminal."""

import sys


def say(line: str = "") -> None:
    """Write a line to stderr."""
    print(line, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return ``text`` with control characters written out.

    Names and values may come from a stranger's file, and a terminal obeys such characters.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def complain(message: object) -> None:
    """Write an error to stderr, as one line of bounded length."""
    line = printable(str(message))
    say(f"charlm: error: {line if len(line) <= 1000 else line[:1000] + ' ...'}")
