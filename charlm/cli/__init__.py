"""The command line: the only package that parses, prints and exits.

stdout carries the product (text, JSON), stderr everything else; both are UTF-8 whatever the locale,
with line ends as they are in the text whatever the system.

A verb is one file with ``add_parser`` and ``run``, and one entry in ``VERBS``. Packages that need
torch or numpy are imported inside ``run``, so that ``--help`` answers at once.

Exit status: 0 done, 1 an error that the user can mend, 2 wrong usage, 128 + n after signal n (130
Ctrl-C, 143 SIGTERM).
"""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from charlm.cli import (
    compare,
    completion,
    compress,
    corpus,
    decompress,
    evaluate,
    export,
    generate,
    info,
    overlap,
    plot,
    resume,
    score,
    serve,
    train,
)
from charlm.cli import inspect as inspect_run
from charlm.cli import list as list_runs
from charlm.cli.parser import parse
from charlm.cli.terminal import (
    StopSignal,
    Unfailing,
    complain,
    reader_is_gone,
    say,
    stop_signals,
)
from charlm.errors import CharlmError

SIGPIPE = 13  # Windows has no name for it

VERBS = (
    train,
    resume,
    generate,
    serve,
    score,
    evaluate,
    inspect_run,
    compare,
    plot,
    overlap,
    export,
    info,
    list_runs,
    corpus,
    compress,
    decompress,
    completion,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    sys.stderr = Unfailing(sys.stderr)
    try:
        verb, arguments = parse(VERBS, argv)
        with stop_signals():
            status = verb.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("\ncharlm: stopped")
        return 128 + signal.SIGINT
    except StopSignal as stop:
        say("\ncharlm: stopped")
        return 128 + stop.number
    except CharlmError as error:
        complain(error)
        return 1
    except OSError as error:
        _close_stdout()
        if reader_is_gone(error):  # it has seen enough, as in "| head"
            return 128 + SIGPIPE
        # A full disk behind stdout, a folder that may not be entered.
        complain(f"{error.filename or 'cannot write to stdout'}: {error.strerror}")
        return 1
    except BaseException as error:
        if not is_out_of_memory(error):
            raise
        complain(
            "there is not enough memory: lower --hidden-size, --batch-size, --seq-length or "
            "--num-samples; what was saved before is untouched"
        )
        return 1
    return status


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be had.

    torch raises RuntimeError for it, and safetensors a PanicException, which is no Exception.
    """
    words = (
        "allocate",
        "out of memory",
        "bad_alloc",
        "cannot allocate memory",
        "memory allocation",
    )
    return isinstance(error, MemoryError) or (
        (isinstance(error, RuntimeError | OSError) or type(error).__name__ == "PanicException")
        and any(word in str(error).lower() for word in words)
    )


def _close_stdout() -> None:
    """Give up what stdout cannot take, or the interpreter complains of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
