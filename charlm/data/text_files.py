r"""UTF-8 text files: read, joined, surveyed.

Files are joined in the order given. A byte order mark is dropped, and line ends become ``\n``.
"""

import codecs
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charlm.data.items import is_list
from charlm.data.tokenizer import count_characters
from charlm.errors import CorpusError
from charlm.files import PathLike, ProgressCallback, is_regular_file, no_progress

CHUNK = 1 << 22  # bytes of a file in memory at a time

TextReader = Callable[[], Iterator[str]]  # yields a text in pieces, from its start at every call


def read_text(paths: Iterable[PathLike]) -> str:
    r"""Return the UTF-8 texts of ``paths``, joined in the order given.

    A byte order mark is dropped, and ``\r\n`` and ``\r`` become ``\n``.

    Raises:
        CorpusError: for a file that is missing, empty, not a file, or not UTF-8 text.
    """
    return "".join(iter_text(paths))


def iter_text(
    paths: Iterable[PathLike], on_progress: ProgressCallback = no_progress
) -> Iterator[str]:
    """Yield what :func:`read_text` returns, a piece at a time.

    Args:
        paths: the files.
        on_progress: progress callback, told the number of bytes read.
    """
    for path in map(Path, paths):
        try:
            with path.open("rb") as file:
                chunks = iter(lambda file=file: file.read(CHUNK), b"")  # type: ignore[misc]
                empty = True
                for chunk, piece in decoded(chunks, str(path)):
                    empty = empty and not piece
                    yield piece
                    on_progress(chunk)
        except FileNotFoundError:
            raise CorpusError(f"text file {path} does not exist") from None
        except IsADirectoryError:
            raise CorpusError(f"{path} is a folder: name the text files in it") from None
        except OSError as error:
            raise CorpusError(f"cannot read text file {path}: {error.strerror}") from None
        except ValueError as error:
            if isinstance(error, CorpusError):
                raise
            raise CorpusError(f"{str(path)!r} cannot be the name of a file") from None
        if empty:
            raise CorpusError(f"text file {path} is empty")


def decoded(chunks: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    r"""Yield the UTF-8 text of ``chunks``, without a mark and with ``\n`` alone.

    Yields:
        How many bytes were read, and the text of them.

    Raises:
        CorpusError: if the bytes, which are called ``name``, are not UTF-8 text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0  # of the chunk in the file
    held = ""  # a \r at the end of a piece: the next one may begin with its \n
    for chunk in itertools.chain(chunks, [b""]):
        pending = len(decoder.getstate()[0])  # bytes of a character that was cut in two
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            likely = "utf-16" if start == 0 and chunk.startswith(marks) else "latin1"
            raise CorpusError(
                f"{name} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset "
                f"{start - pending + error.start}: convert it first, for example with iconv -f "
                f"{likely} -t utf-8"
            ) from None
        if "\0" in text:
            raise CorpusError(f"{name} holds NUL bytes: it is a binary file, or not UTF-8 text")
        if start == 0:
            text = text.removeprefix("\ufeff")
        start += len(chunk)
        text = held + text
        held = "\r" if chunk and text.endswith("\r") else ""
        text = text[: len(text) - len(held)]
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        yield len(chunk), text


def fingerprint(text: str) -> str:
    """Return the sha256 of ``text`` in UTF-8, as hexadecimal digits."""
    digest = hashlib.sha256()
    for start in range(0, len(text), CHUNK):
        digest.update(text[start : start + CHUNK].encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def text_reader(
    paths: Iterable[PathLike], on_progress: ProgressCallback = no_progress
) -> TextReader:
    """Return what reads a text. What is not a regular file, such as a pipe, is read here, at once.

    Args:
        paths: UTF-8 files, joined in this order.
        on_progress: progress callback, told the number of bytes read.
    """
    files = [Path(path) for path in paths]
    if all(map(is_regular_file, files)):
        return lambda: iter_text(files, on_progress)
    text = read_text(files)
    return lambda: iter([text])


@dataclass(frozen=True, eq=False)
class Survey:
    """What a first reading tells of a text.

    Attributes:
        counts: how often each code point occurs, by code point.
        fingerprint: sha256 of the whole text.
        is_list: whether it looks like a list, see ``data.items``.
    """

    counts: NDArray[np.int64]
    fingerprint: str
    is_list: bool = False

    @property
    def characters(self) -> int:
        """The length of the text."""
        return int(self.counts.sum())

    @property
    def lines(self) -> int:
        """The number of line ends, at least 1."""
        return max(1, int(self.counts[ord("\n")]))


def survey(text: Iterable[str]) -> Survey:
    """Read the pieces of a text once."""
    digest = hashlib.sha256()
    counts = count_characters("")
    looks_like_list: bool | None = None
    for piece in text:
        if looks_like_list is None:
            looks_like_list = is_list(piece)  # millions of characters are enough to tell
        counts += count_characters(piece)
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return Survey(counts, digest.hexdigest(), bool(looks_like_list))
