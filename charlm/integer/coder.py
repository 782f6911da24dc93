"""An entropy coder: symbols of given frequencies as words of 32 bits, and back, in whole numbers.

It is an asymmetric numeral system (rANS). The state of a lane is a whole number x. Of every
``TOTAL`` numbers a symbol owns ``size``, from ``start`` on, and the state takes it in by

    x' = (x // size) * TOTAL + start + x % size

so that x' % TOTAL tells the symbol, and the old state follows from the new one. A state that grows
too large first puts out its lower 32 bits. What went in last comes out first, so encoding begins at
the end of a text. All lanes share one stream of words, in the order in which the decoder asks for
them: at each step from the first lane to the last.

Source: Duda (2013), Asymmetric numeral systems, arXiv:1311.2540; Giesen (2014), Interleaved entropy
coders, arXiv:1402.3392.
"""

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CorpusError
from charlm.inference.sampling import Doubles

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS  # the sum of the frequencies of all symbols
WORD_BITS = 32
LEAST_STATE = 1 << WORD_BITS  # so states are below 2 ** 64
STATE_BYTES, WORD_BYTES = 8, 4

Integers = NDArray[np.int64]
Words = NDArray[np.uint32]


def frequencies(w: Doubles, total: int) -> Doubles:
    """Return whole numbers, at least 1, in proportion to weights, with a given sum in each row.

    >>> frequencies(np.array([[1.0, 2.0, 0.0]]), 10)
    array([[3., 6., 1.]])

    Args:
        w: whole numbers (B, V), one of them above 0 in each row.
        total: the sum, V at least.
    """
    scale = (total - w.shape[1]) / w.sum(axis=1)
    result: Doubles = np.floor(w * scale[:, None])
    result += 1
    rest = total - result.sum(axis=1)
    result[np.arange(len(w)), w.argmax(axis=1)] += rest  # to the likeliest
    return result


def encode(starts: Words, sizes: Words, lanes: int) -> bytes:
    """Return symbols as bytes, which :class:`Decoder` reads.

    Args:
        starts: where each symbol begins (N,): that of lane 0 at step 0, of lane 1 at step 0 and so
            on. The last step may have fewer lanes.
        sizes: its frequency, at least 1 (N,).
        lanes: how many lanes there are (B).
    """
    states = np.full(lanes, LEAST_STATE, np.uint64)
    words = []
    bits, word = np.uint64(TOTAL_BITS), np.uint64(WORD_BITS)
    least = np.uint64(2 * WORD_BITS - TOTAL_BITS)
    for begin in reversed(range(0, len(starts), lanes)):
        start = starts[begin : begin + lanes].astype(np.uint64)
        size = sizes[begin : begin + lanes].astype(np.uint64)
        x = states[: len(start)]
        large = (x >> least) >= size
        if large.any():
            words.append(x[large].astype("<u4"))
            x = np.where(large, x >> word, x)
        quotient = x // size
        states[: len(start)] = (quotient << bits) + (x - quotient * size) + start
    body = np.concatenate(words[::-1]) if words else np.empty(0, "<u4")
    return states.astype("<u8").tobytes() + body.tobytes()


class Decoder:
    """Reads what :func:`encode` wrote, one step after the other.

    At each step, :meth:`slots` tells in which place of the ``TOTAL`` the symbol of each lane is,
    and :meth:`move` takes the symbols out that were found there.

    Args:
        data: what :func:`encode` returned.
        lanes: as there.

    Raises:
        CorpusError: if the bytes cannot be such.
    """

    def __init__(self, data: bytes, lanes: int):
        head = lanes * STATE_BYTES
        if len(data) < head or (len(data) - head) % WORD_BYTES:
            raise damaged()
        self.states = np.frombuffer(data[:head], "<u8").astype(np.uint64)
        self.words = np.frombuffer(data[head:], "<u4").astype(np.uint64)
        self.place = 0
        if (self.states < LEAST_STATE).any():
            raise damaged()

    def slots(self) -> Integers:
        """Return the place of the next symbol of each lane (B,), from 0 to ``TOTAL`` - 1."""
        return (self.states & np.uint64(TOTAL - 1)).astype(np.int64)

    def move(self, starts: Integers, sizes: Integers) -> None:
        """Take a symbol out of each of the first lanes.

        Args:
            starts: where those symbols begin (B,), or fewer.
            sizes: their frequencies, of the same shape.
        """
        x = self.states[: len(starts)]
        offsets = (x & np.uint64(TOTAL - 1)) - starts.astype(np.uint64)
        x = (x >> np.uint64(TOTAL_BITS)) * sizes.astype(np.uint64) + offsets
        small = x < LEAST_STATE
        end = self.place + int(np.count_nonzero(small))
        if end > len(self.words):
            raise damaged()
        if end > self.place:
            x[small] = (x[small] << np.uint64(WORD_BITS)) | self.words[self.place : end]
            self.place = end
        self.states[: len(starts)] = x

    def finish(self) -> None:
        """Check that all was read that was written.

        Raises:
            CorpusError: if not.
        """
        if self.place != len(self.words) or (self.states != LEAST_STATE).any():
            raise damaged()


def damaged() -> CorpusError:
    """Return the error of bytes that do not hold what they should."""
    return CorpusError("it does not hold what it should: it is damaged")
