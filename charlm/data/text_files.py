r"""UTF-8 text files: read, joined, surveyed.

Files are joined in the order given, with a line end between them. A byte order mark is dropped, and
line ends become ``\n``.
"""

import codecs
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from charlm.data import file_types
from charlm.data.items import is_list
from charlm.data.repetition import repetition
from charlm.data.tokenizer import count_characters
from charlm.errors import CorpusError
from charlm.files import (
    PathLike,
    ProgressCallback,
    as_path,
    is_regular_file,
    no_progress,
    shell_command,
)

REPETITIONS = 16  # times CHUNK characters of a text are searched for them
CHUNK = 1 << 22  # bytes of a file in memory at a time

TEXT_SUFFIXES = (".txt", ".md")  # of the files that a folder stands for

TextReader = Callable[[], Iterator[str]]  # yields a text in pieces, from its start at every call


def find_texts(paths: Iterable[PathLike]) -> tuple[list[Path], list[str]]:
    r"""Return the text files that ``paths`` stand for, and lines that tell what was left out.

    In place of a folder stand its files that end in ``.txt`` or ``.md``, those of its subfolders
    too, in the order of their names. What is hidden is left out. Of several files, empty ones are
    left out.

    >>> files, notices = find_texts(["notes/"])

    Args:
        paths: files and folders.

    Raises:
        CorpusError: for a folder that cannot be read, or has no such files.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += _texts_in(path) if _is_folder(path) else [path]
    empty = [path for path in files if _is_empty(path)]
    if len(empty) == len(files):
        return files, []  # to read them is an error, which says so
    notices = [f"empty and left out: {listed(empty)}"] if empty else []
    return [path for path in files if path not in empty], notices


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long: to read it is an error, which says so
        return False


def _texts_in(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise CorpusError(f"cannot read folder {error.filename}: {error.strerror}") from None

    found = []
    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = [Path(parent) / name for name in names if not name.startswith(".")]
        found += [p for p in paths if p.suffix.lower() in TEXT_SUFFIXES and is_regular_file(p)]
    if not found:
        raise CorpusError(
            f"folder {folder} has no {' or '.join(TEXT_SUFFIXES)} files: name the text files in it"
        )
    return sorted(found)


def _is_empty(path: Path) -> bool:
    """Return whether a regular file holds nothing but perhaps a byte order mark."""
    try:
        if not is_regular_file(path) or path.stat().st_size > len(codecs.BOM_UTF8):
            return False
        return path.read_bytes() in (b"", codecs.BOM_UTF8)
    except OSError:
        return False  # to read it is an error, which says so


def listed(names: Sequence[PathLike], most: int = 5) -> str:
    """Return names as a list in words, of many only the first ones.

    >>> listed(["a.txt", "b.txt", "c.txt"], most=2)
    'a.txt, b.txt and 1 more'
    """
    more = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {more:,} more" if more > 0 else "")


def read_text(paths: Iterable[PathLike]) -> str:
    r"""Return the UTF-8 texts of files and folders, joined in the order given.

    A byte order mark is dropped, and ``\r\n`` and ``\r`` become ``\n``. See :func:`find_texts` for
    folders, and :func:`iter_text` for how files are joined.

    Raises:
        CorpusError: for a file that is missing, empty, not a file, or not UTF-8 text.
    """
    return "".join(iter_text(find_texts(paths)[0]))


def iter_text(
    paths: Iterable[PathLike], on_progress: ProgressCallback = no_progress
) -> Iterator[str]:
    """Yield the text of files, joined, a piece at a time.

    A file that does not end in a line end gets one, unless it is the last one.

    Args:
        paths: the files.
        on_progress: progress callback, told the number of bytes read.

    Raises:
        CorpusError: see :func:`read_text`; one of several files may be empty.
    """
    files = list(map(Path, paths))
    last = "\n"  # the last character so far
    characters = 0
    for path in files:
        begun = False
        for piece in _iter_file(path, on_progress):
            if piece and not begun and last != "\n":
                yield "\n"
            begun = begun or bool(piece)
            last = piece[-1:] or last
            characters += len(piece)
            yield piece
    if not characters:
        what = f"text file {files[0]} is" if len(files) == 1 else f"{listed(files)} are all"
        raise CorpusError(f"{what} empty")


def _iter_file(path: Path, on_progress: ProgressCallback) -> Iterator[str]:
    """Yield the text of one file, a piece at a time."""
    try:
        with path.open("rb") as file:
            chunks = iter(lambda: file.read(CHUNK), b"")
            for chunk, piece in decoded(chunks, str(path)):
                yield piece
                on_progress(chunk)
    except FileNotFoundError:
        raise CorpusError(f"text file {path} does not exist{_how_to_get(path)}") from None
    except IsADirectoryError:
        raise CorpusError(f"{path} is a folder: name the text files in it") from None
    except OSError as error:
        raise CorpusError(f"cannot read text file {path}: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{str(path)!r} cannot be the name of a file") from None


def _how_to_get(path: Path) -> str:
    """Return the command that writes a sample text, if a missing file has the name of one."""
    from charlm.data.downloads import SAMPLE_TEXTS  # here: only an error needs it

    for name, sample in SAMPLE_TEXTS.items():
        words = ["charlm", "corpus", name]
        if path == Path("corpora") / sample.file_name:
            return f": {shell_command(words)} writes it"
        if path == Path(sample.file_name):
            return f": {shell_command([*words, '--out', str(path)])} writes it"
    return ""


def decoded(chunks: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    r"""Yield the UTF-8 text of ``chunks``, without a mark and with ``\n`` alone.

    Yields:
        How many bytes were read, and the text of them.

    Raises:
        CorpusError: if the bytes, which are called ``name``, are not UTF-8 text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0  # of the chunk in the file
    head = b""
    held = ""  # a \r at the end of a piece: the next one may begin with its \n
    for chunk in itertools.chain(chunks, [b""]):
        head = head or chunk[: file_types.HEAD]
        if start == 0 and file_types.is_document(head):
            raise CorpusError(f"{name} is not plain text: {file_types.advice(head)}")
        pending = len(decoder.getstate()[0])  # bytes of a character that was cut in two
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            _refuse_byte(error, start - pending + error.start, name, head, at_end=not chunk)
        if "\0" in text:
            _refuse_nul(start + chunk.index(b"\0"), name, head)
        if start == 0:
            text = text.removeprefix("\ufeff")
        start += len(chunk)
        text = held + text
        held = "\r" if chunk and text.endswith("\r") else ""
        text = text[: len(text) - len(held)]
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        yield len(chunk), text


