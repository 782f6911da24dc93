"""The loop of the simple recurrent network."""

import itertools
from typing import Any

import torch
from torch import Tensor

from charlm.model.fused.products import input_gradient, product, weight_gradients


def nothing(a: Tensor) -> Tensor:
    """Return ``a``: the activation of a linear network."""
    return a


class RNNWindow(torch.autograd.Function):
    """(x (T, B, I), four weights, h (B, H), activation in place) -> (y (T, B, H), h).

    All of it is in the type of the products, as nothing adds up over time.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Step through the window."""
        x, w_ih, w_hh, b_ih, b_hh, h, activation = inputs
        hs = x.new_empty(len(x) + 1, *h.shape)  # the state before each step, and at the end
        hs[0] = h
        product(x, w_ih, b_ih + b_hh, out=hs[1:])
        for before, after in itertools.pairwise(hs):
            activation(after.addmm_(before, w_hh.T))
        ctx.save_for_backward(x, w_ih, w_hh, hs)
        ctx.activation = activation
        return hs[1:], hs[-1].to(h.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through the window; a is the sum inside.

        d_a = d_h * (1 - h^2)        d_a = d_h * (h > 0) with relu, d_h without activation
        """
        x, w_ih, w_hh, hs = ctx.saved_tensors
        h = hs[1:]
        if ctx.activation is torch.tanh_:
            factors = torch.addcmul(h.new_ones(()), h, h, value=-1)
        else:
            factors = (h > 0).to(h.dtype) if ctx.activation is torch.relu_ else torch.ones_like(h)
        d = gradients[0].to(x.dtype, copy=True)
        d[-1] += gradients[1]
        d[-1] *= factors[-1]
        for before, after, factor in reversed(list(zip(d, d[1:], factors, strict=False))):
            before.addmm_(after, w_hh).mul_(factor)
        d_w_hh, d_b = weight_gradients(d, hs[:-1])
        d_w_ih, _ = weight_gradients(d, x)
        d_h = (d[0] @ w_hh).to(gradients[1].dtype)
        return input_gradient(d, w_ih), d_w_ih, d_w_hh, d_b, d_b, d_h, None
