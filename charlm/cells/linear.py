"""Cells whose recurrence is linear, unit by unit: minGRU and minLSTM."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charlm.cells.base import Array, LinearCell, Parameter, State, Weights, sigmoid, split


@dataclass(frozen=True, kw_only=True)
class MinGRU(LinearCell):
    """The minimal gated recurrent unit: a GRU whose gates do not see the state.

        z  = sigmoid(W_z x + b_z)        update gate
        n  = W_n x + b_n                 candidate
        h' = (1 - z) * h + z * n

    x (B, I); all others (B, H); * is elementwise; gates stacked z, n.

    Source: Feng et al. (2024), Were RNNs all we needed?, arXiv:2410.01201, where z is the share
    that is replaced, as here and unlike in :class:`charlm.cells.gru.GRU`.
    """

    @property
    def gate_names(self) -> tuple[str, ...]:
        """See :class:`charlm.cells.base.Cell`."""
        return ("z",)

    def parameters(self, input_size: int, hidden_size: int) -> dict[str, Parameter]:
        """See :class:`charlm.cells.base.Cell`."""
        return {
            "weight": Parameter((2 * hidden_size, input_size), ("xavier_uniform",) * 2),
            "bias": Parameter((2 * hidden_size,), (0.0,) * 2),
        }

    def project(self, x: Array, w: Weights) -> Array:
        """Return W x + b: (..., I) -> (..., 2H)."""
        return x @ w["weight"].T + w["bias"]

    def activations(self, xp: Any, projected: Array, state: State, w: Weights) -> dict[str, Array]:
        """See the class."""
        z, n = split(projected, 2)
        return {"z": sigmoid(xp, z), "n": n}

    def terms(self, xp: Any, a: Mapping[str, Array], w: Weights) -> tuple[Array, Array]:
        """See :class:`charlm.cells.base.LinearCell`."""
        return 1 - a["z"], a["z"] * a["n"]


@dataclass(frozen=True, kw_only=True)
class MinLSTM(LinearCell):
    """The minimal long short-term memory: its gates do not see the state, and share 1 among them.

        f  = sigmoid(W_f x + b_f)        forget gate
        i  = sigmoid(W_i x + b_i)        input gate
        n  = W_n x + b_n                 candidate
        h' = (f * h + i * n) / (f + i)

    x (B, I); all others (B, H); * is elementwise; gates stacked f, i, n. The bias of the forget
    gate starts at 1.

    Source: Feng et al. (2024), Were RNNs all we needed?, arXiv:2410.01201.
    """

    @property
    def gate_names(self) -> tuple[str, ...]:
        """See :class:`charlm.cells.base.Cell`."""
        return "f", "i"

    def parameters(self, input_size: int, hidden_size: int) -> dict[str, Parameter]:
        """See :class:`charlm.cells.base.Cell`."""
        return {
            "weight": Parameter((3 * hidden_size, input_size), ("xavier_uniform",) * 3),
            "bias": Parameter((3 * hidden_size,), (1.0, 0.0, 0.0)),
        }

    def project(self, x: Array, w: Weights) -> Array:
        """Return W x + b: (..., I) -> (..., 3H)."""
        return x @ w["weight"].T + w["bias"]

    def activations(self, xp: Any, projected: Array, state: State, w: Weights) -> dict[str, Array]:
        """See the class."""
        f, i, n = split(projected, 3)
        return {"f": sigmoid(xp, f), "i": sigmoid(xp, i), "n": n}

    def terms(self, xp: Any, a: Mapping[str, Array], w: Weights) -> tuple[Array, Array]:
        """See :class:`charlm.cells.base.LinearCell`."""
        total = a["f"] + a["i"]
        return a["f"] / total, a["i"] / total * a["n"]
