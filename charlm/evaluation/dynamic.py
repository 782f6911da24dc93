"""Dynamic evaluation: a model that goes on learning from the text that it is scored on.

Every piece of the text is scored before the model learns from it, so nothing is seen in advance. A
piece is some windows side by side. Each begins in the state that the model as it was trained has
there, so that they need not wait for each other. The result tells how well a model predicts a text
that it adapts to. Do not compare it with the loss of a model that does not adapt.

Source: Krause et al. (2018), Dynamic evaluation of neural sequence models, arXiv:1709.07432: a
gradient step per piece, scaled by the size of the gradients so far, and a pull back to the weights
that training ended with.
"""

import copy
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from charlm.cells.base import State
from charlm.data.batches import IGNORED
from charlm.data.tokenizer import Ids
from charlm.errors import ConfigError, CorpusError, DivergenceError
from charlm.evaluation.loss import NOT_FINITE
from charlm.evaluation.result import Evaluation
from charlm.files import ProgressCallback, no_progress
from charlm.inference.chunked import WARM_UP
from charlm.model.device import full_float32
from charlm.model.language_model import CharLM

SEQ_LENGTH = 32  # characters of a window
BATCH_SIZE = 8  # windows of a piece
LEARNING_RATE = 8e-4
PULL = 0.01  # share of the way back to the trained weights that every step goes
LANES = 32  # parts of the text that are read side by side for these states


@full_float32()
def evaluate_dynamic(
    model: CharLM,
    ids: Ids,
    *,
    learning_rate: float = LEARNING_RATE,
    pull: float = PULL,
    seq_length: int = SEQ_LENGTH,
    batch_size: int = BATCH_SIZE,
    on_progress: ProgressCallback = no_progress,
) -> Evaluation:
    """Score the text ``ids`` (N,), letting ``model`` learn from it.

    Args:
        model: the language model; its weights are changed.
        ids: at least two characters.
        learning_rate: of every step.
        pull: share of the way back to the weights at the beginning that every step goes.
        seq_length: characters of a window, through which gradients go back (T).
        batch_size: windows that are scored, then learned from, side by side (B).
        on_progress: progress callback, told the number of characters read.

    Raises:
        ConfigError: for a model of items.
        CorpusError: if there is nothing to score.
        DivergenceError: if the model's predictions are NaN or infinite.
    """
    if model.config.items:
        raise ConfigError(
            "dynamic evaluation reads one long text, and this is a model of items: leave it out"
        )
    count = len(ids) - 1
    if count < 1:
        raise CorpusError(f"a text of {len(ids)} characters has none to score: it needs 2 or more")
    model.eval()
    trained = copy.deepcopy(model)
    parameters = list(model.parameters())
    device = parameters[0].device
    optimizer = torch.optim.Adam(
        parameters, lr=learning_rate, betas=(0.0, 0.999), fused=device.type == "cpu"
    )
    inputs = _windows(ids[:-1], seq_length, 0).to(device)  # (W, T)
    targets = _windows(ids[1:], seq_length, IGNORED).to(device)
    state, nats = trained.initial_state(1), []
    pieces = max(1, model.config.most_lanes() // batch_size)
    for start in range(0, len(inputs), batch_size):
        held = start % (pieces * batch_size)  # windows of which the states are held before this one
        if held == 0:
            states, state = _states(trained, inputs[start : start + pieces * batch_size], state)
        end = start + batch_size
        logits, _ = model(inputs[start:end], tuple(s[:, held : held + batch_size] for s in states))
        losses = F.cross_entropy(
            logits.flatten(0, 1),
            targets[start:end].flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        nats.append(losses.detach().float().cpu())
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_([*parameters], list(trained.parameters()), pull)
        on_progress(int((targets[start:end] != IGNORED).sum()))
    whole = torch.cat(nats).numpy()[:count]
    mean = float(whole.mean(dtype=np.float64))
    if not math.isfinite(mean):
        raise DivergenceError(NOT_FINITE)
    return Evaluation(mean, count, nats=whole)


def _windows(ids: Ids, seq_length: int, padding: int) -> Tensor:
    """Return ids (N,) as windows (W, T), of which the last one is filled up."""
    padded = np.full(-(-len(ids) // seq_length) * seq_length, padding, np.int64)
    padded[: len(ids)] = ids
    return torch.from_numpy(padded).view(-1, seq_length)


@torch.no_grad()
def _states(model: CharLM, windows: Tensor, state: State) -> tuple[State, State]:
    """Return the state before each of some windows (W, T), and that after the last one.

    The windows are dealt out to lanes that are read side by side. All but the first one begin a
    warm-up earlier, see :mod:`charlm.inference.chunked`.

    Args:
        model: what reads.
        windows: one after the other in the text.
        state: before the first one.

    Returns:
        Tensors (L, W, ...) and (L, 1, ...).
    """
    count, seq_length = windows.shape
    warm_up = -(-(WARM_UP + model.config.attention) // seq_length)
    lanes = max(1, min(LANES, count // (2 * warm_up)))
    length = -(-(count + 1) // lanes)
    begin = torch.arange(lanes, device=windows.device) * length
    found = tuple(s.new_zeros(len(s), lanes * length, *s.shape[2:]) for s in state)
    now = model.initial_state(lanes)
    for step in range(-warm_up if lanes > 1 else 0, length):
        if step == 0:
            now = tuple(torch.cat([s, n[:, 1:]], dim=1) for s, n in zip(state, now, strict=True))
        if step >= 0:
            for all_of_them, these in zip(found, now, strict=True):
                all_of_them[:, begin + step] = these
        _, now = model(windows[(begin + step).clamp(0, count - 1)], now)
    return tuple(s[:, :count] for s in found), tuple(s[:, count : count + 1] for s in found)
