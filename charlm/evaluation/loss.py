"""Nats per character of any text, exactly.

Every character but the first is scored once, given all the characters before it: the state is
carried from the beginning of the text to its end, see :mod:`charlm.inference.chunked`.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from charlm.cells.base import State
from charlm.data.batches import IGNORED
from charlm.data.items import Rows, batches_by_length
from charlm.data.tokenizer import Ids
from charlm.errors import CorpusError, DivergenceError, argument
from charlm.evaluation.result import Evaluation
from charlm.files import ProgressCallback, no_progress
from charlm.inference.chunked import read_chunked
from charlm.model.device import full_float32, sum_in_float64
from charlm.model.language_model import CharLM
from charlm.tensor_file import Floats

ITEMS = 256  # of a list, scored side by side
MOST_LOGITS = 1 << 25  # held at a time (B * T * V)
NOT_FINITE = (
    "the model's predictions are NaN or infinite: train it with a lower "
    f"{argument('learning_rate')}"
)


@torch.no_grad()
@full_float32()
def evaluate(
    model: CharLM,
    ids: Ids,
    *,
    line_end: int | None = None,
    batch_size: int = 32,
    seq_length: int = 256,
    on_progress: ProgressCallback = no_progress,
) -> Evaluation:
    """Score the text ``ids`` (N,) with ``model``, in float32 and without dropout.

    The model's mode and torch's generators are left as they were.

    Args:
        model: the language model.
        ids: at least two characters.
        line_end: the id of the line end if the text is a list; then every character is scored,
            given those of its item.
        batch_size: the most chunks read side by side; fewer on a text that is short.
        seq_length: characters read at a time; fewer with a vocabulary that is large.
        on_progress: progress callback, told the number of characters read; some are read twice.

    Raises:
        CorpusError: if there is nothing to score.
        DivergenceError: if the model's predictions are NaN or infinite.
    """
    count = len(ids) - 1  # inputs are ids[:-1], targets ids[1:]
    if count < 1:
        raise CorpusError(f"a text of {len(ids)} characters has none to score: it needs 2 or more")
    most = max(1, MOST_LOGITS // (batch_size * model.head.out_features))
    reader = _ModelReader(model, ids, min(seq_length, most), on_progress)
    was_training = model.training
    model.eval()
    try:
        if line_end is not None:
            return _evaluate_items(model, Rows.of(ids, line_end), seq_length, on_progress)
        nats, _ = read_chunked(
            reader,
            count,
            reader.initial_state(1),
            batch_size=batch_size,
            attention=model.config.attention,
        )
    finally:
        model.train(was_training)
    return _checked(Evaluation(float(nats.mean(dtype=np.float64)), count, nats=nats))


def _checked(result: Evaluation) -> Evaluation:
    if not math.isfinite(result.nats_per_char):
        raise DivergenceError(NOT_FINITE)
    return result


def _evaluate_items(
    model: CharLM, rows: Rows, seq_length: int, on_progress: ProgressCallback
) -> Evaluation:
    """Score every item of a list by itself, in the initial state, those of one length together."""
    device = next(model.parameters()).device
    nats = 0.0
    most = max(1, MOST_LOGITS // (seq_length * model.head.out_features))
    for items in batches_by_length(rows.lengths, min(ITEMS, most)):
        state = model.initial_state(len(items))
        for first in range(0, int(rows.lengths[items].max()), seq_length):
            inputs, targets = rows.window(items, len(items), first, first + seq_length)
            logits, state = model(torch.from_numpy(inputs.astype(np.int64)).to(device), state)
            losses = F.cross_entropy(
                logits.flatten(0, 1),
                torch.from_numpy(targets).to(device).flatten(),
                ignore_index=IGNORED,
                reduction="none",
            )
            nats += sum_in_float64(losses)
        on_progress(int(rows.lengths[items].sum()))
    characters = int(rows.lengths.sum())
    return _checked(Evaluation(nats / characters, characters, len(rows.lengths)))


class _ModelReader:
    """Reads chunks of a text window by window; the values are the nats of the next character.

    See ``chunked.Reader``.
    """

    def __init__(self, model: CharLM, ids: Ids, seq_length: int, on_progress: ProgressCallback):
        self.model = model
        self.ids = ids
        self.seq_length = seq_length
        self.on_progress = on_progress
        self.device = next(model.parameters()).device

    def initial_state(self, batch_size: int) -> State:
        """See ``chunked.Reader``."""
        return tuple(s.cpu().numpy() for s in self.model.initial_state(batch_size))

    def read(self, starts: np.ndarray, length: int, state: State) -> tuple[Floats, State]:
        """See ``chunked.Reader``."""
        nats = np.zeros((len(starts), length), np.float32)
        now = tuple(torch.from_numpy(s).to(self.device) for s in state)
        for offset in range(0, length, self.seq_length):
            width = min(self.seq_length, length - offset)
            places = starts[:, None] + np.arange(offset, offset + width)  # (B, T)
            logits, now = self.model(self._at(places), now)
            losses = F.cross_entropy(
                logits.flatten(0, 1), self._at(places + 1).flatten(), reduction="none"
            )
            nats[:, offset : offset + width] = losses.view(places.shape).cpu().numpy()
            self.on_progress(places.size)
        return nats, tuple(s.cpu().numpy() for s in now)

    def _at(self, places: np.ndarray) -> Tensor:
        return torch.from_numpy(self.ids[places].astype(np.int64)).to(self.device)
