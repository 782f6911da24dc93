"""Fused loops: a whole window of a layer at once, as fast as this machine can.

A :data:`Loop` is (x (B, T, I), state of (B, ...), weights by name) -> (y (B, T, H), next state). It
computes what its cell in :mod:`charlm.cells` says. There are torch's own loops and, for a CPU, two
of ours. Both tables are keyed by the cell with its options; a cell that stands in neither is
stepped by its equations.

torch has a fast loop for the LSTM on a CPU (oneDNN), but steps the RNN and the GRU through autograd
there, one small operation at a time. Three things make a loop by hand faster, and in bfloat16 more
exact:

- the input product of the window is one product, and so is the gradient of each matrix;
- in the backward pass a step is linear in the gradient that reaches it, and all its other factors
  are known before the loop starts. They are computed for the whole window at once, and what is left
  of a step is the product with W_hh and a few sums;
- of a GRU only the products are in bfloat16, not the gates nor what adds up over time.

Letters and the order of gates are those of the cells; ``d_a`` is the gradient of the loss by ``a``.
Inside our loops time comes first, (T, B, ...), so that a step is one block. They take their blocks
from iterators: to index a tensor takes as long as a small operation.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from charlm.cells import GRU, LSTM, RNN, Cell
from charlm.cells.base import State

Loop = Callable[[Tensor, State, Mapping[str, Tensor]], tuple[Tensor, State]]


class GRUWindow(torch.autograd.Function):
    """(x (T, B, I), four weights, h (B, H)) -> (y (T, B, H), h)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Step through the window; the gates are kept for the backward pass."""
        x, w_ih, w_hh, b_ih, b_hh, h = inputs
        size = h.shape[1]
        gates = _product(x, w_ih, b_ih).to(h.dtype)  # (T, B, 3*H): r, z, n
        all_n = h.new_empty(len(x), *h.shape)
        hs = h.new_empty(len(x) + 1, *h.shape)  # the state before each step, and at the end
        hs[0] = h
        ys = hs if x.dtype == h.dtype else hs.to(x.dtype)  # the same, as the products take it
        parts = ((0, 2 * size), (0, size), (size, 2 * size), (2 * size, 3 * size))
        rz, r, z, last = (gates[..., begin:end].unbind() for begin, end in parts)
        pairs = itertools.pairwise(hs), itertools.pairwise(ys)
        steps = zip(rz, r, z, last, all_n, *pairs, strict=True)
        for rz_t, r_t, z_t, last_t, n, (before, after), (y, y_after) in steps:
            product = torch.addmm(b_hh, y, w_hh.T).to(h.dtype)
            rz_t.add_(product[:, : 2 * size]).sigmoid_()
            h_n = product[:, 2 * size :]
            torch.addcmul(last_t, r_t, h_n, out=n)
            n.mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh, many times faster than torch.tanh
            last_t.copy_(h_n)  # in place of the input product, which is not needed any more
            torch.lerp(n, before, z_t, out=after)  # n + z * (h - n)
            if ys is not hs:
                y_after.copy_(after)
        ctx.save_for_backward(x, w_ih, w_hh, gates, all_n, hs, ys)
        return ys[1:], hs[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through the window; a_g is the sum inside of gate g.

        d_a_n = d_h * (1-z) * (1-n^2)        d_a_z = d_h * (h-n) * z * (1-z)
        d_h_n = d_a_n * r                    d_a_r = d_h_n * h_n * (1-r)
        """
        x, w_ih, w_hh, gates, n, hs, ys = ctx.saved_tensors
        r, z, h_n = gates.chunk(3, dim=-1)
        by_n = (1 - z).mul_(1 - n * n)  # d_a_n / d_h, and so on
        factors = torch.empty_like(gates)
        by_r, by_z, by_h_n = factors.chunk(3, dim=-1)
        torch.sub(hs[:-1], n, out=by_z).mul_(z).mul_(1 - z)
        torch.mul(by_n, r, out=by_h_n)
        torch.mul(by_h_n, h_n, out=by_r).mul_(1 - r)
        d_h = torch.cat([torch.zeros_like(hs[:1]), gradients[0].to(hs.dtype)])  # as hs
        d_h[-1] += gradients[1]
        d = torch.empty_like(gates, dtype=x.dtype)  # d_a_r, d_a_z, d_h_n
        by_gate = (*n.shape[:2], 3, n.shape[2])
        pairs = itertools.pairwise(d_h)
        steps = zip(pairs, z, factors.view(by_gate), d.view(by_gate), d, strict=True)
        for (before, after), z_t, factor, d_gates, d_t in reversed(list(steps)):
            torch.mul(after.unsqueeze(1), factor, out=d_gates)
            before.addcmul_(after, z_t).add_(torch.mm(d_t, w_hh))
        d_w_hh, d_b_hh = _weight_gradients(d, ys[:-1])
        d[..., 2 * n.shape[2] :] = by_n.mul_(d_h[1:])  # d_h_n gives way to d_a_n
        d_w_ih, d_b_ih = _weight_gradients(d, x)
        return _input_gradient(d, w_ih), d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_h[0]


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
        _product(x, w_ih, b_ih + b_hh, out=hs[1:])
        for before, after in itertools.pairwise(hs):
            activation(after.addmm_(before, w_hh.T))
        ctx.save_for_backward(x, w_ih, w_hh, hs)
        ctx.activation = activation
        return hs[1:], hs[-1].to(h.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through the window; a is the sum inside.

        d_a = d_h * (1 - h^2)        with relu d_a = d_h * (h > 0)
        """
        x, w_ih, w_hh, hs = ctx.saved_tensors
        h = hs[1:]
        relu = ctx.activation is torch.relu_
        factors = (h > 0).to(h.dtype) if relu else torch.addcmul(h.new_ones(()), h, h, value=-1)
        d = gradients[0].to(x.dtype, copy=True)
        d[-1] += gradients[1]
        d[-1] *= factors[-1]
        for before, after, factor in reversed(list(zip(d, d[1:], factors, strict=False))):
            before.addmm_(after, w_hh).mul_(factor)
        d_w_hh, d_b = _weight_gradients(d, hs[:-1])
        d_w_ih, _ = _weight_gradients(d, x)
        d_h = (d[0] @ w_hh).to(gradients[1].dtype)
        return _input_gradient(d, w_ih), d_w_ih, d_w_hh, d_b, d_b, d_h, None


def _product(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """Return W x + b of a whole window: (T, B, I) -> (T, B, G*H)."""
    rows = None if out is None else out.flatten(0, 1)
    return torch.addmm(bias, x.flatten(0, 1), weight.T, out=rows).view(*x.shape[:2], len(weight))


def _input_gradient(d: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the inputs of a product: (T, B, G*H) -> (T, B, I)."""
    return (d.flatten(0, 1) @ weight).view(*d.shape[:2], weight.shape[1])


def _weight_gradients(d: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weight (G*H, I) and bias (G*H) of a product of ``x``."""
    rows = d.flatten(0, 1)
    ones = rows.new_ones(1, len(rows))  # a product, which sums more exactly than sum in bfloat16
    return rows.T @ x.flatten(0, 1), (ones @ rows)[0]


def _own_loop(function: type[torch.autograd.Function], *options: Any) -> Loop:
    """Return one of our autograd functions as a loop, in the arithmetic of autocast."""

    def loop(x: Tensor, state: State, w: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        device = x.device.type
        mixed = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else x.dtype
        with torch.autocast(device, enabled=False):
            inputs = (x.transpose(0, 1).contiguous(), *w.values())
            y, h = function.apply(*(a.to(dtype) for a in inputs), *state, *options)
        return y.transpose(0, 1), (h,)

    return loop


def _torch_loop(kernel: Callable[..., tuple[Tensor, ...]]) -> Loop:
    """Return one of torch's own recurrent functions as a loop."""

    def loop(x: Tensor, state: State, w: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        before: Any = tuple(s.unsqueeze(0) for s in state)  # one layer: (1, B, H) each
        if len(before) == 1:
            before = before[0]
        # The rest: with biases, one layer, no dropout of torch's, whether to keep what the backward
        # pass needs (cuDNN calls that training mode), one direction, batch first.
        rest = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        y, *after = kernel(x, before, list(w.values()), *rest)
        return y, tuple(s.squeeze(0) for s in after)

    return loop


CPU_LOOPS: dict[Cell, Loop] = {
    RNN(): _own_loop(RNNWindow, torch.tanh_),
    RNN(nonlinearity="relu"): _own_loop(RNNWindow, torch.relu_),
    GRU(): _own_loop(GRUWindow),
}
TORCH_LOOPS: dict[Cell, Loop] = {
    RNN(): _torch_loop(torch.rnn_tanh),
    RNN(nonlinearity="relu"): _torch_loop(torch.rnn_relu),
    LSTM(): _torch_loop(torch.lstm),
    GRU(): _torch_loop(torch.gru),
}


def fused_loop(cell: Cell, device_type: str) -> Loop | None:
    """Return the fastest loop of a cell on a device, None if it has none."""
    own = CPU_LOOPS.get(cell) if device_type == "cpu" else None
    return own or TORCH_LOOPS.get(cell)
