"""The gated recurrent unit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charlm.cells.base import Array, GatedCell, State, Weights, sigmoid, split
from charlm.settings import setting


@dataclass(frozen=True, kw_only=True)
class GRU(GatedCell):
    """The gated recurrent unit.

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)          reset gate
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)          update gate
        n  = tanh   (W_in x + b_in + r * (W_hn h + b_hn))    candidate
        h' = (1 - z) * n + z * h

    With ``reset_after=False`` the candidate is that of the paper:

        n  = tanh   (W_in x + b_in + W_hn (r * h) + b_hn)

    x (B, I); all others (B, H); * is elementwise; gates stacked r, z, n.

    Source: Cho et al. (2014), Learning phrase representations using RNN encoder-decoder,
    arXiv:1406.1078, where z is the share of h that is kept, as here. torch and cuDNN apply the
    reset gate after the product, so that one matrix product serves all gates of a step. Keras has
    both, under the same name; ONNX calls it linear_before_reset.
    """

    reset_after: bool = setting(
        True, "apply the reset gate after the recurrent product; before it is the GRU of 2014"
    )

    @property
    def gates(self) -> tuple[str, ...]:
        """See :class:`GatedCell`."""
        return "r", "z", "n"

    @property
    def gate_names(self) -> tuple[str, ...]:
        """See :class:`charlm.cells.base.Cell`."""
        return "r", "z"

    def activations(self, xp: Any, projected: Array, state: State, w: Weights) -> dict[str, Array]:
        """See the class; ``x_n`` is what the candidate has of x, ``h_n`` what it has of h."""
        (h,) = state
        x_r, x_z, x_n = split(projected, 3)
        if self.reset_after:
            h_r, h_z, h_n = split(h @ w["weight_hh"].T + w["bias_hh"], 3)
            own = {"h_n": h_n}
        else:
            count = 2 * h.shape[-1]
            h_r, h_z = split(h @ w["weight_hh"][:count].T + w["bias_hh"][:count], 2)
            own = {}
        return {"r": sigmoid(xp, x_r + h_r), "z": sigmoid(xp, x_z + h_z), "x_n": x_n} | own

    def update(self, xp: Any, a: Mapping[str, Array], state: State, w: Weights) -> State:
        """See the class."""
        (h,) = state
        if self.reset_after:
            n = xp.tanh(a["x_n"] + a["r"] * a["h_n"])
        else:
            rows = slice(2 * h.shape[-1], None)
            n = xp.tanh(a["x_n"] + (a["r"] * h) @ w["weight_hh"][rows].T + w["bias_hh"][rows])
        return ((1 - a["z"]) * n + a["z"] * h,)
