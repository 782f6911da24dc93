"""Lines for a terminal, words for a shell, and requests to stop from them."""

import contextlib
import errno
import importlib
import itertools
import os
import select
import signal
import stat
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from charlm import files
from charlm.cli.parser import as_flag
from charlm.errors import CharlmError, CorpusError

if TYPE_CHECKING:
    from charlm.data.unknown import UnknownCharacters


CLEAR_LINE = "\r\033[K"  # as a terminal reads it

# Seconds that a pipe on stdin may be silent until that is said, and until that is an error.
STDIN_NOTICE, STDIN_PATIENCE = 1.0, 30.0
PIPE_NAP = 0.02  # seconds between two looks into a pipe on Windows, which cannot wait for one
VIRTUAL_TERMINAL = 4  # the mode of a Windows console that obeys escape codes


class Unfailing:
    """A text stream that loses what it cannot write.

    A training must not end because its terminal is gone, or because the disk behind stderr is full.

    Behind a progress bar it leaves the cursor at the start of the line. A terminal shows ``^C``
    where the cursor is, and behind a bar that fills the line that would go over to the next one.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text if that is possible; a bar begins with a carriage return."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(f"{text}\r" if text.startswith("\r") else text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def say(line: str = "") -> None:
    """Write a line to stderr."""
    print(line, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return ``text`` with control characters written out.

    Names and values may come from a stranger's file, and a terminal obeys such characters.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def complain(message: object) -> None:
    """Write an error to stderr, as one line of bounded length; it names settings as flags."""
    if isinstance(message, CharlmError):
        message = message.written(as_flag)
    line = printable(str(message))
    say(f"charlm: error: {line if len(line) <= 1000 else line[:1000] + ' ...'}")


def is_terminal() -> bool:
    """Return whether stdin and stdout are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def obeys_codes(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that obeys escape codes, as those of colours.

    A console of Windows has to be told to; one that cannot would print them as they are.
    """
    if not stream.isatty():
        return False
    return not files.WINDOWS or _enable_codes(stream)


def _enable_codes(stream: TextIO) -> bool:
    """Let a Windows console obey escape codes; return whether it does."""
    import ctypes

    kernel32 = ctypes.windll.kernel32  # type: ignore[attr-defined]
    mode = ctypes.c_ulong()
    try:
        console = ctypes.c_void_p(_windows("msvcrt").get_osfhandle(stream.fileno()))
    except (OSError, ValueError):  # not a stream of the system
        return False
    return bool(
        kernel32.GetConsoleMode(console, ctypes.byref(mode))
        and kernel32.SetConsoleMode(console, mode.value | VIRTUAL_TERMINAL)
    )


def _windows(name: str) -> Any:
    """Return a module of Python that only Windows has."""
    return importlib.import_module(name)


def reader_is_gone(error: OSError) -> bool:
    """Return whether an error says that nobody reads what is written to stdout any more.

    On Windows to write to a pipe that was closed is an invalid argument.
    """
    if files.WINDOWS and error.errno == errno.EINVAL and error.filename is None:
        return True
    return isinstance(error, BrokenPipeError)


def text_files(names: list[str]) -> list[Path]:
    """Return the text files that names of files and folders stand for; say what was left out."""
    from charlm.data.text_files import find_texts

    found, notices = find_texts(names)
    for notice in notices:
        say(printable(notice))
    return found


def say_unknown(unknown: "UnknownCharacters") -> None:
    """Say how many unknown characters were replaced or left out, if any were."""
    if unknown.changes:
        say(unknown.summary())


def read_stdin() -> str:
    """Return what stdin holds, as UTF-8 text.

    Raises:
        CorpusError: if that is nothing, or not UTF-8 text.
    """
    text = _stdin_text()
    if not text:
        raise CorpusError("stdin is empty: there is no text in it")
    return text


def _stdin_text() -> str:
    from charlm.data.text_files import decoded

    return "".join(piece for _, piece in decoded([sys.stdin.buffer.read()], "stdin"))


def read_stdin_if_given() -> str:
    """Return the text that a pipe or a file on stdin holds; "" if it is empty or something else.

    A terminal is not read, nor is /dev/null. A pipe may be open without anyone who writes to it, as
    a program leaves it to those that it starts. So it must not be silent for too long.

    Raises:
        CorpusError: if nothing comes for ``STDIN_PATIENCE`` seconds, or it is not UTF-8 text.
    """
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):  # closed, or not a stream of the system
        return ""
    if stat.S_ISFIFO(mode) and not _something_comes(descriptor, STDIN_NOTICE):
        say('reading the prompt from stdin; -p "" generates without one')
        if not _something_comes(descriptor, STDIN_PATIENCE):
            raise CorpusError(
                f"nothing came from stdin in {STDIN_PATIENCE:g} seconds: give --prompt, which may "
                "be empty, or wait for stdin with --prompt-file -"
            )
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    return _stdin_text()


def _something_comes(descriptor: int, seconds: float) -> bool:
    """Wait until there is something to read, or the end; return whether that came in time."""
    if files.WINDOWS:  # which has select for sockets only
        return _something_comes_through_pipe(descriptor, seconds)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    except (OSError, ValueError):  # a number beyond what select takes
        return True


def _something_comes_through_pipe(descriptor: int, seconds: float) -> bool:
    """Do what :func:`_something_comes` does, for a pipe on Windows."""
    pipe = _windows("msvcrt").get_osfhandle(descriptor)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if _windows("_winapi").PeekNamedPipe(pipe, 0)[0]:
                return True
        except OSError:  # the end: whoever wrote has closed it
            return True
        time.sleep(PIPE_NAP)
    return False


def visible(text: str) -> str:
    """Return ``text`` with control characters replaced, those that a terminal would obey."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text
    )


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(map(_columns_of_character, text))


