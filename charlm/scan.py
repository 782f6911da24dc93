"""A text read by many lanes at once, as one lane would read it.

Every character is read given all the characters before it. For speed the text is cut into lanes
that are read side by side. So that this does not change what comes out, the state that a lane
begins with is made by reading the characters before it (the warm-up), which do not count there:

    lane 0          |counted counted counted|
    lane 1     (warm up)                    |counted counted counted|
    lane 2                           (warm up)                      |counted counted counted|

A recurrent net forgets, so after a warm-up the state is, as a rule, the right one to a millionth.
That is not taken on trust: a lane has to begin with the state in which the lane before it ends,
and where it did not (to within ``TOLERANCE``), it is read again from there, until it meets a state
of the first time. So the result is that of one lane, to about ``TOLERANCE``, also for a model that
does not forget.
"""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

WARM_UP = 512  # characters
TOLERANCE = 0.01  # by which a state may be off where a lane begins, or is not read again

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
    _, guess = reader.read(starts[1:] - WARM_UP, WARM_UP, reader.initial_state(lanes - 1))
    begin = tuple(np.concatenate(pair, axis=1) for pair in zip(state, guess, strict=True))
    values = np.empty((lanes, length), np.float32)
    pieces = list(itertools.pairwise(_edges(length)))
    states = [begin]  # at every edge
    for first, last in pieces:
        values[:, first:last], after = reader.read(starts + first, last - first, states[-1])
        states.append(after)
    for _ in range(1, lanes):  # lane k is right after k rounds at the latest
        before = tuple(s[:, :-1] for s in states[-1])
        wrong = 1 + np.flatnonzero(_apart(tuple(s[:, 1:] for s in begin), before))
        if len(wrong) == 0:
            break
        if not all(np.isfinite(s).all() for s in states[-1]):
            break  # it would never meet; whoever called finds no numbers in the values either
        now = _lanes_of(states[-1], wrong - 1)
        for edge, (first, last) in enumerate(pieces):
            _put(now, states[edge], wrong)
            values[wrong, first:last], now = reader.read(starts[wrong] + first, last - first, now)
            apart = _apart(_lanes_of(states[edge + 1], wrong), now)
            wrong, now = wrong[apart], _lanes_of(now, apart)
            if len(wrong) == 0:
                break
        _put(now, states[-1], wrong)
    return values, _lanes_of(states[-1], np.array([lanes - 1]))


def _lanes_of(state: State, places: NDArray[Any]) -> State:
    """Return some lanes of a state, in the order of memory that cuDNN asks for."""
    return tuple(np.ascontiguousarray(s[:, places]) for s in state)


def _put(lanes: State, state: State, places: NDArray[np.intp]) -> None:
    for array, part in zip(state, lanes, strict=True):
        array[:, places] = part


def _edges(length: int) -> list[int]:
    """Return where the pieces of a lane begin and the last ends; each is as long as all before."""
    edges = [0]
    while (after := max(WARM_UP, 2 * edges[-1])) < length:
        edges.append(after)
    return [*edges, length]


def _apart(one: State, other: State) -> NDArray[np.bool_]:
    """Return which lanes of two states (L, B, H) differ by more than ``TOLERANCE``, or are NaN."""
    gaps = [np.abs(a - b).max((0, 2)) for a, b in zip(one, other, strict=True)]
    return ~(np.max(gaps, axis=0) <= TOLERANCE)  # type: ignore[no-any-return]
