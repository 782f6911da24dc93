"""The loop of long short-term memory with peepholes, for which torch has none."""

import itertools
from typing import Any

import torch
from torch import Tensor

from charlm.cells.lstm import CELL_CLIP
from charlm.model.fused.products import input_gradient, product, weight_gradients


class PeepholeWindow(torch.autograd.Function):
    """(x (T, B, I), five weights, h (B, H), c (B, H)) -> (y (T, B, H), h, c).

    Gates are i, f, g, o, and peepholes p are p_i, p_f, p_o. All is in float32 but the products.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step through the window; the gates are kept for the backward pass."""
        x, w_ih, w_hh, b_ih, b_hh, peephole, h, c = inputs
        size = h.shape[1]
        p = peephole.to(c.dtype).view(3, size)
        gates = product(x, w_ih, b_ih + b_hh).to(c.dtype)  # (T, B, 4*H)
        cs = c.new_empty(len(x) + 1, *c.shape)  # the cell before each step, and at the end
        cs[0] = c
        ys = x.new_empty(len(x) + 1, *h.shape)  # the output, as the products take it
        ys[0] = h
        shut = c.new_empty(len(x), *c.shape)  # sigmoid(-2 c'), so that tanh(c') = 1 - 2 shut
        i, f, g, o = (part.unbind() for part in gates.split(size, dim=-1))
        both = gates[..., : 2 * size].unflatten(-1, (2, size)).unbind()  # i and f
        ifg = gates[..., : 3 * size].unbind()
        pairs = itertools.pairwise(cs), itertools.pairwise(ys)
        steps = zip(gates.unbind(), both, ifg, i, f, g, o, shut, *pairs, strict=True)
        for all_t, both_t, ifg_t, i_t, f_t, g_t, o_t, shut_t, (before, after), (y, y_new) in steps:
            all_t.add_(torch.mm(y, w_hh.T))
            both_t.addcmul_(p[:2], before.unsqueeze(1))
            g_t.mul_(2)
            ifg_t.sigmoid_()
            g_t.mul_(2).sub_(1)  # tanh, many times faster than torch.tanh
            torch.mul(i_t, g_t, out=after).addcmul_(f_t, before)
            after.clamp_(-CELL_CLIP, CELL_CLIP)
            o_t.addcmul_(p[2], after).sigmoid_()
            torch.mul(after, -2, out=shut_t).sigmoid_()
            torch.addcmul(o_t, o_t, shut_t, value=-2, out=y_new)
        ctx.save_for_backward(x, w_ih, w_hh, peephole, gates, cs, shut, ys)
        return ys[1:], ys[-1].to(h.dtype, copy=True), cs[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through the window; a_k is the sum inside of gate k, t = tanh(c').

        d_a_o = d_h * t * o * (1-o)          d_c' += d_h * o * (1-t^2) + p_o * d_a_o
        d_a_i = d_c' * g * i * (1-i)         d_a_f = d_c' * c * f * (1-f)
        d_a_g = d_c' * i * (1-g^2)           d_c = d_c' * f + p_i * d_a_i + p_f * d_a_f

        Where c' was clipped, d_a_i, d_a_f, d_a_g and d_c are 0.
        """
        x, w_ih, w_hh, peephole, gates, cs, shut, ys = ctx.saved_tensors
        size = cs.shape[2]
        p_i, p_f, p_o = peephole.to(cs.dtype).split(size)
        i, f, g, o = gates.split(size, dim=-1)
        factors = torch.empty_like(gates)  # of d_h for o, of d_c' for the others
        by_i, by_f, by_g, by_o = factors.split(size, dim=-1)
        t = torch.rsub(shut, 1, alpha=2)
        torch.mul(t, o, out=by_o).mul_(1 - o)
        torch.mul(g, i, out=by_i).mul_(1 - i)
        torch.mul(cs[:-1], f, out=by_f).mul_(1 - f)
        torch.mul(g, g, out=by_g).neg_().add_(1).mul_(i)
        within = torch.mul(i, g).addcmul_(f, cs[:-1]).abs_() <= CELL_CLIP  # c' was not clipped
        for by_gate in (by_i, by_f, by_g):
            by_gate.mul_(within)
        by_c = torch.mul(t, t).neg_().add_(1).mul_(o).addcmul_(by_o, p_o)
        keep = f.mul(within).addcmul_(by_i, p_i).addcmul_(by_f, p_f)
        d_h = torch.cat([torch.zeros_like(cs[:1]), gradients[0].to(cs.dtype)])  # as ys
        d_h[-1] += gradients[1]
        d_c = gradients[2].clone()
        d = torch.empty_like(gates, dtype=x.dtype)
        by_ifg, d_ifg = (a[..., :-size].unflatten(-1, (3, size)) for a in (factors, d))
        pairs = itertools.pairwise(d_h)
        steps = zip(pairs, by_c, by_ifg, by_o, keep, d_ifg, d[..., -size:], d, strict=True)
        for (before, after), c_factor, factor, o_factor, keep_t, to_ifg, to_o, d_t in reversed(
            list(steps)
        ):
            d_c.addcmul_(after, c_factor)
            torch.mul(d_c.unsqueeze(1), factor, out=to_ifg)
            torch.mul(after, o_factor, out=to_o)
            d_c.mul_(keep_t)
            before.add_(torch.mm(d_t, w_hh))
        d_w_hh, d_b = weight_gradients(d, ys[:-1])
        d_w_ih, _ = weight_gradients(d, x)
        d_i, d_f, _, d_o = d.to(cs.dtype).split(size, dim=-1)
        seen = ((d_i, cs[:-1]), (d_f, cs[:-1]), (d_o, cs[1:]))
        d_p = torch.cat([torch.einsum("tbh,tbh->h", *pair) for pair in seen]).to(peephole.dtype)
        return input_gradient(d, w_ih), d_w_ih, d_w_hh, d_b, d_b, d_p, d_h[0], d_c