def _columns_of_character(c: str) -> int:
    if unicodedata.category(c) in ("Mn", "Me", "Cf"):  # accents that combine, joiners
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def ago(seconds: float) -> str:
    """Return how long ago something was, such as ``2 hours ago``."""
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        count = int(seconds // size)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def cut(text: str, columns: int) -> str:
    """Return ``text``, or so much of its beginning that it takes no more than so many columns."""
    if columns_of(text) <= columns:
        return text
    widths = itertools.accumulate(map(columns_of, text))
    return f"{text[: sum(1 for width in itertools.takewhile(columns.__gt__, widths))]}…"


def _stop_signals() -> list[int]:
    """Return the signals that ask to stop, beside Ctrl-C, of those that this system has.

    SIGHUP comes when the terminal is closed, SIGBREAK is Ctrl-Break on Windows.
    """
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


class StopSignal(BaseException):
    """SIGTERM, SIGHUP or SIGBREAK, raised like Ctrl-C so that what was begun is undone."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Let SIGTERM and its like raise :class:`StopSignal`, once, unless they are ignored."""

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(number, lambda *_: None)
        raise StopSignal(number)

    wanted = [number for number in _stop_signals() if signal.getsignal(number) == signal.SIG_DFL]
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """While in use, requests to stop are noted, to be acted on between two steps.

    They are SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal was closed) and, on Windows, SIGBREAK,
    but for those that are ignored, as under nohup. A second one does not wait.

    Args:
        first, second: what to say at the first and at the second one, if anything.
    """

    def __init__(self, first: str = "", second: str = ""):
        self.words = {False: first, True: second}
        self.signal: int | None = None

    def __enter__(self) -> "Stop":
        numbers = [signal.SIGINT, *_stop_signals()]
        wanted = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        at_once = self.signal is not None
        self.signal = number
        with contextlib.suppress(OSError):
            if self.words[at_once]:
                # In place of the bar and of the ^C in it; the bar is drawn anew below.
                say(f"{CLEAR_LINE if obeys_codes(sys.stderr) else ''}{self.words[at_once]}")
        if at_once:
            os._exit(128 + number)  # what is half written is a temporary file, as after a kill
