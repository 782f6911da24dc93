"""Texts read with the engine: the state after them, and the surprisal of each character."""

import numpy as np
from numpy.typing import NDArray

from charlm.cells.base import State
from charlm.data.batches import IGNORED
from charlm.data.items import Rows, batches_by_length
from charlm.data.tokenizer import Ids
from charlm.files import ProgressCallback, no_progress
from charlm.inference.chunked import PROBE, read_chunked
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.inference.sampling import check_finite, silent
from charlm.tensor_file import Floats

ITEMS = 64  # of a list, read side by side
MOST_NUMBERS = 1 << 22  # held at a time for each array of a window (B * T * the widest layer)


def read(
    engine: Engine,
    ids: Ids,
    before: PromptState | None = None,
    on_progress: ProgressCallback = no_progress,
) -> PromptState:
    """Read a text and return the state after it.

    Args:
        engine: the model.
        ids: the text (N,), N > 0.
        before: the state before it.
        on_progress: progress callback, told the number of characters read.

    Raises:
        DivergenceError: if the model's predictions are NaN or infinite.
    """
    state = engine.initial_state(1) if before is None else before.state
    if engine.line_end is not None and engine.line_end in ids:  # nothing before it matters
        last = int(np.flatnonzero(ids == engine.line_end)[-1])
        on_progress(last)
        ids, state = ids[last:], engine.initial_state(1)
    with silent():
        reader = _EngineReader(engine, ids, on_progress, scored=False)
        _, state = _read_chunked(reader, state)
        stepper = engine.stepper(state)
        logits = stepper.step(ids[-1:])[0].copy()
    on_progress(1)
    check_finite(logits)
    return PromptState(logits, stepper.state)


def score(
    engine: Engine, ids: Ids, before: PromptState, on_progress: ProgressCallback = no_progress
) -> Floats:
    """Return the surprisal of each character of a text (N,), in nats, given all before it.

    Args:
        engine: the model.
        ids: the text (N,).
        before: the state before it.
        on_progress: progress callback, told the number of characters read.

    Raises:
        DivergenceError: if the model's predictions are NaN or infinite.
    """
    if engine.line_end is not None:
        return _score_items(engine, ids, before, on_progress)
    nats = np.empty(len(ids), np.float32)
    if len(ids):
        with silent():
            nats[0] = engine.surprisal(before.logits, ids[0])
            reader = _EngineReader(engine, ids, on_progress, scored=True)
            nats[1:], _ = _read_chunked(reader, before.state)
        on_progress(1)
        check_finite(nats)
    return nats


def _read_chunked(reader: "_EngineReader", state: State) -> tuple[Floats, State]:
    """Read all of a text but its last character, which nothing follows; see ``read_chunked``."""
    engine = reader.engine
    return read_chunked(
        reader,
        len(reader.ids) - 1,
        state,
        attention=engine.config.attention,
        to_the_bit=engine.exact,
    )


def _score_items(
    engine: Engine, ids: Ids, before: PromptState, on_progress: ProgressCallback
) -> Floats:
    """Return what :func:`score` does, where every item begins in the initial state.

    What is before the first line end goes on from ``before``. Items of about the same length are
    read side by side.
    """
    nats = np.empty(len(ids), np.float32)
    ends = np.flatnonzero(ids == engine.line_end)
    first = int(ends[0]) + 1 if len(ends) else len(ids)
    with silent():
        logits, stepper = before.logits[None], engine.stepper(before.state)
        for place in range(first):
            nats[place] = engine.surprisal(logits, ids[place : place + 1])[0]
            logits = stepper.step(ids[place : place + 1])
        on_progress(first)
        rows = Rows.of(ids[first:], int(ids[first - 1]) if first < len(ids) else 0)
        width = max(engine.table.shape)
        for items in batches_by_length(rows.lengths, ITEMS):
            longest = int(rows.lengths[items].max())
            stepper = engine.stepper(engine.initial_state(len(items)))
            step = max(1, MOST_NUMBERS // (len(items) * width))
            for start in range(0, longest, step):
                inputs, targets = rows.window(items, len(items), start, start + step)
                logits = stepper.predict(stepper.read(inputs))
                inside = targets != IGNORED
                places = first + rows.starts[items, None] + start + np.arange(targets.shape[1])
                nats[places[inside]] = engine.surprisal(logits, np.where(inside, targets, 0))[
                    inside
                ]
                on_progress(int(inside.sum()))
    check_finite(nats)
    return nats


class _EngineReader:
    """Reads pieces of a text; the values are the surprisal of the next character.

    Unless ``scored``, only those values are computed that tell whether chunks meet. See
    ``chunked.Reader``.
    """

    def __init__(self, engine: Engine, ids: Ids, on_progress: ProgressCallback, *, scored: bool):
        self.engine = engine
        self.ids = ids
        self.on_progress = on_progress
        self.scored = scored
        vocab_size, width = engine.table.shape
        self.width = max(vocab_size, width)

    def initial_state(self, batch_size: int) -> State:
        """See ``chunked.Reader``."""
        return self.engine.initial_state(batch_size)

    def read(self, starts: NDArray[np.intp], length: int, state: State) -> tuple[Floats, State]:
        """See ``chunked.Reader``."""
        nats = np.zeros((len(starts), length), np.float32)
        stepper = self.engine.stepper(state)
        step = max(1, MOST_NUMBERS // (len(starts) * self.width))
        for offset in range(0, length, step):
            end = min(offset + step, length)
            places = starts[:, None] + np.arange(offset, end)  # (B, T)
            y = stepper.read(self.ids[places])
            first = offset if self.scored else min(end, max(offset, length - PROBE))
            following = self.ids[places[:, first - offset :] + 1]
            nats[:, first:end] = self.engine.surprisal(
                stepper.predict(y[:, first - offset :]), following
            )
            self.on_progress(places.size)
        return nats, stepper.state
