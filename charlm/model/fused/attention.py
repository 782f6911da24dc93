"""The attention over a whole window, see ``cells.Attention``: a few products in place of a loop."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from charlm.cells.base import State, split


class AttentionWindow(torch.autograd.Function):
    """(q, k, v (B, T, D), keys, values (B, N, D), bias (N,)) -> y (B, T, D).

    Step t looks at M = N + T - 1 keys, those before the window and in it, of which all but N have a
    bias of minus infinity; at the values that are one further on.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """Return what is read out at each step."""
        q, k, v, keys, values, bias = inputs
        count, size = q.shape[1:]
        all_keys = torch.cat([keys, k[:, :-1]], 1)  # (B, M, D)
        all_values = torch.cat([values[:, 1:], v], 1)
        beyond = bias.new_full((count - 1,), -math.inf)
        padded = torch.cat([beyond, bias, beyond])  # its part from T - 1 - t on is that of step t
        biases = padded.unfold(0, all_keys.shape[1], 1).flip(0)  # (T, M)
        scores = torch.baddbmm(biases.to(q.dtype), q, all_keys.transpose(1, 2), alpha=size**-0.5)
        shares = torch.softmax(scores, -1)
        y = torch.bmm(shares, all_values)
        ctx.save_for_backward(q, all_keys, all_values, shares, y)
        ctx.bias_dtype = bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; of what was before the window only where they are asked for."""
        q, keys, values, shares, y = ctx.saved_tensors
        (d_y,) = gradients
        count, size = q.shape[1:]
        window = keys.shape[1] - count + 1
        # d_a = d_y V', and of a softmax d_s = a (d_a - the mean of d_a by a), which is d_y y.
        d = torch.bmm(d_y, values.transpose(1, 2))
        d.sub_((d_y * y).sum(-1, keepdim=True)).mul_(shares)  # (B, T, M)
        lines = d.sum(0, dtype=ctx.bias_dtype)
        diagonals = lines.as_strided((count, window), (lines.stride(0) + 1, 1))
        d_bias = diagonals.sum(0)
        d.mul_(size**-0.5)
        # Of the gradients of keys and values only those in the window are wanted, as a rule.
        past = any(ctx.needs_input_grad[3:5])
        first, second = (0, 0) if past else (window, window - 1)
        d_keys = torch.bmm(d[:, :, first:].transpose(1, 2), q)
        d_values = torch.bmm(shares[:, :, second:].transpose(1, 2), d_y)
        d_k = F.pad(d_keys[:, window - first :], (0, 0, 0, 1))
        d_v = d_values[:, window - 1 - second :]
        if not past:
            return torch.bmm(d, keys), d_k, d_v, None, None, d_bias
        before = F.pad(d_values[:, : window - 1], (0, 0, 1, 0))
        return torch.bmm(d, keys), d_k, d_v, d_keys[:, :window], before, d_bias


def attention_loop(x: Tensor, state: State, w: Mapping[str, Tensor]) -> tuple[Tensor, State]:
    """See ``products.Loop``."""
    _, *before = state
    device = x.device.type
    mixed = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if mixed else x.dtype
    with torch.autocast(device, enabled=False):
        q, k, v = split(F.linear(x.to(dtype), w["weight"].to(dtype)), 3)  # (B, T, D)
        keys, values = (array.to(dtype) for array in before)
        y = AttentionWindow.apply(q, k, v, keys, values, w["bias"])  # type: ignore[no-untyped-call]
    rows = keys.shape[1]
    after = (torch.cat(pair, 1)[:, -rows:] for pair in ((keys, k), (values, v)))
    return y, (y[:, -1], *after)
