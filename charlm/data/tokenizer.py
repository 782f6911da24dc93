"""Characters to ids and back.

A character is a Unicode code point. The vocabulary is the sorted set of the characters of a text,
so equal texts give equal ids. Where rare characters are folded into one unknown symbol, that symbol
is the replacement character U+FFFD, which then stands in the vocabulary like any other.

    >>> tokenizer = CharTokenizer.from_text("banana")
    >>> tokenizer.vocabulary
    'abn'
    >>> tokenizer.encode("nab")
    array([2, 0, 1], dtype=uint8)
    >>> tokenizer.decode([2, 0, 1])
    'nab'
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charlm.data.unknown import nearest
from charlm.errors import ConfigError, TokenError, argument

UNKNOWN = "\ufffd"
CHUNK = 1 << 20  # characters at a time, so that a large text never stands in memory as UTF-32
NUM_CODE_POINTS = 0x110000

Ids = NDArray[np.unsignedinteger]


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code points of ``text`` (N,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def chunks(text: str) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Yield the position and the code points of one piece of ``text`` after the other."""
    for start in range(0, len(text), CHUNK):
        yield start, code_points(text[start : start + CHUNK])


def count_characters(text: str) -> NDArray[np.int64]:
    """Return how often each code point occurs in ``text``, by code point (1,114,112,)."""
    counts = np.zeros(NUM_CODE_POINTS, dtype=np.int64)
    for _, points in chunks(text):
        found = np.bincount(points)
        counts[: len(found)] += found
    return counts


class CharTokenizer:
    """A fixed vocabulary of characters, id = place in the vocabulary.

    Args:
        vocabulary: distinct characters.
        unknown: whether every other character is read as the unknown symbol, which the vocabulary
            must then hold; otherwise an unknown character is an error.
    """

    def __init__(self, vocabulary: str, *, unknown: bool = False):
        if not vocabulary or len(set(vocabulary)) != len(vocabulary):
            raise ConfigError("a vocabulary needs at least one character and each only once")
        if unknown and UNKNOWN not in vocabulary:
            raise ConfigError("a vocabulary with an unknown symbol must hold it (U+FFFD)")
        self.vocabulary = vocabulary
        self.unknown_id = vocabulary.index(UNKNOWN) if unknown else None
        self.dtype = np.min_scalar_type(len(vocabulary) - 1)
        # What is not in the vocabulary is marked by an id that no character has: its length.
        fill = len(vocabulary) if self.unknown_id is None else self.unknown_id
        self._id_of = np.full(NUM_CODE_POINTS, fill, dtype=np.min_scalar_type(len(vocabulary)))
        self._id_of[code_points(vocabulary)] = np.arange(len(vocabulary))

    @classmethod
    def from_text(cls, text: str, *, min_count: int = 1) -> "CharTokenizer":
        """Return the tokenizer of all characters that occur at least ``min_count`` times.

        With ``min_count`` above 1 rarer characters, and any character that the text lacks, are
        read as the unknown symbol.

        Raises:
            ConfigError: if no character occurs that often.
        """
        return cls.from_counts(count_characters(text), min_count=min_count)

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64], *, min_count: int = 1) -> "CharTokenizer":
        """Return the same, for a text whose characters were counted by :func:`count_characters`."""
        counts = counts.copy()
        if min_count > 1:
            counts[ord(UNKNOWN)] = min_count
        kept = np.flatnonzero(counts >= min_count).astype("<u4")
        vocabulary = kept.tobytes().decode("utf-32-le", "surrogatepass")
        if min_count > 1 and vocabulary == UNKNOWN:
            raise ConfigError(
                f"no character of the text occurs {min_count} times: lower {argument('min_count')}"
            )
        return cls(vocabulary, unknown=min_count > 1)

    def union(self, other: "CharTokenizer") -> "CharTokenizer":
        """Return the tokenizer that knows the characters of both."""
        vocabulary = "".join(sorted({*self.vocabulary, *other.vocabulary}))
        return CharTokenizer(vocabulary, unknown=self.unknown or other.unknown)

    @property
    def vocab_size(self) -> int:
        """The number of symbols (V)."""
        return len(self.vocabulary)

    @property
    def line_start(self) -> str:
        """What stands for the start of a line: the line end before it, or the first symbol."""
        return "\n" if "\n" in self.vocabulary else self.vocabulary[0]

    @property
    def unknown(self) -> bool:
        """Whether unknown characters are folded into one symbol."""
        return self.unknown_id is not None

    def encode(self, text: str, *, source: str = "the text") -> Ids:
        """Return the ids of ``text`` (N,), in the smallest unsigned type that holds them.

        Raises:
            TokenError: if ``text`` is not a text, or naming the first character that is not in the
                vocabulary and its position in ``source``, counted from 0.
        """
        if not isinstance(text, str):
            raise TokenError(f"{source} must be a text (got {text!r:.100})")
        ids = np.empty(len(text), dtype=self.dtype)
        for start, points in chunks(text):
            piece = self._id_of[points]
            if self.unknown_id is None and piece.max() == self.vocab_size:
                self._refuse(text, start + int(np.argmax(piece == self.vocab_size)), source)
            ids[start : start + len(piece)] = piece
        return ids

    def _refuse(self, text: str, position: int, source: str) -> None:
        character = text[position]
        near = nearest(character, frozenset(self.vocabulary))
        raise TokenError(
            f"character {character!r} (U+{ord(character):04X}) at position {position} of {source} "
            f"is not in the vocabulary ({self.vocab_size} characters): "
            + (
                f"{argument('unknown', 'nearest')} reads it as {near!r}"
                if near
                else f"{argument('unknown', 'skip')} leaves it out, or train with "
                f"{argument('min_count', 2)} to have an unknown symbol"
            )
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``."""
        return "".join(map(self.vocabulary.__getitem__, ids))

    def __repr__(self) -> str:
        return f"CharTokenizer({self.vocab_size:,} symbols)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CharTokenizer):
            return NotImplemented
        return (self.vocabulary, self.unknown_id) == (other.vocabulary, other.unknown_id)

    __hash__ = None  # type: ignore[assignment]
