"""Fused loops: a whole window of a layer at once, as fast as this machine can.

A :data:`Loop` is (x (B, T, I), state of (B, ...), weights by name) -> (y (B, T, H), next state). It
computes what its cell in :mod:`charlm.cells` says. There are torch's own loops and, for a CPU, some
of ours. Both tables are keyed by the cell with its options. A cell that stands in neither, and is
no ``LinearCell`` and not the attention, is stepped by its equations.

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

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from charlm.cells import GRU, LSTM, RNN, Attention, Cell
from charlm.cells.base import LinearCell, State
from charlm.model.fused.attention import attention_loop
from charlm.model.fused.gru import GRUWindow, ResetBeforeWindow
from charlm.model.fused.linear import linear_loop
from charlm.model.fused.lstm import PeepholeWindow
from charlm.model.fused.products import Loop, own_loop
from charlm.model.fused.rnn import RNNWindow, nothing


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


def _cudnn_loop(loop: Loop) -> Loop:
    """Return one of torch's loops with all that it takes as cuDNN wants it.

    The weights are views of one flat tensor; of others cuDNN would make one in every step, and warn
    of it. Half precision is float16 for them, as torch has it, whatever was asked for.
    """

    def flat_loop(x: Tensor, state: State, w: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        dtype = torch.float16 if torch.is_autocast_enabled(x.device.type) else x.dtype
        flat = torch.cat([weight.flatten() for weight in w.values()]).to(dtype)
        pieces = flat.split([weight.numel() for weight in w.values()])
        views = {n: piece.view(w[n].shape) for n, piece in zip(w, pieces, strict=True)}
        with torch.autocast(x.device.type, enabled=False):
            return loop(x.to(dtype), tuple(s.to(dtype) for s in state), views)

    return flat_loop


def _coupled_loop(loop: Loop) -> Loop:
    """Return the loop of an LSTM with coupled gates, given that of an LSTM.

    As 1 - sigmoid(a) = sigmoid(-a), the input gate has the weights of the forget gate with the
    other sign.
    """

    def coupled(x: Tensor, state: State, w: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        size = w["weight_hh"].shape[1]
        return loop(x, state, {name: torch.cat([-rows[:size], rows]) for name, rows in w.items()})

    return coupled


CPU_LOOPS: dict[Cell, Loop] = {
    RNN(): own_loop(RNNWindow, torch.tanh_),
    RNN(nonlinearity="relu"): own_loop(RNNWindow, torch.relu_),
    RNN(nonlinearity="identity"): own_loop(RNNWindow, nothing),
    LSTM(peepholes=True): own_loop(PeepholeWindow),
    LSTM(peepholes=True, coupled_gates=True): _coupled_loop(own_loop(PeepholeWindow)),
    GRU(): own_loop(GRUWindow),
    GRU(reset_after=False): own_loop(ResetBeforeWindow),
}
TORCH_LOOPS: dict[Cell, Loop] = {
    RNN(): _torch_loop(torch.rnn_tanh),
    RNN(nonlinearity="relu"): _torch_loop(torch.rnn_relu),
    LSTM(): _torch_loop(torch.lstm),
    GRU(): _torch_loop(torch.gru),
}
CUDNN_LOOPS = {cell: _cudnn_loop(loop) for cell, loop in TORCH_LOOPS.items()}
for _loops in (TORCH_LOOPS, CUDNN_LOOPS):
    _loops[LSTM(coupled_gates=True)] = _coupled_loop(_loops[LSTM()])


def fused_loop(cell: Cell, device_type: str) -> Loop | None:
    """Return the fastest loop of a cell on a device, None if it has none."""
    if isinstance(cell, LinearCell):
        return linear_loop(cell)
    if isinstance(cell, Attention):
        return attention_loop
    if device_type == "cuda":
        return CUDNN_LOOPS.get(cell)
    own = CPU_LOOPS.get(cell) if device_type == "cpu" else None
    return own or TORCH_LOOPS.get(cell)
