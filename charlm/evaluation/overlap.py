"""Verbatim overlap between generated texts and the training text: how much is memorised."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import code_points

LENGTHS = (8, 16, 32)  # characters of the substrings that are looked up
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it vanishes modulo 2^64

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """How much of some texts is in the training text, verbatim.

    Attributes:
        longest: their longest verbatim overlap with the training text.
        place: where it is there, counted in characters.
        new_share: for each of ``LENGTHS``, the share of the substrings of that length that are
            not in the training text; None where no text is as long.
    """

    longest: str
    place: int
    new_share: dict[int, float | None]


class Index:
    """The substrings of a text, looked up by a hash of each.

    The hash of a substring is a difference of two sums over all characters before a place, so those
    of all substrings of any length take one pass. It has 64 bits: of a million looked up in a text
    of five million characters, a wrong one is found with a chance below 1e-6, unless the texts were
    made for it (as a Thue-Morse sequence is).
    """

    def __init__(self, text: str):
        self.text = text
        self.sums = _sums(text)

    def found(self, texts: list["Index"], length: int) -> list[NDArray[np.bool_]]:
        """Return for each text, for each substring of ``length`` characters, whether it is here."""
        wanted = [one.hashes(length) for one in texts]
        distinct = np.unique(np.concatenate(wanted))
        here = self.hashes(length)
        places = np.searchsorted(distinct, here).clip(max=max(0, len(distinct) - 1))
        there = np.zeros(len(distinct), bool)
        if len(distinct):
            there[places[distinct[places] == here]] = True
        return [there[np.searchsorted(distinct, one)] for one in wanted]

    def hashes(self, length: int) -> Hashes:
        """Return the hash of every substring of ``length`` characters."""
        if length > len(self.text):
            return np.empty(0, np.uint64)
        return self.sums[length:] - self.sums[:-length] * _power(length)


def _sums(text: str) -> Hashes:
    """Return s with s[0] = 0 and s[i + 1] = s[i] BASE + character i, modulo 2^64."""
    points = code_points(text).astype(np.uint64) + np.uint64(1)
    # s[n] = BASE^n sum of points[i] BASE^-(i+1): running sums, without a loop over characters.
    inverse = np.uint64(pow(int(BASE), -1, 1 << 64))
    down = np.multiply.accumulate(np.full(len(points), inverse))
    up = np.multiply.accumulate(np.full(len(points), BASE))
    return np.concatenate((np.zeros(1, np.uint64), up * np.add.accumulate(points * down)))


def _power(length: int) -> np.uint64:
    return np.uint64(pow(int(BASE), length, 1 << 64))


def find_overlap(texts: Iterable[str], training_text: str) -> Overlap:
    """Return how much of ``texts``, at least one, is in ``training_text``."""
    index = Index(training_text)
    generated = [Index(text) for text in texts]
    new_share: dict[int, float | None] = {}
    for length in LENGTHS:
        found = np.concatenate(index.found(generated, length))
        new_share[length] = float(1 - found.mean()) if len(found) else None
    low, high = 0, max((len(one.text) for one in generated), default=0)
    longest = ""
    while low < high:  # a part of what is found is found too
        middle = (low + high + 1) // 2
        hits = index.found(generated, middle)
        pairs = zip(generated, hits, strict=True)
        overlaps = (one.text[hit.argmax() :][:middle] for one, hit in pairs if hit.any())
        copied = next((text for text in overlaps if text in training_text), None)
        if copied is None:
            high = middle - 1
        else:
            low, longest = middle, copied
    return Overlap(longest, training_text.find(longest), new_share)
