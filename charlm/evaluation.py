"""Nats per character of any text, exactly.

Every character but the first is scored once, given all the characters before it: the state is
carried from the beginning of the text to its end. For speed the text is cut into lanes that are
read side by side. So that this does not change the figure, the state that a lane begins with is
made by reading the characters before it (the warm-up), which are not scored there:

    lane 0          |scored scored scored|
    lane 1    (warm up)                  |scored scored scored|
    lane 2                         (warm up)                  |scored scored scored|

A recurrent net forgets, so after a warm-up the state is, as a rule, the right one to a millionth.
That is not taken on trust: a lane has to begin with the state in which the lane before it ends,
and where it did not (to within ``TOLERANCE``), it is read again from there. So the figure is that
of one lane, also for a model that does not forget.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from charlm.backbones import State
from charlm.errors import CorpusError, DivergenceError
from charlm.model import CharLM
from charlm.tokenizer import Ids

WARM_UP = 512  # characters
MOST_LOGITS = 1 << 25  # held at a time (B * T * V)
TOLERANCE = 0.01  # by which a state may be off where a lane begins


@dataclass(frozen=True)
class Evaluation:
    """How well a text was predicted: ``nats_per_char`` over ``characters`` scored characters."""

    nats_per_char: float
    characters: int

    @property
    def bits_per_char(self) -> float:
        """The same in bits."""
        return self.nats_per_char / math.log(2)

    @property
    def perplexity(self) -> float:
        """e to the nats: the number of equally likely characters that is as hard to guess."""
        return math.exp(self.nats_per_char) if self.nats_per_char < 700 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return all four figures by name; a perplexity too large for a number is None."""
        return {
            "nats_per_char": self.nats_per_char,
            "bits_per_char": self.bits_per_char,
            "perplexity": self.perplexity if math.isfinite(self.perplexity) else None,
            "characters": self.characters,
        }


@torch.no_grad()
def evaluate(model: CharLM, ids: Ids, *, batch_size: int = 32, seq_length: int = 256) -> Evaluation:
    """Score the text ``ids`` (N,) with ``model``, in float32 and without dropout.

    The model's mode and torch's generators are left as they were.

    Args:
        model: the language model.
        ids: at least two characters.
        batch_size: the most lanes read side by side; fewer on a text that is short.
        seq_length: characters read at a time; fewer with a vocabulary that is large.

    Raises:
        CorpusError: if there is nothing to score.
        DivergenceError: if the model's predictions are no numbers.
    """
    count = len(ids) - 1  # inputs are ids[:-1], targets ids[1:]
    if count < 1:
        raise CorpusError(f"a text of {len(ids)} characters has none to score: it needs 2 or more")
    lanes = max(1, min(batch_size, count // (2 * WARM_UP)))
    length = count // lanes
    vocab_size = model.head.out_features
    reader = _Reader(model, ids, max(1, min(seq_length, MOST_LOGITS // (lanes * vocab_size))))
    was_training = model.training
    model.eval()
    try:
        nats, state = _score_lanes(reader, np.arange(lanes) * length, length)
        rest, _ = reader.read(np.array([lanes * length]), count - lanes * length, state)
    finally:
        model.train(was_training)
    mean = float(nats.sum() + rest.sum()) / count
    if not math.isfinite(mean):
        raise DivergenceError(f"the model's predictions are no numbers: their mean is {mean} nats")
    return Evaluation(mean, count)


def _score_lanes(reader: "_Reader", starts: np.ndarray, length: int) -> tuple[np.ndarray, State]:
    """Return the nats of each lane, and the state (L, 1, H) in which the last one ends."""
    lanes = len(starts)
    begin = reader.model.initial_state(lanes)
    if lanes > 1:
        nothing = reader.model.initial_state(lanes - 1)
        _, guess = reader.read(starts[1:] - WARM_UP, WARM_UP, nothing)
        _put(begin, np.arange(1, lanes), guess)
    end = reader.model.initial_state(lanes)
    nats = np.zeros(lanes)
    wrong = np.arange(lanes)
    while len(wrong):  # lane k is right after k + 1 rounds at the latest
        nats[wrong], after = reader.read(starts[wrong], length, _pick(begin, wrong))
        _put(end, wrong, after)
        gaps = [(b[:, 1:] - e[:, :-1]).abs().amax((0, 2)) for b, e in zip(begin, end, strict=True)]
        wrong = 1 + np.flatnonzero(torch.stack(gaps).amax(0).cpu().numpy() > TOLERANCE)
        _put(begin, wrong, _pick(end, wrong - 1))
    return nats, _pick(end, np.array([lanes - 1]))


def _pick(state: State, lanes: np.ndarray) -> State:
    """Return the state (L, len(lanes), H) of some lanes."""
    return tuple(s[:, torch.from_numpy(lanes).to(s.device)] for s in state)


def _put(state: State, lanes: np.ndarray, values: State) -> None:
    """Set the state of some lanes."""
    for s, value in zip(state, values, strict=True):
        s[:, torch.from_numpy(lanes).to(s.device)] = value


class _Reader:
    """Reads lanes of a text window by window."""

    def __init__(self, model: CharLM, ids: Ids, seq_length: int):
        self.model = model
        self.ids = ids
        self.seq_length = seq_length
        self.device = next(model.parameters()).device

    def read(self, starts: np.ndarray, length: int, state: State) -> tuple[np.ndarray, State]:
        """Read ``length`` characters from each of ``starts`` (B,): nats (B,), state after."""
        nats = np.zeros(len(starts))
        for offset in range(0, length, self.seq_length):
            width = min(self.seq_length, length - offset)
            places = starts[:, None] + np.arange(offset, offset + width)  # (B, T)
            logits, state = self.model(self._at(places), state)
            losses = F.cross_entropy(
                logits.flatten(0, 1), self._at(places + 1).flatten(), reduction="none"
            )
            nats += losses.view(places.shape).cpu().double().sum(1).numpy()
        return nats, state

    def _at(self, places: np.ndarray) -> Tensor:
        return torch.from_numpy(self.ids[places].astype(np.int64)).to(self.device)