def _refuse_byte(
    error: UnicodeDecodeError, offset: int, name: str, head: bytes, *, at_end: bool
) -> NoReturn:
    """Refuse a text for a byte at ``offset``; ``at_end`` if a character is cut off there."""
    byte = error.object[error.start]
    what = f"{name} is not UTF-8 text: byte 0x{byte:02x} at offset {offset}"
    advice = file_types.advice(head)
    if not advice and at_end:
        keep = shell_command(
            ["head", "-c", str(offset), *([] if name == "stdin" else [as_path(name)])]
        )
        raise CorpusError(
            f"{name} ends in the middle of a character, with byte 0x{byte:02x} at offset {offset}: "
            f"it was cut there; {keep} > whole.txt keeps all but that character"
        ) from None
    # Bytes from 0x80 to 0x9f are quotes and dashes in Windows texts, and control codes in Latin-1.
    encoding = "cp1252" if 0x80 <= byte <= 0x9F else "latin1"
    raise CorpusError(f"{what}: {advice or file_types.convert(encoding)}") from None


def _refuse_nul(offset: int, name: str, head: bytes) -> NoReturn:
    """Refuse a text for a NUL byte."""
    advice = file_types.advice(head) or (
        "it is a binary file, or was damaged; tr -d '\\0' removes them from a text"
    )
    raise CorpusError(f"{name} holds NUL bytes, the first at offset {offset}: {advice}")


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
    text = "".join(iter_text(files))
    return lambda: iter([text])


@dataclass(frozen=True, eq=False)
class Survey:
    """What a first reading tells of a text.

    Attributes:
        counts: how often each code point occurs, by code point.
        fingerprint: sha256 of the whole text.
        is_list: whether it looks like a list, see ``data.items``.
        repetition: how much of it repeats what stood a little before, see ``data.repetition``.
    """

    counts: NDArray[np.int64]
    fingerprint: str
    is_list: bool = False
    repetition: float = 0.0

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
    first: list[str] = []  # pieces; millions of characters are enough to tell a list
    repeated, looked_at = 0.0, 0  # characters
    for piece in text:
        if looked_at < CHUNK:
            first.append(piece)
        if looked_at < REPETITIONS * CHUNK:
            repeated += repetition(piece) * len(piece)
            looked_at += len(piece)
        counts += count_characters(piece)
        digest.update(piece.encode("utf-8", "surrogatepass"))
    share = repeated / max(1, looked_at)
    return Survey(counts, digest.hexdigest(), is_list("".join(first)), share)
