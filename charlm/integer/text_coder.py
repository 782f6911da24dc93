r"""A text as bytes and back, by the predictions of a model in whole numbers.

The text is cut into lanes, which the model reads side by side, each from the start of a line on.
At each step, the frequencies of the characters that may come next are computed from the text before
them, alike when encoding and decoding. A text in bytes is

    a byte        1 if every line end is \r\n, which is read as \n, else 0
    characters    how many there are
    lanes         how many
    unknown       how many different characters the model does not know; for each its code point,
                  as the difference from the one before it, and how often it occurs
    code          see :mod:`charlm.integer.coder`

with all numbers as in :mod:`charlm.integer.varint`.

A character that the model does not know has a fixed frequency, the share of the text that it is.
The model reads in its place its unknown symbol, or else a space, or else its first character.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleConfig
from charlm.data.tokenizer import NUM_CODE_POINTS, CharTokenizer, code_points
from charlm.files import ProgressCallback, no_progress
from charlm.inference.engine import Engine
from charlm.inference.sampling import silent
from charlm.integer.coder import TOTAL, Decoder, Integers, Words, damaged, encode, frequencies
from charlm.integer.varint import read_varint, varint

# Characters of a lane at least, and lanes at most. A lane costs about 9 bytes: 4 for the state in
# which the coder ends, and the others for the first characters, of which the model knows little.
LANE, MOST_LANES = 8192, 128
LIMIT_OF_LANES = 512  # that a text to decode may have
MOST_NUMBERS = 1 << 20  # in an array of frequencies (B * V)
PREDICTED = SampleConfig(temperature=1.0)  # the distribution as the model predicts it


class TextCoder:
    """Encodes and decodes texts with one model.

    Args:
        engine: the model in whole numbers.
        tokenizer: its characters.
    """

    def __init__(self, engine: Engine, tokenizer: CharTokenizer):
        self.engine = engine
        vocabulary = tokenizer.vocabulary
        self.points = code_points(vocabulary).astype(np.int64)
        self.ids = np.full(NUM_CODE_POINTS, -1, np.int32)  # by code point; -1 is unknown
        self.ids[self.points] = np.arange(len(vocabulary))
        self.unknown_id = tokenizer.unknown_id
        if self.unknown_id is not None:
            self.ids[self.points[self.unknown_id]] = -1
        self.line_start = vocabulary.index(tokenizer.line_start)
        self.stand_in = max(0, vocabulary.find(" "))
        if self.unknown_id is not None:
            self.stand_in = self.unknown_id

    def encode(self, text: str, on_progress: ProgressCallback = no_progress) -> bytes:
        """Return a text as bytes.

        Args:
            text: what to encode, at least one character.
            on_progress: progress callback, told the number of bytes of the text in UTF-8.

        Raises:
            DivergenceError: if the model's predictions are NaN or infinite.
        """
        size = len(text.encode())
        has_crlf = text.count("\r") == text.count("\n") == text.count("\r\n") > 0
        if has_crlf:
            text = text.replace("\r\n", "\n")
        count = len(text)
        most = min(MOST_LANES, self.engine.config.most_lanes(), MOST_NUMBERS // len(self.points))
        lanes = max(1, min(most, count // LANE))
        points = code_points(text)[_places(count, lanes)]
        symbols = self.ids[points]
        is_unknown = symbols < 0
        kinds, which, counts = np.unique(
            points[is_unknown], return_inverse=True, return_counts=True
        )
        unknown = _Unknown(kinds, counts, count, len(self.points))
        symbols[is_unknown] = 0
        starts, sizes = np.empty((2, count), np.uint32)
        reader = _Lanes(self, lanes, unknown.known_total)
        report = _scaled(on_progress, size, count)
        for begin in range(0, count, lanes):
            end = min(begin + lanes, count)
            sizes[begin:end], ends = reader.intervals(symbols[begin:end])
            starts[begin:end] = ends - sizes[begin:end]
            if end < count:
                reader.read(np.where(is_unknown[begin:end], self.stand_in, symbols[begin:end]))
            report(end)
        sizes[is_unknown] = unknown.sizes[which]
        starts[is_unknown] = (unknown.ends - unknown.sizes)[which]
        head = b"".join(map(varint, [int(has_crlf), count, lanes]))
        return head + unknown.to_bytes() + encode(starts, sizes, lanes)

    def decode(self, data: bytes, most: int, on_progress: ProgressCallback = no_progress) -> str:
        """Return the text that :meth:`encode` was given.

        Args:
            data: what that returned.
            most: the most characters there may be.
            on_progress: progress callback, told the number of bytes of ``data``.

        Raises:
            CorpusError: if the bytes are damaged.
            DivergenceError: if the model's predictions are NaN or infinite.
        """
        stream = io.BytesIO(data)
        has_crlf = read_varint(stream, 1)
        count = read_varint(stream, most)
        config = self.engine.config  # the state of an attention is large
        most_lanes = config.most_lanes() if config.attention else LIMIT_OF_LANES
        lanes = read_varint(stream, min(count, LIMIT_OF_LANES, most_lanes))
        if lanes == 0:
            raise damaged()
        unknown = _Unknown.from_bytes(stream, count, self.ids, len(self.points))
        decoder = Decoder(stream.read(), lanes)
        report = _scaled(on_progress, len(data), count)
        points = np.empty(count, "<u4")
        points[_places(count, lanes)] = self._points(decoder, count, lanes, unknown, report)
        try:
            text = points.tobytes().decode("utf-32-le")
        except UnicodeDecodeError:  # a vocabulary of a stranger may hold half of a pair
            raise damaged() from None
        return text.replace("\n", "\r\n") if has_crlf else text

    def _points(
        self,
        decoder: Decoder,
        count: int,
        lanes: int,
        unknown: "_Unknown",
        report: ProgressCallback,
    ) -> Words:
        """Return the code points of a text (N,), read step by step."""
        all_points = np.concatenate([self.points, unknown.kinds])
        points = np.empty(count, np.uint32)
        last = len(self.points) - 1
        reader = _Lanes(self, lanes, unknown.known_total)
        for begin in range(0, count, lanes):
            end = min(begin + lanes, count)
            slots = decoder.slots()[: end - begin]
            symbols = reader.find(slots)
            is_unknown = symbols > last
            known = np.minimum(symbols, last)
            sizes, ends = reader.intervals(known)
            if is_unknown.any():
                which = unknown.ends.searchsorted(slots[is_unknown], side="right")
                sizes[is_unknown], ends[is_unknown] = unknown.sizes[which], unknown.ends[which]
                symbols[is_unknown] += which
            decoder.move(ends - sizes, sizes)
            points[begin:end] = all_points[symbols]
            if end < count:
                reader.read(np.where(is_unknown, self.stand_in, known))
            report(end)
        decoder.finish()
        return points


class _Lanes:
    """The lanes of a text, with the frequencies of what comes next in each.

    Args:
        coder: with the model.
        lanes: how many there are (B).
        total: the sum of the frequencies of known characters.
    """

    def __init__(self, coder: TextCoder, lanes: int, total: int):
        self.coder = coder
        self.total = total
        engine = coder.engine
        self.stepper = engine.stepper(engine.initial_state(lanes))
        self.read(np.full(lanes, coder.line_start))

    def read(self, ids: NDArray[Any]) -> None:
        """Read the next character of each lane (B,)."""
        unknown_id = self.coder.unknown_id
        with silent():  # weights() says it in words
            w = self.coder.engine.weights(self.stepper.step(ids), PREDICTED)
        if unknown_id is not None and w.shape[1] > 1:  # unknown characters have others
            w[:, unknown_id] = 0
            w[w.sum(axis=1) == 0] = 1
        self.frequencies = frequencies(w, self.total)
        self.ends = np.add.accumulate(self.frequencies, axis=1)

    def find(self, slots: Integers) -> Integers:
        """Return the symbols (B,) that own places ``slots`` (B,), V for all unknown ones."""
        return (self.ends[: len(slots)] <= slots[:, None]).sum(axis=1)  # type: ignore[no-any-return]

    def intervals(self, symbols: NDArray[Any]) -> tuple[Integers, Integers]:
        """Return the frequencies of known symbols (B,), and the places where they end (B,)."""
        lanes = np.arange(len(symbols))
        sizes, ends = self.frequencies[lanes, symbols], self.ends[lanes, symbols]
        return sizes.astype(np.int64), ends.astype(np.int64)


class _Unknown:
    """The characters of a text that the model does not know, with their frequencies.

    Args:
        kinds: their code points (D,), in ascending order.
        counts: how often each occurs (D,).
        count: the characters of the text, known or not.
        vocab_size: how many the model knows (V).

    Attributes:
        known_total: the sum of the frequencies of all known characters.
        sizes: the frequencies of the unknown ones (D,).
        ends: where they end (D,): behind the known ones.
    """

    def __init__(self, kinds: NDArray[Any], counts: NDArray[Any], count: int, vocab_size: int):
        self.kinds: Integers = kinds.astype(np.int64)
        self.counts: Integers = counts.astype(np.int64)
        room = TOTAL - vocab_size - len(kinds)  # so that each symbol can have 1
        self.sizes: Integers = np.maximum(1, self.counts * room // count)
        self.known_total = TOTAL - int(self.sizes.sum())
        self.ends: Integers = self.known_total + np.cumsum(self.sizes)

    def to_bytes(self) -> bytes:
        """Return kinds and counts as bytes."""
        gaps = np.diff(self.kinds, prepend=0)
        pairs = np.stack([gaps, self.counts], axis=1).ravel()
        return b"".join(map(varint, [len(self.kinds), *pairs.tolist()]))

    @classmethod
    def from_bytes(
        cls, stream: io.BytesIO, count: int, ids: NDArray[np.int32], vocab_size: int
    ) -> "_Unknown":
        """Read what :meth:`to_bytes` wrote.

        Args:
            stream: where it stands.
            count: see the class.
            ids: for each code point -1 if the model does not know it.
            vocab_size: see the class.

        Raises:
            CorpusError: if that is damaged.
        """
        pairs = [
            (read_varint(stream, NUM_CODE_POINTS), read_varint(stream, count))
            for _ in range(read_varint(stream, min(count, NUM_CODE_POINTS)))
        ]
        gaps, counts = np.array(pairs, np.int64).reshape(-1, 2).T
        kinds = np.cumsum(gaps)
        is_surrogate = (kinds >= 0xD800) & (kinds < 0xE000)
        if (gaps[1:] == 0).any() or (counts == 0).any() or counts.sum() > count:
            raise damaged()
        if (kinds >= NUM_CODE_POINTS).any() or is_surrogate.any() or (ids[kinds] >= 0).any():
            raise damaged()
        return cls(kinds, counts, count, vocab_size)


def _places(count: int, lanes: int) -> NDArray[np.int32]:
    """Return where the characters of a text stand that is read step by step, lane by lane (N,).

    >>> _places(7, 3)
    array([0, 3, 5, 1, 4, 6, 2], dtype=int32)
    """
    lengths = np.full(lanes, count // lanes, np.int32)
    lengths[: count % lanes] += 1
    offsets = np.cumsum(lengths, dtype=np.int32) - lengths
    steps = np.arange(-(-count // lanes), dtype=np.int32)
    return (steps[:, None] + offsets).ravel()[:count]


def _scaled(on_progress: ProgressCallback, size: int, count: int) -> ProgressCallback:
    """Return what is told how many of ``count`` are done, and reports that in parts of ``size``."""
    reported = 0

    def report(done: int) -> None:
        nonlocal reported
        before, reported = reported, done * size // count
        on_progress(reported - before)

    return report
