"""The loop of cells whose recurrence is linear: see ``cells.base.LinearCell``."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from charlm.cells.base import LinearCell, State
from charlm.model.fused.products import Loop


class LinearWindow(torch.autograd.Function):
    """(decay (T, B, H), increment (T, B, H), h (B, H)) -> states behind each step (T, B, H)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """Step through the window: h' = decay * h + increment."""
        decay, increment, h = inputs
        hs = h.new_empty(len(decay) + 1, *h.shape)
        hs[0] = h
        pairs = itertools.pairwise(hs)
        for decay_t, increment_t, (before, after) in zip(decay, increment, pairs, strict=True):
            torch.addcmul(increment_t, decay_t, before, out=after)
        ctx.save_for_backward(decay, hs)
        return hs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through the window: d_h = d_h' * decay, d_decay = d_h' * h."""
        decay, hs = ctx.saved_tensors
        d = torch.cat([torch.zeros_like(hs[:1]), gradients[0]])  # as hs
        for decay_t, (before, after) in reversed(
            list(zip(decay, itertools.pairwise(d), strict=True))
        ):
            before.addcmul_(after, decay_t)
        return d[1:] * hs[:-1], d[1:], d[0]


def linear_loop(cell: LinearCell) -> Loop:
    """Return the loop of a cell; all but the sums over time is computed for the whole window."""

    def loop(x: Tensor, state: State, w: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        (h,) = state
        projected = cell.project(x.transpose(0, 1), w).to(h.dtype)  # (T, B, P)
        terms = cell.terms(torch, cell.activations(torch, projected, (), w), w)
        decay, increment = torch.broadcast_tensors(*terms)  # a decay may be one for all steps
        y = LinearWindow.apply(decay, increment, h)  # type: ignore[no-untyped-call]
        return y.transpose(0, 1), (y[-1],)

    return loop
