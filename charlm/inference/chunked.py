"""A long text read in parallel chunks, exactly as in one.

Every character is read given all the characters before it. For speed the text is cut into chunks
that are read side by side. So that this does not change the result, the state that a chunk starts
with is made by reading the characters before it (the warm-up), which are not counted there:

    chunk 0          |counted counted counted|
    chunk 1     (warm up)                    |counted counted counted|
    chunk 2                           (warm up)                      |counted counted counted|

A recurrent network forgets, so after a warm-up the state is, as a rule, as good as the right one.
That is not taken on trust: the chunk before ends in the right state, and has read the same
characters. Where that state is another one (by ``STATE_TOLERANCE``), or where the last ``PROBE``
values of the warm-up are others (by ``VALUE_TOLERANCE`` in the mean), the chunk is read again from
the right state, until it meets what it found the first time. So the result is that of one chunk,
also for a model that does not forget, and for one to which a small difference means much. For a
model that remembers very long that can take many times as long; a progress callback that raises
:class:`OutOfTimeError` ends it, with what is known by then.
"""

import contextlib
import itertools
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.cells.base import State
from charlm.tensor_file import Floats

WARM_UP = 512  # characters
PROBE = 128  # characters
STATE_TOLERANCE = 0.01
VALUE_TOLERANCE = 1e-4  # nats per character


class OutOfTimeError(Exception):
    """There is no time to read chunks again; raised by a progress callback, once."""


class Reader(Protocol):
    """Reads pieces of one text, given by the places where they begin."""

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any character: arrays (L, B, ...) of zeros."""

    def read(self, starts: NDArray[np.intp], length: int, state: State) -> tuple[Floats, State]:
        """Read ``length`` characters from each of ``starts`` (B,) on.

        Returns:
            A value for each character (B, length), and the state after the last.
        """


def read_chunked(
    reader: Reader,
    count: int,
    state: State,
    *,
    batch_size: int = 32,
    attention: int = 0,
    to_the_bit: bool = False,
) -> tuple[Floats, State]:
    """Read the first ``count`` characters of a text.

    Args:
        reader: reads the text.
        count: how many characters.
        state: before them, arrays (L, 1, ...).
        attention: over how many characters a state holds what it has read as it was. The warm-up is
            longer by so many.
        batch_size: the most chunks read side by side; fewer on a text that is short.
        to_the_bit: whether the result is that of one chunk to the last bit, as it is promised of
            whole numbers, and not within the tolerances.

    Returns:
        The value for each character (count,), and the state after the last one.

    Raises:
        OutOfTimeError: if the reader raises it before every character has been read once.
    """
    warm_up = WARM_UP + attention
    chunks = max(1, min(batch_size, count // (2 * warm_up)))
    length = count // chunks
    tolerances = (0.0, 0.0) if to_the_bit else (STATE_TOLERANCE, VALUE_TOLERANCE)
    starts = np.arange(chunks) * length
    values, state = _read_chunks(reader, starts, length, state, warm_up, tolerances)
    rest = count - chunks * length
    if rest == 0:
        return values.ravel(), state
    tail, state = reader.read(np.array([chunks * length]), rest, state)
    return np.concatenate((values.ravel(), tail[0])), state


def _read_chunks(
    reader: Reader,
    starts: NDArray[np.intp],
    length: int,
    state: State,
    warm_up: int,
    tolerances: tuple[float, float],
) -> tuple[Floats, State]:
    """Return a value for each character (B, length), and the state in which the last chunk ends."""
    chunks = len(starts)
    if chunks == 1:
        return reader.read(starts, length, state)
    before, guess = reader.read(starts[1:] - warm_up, warm_up, reader.initial_state(chunks - 1))
    begin = tuple(np.concatenate(pair, axis=1) for pair in zip(state, guess, strict=True))
    probes = before[:, -PROBE:]  # the values before a chunk, by the state that it starts with
    values = np.empty((chunks, length), np.float32)
    pieces = list(itertools.pairwise(_edges(length)))
    states = [begin]  # at every edge
    for first, last in pieces:
        values[:, first:last], after = reader.read(starts + first, last - first, states[-1])
        states.append(after)
    with contextlib.suppress(OutOfTimeError):
        _read_again(reader, starts, pieces, values, probes, states, tolerances)
    return values, _pick(states[-1], np.array([chunks - 1]))


def _read_again(
    reader: Reader,
    starts: NDArray[np.intp],
    pieces: list[tuple[int, int]],
    values: Floats,
    probes: Floats,
    states: list[State],
    tolerances: tuple[float, float],
) -> None:
    """Read chunks again until all begin where the one before ends, and change what is found.

    Args:
        reader: reads the text.
        starts: where the chunks begin (B,).
        pieces: where the pieces of each chunk begin and end.
        values: of all characters (B, length).
        probes: the last values before each chunk but the first one, by the state it begins with.
        states: at the edges of the pieces, arrays (L, B, ...).
        tolerances: by how much states and values of chunks that meet may differ.
    """
    for _ in range(1, len(starts)):  # chunk k is right after k rounds at the latest
        expected = values[:-1, -PROBE:]
        before = tuple(s[:, :-1] for s in states[-1])
        begun = tuple(s[:, 1:] for s in states[0])
        differs = _differ(begun, before, probes, expected, tolerances)
        wrong = 1 + np.flatnonzero(differs)
        if len(wrong) == 0:
            break
        if not all(np.isfinite(s).all() for s in states[-1]):
            break  # NaN never meets NaN; the caller sees it in the values too
        probes[wrong - 1] = expected[wrong - 1]
        now = _pick(states[-1], wrong - 1)
        for edge, (first, last) in enumerate(pieces):
            _put(now, states[edge], wrong)
            probe = slice(max(first, last - PROBE), last)
            old = values[wrong, probe]
            values[wrong, first:last], now = reader.read(starts[wrong] + first, last - first, now)
            found = _pick(states[edge + 1], wrong)
            differs = _differ(found, now, old, values[wrong, probe], tolerances)
            wrong, now = wrong[differs], _pick(now, differs)
            if len(wrong) == 0:
                break
        _put(now, states[-1], wrong)


def _pick(state: State, places: NDArray[Any]) -> State:
    """Return the state of some chunks, in the order of memory that cuDNN asks for."""
    return tuple(np.ascontiguousarray(s[:, places]) for s in state)


def _put(part: State, state: State, places: NDArray[np.intp]) -> None:
    for array, values in zip(state, part, strict=True):
        array[:, places] = values


def _edges(length: int) -> list[int]:
    """Return where the pieces of a chunk begin and the last ends; each is as long as all before."""
    edges = [0]
    while (after := max(WARM_UP, 2 * edges[-1])) < length:
        edges.append(after)
    return [*edges, length]


def _differ(
    one: State, other: State, values: Floats, others: Floats, tolerances: tuple[float, float]
) -> NDArray[np.bool_]:
    """Return which chunks differ in their state (L, B, ...) or their values (B, N), or are NaN."""
    gaps = [np.abs(a - b).max(axis=(0, *range(2, a.ndim))) for a, b in zip(one, other, strict=True)]
    effects = np.abs(values - others).mean(axis=1)
    of_states, of_values = tolerances
    same = (np.max(gaps, axis=0) <= of_states) & (effects <= of_values)
    return ~same  # type: ignore[no-any-return]
