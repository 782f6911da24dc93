"""Long short-term memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from charlm.cells.base import Array, GatedCell, Shape, State, Weights, sigmoid, split


@dataclass(frozen=True, kw_only=True)
class LSTM(GatedCell):
    """Long short-term memory with a forget gate.

        i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi)     input gate
        f  = sigmoid(W_if x + b_if + W_hf h + b_hf)     forget gate
        g  = tanh   (W_ig x + b_ig + W_hg h + b_hg)     candidate
        o  = sigmoid(W_io x + b_io + W_ho h + b_ho)     output gate
        c' = f * c + i * g
        h' = o * tanh(c')

    x (B, I); all others (B, H); * is elementwise; gates stacked i, f, g, o. The bias of the forget
    gate starts at 1: Gers et al. (2000), Jozefowicz et al. (2015).

    Source: Hochreiter and Schmidhuber (1997), Long short-term memory, Neural Computation 9(8),
    without peepholes; the forget gate of Gers, Schmidhuber and Cummins (2000), Learning to forget,
    Neural Computation 12(10).
    """

    gates: ClassVar[tuple[str, ...]] = ("i", "f", "g", "o")
    gate_names: ClassVar[tuple[str, ...]] = ("i", "f", "o")
    initial_bias: ClassVar[Mapping[str, float]] = {"f": 1.0}

    def state_shapes(self, hidden_size: int) -> dict[str, Shape]:
        """See :class:`charlm.cells.base.Cell`."""
        return {"h": (hidden_size,), "c": (hidden_size,)}

    def activations(self, xp: Any, projected: Array, state: State, w: Weights) -> dict[str, Array]:
        """See the class."""
        i, f, g, o = split(projected + state[0] @ w["weight_hh"].T + w["bias_hh"], 4)
        return {"i": sigmoid(xp, i), "f": sigmoid(xp, f), "g": xp.tanh(g), "o": sigmoid(xp, o)}

    def update(self, xp: Any, a: Mapping[str, Array], state: State) -> State:
        """See the class."""
        c = a["f"] * state[1] + a["i"] * a["g"]
        return a["o"] * xp.tanh(c), c
