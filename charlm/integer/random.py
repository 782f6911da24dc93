"""Random numbers as a function of seed, sample and place, in whole numbers.

The generator is Threefry-2x32 with 20 rounds: an encrypted counter, here (place, sample), and the
seed is the key. So a number can be had without those before it.

Source: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3, SC'11.
"""

from collections.abc import Sequence

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


def uniform(seed: int, samples: Sequence[int], start: int, count: int) -> Doubles:
    """Return numbers from [0, 1) for places ``start`` and on of each sample (B, count).

    >>> uniform(1, [0], 0, 2)[0, 1] == uniform(1, [0], 1, 1)[0, 0]
    True
    """
    words = np.uint64(0xFFFFFFFF)
    places = (start + np.arange(count, dtype=np.uint64) & words).astype(np.uint32)
    of_sample = (np.array(samples, np.uint64) & words).astype(np.uint32)
    low, high = np.broadcast_arrays(places, of_sample[:, None])
    x, y = threefry((seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF), low, high)
    return (x * 2.0**21 + (y >> np.uint32(11))) * 2.0**-53


class Generator:
    """The numbers of some samples, one after the other."""

    def __init__(self, seed: int, samples: Sequence[int]):
        self.seed = seed
        self.samples = samples
        self.place = 0

    def random(self, count: int) -> Doubles:
        """Return the next numbers from [0, 1) of each sample (B, count)."""
        self.place += count
        return uniform(self.seed, self.samples, self.place - count, count)
