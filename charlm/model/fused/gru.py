"""The loops of the gated recurrent unit, with the reset gate after the product and before it."""

import itertools
from typing import Any

import torch
from torch import Tensor

from charlm.model.fused.products import input_gradient, product, weight_gradients


class GRUWindow(torch.autograd.Function):
    """(x (T, B, I), four weights, h (B, H)) -> (y (T, B, H), h)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Step through the window; the gates are kept for the backward pass."""
        x, w_ih, w_hh, b_ih, b_hh, h = inputs
        size = h.shape[1]
        gates = product(x, w_ih, b_ih).to(h.dtype)  # (T, B, 3*H): r, z, n
        all_n = h.new_empty(len(x), *h.shape)
        hs = h.new_empty(len(x) + 1, *h.shape)  # the state before each step, and at the end
        hs[0] = h
        ys = hs if x.dtype == h.dtype else hs.to(x.dtype)  # the same, as the products take it
        parts = ((0, 2 * size), (0, size), (size, 2 * size), (2 * size, 3 * size))
        rz, r, z, last = (gates[..., begin:end].unbind() for begin, end in parts)
        pairs = itertools.pairwise(hs), itertools.pairwise(ys)
        steps = zip(rz, r, z, last, all_n, *pairs, strict=True)
        for rz_t, r_t, z_t, last_t, n, (before, after), (y, y_after) in steps:
            moved = torch.addmm(b_hh, y, w_hh.T).to(h.dtype)
            rz_t.add_(moved[:, : 2 * size]).sigmoid_()
            h_n = moved[:, 2 * size :]
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
        d_w_hh, d_b_hh = weight_gradients(d, ys[:-1])
        d[..., 2 * n.shape[2] :] = by_n.mul_(d_h[1:])  # d_h_n gives way to d_a_n
        d_w_ih, d_b_ih = weight_gradients(d, x)
        return input_gradient(d, w_ih), d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_h[0]


class ResetBeforeWindow(torch.autograd.Function):
    """The same with the reset gate before the product: (x, four weights, h) -> (y, h)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Step through the window; the gates are kept for the backward pass."""
        x, w_ih, w_hh, b_ih, b_hh, h = inputs
        size = h.shape[1]
        w_rz, w_n = w_hh[: 2 * size], w_hh[2 * size :]
        b_rz, b_n = b_hh[: 2 * size], b_hh[2 * size :]
        gates = product(x, w_ih, b_ih).to(h.dtype)  # (T, B, 3*H): r, z, n
        hs = h.new_empty(len(x) + 1, *h.shape)  # the state before each step, and at the end
        hs[0] = h
        ys = hs if x.dtype == h.dtype else hs.to(x.dtype)  # the same, as the products take it
        resets = torch.empty_like(ys[1:])  # r * h
        parts = ((0, 2 * size), (0, size), (size, 2 * size), (2 * size, 3 * size))
        rz, r, z, n = (gates[..., begin:end].unbind() for begin, end in parts)
        pairs = itertools.pairwise(hs), itertools.pairwise(ys)
        steps = zip(rz, r, z, n, resets, *pairs, strict=True)
        for rz_t, r_t, z_t, n_t, reset, (before, after), (y, y_after) in steps:
            rz_t.add_(torch.addmm(b_rz, y, w_rz.T)).sigmoid_()
            torch.mul(r_t, before, out=reset)
            n_t.add_(torch.addmm(b_n, reset, w_n.T))
            n_t.mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh
            torch.lerp(n_t, before, z_t, out=after)  # n + z * (h - n)
            if ys is not hs:
                y_after.copy_(after)
        ctx.save_for_backward(x, w_ih, w_hh, gates, resets, hs, ys)
        return ys[1:], hs[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through the window; a_g is the sum inside of gate g, and m = r * h.

        d_a_n = d_h * (1-z) * (1-n^2)        d_a_z = d_h * (h-n) * z * (1-z)
        d_m = W_hn^T d_a_n                   d_a_r = d_m * h * r * (1-r)
        """
        x, w_ih, w_hh, gates, resets, hs, ys = ctx.saved_tensors
        size = hs.shape[2]
        w_rz, w_n = w_hh[: 2 * size], w_hh[2 * size :]
        r, z, n = gates.chunk(3, dim=-1)
        factors = torch.empty_like(gates)
        by_r, by_z, by_n = factors.chunk(3, dim=-1)
        torch.mul(hs[:-1], r, out=by_r).mul_(1 - r)
        torch.sub(hs[:-1], n, out=by_z).mul_(z).mul_(1 - z)
        torch.mul(n, n, out=by_n).neg_().add_(1).mul_(1 - z)
        d_h = torch.cat([torch.zeros_like(hs[:1]), gradients[0].to(hs.dtype)])  # as hs
        d_h[-1] += gradients[1]
        d = torch.empty_like(gates, dtype=x.dtype)
        parts = ((0, size), (size, 3 * size), (2 * size, 3 * size), (0, 2 * size))
        d_r, d_zn, d_n, d_rz = (d[..., begin:end].unbind() for begin, end in parts)
        by_gate = (*n.shape[:2], 2, size)
        by_zn = factors[..., size:].reshape(by_gate)
        pairs = itertools.pairwise(d_h)
        steps = zip(pairs, r, z, by_r, by_zn, d_r, d_zn, d_n, d_rz, strict=True)
        for (before, after), r_t, z_t, r_factor, factor, to_r, to_zn, n_t, rz_t in reversed(
            list(steps)
        ):
            torch.mul(after.unsqueeze(1), factor, out=to_zn.view(factor.shape))
            d_m = torch.mm(n_t, w_n)
            torch.mul(d_m, r_factor, out=to_r)
            before.addcmul_(after, z_t).addcmul_(d_m, r_t).add_(torch.mm(rz_t, w_rz))
        d_rz_all, d_n_all = d[..., : 2 * size], d[..., 2 * size :]
        d_w_rz, d_b_rz = weight_gradients(d_rz_all, ys[:-1])
        d_w_n, d_b_n = weight_gradients(d_n_all, resets)
        d_w_ih, d_b_ih = weight_gradients(d, x)
        d_w_hh, d_b_hh = torch.cat([d_w_rz, d_w_n]), torch.cat([d_b_rz, d_b_n])
        return input_gradient(d, w_ih), d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_h[0]
