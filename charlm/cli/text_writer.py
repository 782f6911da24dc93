"""Text written to stdout while it is drawn: wrapped at words in a terminal, as slow as is asked."""

import shutil
import sys
import time
from collections.abc import Callable

from charlm.cli.terminal import columns_of, visible

FLUSH = 0.02  # seconds that text may wait for more
NAP = 0.05  # seconds of a delay after which is looked for a request to stop


class TextWriter:
    """Writes texts to stdout; in a terminal wrapped at words, elsewhere as they are.

    Args:
        delay: seconds to wait after each character.
        stopping: returns whether to go on without delay, as a request to stop came.
    """

    def __init__(self, delay: float = 0.0, stopping: Callable[[], bool] = lambda: False):
        self.delay = delay
        self.stopping = stopping
        self.flushed = 0.0
        columns = shutil.get_terminal_size().columns - 1  # a full line may move the cursor on
        self.wrap = WordWrap(columns) if sys.stdout.isatty() else None

    def write(self, text: str, *, at_once: bool = False) -> None:
        """Write a piece of a text, with the delay or at once."""
        if self.wrap is not None:
            text = self.wrap.feed(visible(text))
        if not self.delay or at_once:
            self._write(text)
            return
        for character in text:
            sys.stdout.write(character)
            sys.stdout.flush()
            end = time.monotonic() + self.delay
            while (left := end - time.monotonic()) > 0 and not self.stopping():
                time.sleep(min(left, NAP))

    def end(self) -> None:
        """Write what is held back of a text, and end its line."""
        print("" if self.wrap is None else self.wrap.end(), flush=True)

    def _write(self, text: str) -> None:
        """Write at once, but not with a system call for every character."""
        sys.stdout.write(text)
        now = time.monotonic()
        if now - self.flushed > FLUSH:
            sys.stdout.flush()
            self.flushed = now


class WordWrap:
    """Wraps a text at words while it comes, character by character.

    Only a word that may not fit into its line is held back, until it ends or is too long. A word
    that begins a line is not: if it is longer than a line, it is broken. East Asian wide characters
    are words of their own.

    Args:
        columns: the width of a line.
    """

    def __init__(self, columns: int):
        self.columns = columns
        self.column = 0  # of what was returned
        self.held = ""  # a word that may not fit
        self.begins_line = True  # whether the word here is at the beginning of its line

    def feed(self, text: str) -> str:
        """Return what is to be written now."""
        return "".join(map(self._next, text))

    def end(self) -> str:
        """Return what was held back; the next text begins a line."""
        text, self.held, self.column, self.begins_line = self.held, "", 0, True
        return text

    def _next(self, character: str) -> str:
        if character == "\n":
            return f"{self.end()}\n"
        if character in " \t":
            return self._release() + self._space(character)
        width = columns_of(character)
        if width == 2:
            return self._release() + self._put(character)
        if self.begins_line or (width == 0 and not self.held):
            return self._put(character)
        self.held += character
        if self.column + columns_of(self.held) <= self.columns:
            return ""
        word = self.end()
        return "\n" + "".join(map(self._put, word))

    def _release(self) -> str:
        """Return the word that was held back, as it fits."""
        text, self.held, self.begins_line = self.held, "", False
        self.column += columns_of(text)
        return text

    def _space(self, character: str) -> str:
        width = 8 - self.column % 8 if character == "\t" else 1
        if self.column + width > self.columns:
            self.column = self.columns  # the line is full: its end stands for the space
            return ""
        self.column += width
        return character

    def _put(self, character: str) -> str:
        """Return a character, on a new line if this one is full."""
        width = columns_of(character)
        start = "\n" if self.column + width > self.columns else ""
        self.column = width if start else self.column + width
        return start + character
