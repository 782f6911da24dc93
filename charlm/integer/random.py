"""Random numbers as a function of seed, sample and place, in whole numbers.

The generator is Threefry-2x32 with 20 rounds: an encrypted counter, here (place, sample), and the
seed is the key. So a number can be had without those before it.

Source: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3, SC'11.
"""

import numpy as np
from numpy.typing import NDArray

from charlm.inference.sampling import Doubles

Words = NDArray[np.uint32]
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def threefry(key: tuple[int, int], low: Words, high: Words) -> tuple[Words, Words]:
    """Return two random words for each counter.

    Args:
        key: two words of 32 bits.
        low, high: the words of the counters, of one shape.
    """
    keys = [np.uint32(word) for word in (*key, PARITY ^ key[0] ^ key[1])]
    x, y = low + keys[0], high + keys[1]
    for four in range(5):
        for rotation in ROTATIONS[four % 2]:
            x = x + y
            y = (y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))
            y = y ^ x
        x = x + keys[(four + 1) % 3]
        y = y + keys[(four + 2) % 3]
        y = y + np.uint32(four + 1)
    return x, y


def uniform(seed: int, sample: int, start: int, count: int) -> Doubles:
    """Return numbers from [0, 1) for places ``start`` and on of a sample (count,).

    >>> uniform(1, 0, 0, 2).round(4), uniform(1, 0, 1, 1).round(4)
    """
    places = (start + np.arange(count, dtype=np.uint64)).astype(np.uint32)
    key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
    x, y = threefry(key, places, np.full(count, sample & 0xFFFFFFFF, np.uint32))
    return (x * 2.0**21 + (y >> np.uint32(11))) * 2.0**-53


class Generator:
    """The numbers of one sample, one after the other; used as ``numpy.random.Generator``."""

    def __init__(self, seed: int, sample: int):
        self.seed = seed
        self.sample = sample
        self.place = 0

    def random(self, count: int) -> Doubles:
        """Return the next numbers from [0, 1) (count,)."""
        self.place += count
        return uniform(self.seed, self.sample, self.place - count, count)
