"""A text read by many lanes at once, as one lane would read it.

Every character is read given all the characters before it. For speed the text is cut into lanes
that are read side by side. So that this does not change what comes out, the state that a lane
begins with is made by reading the characters before it (the warm-up), which do not count there:

    lane 0          |counted counted counted|
    lane 1     (warm up)                    |counted counted counted|
    lane 2                           (warm up)                      |counted counted counted|

A recurrent net forgets, so after a warm-up the state is, as a rule, the right one to a millionth.
That is not taken on trust: a lane has to begin with the state in which the lane before it ends,
and where it did not (to within ``TOLERANCE``), it is read again from there. So the result is that
of one lane, also for a model that does not forget.
"""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

WARM_UP = 512  # characters, at least
TOLERANCE = 0.01  # by which a state may be off where a lane begins

Floats = NDArray[np.float32]
State = tuple[NDArray[Any], ...]
OnRead = Callable[[int], object]  # is told now and then how many characters were read since


def nothing(count: int) -> None:
    """Take no notice of what was read."""


class Reader(Protocol):
    """Reads pieces of one text, given by the places where they begin."""

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any character: arrays (L, B, H) of zeros."""

    def read(self, starts: NDArray[np.intp], length: int, state: State) -> tuple[Floats, State]:
        """Read ``length`` characters from each of ``starts`` (B,) on.

        Returns:
            Whatever it tells of each character (B, length), and the state after.
        """


def scan(reader: Reader, count: int, state: State, *, batch_size: int = 32) -> tuple[Floats, State]:
    """Read the first ``count`` characters of a text.

    Args:
        reader: reads the text.
        count: how many characters.
        state: what was read before them, arrays (L, 1, H).
        batch_size: the most lanes read side by side; fewer on a text that is short.

    Returns:
        What the reader tells of each character (count,), and the state after the last one.
    """
    lanes = max(1, min(batch_size, count // (2 * WARM_UP)))
    length = count // lanes
    values, state = _lanes(reader, np.arange(lanes) * length, length, state)
    rest = count - lanes * length
    if rest == 0:
        return values.ravel(), state
    tail, state = reader.read(np.array([lanes * length]), rest, state)
    return np.concatenate((values.ravel(), tail[0])), state


def _lanes(
    reader: Reader, starts: NDArray[np.intp], length: int, state: State
) -> tuple[Floats, State]:
    """Return what is told of each character (B, length), and the state in which the last ends."""
    lanes = len(starts)
    if lanes == 1:
        return reader.read(starts, length, state)
    zeros = reader.initial_state(lanes - 1)
    warm_up = max(WARM_UP, length // 8)  # of a long lane more, as to read it again costs more
    _, guess = reader.read(starts[1:] - warm_up, warm_up, zeros)
    begin = tuple(np.concatenate(pair, axis=1) for pair in zip(state, guess, strict=True))
    values, end = reader.read(starts, length, begin)
    for rounds in itertools.count(1):  # lane k is right after k + 1 rounds at the latest
        gaps = [np.abs(b[:, 1:] - e[:, :-1]).max((0, 2)) for b, e in zip(begin, end, strict=True)]
        wrong = 1 + np.flatnonzero(~(np.max(gaps, axis=0) <= TOLERANCE))  # a NaN is wrong too
        if len(wrong) == 0 or rounds == lanes:
            return values, tuple(e[:, -1:] for e in end)
        for b, e in zip(begin, end, strict=True):
            b[:, wrong] = e[:, wrong - 1]
        values[wrong], after = reader.read(starts[wrong], length, tuple(b[:, wrong] for b in begin))
        for e, a in zip(end, after, strict=True):
            e[:, wrong] = a
    raise AssertionError
