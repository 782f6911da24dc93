"""Baselines: what is reached without a neural network.

Each predicts a character from everything before it, the past text and the text up to there, and
learns as it reads.
"""

import lzma
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

# What takes about 140 bytes a character is not done for more than so many of them: the last
# characters of the past, and the first ones of the text.
MOST_PAST, MOST_TEXT = 2_000_000, 2_000_000

ORDERS = {"unigram": 1, "5-gram": 5}  # of the n-grams that are baselines
MIXED = 8  # of that which a model is mixed with; alone, one of 5 is better
SLOWEST = 1_000  # characters that the weight of a mixture is a mean over

Integers = NDArray[np.int64]
Chances = NDArray[np.float64]


def ngram_chances(past: str, text: str) -> dict[int, Chances]:
    """Return the probability of each character of ``text`` but the first, by order of the n-gram.

    Args:
        past: what is read before it, such as the text that a model was trained on.
        text: at least two characters, of which the first ``MOST_TEXT`` are read.
    """
    past, text = past[-MOST_PAST:], text[:MOST_TEXT]
    whole = np.frombuffer((past + text).encode("utf-32-le", "surrogatepass"), "<u4")
    symbols, ids = np.unique(whole, return_inverse=True)
    found = enumerate(ngrams(ids, len(symbols), MIXED), start=1)
    wanted = {*ORDERS.values(), MIXED}
    return {order: p[len(past) + 1 :] for order, p in found if order in wanted}


def baselines(past: str, text: str, chances: Mapping[int, Chances]) -> dict[str, float]:
    """Return bits per character of ``text``, its first character left out, by name of baseline.

    Args:
        past, text: see :func:`ngram_chances`.
        chances: what that returned for them.
    """
    past, text = past[-MOST_PAST:], text[:MOST_TEXT]
    # Never minus zero.
    bits = {name: abs(float(np.log2(chances[n]).mean())) for name, n in ORDERS.items()}
    return bits | {"xz": xz(past + text[0], text[1:])}


def mixture(p: Chances, q: Chances) -> Chances:
    """Return the probabilities (N,) that two predictors give together to what came.

    Of each prediction the first one has a share w, and n is the number of predictions so far:

        m = w p + (1 - w) q
        w = w + (w p / m - w) / n        w p / m: how likely p was the right one

    It begins at a half, as if ten predictions had told so, and with n at most ``SLOWEST`` it
    follows the text.

    Source: interpolation, Jelinek and Mercer (1980), Interpolated estimation of Markov source
    parameters from sparse data; weights found on the way, Cappe and Moulines (2009), On-line
    expectation-maximization algorithm for latent data models, arXiv:0712.4273.
    """
    weight, mixed = 0.5, np.empty(len(p))
    for place, (one, other) in enumerate(zip(p.tolist(), q.tolist(), strict=True)):
        mixed[place] = both = weight * one + (1 - weight) * other
        weight += (weight * one / both - weight) / min(place + 11, SLOWEST)
    return mixed


def xz(past: str, text: str) -> float:
    """Return by how many bits per character of ``text`` the xz file of ``past`` grows with it."""
    sizes = [len(lzma.compress(t.encode("utf-8", "surrogatepass"))) for t in (past, past + text)]
    return 8 * (sizes[1] - sizes[0]) / len(text)


def ngrams(ids: Integers, vocab_size: int, most: int) -> Iterator[Chances]:
    """Yield the probability (N,) that n-gram models give each of ``ids`` (N,) as they read.

    The first is that of a unigram, the last that of a model of order ``most``. With the c - 1
    characters before it as context, a character that came k times in the n occurrences of the
    context so far, which had t different followers, has

        p_c = (k + t p_(c-1)) / (n + t)        p_0 = 1 / V

    All positions are computed at once: an occurrence is "so far" if it has a lower rank among equal
    ones.

    Source: Witten and Bell (1991), The zero-frequency problem, method C, interpolated.
    """
    p = np.full(len(ids), 1 / vocab_size)
    context = np.zeros(len(ids), np.int64)  # equal numbers, equal contexts
    for length in range(most):
        pair = context * vocab_size + ids
        numbers, earlier = _ranks(*_groups(pair))
        groups = _groups(context)
        _, occurrences = _ranks(*groups)
        followers = _sums_before(*groups, earlier == 0)
        known = occurrences > 0
        total = np.maximum(occurrences + followers, 1)
        p = np.where(known, (earlier + followers * p) / total, p)
        yield p
        context = np.empty_like(numbers)
        context[1:] = numbers[:-1]  # the pair that ends before a character is its longer context
        context[: length + 1] = -1 - np.arange(min(length + 1, len(ids)))  # none: all different
        context -= context.min()


def _groups(keys: Integers) -> tuple[Integers, Integers]:
    """Return an order that brings equal keys together, and where the group of each begins in it."""
    order = np.argsort(keys, kind="stable")
    new = np.flatnonzero(np.diff(keys[order], prepend=math.nan))
    return order, np.repeat(new, np.diff(new, append=len(keys)))


def _ranks(order: Integers, begin: Integers) -> tuple[Integers, Integers]:
    """Return a number for each key, equal for equal ones, and how many equal ones come before."""
    numbers, earlier = np.empty_like(order), np.empty_like(order)
    numbers[order] = begin
    earlier[order] = np.arange(len(order)) - begin
    return numbers, earlier


def _sums_before(order: Integers, begin: Integers, values: NDArray[np.bool_]) -> Integers:
    """Return for each place how many earlier places have the same key and a true value."""
    sums = np.concatenate(([0], np.cumsum(values[order])))
    result = np.empty_like(order)
    result[order] = sums[:-1] - sums[begin]
    return result
