"""The attention over a whole window, see ``cells.Attention``: a few products in place of a loop."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from charlm.cells.base import State, split


def attention_loop(x: Tensor, state: State, w: Mapping[str, Tensor]) -> tuple[Tensor, State]:
    """See ``products.Loop``."""
    _, keys, values = state  # (B, N, D)
    time, size = x.shape[1], keys.shape[2]
    q, k, v = split(F.linear(x, w["weight"]), 3)  # (B, T, D)
    all_keys = torch.cat([keys.to(k.dtype), k], 1)  # (B, N + T, D)
    all_values = torch.cat([values.to(v.dtype), v], 1)
    # Step t looks at the keys t to t + N - 1, and at the values one further on.
    beyond = w["bias"].new_full((time - 1,), -math.inf)
    bias = torch.cat([beyond, w["bias"], beyond])  # its part from T - 1 - t on is that of step t
    bias = bias.unfold(0, len(bias) - time + 1, 1).flip(0)  # (T, N + T - 1)
    scores = torch.bmm(q, all_keys[:, :-1].transpose(1, 2)).to(bias.dtype) * size**-0.5 + bias
    y = torch.bmm(scores.softmax(-1).to(v.dtype), all_values[:, 1:])
    kept = keys.shape[1]
    return y, (y[:, -1], all_keys[:, -kept:], all_values[:, -kept:])
