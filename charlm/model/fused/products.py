"""What all our loops share: products of a whole window, and the arithmetic of autocast."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from charlm.cells.base import State

Loop = Callable[[Tensor, State, Mapping[str, Tensor]], tuple[Tensor, State]]


def product(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """Return W x + b of a whole window: (T, B, I) -> (T, B, G*H)."""
    rows = None if out is None else out.flatten(0, 1)
    return torch.addmm(bias, x.flatten(0, 1), weight.T, out=rows).view(*x.shape[:2], len(weight))


def input_gradient(d: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the inputs of a product: (T, B, G*H) -> (T, B, I)."""
    return (d.flatten(0, 1) @ weight).view(*d.shape[:2], weight.shape[1])


def weight_gradients(d: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weight (G*H, I) and bias (G*H) of a product of ``x``."""
    rows = d.flatten(0, 1)
    ones = rows.new_ones(1, len(rows))  # a product, which sums more exactly than sum in bfloat16
    return rows.T @ x.flatten(0, 1), (ones @ rows)[0]


def own_loop(function: type[torch.autograd.Function], *options: Any) -> Loop:
    """Return one of our autograd functions as a loop, in the arithmetic of autocast."""

    def loop(x: Tensor, state: State, w: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        device = x.device.type
        mixed = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else x.dtype
        with torch.autocast(device, enabled=False):
            inputs = (x.transpose(0, 1).contiguous(), *w.values())
            y, *after = function.apply(*(a.to(dtype) for a in inputs), *state, *options)
        return y.transpose(0, 1), tuple(after)

    return loop
