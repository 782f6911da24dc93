"""Memory: how far back the text matters to a net, and how far back its order does.

Windows of a text are read from the initial state, so after k characters the next one is predicted
with exactly k characters of context. The loss of that is compared with the loss at the same place
with all that comes before, so that it does not matter that some places are harder than others.

Source: after Khandelwal et al. (2018), Sharp Nearby, Fuzzy Far Away, arXiv:1805.04623.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.files import ProgressCallback, no_progress
from charlm.inference.engine import Engine
from charlm.inference.sampling import surprisal

MOST_CONTEXT = 1000  # characters
# Windows are read at lengths from long to short: short contexts cost little, so more are read.
WINDOWS = ((1.0, 64), (0.1, 256), (0.02, 1024))  # share of the longest context, windows at most
SHUFFLED = 300  # characters whose order is destroyed
MOST_INTACT = 200  # characters between them and the place
THRESHOLD = 0.01  # share of the loss that counts as a difference
BINS = 8  # for each factor of ten of the context


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The loss at some lengths of the context.

    Attributes:
        contexts: characters (K,), ascending, from 1 on.
        loss: bits per character (K,).
        error: its standard error (K,), of the difference to the loss with all the context.
    """

    contexts: NDArray[np.intp]
    loss: NDArray[np.float64]
    error: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How the loss depends on the context.

    Attributes:
        full: the loss with all that comes before, in bits per character.
        nearest: the loss with only so many characters of context.
        shuffled: the loss with so many characters as they are, and ``SHUFFLED`` before them in
            random order.
        reach: characters after which more context gains less than ``THRESHOLD``; None if it still
            gains at the longest one.
        order: characters beyond which their order gains less than that; None in the same way.
    """

    full: float
    nearest: Curve
    shuffled: Curve

    @property
    def reach(self) -> int | None:
        """See the class."""
        return self._reach(self.nearest)

    @property
    def order(self) -> int | None:
        """See the class. It cannot be further than the context itself reaches."""
        order, reach = self._reach(self.shuffled), self.reach
        return order if order is None or reach is None else min(order, reach)

    def __str__(self) -> str:
        most, ordered = int(self.nearest.contexts[-1]), int(self.shuffled.contexts[-1])
        reach = f"about {self.reach}" if self.reach else f"more than {most}"
        order = f"about {self.order}" if self.order else f"more than {ordered}"
        return f"uses {reach} characters of context, their order for {order}"

    def _reach(self, curve: Curve) -> int | None:
        """Return the first context from which on the loss stays close to the full one."""
        far = curve.loss > (1 + THRESHOLD) * self.full
        last = int(np.flatnonzero(far)[-1]) if far.any() else -1
        return None if last == len(far) - 1 else int(curve.contexts[last + 1])


def most_context(count: int) -> int:
    """Return the longest context that is measured on a text of ``count`` characters."""
    return max(1, min(MOST_CONTEXT, count // 4))


def work(count: int) -> int:
    """Return how many characters :func:`measure_memory` reads for a text of ``count``."""
    longest = most_context(count)
    windows = sum(max(1, int(longest * share)) * _windows(count, most) for share, most in WINDOWS)
    return windows + (SHUFFLED + MOST_INTACT) * _windows(count, WINDOWS[0][1])


def measure_memory(
    engine: Engine,
    ids: Ids,
    bits: NDArray[np.float64],
    *,
    seed: int = 1,
    on_progress: ProgressCallback = no_progress,
) -> Memory:
    """Measure how far back a text matters to a model.

    Args:
        engine: the model; not one of items, as these are read one by one.
        ids: the text (N,), N >= 2.
        bits: the surprisal of each character (N,) given all before it.
        seed: of the shuffling.
        on_progress: progress callback, told the number of characters read.
    """
    count, longest = len(ids), most_context(len(ids))
    samples: list[tuple[NDArray[np.intp], NDArray[np.float64]]] = []
    for share, most in WINDOWS:
        length = max(1, int(longest * share))
        starts = np.linspace(0, count - length - 1, _windows(count, most)).astype(np.intp)
        found = _read(engine, ids[starts[:, None] + np.arange(length + 1)], on_progress)
        places = starts[:, None] + np.arange(1, length + 1)
        contexts = np.broadcast_to(np.arange(1, length + 1), found.shape)
        samples.append((contexts.ravel(), (found - bits[places]).ravel()))
    full = float(bits.mean())
    contexts, excess = map(np.concatenate, zip(*samples, strict=True))
    nearest = _curve(contexts, excess)
    shuffled = _shuffled(engine, ids, bits, seed, on_progress)
    return Memory(full=full, nearest=_lift(nearest, full), shuffled=_lift(shuffled, full))


def _windows(count: int, most: int) -> int:
    """Return how many windows are read of a text; on a short one they would overlap too much."""
    return max(1, min(most, most * count // 20_000 + 1))


def _read(engine: Engine, ids: Ids, on_progress: ProgressCallback) -> NDArray[np.float64]:
    """Return bits (B, T) of all characters but the first of windows (B, T + 1), read alone."""
    most = engine.config.most_lanes()
    if len(ids) > most:
        parts = np.split(ids, range(most, len(ids), most))
        return np.concatenate([_read(engine, part, on_progress) for part in parts])
    stepper = engine.stepper(engine.initial_state(len(ids)))
    bits = np.empty((len(ids), ids.shape[1] - 1))
    for start in range(0, bits.shape[1], 64):
        stop = min(start + 64, bits.shape[1])
        logits = stepper.predict(stepper.read(ids[:, start:stop]))
        bits[:, start:stop] = surprisal(logits, ids[:, start + 1 : stop + 1]) / math.log(2)
        on_progress(len(ids) * (stop - start))
    return bits


def _shuffled(
    engine: Engine, ids: Ids, bits: NDArray[np.float64], seed: int, on_progress: ProgressCallback
) -> Curve:
    """Return the excess loss where what is further back than so many characters is shuffled."""
    count = len(ids)
    block = min(SHUFFLED, count // 3)
    length = min(MOST_INTACT, count // 3)
    windows = _windows(count, WINDOWS[0][1])
    starts = np.linspace(0, count - block - length - 1, windows).astype(np.intp)
    read = ids[starts[:, None] + np.arange(block + length + 1)]
    read[:, :block] = np.random.default_rng(seed).permuted(read[:, :block], axis=1)
    found = _read(engine, read, on_progress)[:, block:]
    places = starts[:, None] + block + np.arange(1, length + 1)
    contexts = np.broadcast_to(np.arange(1, length + 1), found.shape)
    return _curve(contexts.ravel(), (found - bits[places]).ravel())


def _curve(contexts: NDArray[np.intp], excess: NDArray[np.float64]) -> Curve:
    """Return the mean excess by context, short ones each alone and long ones in bins."""
    edges = [1]
    while edges[-1] <= contexts.max():
        edges.append(max(edges[-1] + 1, round(edges[-1] * 10 ** (1 / BINS))))
    bins = np.digitize(contexts, edges) - 1
    size = np.bincount(bins)
    mean = np.bincount(bins, excess) / size
    spread = np.sqrt(np.maximum(np.bincount(bins, excess**2) / size - mean**2, 0))
    error = spread / np.sqrt(size)
    return Curve(contexts=np.array(edges[: len(size)]), loss=mean, error=error)


def _lift(curve: Curve, full: float) -> Curve:
    return Curve(contexts=curve.contexts, loss=curve.loss + full, error=curve.error)
