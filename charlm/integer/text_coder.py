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
from charlm.inference.sampling import Doubles
from charlm.integer.coder import TOTAL, Decoder, Integers, damaged, encode, frequencies
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
        lanes = max(1, min(MOST_LANES, count // LANE, MOST_NUMBERS // len(self.points)))
        points = code_points(text)[_places(count, lanes)]
        symbols = self.ids[points]
        is_unknown = symbols < 0
        kinds, order, counts = np.unique(
            points[is_unknown], return_inverse=True, return_counts=True
        )
        known_total, sizes_of_unknown = self._shares(count, counts)
        symbols[is_unknown] = 0
        starts, sizes = np.empty((2, count), np.uint32)
        stepper = _Predictions(self, lanes, known_total)
        report = _scaled(on_progress, size, count)
        for begin in range(0, count, lanes):
            end = min(begin + lanes, count)
            of_step = symbols[begin:end]
            f, ends = stepper.frequencies()
            rows = np.arange(end - begin)
            sizes[begin:end] = f[rows, of_step]
            starts[begin:end] = ends[rows, of_step] - f[rows, of_step]
            if end < count:
                stepper.read(np.where(is_unknown[begin:end], self.stand_in, of_step))
            report(end)
        sizes[is_unknown] = sizes_of_unknown[order]
        starts[is_unknown] = (_ends(known_total, sizes_of_unknown) - sizes_of_unknown)[order]
        numbers = [int(has_crlf), count, lanes, len(kinds)]
        gaps = np.diff(kinds.astype(np.int64), prepend=0)
        for gap, times in zip(gaps.tolist(), counts.tolist(), strict=True):
            numbers += [gap, times]
        return b"".join(map(varint, numbers)) + encode(starts, sizes, lanes)

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
        lanes = read_varint(stream, min(count, LIMIT_OF_LANES))
        if lanes == 0:
            raise damaged()
        kinds, counts = self._unknown(stream, count)
        known_total, sizes_of_unknown = self._shares(count, counts)
        ends_of_unknown = _ends(known_total, sizes_of_unknown)
        decoder = Decoder(stream.read(), lanes)
        points = np.empty(count, np.uint32)
        vocab_size = len(self.points)
        all_points = np.concatenate([self.points, kinds])
        stepper = _Predictions(self, lanes, known_total)
        report = _scaled(on_progress, len(data), count)
        for begin in range(0, count, lanes):
            end = min(begin + lanes, count)
            rows = np.arange(end - begin)
            slots = decoder.slots()[: end - begin]
            f, ends = stepper.frequencies()
            symbols = (ends[: end - begin] <= slots[:, None]).sum(axis=1)
            known = np.minimum(symbols, vocab_size - 1)
            sizes = f[rows, known].astype(np.int64)
            upper = ends[rows, known].astype(np.int64)
            is_unknown = symbols == vocab_size
            if is_unknown.any():
                which = ends_of_unknown.searchsorted(slots[is_unknown], side="right")
                sizes[is_unknown] = sizes_of_unknown[which]
                upper[is_unknown] = ends_of_unknown[which]
                symbols[is_unknown] += which
            decoder.move(upper - sizes, sizes)
            points[begin:end] = all_points[symbols]
            if end < count:
                stepper.read(np.where(is_unknown, self.stand_in, known))
            report(end)
        decoder.finish()
        in_order = np.empty(count, "<u4")
        in_order[_places(count, lanes)] = points
        try:
            text = in_order.tobytes().decode("utf-32-le")
        except UnicodeDecodeError:  # a vocabulary of a stranger may hold half of a pair
            raise damaged() from None
        return text.replace("\n", "\r\n") if has_crlf else text

    def _unknown(self, stream: io.BytesIO, count: int) -> tuple[Integers, Integers]:
        """Return the code points and the counts of the unknown characters of a text in bytes."""
        num_kinds = read_varint(stream, count)
        kinds, counts, point = [], [], -1
        for _ in range(num_kinds):
            least = point
            point = max(point, 0) + read_varint(stream, NUM_CODE_POINTS - 1)
            counts.append(read_varint(stream, count))
            kinds.append(point)
            is_character = point < NUM_CODE_POINTS and not 0xD800 <= point < 0xE000
            if not least < point or not is_character or counts[-1] == 0 or self.ids[point] >= 0:
                raise damaged()
        if sum(counts) > count:
            raise damaged()
        return np.array(kinds, np.int64), np.array(counts, np.int64)

    def _shares(self, count: int, counts: Integers) -> tuple[int, Integers]:
        """Return the sum of the frequencies of known characters, and those of unknown ones (D,)."""
        room = TOTAL - len(self.points) - len(counts)  # so that each symbol can have 1
        sizes = np.maximum(1, counts.astype(np.int64) * room // count)
        return TOTAL - int(sizes.sum()), sizes


class _Predictions:
    """The lanes of a text, and the frequencies of what comes next in each."""

    def __init__(self, coder: TextCoder, lanes: int, total: int):
        self.coder = coder
        self.total = total
        engine = coder.engine
        self.stepper = engine.stepper(engine.initial_state(lanes))
        self.read(np.full(lanes, coder.line_start))

    def read(self, ids: NDArray[Any]) -> None:
        """Read the next character of each lane (B,)."""
        with np.errstate(over="ignore", invalid="ignore"):  # weights() says it in words
            self.logits = self.stepper.step(ids)

    def frequencies(self) -> tuple[Doubles, Doubles]:
        """Return the frequencies of known characters (B, V), and their sums up to each (B, V)."""
        w = self.coder.engine.weights(self.logits, PREDICTED)
        if self.coder.unknown_id is not None and w.shape[1] > 1:
            self._leave_out(w, self.coder.unknown_id)
        f = frequencies(w, self.total)
        return f, np.add.accumulate(f, axis=1)

    @staticmethod
    def _leave_out(w: Doubles, unknown_id: int) -> None:
        """Set the weight of the unknown symbol to 0: unknown characters have another frequency."""
        w[:, unknown_id] = 0
        w[w.sum(axis=1) == 0] = 1


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


def _ends(total: int, sizes: Integers) -> Integers:
    """Return where the intervals of unknown characters end (D,), behind those of known ones."""
    return total + np.cumsum(sizes)
