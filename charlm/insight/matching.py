"""Places of a text where the state of a net is alike."""

import numpy as np
from numpy.typing import NDArray

from charlm.errors import ConfigError
from charlm.tensor_file import Floats

COMPONENTS = 16


def codes(states: Floats) -> NDArray[np.int8]:
    """Return states (N, H) on their largest principal components, as whole numbers (N, 16)."""
    x = states - states.mean(axis=0)
    _, vectors = np.linalg.eigh(x.T @ x)  # ascending
    projected = x @ vectors[:, ::-1][:, :COMPONENTS]
    scale = 127 / max(float(np.abs(projected).max(initial=0)), 1e-12)
    found: NDArray[np.int8] = np.rint(projected * scale).astype(np.int8)
    return found


def matches(
    codes: NDArray[np.int8], start: int, end: int, count: int = 10
) -> list[tuple[int, float]]:
    """Return the places of a text whose states resemble those of a span most.

    The span is compared with every window of the same length, by the cosine similarity of their
    mean codes. A window that overlaps the span, or a better match, is passed over; of equal ones
    the first in the text comes first. The script of the page computes the same numbers.

    Args:
        codes: the state after each character, (N, components), as whole numbers.
        start: the first character of the span.
        end: the character behind its last, 0 <= start < end <= N.
        count: how many places to return at most.

    Returns:
        The first character of each window and its similarity, from -1 to 1, the best first.

    Raises:
        ConfigError: if there is no such span.

    Example::

        matches(np.array([[1, 0], [0, 1], [2, 0]], np.int8), 0, 1)   # [(2, 1.0), (1, 0.0)]
    """
    if not 0 <= start < end <= len(codes):
        raise ConfigError(
            f"a span from {start} to {end} is not in a text of {len(codes):,} characters: "
            "start must be 0 or more, and end above start and not behind the text"
        )
    length = end - start
    sums = np.zeros((len(codes) + 1, codes.shape[1]), np.int64)
    np.cumsum(codes, axis=0, dtype=np.int64, out=sums[1:])
    windows = sums[length:] - sums[:-length]  # sums point the way that means do, and are exact
    norms = np.sqrt((windows**2).sum(axis=1))
    products = norms * norms[start]
    dots = windows @ windows[start]
    similarity = np.divide(dots, products, out=np.zeros(len(dots)), where=products > 0)
    free = np.ones(len(similarity), np.bool_)
    free[max(0, start - length + 1) : end] = False
    found: list[tuple[int, float]] = []
    while len(found) < count and free.any():
        place = int(np.argmax(np.where(free, similarity, -np.inf)))
        found.append((place, float(similarity[place])))
        free[max(0, place - length + 1) : place + length] = False
    return found
