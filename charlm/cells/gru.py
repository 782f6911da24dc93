"""The gated recurrent unit."""

from dataclasses import dataclass
from typing import Any, ClassVar

from charlm.cells.base import Array, GatedCell, State, Weights, sigmoid, split


@dataclass(frozen=True, kw_only=True)
class GRU(GatedCell):
    """The gated recurrent unit, with the reset gate after the product.

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)          reset gate
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)          update gate
        n  = tanh   (W_in x + b_in + r * (W_hn h + b_hn))    candidate
        h' = (1 - z) * n + z * h

    x (B, I); all others (B, H); * is elementwise; gates stacked r, z, n.

    Source: Cho et al. (2014), Learning phrase representations using RNN encoder-decoder,
    arXiv:1406.1078. The paper applies the reset gate before the product, W_hn (r * h), and lets z
    be the share of h that is kept, as here. torch, cuDNN and charlm apply it after the product, so
    that one matrix product serves all gates of a step.
    """

    gates: ClassVar[tuple[str, ...]] = ("r", "z", "n")

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """See the class."""
        (h,) = state
        x_r, x_z, x_n = split(projected, 3)
        h_r, h_z, h_n = split(h @ w["weight_hh"].T + w["bias_hh"], 3)
        r = sigmoid(xp, x_r + h_r)
        z = sigmoid(xp, x_z + h_z)
        n = xp.tanh(x_n + r * h_n)
        return ((1 - z) * n + z * h,)
