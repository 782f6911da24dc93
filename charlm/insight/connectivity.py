"""Connectivity: how much each earlier character counted for a prediction.

For the character at place t it is the norm of d logit / d x(t-1-j), where the logit is that of the
character that came and x is the embedding of the one j + 1 places before. It shows memory that the
loss hides: a net may look far back and be right for another reason.

Source: Madsen (2019), Visualizing memorization in RNNs, Distill, doi:10.23915/distill.00016.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.files import ProgressCallback, no_progress
from charlm.insight.gradients import unrolled
from charlm.insight.reading import Reading
from charlm.model.language_model import CharLM
from charlm.tensor_file import Floats

MOST_CHARACTERS = 2000
DEPTH = 20  # characters back
LANES = 250  # predictions at a time


def connectivity(
    reading: Reading, *, depth: int = DEPTH, on_progress: ProgressCallback = no_progress
) -> Floats:
    """Return how much the character j + 1 places before each one counted for it, (N, depth).

    0 where there is none. The state before these characters is what it was.

    Args:
        reading: a text as the net read it.
        depth: how many characters back.
        on_progress: progress callback, told the number of characters done.
    """
    count = len(reading.ids)
    net = CharLM(reading.config, len(reading.weights["head.bias"]))
    net.load_weights(reading.weights)
    net.eval().requires_grad_(False)
    found = np.zeros((count, depth), np.float32)
    most = min(LANES, reading.config.most_lanes())
    for start in range(1, count, most):
        places = np.arange(start, min(start + most, count))
        for length in np.unique(np.minimum(places, depth)):
            lanes = places[np.minimum(places, depth) == length]
            found[lanes, :length] = _counted(reading, net, lanes, int(length))
        on_progress(len(places))
    return found


def _counted(reading: Reading, net: CharLM, places: NDArray[np.intp], length: int) -> Floats:
    """Return the norms for some places, (B, length), the nearest character first."""
    begin = places - length
    ids = torch.from_numpy(reading.ids[begin[:, None] + np.arange(length + 1)].astype(np.int64))
    state = tuple(map(torch.from_numpy, reading.state_at(begin)))
    x = net.embedding(ids[:, :-1]).detach().requires_grad_()
    _, logits = unrolled(net, x, state)
    chosen = logits.gather(1, ids[:, -1:]).sum()
    (gradient,) = torch.autograd.grad(chosen, x)
    norms: Floats = gradient.norm(dim=2).flip(1).numpy()
    return norms
