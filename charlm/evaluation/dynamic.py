"""Dynamic evaluation: a model that goes on learning from the text that it is scored on.

Every piece of the text is scored before the model learns from it, so nothing is seen in advance. A
piece is some windows, which are read one after the other, and learned from side by side.
The result tells how well a model predicts a text that it adapts to. Do not compare it with the loss
of a model that does not adapt.

Source: Krause et al. (2018), Dynamic evaluation of neural sequence models, arXiv:1709.07432: a
gradient step per piece, scaled by the size of the gradients so far, and a pull back to the weights
that training ended with.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from charlm.data.tokenizer import Ids
from charlm.errors import ConfigError, CorpusError, DivergenceError
from charlm.evaluation.loss import NOT_FINITE
from charlm.evaluation.result import Evaluation
from charlm.files import ProgressCallback, no_progress
from charlm.model.device import full_float32, sum_in_float64
from charlm.model.language_model import CharLM

SEQ_LENGTH = 32  # characters that gradients go back through
BATCH_SIZE = 4  # windows of so many characters that are learned from at a time
LEARNING_RATE = 1.6e-3
PULL = 0.01  # share of the way back to the trained weights that every step goes


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
        seq_length: characters that gradients go back through (T).
        batch_size: windows of so many characters that are learned from at a time (B).
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
    parameters = list(model.parameters())
    trained = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.0, 0.999))
    text = torch.from_numpy(ids.astype(np.int64)).to(parameters[0].device)[None]  # (1, N)
    state = model.initial_state(1)
    nats = 0.0
    for start in range(0, count, batch_size * seq_length):
        states = []  # before each window
        end = min(start + batch_size * seq_length, count)
        for first in range(start, end, seq_length):
            states.append(state)
            last = min(first + seq_length, end)
            with torch.no_grad():
                logits, state = model(text[:, first:last], state)
            losses = F.cross_entropy(logits[0], text[0, first + 1 : last + 1], reduction="none")
            nats += sum_in_float64(losses)
        on_progress(end - start)
        if end == count:
            break
        # Side by side the same windows are learned from in a fraction of the time.
        before = tuple(torch.cat(s, dim=1) for s in zip(*states, strict=True))
        logits, _ = model(text[0, start:end].view(batch_size, seq_length), before)
        loss = F.cross_entropy(logits.flatten(0, 1), text[0, start + 1 : end + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_([*parameters], trained, pull)
    mean = nats / count
    if not math.isfinite(mean):
        raise DivergenceError(NOT_FINITE)
    return Evaluation(mean, count)
