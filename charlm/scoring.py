"""Texts read with the engine: the state after them, and the surprise at each character."""

import numpy as np
from numpy.typing import NDArray

from charlm.engine import Engine, State
from charlm.generation import check_finite, surprise
from charlm.readings import Reading
from charlm.scan import Floats, OnRead, nothing, scan
from charlm.tokenizer import Ids

MOST_NUMBERS = 1 << 22  # held at a time for each array of a window (B * T * the widest layer)


def read(
    engine: Engine, ids: Ids, after: Reading | None = None, on_read: OnRead = nothing
) -> Reading:
    """Read a text.

    Args:
        engine: the model.
        ids: the text (N,), N > 0.
        after: what was read before it.
        on_read: called now and then with the number of characters that were read since.

    Raises:
        DivergenceError: if the model's predictions are no numbers.
    """
    state = engine.initial_state(1) if after is None else after.state
    with np.errstate(over="ignore", invalid="ignore"):  # said in words below
        _, state = scan(_Reader(engine, ids, on_read, tell=False), len(ids) - 1, state)
        lanes = engine.lanes(state)
        logits = lanes.step(ids[-1:])[0].copy()
    on_read(1)
    check_finite(logits)
    return Reading(logits, lanes.state)


def score(engine: Engine, ids: Ids, after: Reading, on_read: OnRead = nothing) -> Floats:
    """Return the surprise at each character of a text (N,), in nats, given all before it.

    Raises:
        DivergenceError: if the model's predictions are no numbers.
    """
    nats = np.empty(len(ids), np.float32)
    if len(ids):
        with np.errstate(over="ignore", invalid="ignore"):  # said in words below
            nats[0] = surprise(after.logits, ids[0])
            nats[1:], _ = scan(_Reader(engine, ids, on_read), len(ids) - 1, after.state)
        on_read(1)
        check_finite(nats)
    return nats


class _Reader:
    """Reads lanes of a text; tells the surprise at the character after each, or nothing."""

    def __init__(self, engine: Engine, ids: Ids, on_read: OnRead, *, tell: bool = True):
        self.engine = engine
        self.ids = ids
        self.on_read = on_read
        self.tell = tell
        vocab_size, width = engine.table.shape
        self.width = max(vocab_size, width)

    def initial_state(self, batch_size: int) -> State:
        """See ``scan.Reader``."""
        return self.engine.initial_state(batch_size)

    def read(self, starts: NDArray[np.intp], length: int, state: State) -> tuple[Floats, State]:
        """See ``scan.Reader``."""
        nats = np.zeros((len(starts), length), np.float32)
        lanes = self.engine.lanes(state)
        step = max(1, MOST_NUMBERS // (len(starts) * self.width))
        for offset in range(0, length, step):
            places = starts[:, None] + np.arange(offset, min(offset + step, length))  # (B, T)
            y = lanes.read(self.ids[places])
            if self.tell:
                nats[:, offset : offset + step] = surprise(lanes.predict(y), self.ids[places + 1])
            self.on_read(places.size)
        return nats, lanes.state
