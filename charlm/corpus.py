r"""A text as parallel lanes, cut into consecutive windows.

The training text is cut into B lanes of equal length, and each lane into windows of at most T
characters. Window t of every lane forms one batch (B, T). So the state after one window is exactly
the state before the next one, and the model reads every lane from its beginning to its end:

    text     the cat sat on the mat and the dog lay by the fire.

             window 0     window 1     window 2
    lane 0   t h e _ c  | a t _ s a  | t _ o n _         state carried  ->
    lane 1   t h e _ m  | a t _ a n  | d _ t h e         state carried  ->
    lane 2   _ d o g _  | l a y _ b  | y _ t h e         state carried  ->

The targets are the inputs shifted by one character. When the lanes are through, an epoch is over,
and all of them begin afresh. The windows of a lane differ by at most one character in length, so
that no odd end is lost; only the tail of fewer than B characters that does not fill the lanes is.
"""

import codecs
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CorpusError
from charlm.scan import OnRead, nothing
from charlm.tokenizer import CharTokenizer, Ids, count_characters

PathLike = str | os.PathLike[str]
CHUNK = 1 << 22  # bytes of a file in memory at a time


def read_text(paths: Iterable[PathLike]) -> str:
    r"""Return the UTF-8 texts of ``paths``, joined in the order given.

    A byte order mark is dropped, and ``\r\n`` and ``\r`` become ``\n``.

    Raises:
        CorpusError: for a file that is missing, empty, no file, or not UTF-8 text.
    """
    return "".join(pieces(paths))


def pieces(paths: Iterable[PathLike], on_read: OnRead = nothing) -> Iterator[str]:
    """Yield what :func:`read_text` returns, a piece at a time.

    Args:
        paths: the files.
        on_read: called now and then with the number of bytes that were read since.
    """
    for path in map(Path, paths):
        try:
            with path.open("rb") as file:
                chunks = iter(lambda file=file: file.read(CHUNK), b"")  # type: ignore[misc]
                empty = True
                for chunk, piece in decoded(chunks, str(path)):
                    empty = empty and not piece
                    yield piece
                    on_read(chunk)
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


@dataclass(frozen=True, eq=False)
class Survey:
    """What a first reading tells of a text.

    Attributes:
        counts: how often each code point occurs, by code point.
        fingerprint: sha256 of the whole text.
    """

    counts: NDArray[np.int64]
    fingerprint: str

    @property
    def characters(self) -> int:
        """The length of the text."""
        return int(self.counts.sum())


def survey(text: Iterable[str]) -> Survey:
    """Read the pieces of a text once."""
    digest = hashlib.sha256()
    counts = count_characters("")
    for piece in text:
        counts += count_characters(piece)
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return Survey(counts, digest.hexdigest())


def training_length(characters: int, validation_fraction: float) -> int:
    """Return how many characters at the front of a text are trained on."""
    return int(characters * (1 - validation_fraction))


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text as ids: the front to train on, the end held out to measure.

    Attributes:
        tokenizer: the vocabulary.
        train: ids (N,) of the front.
        validation: ids (N,) of the end.
        fingerprint: sha256 of the whole text.
        files: where the text was read from, as the user gave it.
    """

    tokenizer: CharTokenizer
    train: Ids
    validation: Ids
    fingerprint: str
    files: tuple[str, ...] = ()

    @classmethod
    def from_text(
        cls, text: str, tokenizer: CharTokenizer, *, validation_fraction: float
    ) -> "Corpus":
        """Return the corpus of ``text``, its last ``validation_fraction`` held out.

        Raises:
            CorpusError: if either part holds fewer than two characters.
        """
        return cls.from_ids(
            tokenizer.encode(text), tokenizer, fingerprint(text), validation_fraction
        )

    @classmethod
    def from_ids(
        cls,
        ids: Ids,
        tokenizer: CharTokenizer,
        fingerprint: str,
        validation_fraction: float,
        files: tuple[str, ...] = (),
    ) -> "Corpus":
        """Return the corpus of a whole text ``ids`` (N,); see :meth:`from_text`."""
        cut = training_length(len(ids), validation_fraction)
        for name, part in (("training", ids[:cut]), ("validation", ids[cut:])):
            if len(part) < 2:
                raise CorpusError(
                    f"the {name} part of a text of {len(ids)} characters holds {len(part)} with a "
                    f"validation_fraction of {validation_fraction}, and needs at least 2: give a "
                    "longer text or another share"
                )
        return cls(
            tokenizer=tokenizer,
            train=ids[:cut],
            validation=ids[cut:],
            fingerprint=fingerprint,
            files=files,
        )

    @property
    def characters(self) -> int:
        """The number of characters of the whole text."""
        return len(self.train) + len(self.validation)


@dataclass(frozen=True)
class Window:
    """One batch: inputs and targets (B, T), and whether its lanes begin afresh with it."""

    inputs: Ids
    targets: Ids
    fresh: bool


class LaneStream:
    """The windows of a training text; which one comes at a step is a function of the step alone.

    Args:
        ids: the training text (N,).
        batch_size: the number of lanes (B).
        seq_length: the longest window (T).

    Raises:
        CorpusError: if the text does not fill one window of every lane.
    """

    def __init__(self, ids: Ids, *, batch_size: int, seq_length: int):
        lane_length = (len(ids) - 1) // batch_size
        if lane_length < seq_length:
            raise CorpusError(
                f"a training text of {len(ids)} characters does not fill one window of "
                f"{seq_length} characters in each of {batch_size} lanes: lower --batch-size or "
                "--seq-length, or leave them out"
            )
        self.windows_per_epoch = -(-lane_length // seq_length)
        # Lanes as views (B, lane_length): nothing of the text is copied.
        self.inputs = ids[: batch_size * lane_length].reshape(batch_size, lane_length)
        self.targets = ids[1 : batch_size * lane_length + 1].reshape(batch_size, lane_length)
        self.lane_length = lane_length

    def window(self, step: int) -> Window:
        """Return the batch of ``step``, counted from 0 over all epochs."""
        place = step % self.windows_per_epoch
        start = place * self.lane_length // self.windows_per_epoch
        end = (place + 1) * self.lane_length // self.windows_per_epoch
        return Window(self.inputs[:, start:end], self.targets[:, start:end], fresh=place == 0)

    def epoch(self, step: int) -> float:
        """Return how often the text has been read after ``step`` steps."""
        return step / self.windows_per_epoch
