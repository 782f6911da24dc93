"""The gated recurrent unit."""

from collections.abc import Mapping
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
    gate_names: ClassVar[tuple[str, ...]] = ("r", "z")

    def activations(self, xp: Any, projected: Array, state: State, w: Weights) -> dict[str, Array]:
        """See the class; ``x_n`` and ``h_n`` are the two halves of the candidate."""
        x_r, x_z, x_n = split(projected, 3)
        h_r, h_z, h_n = split(state[0] @ w["weight_hh"].T + w["bias_hh"], 3)
        return {"r": sigmoid(xp, x_r + h_r), "z": sigmoid(xp, x_z + h_z), "x_n": x_n, "h_n": h_n}

    def update(self, xp: Any, a: Mapping[str, Array], state: State) -> State:
        """See the class."""
        n = xp.tanh(a["x_n"] + a["r"] * a["h_n"])
        return ((1 - a["z"]) * n + a["z"] * state[0],)
