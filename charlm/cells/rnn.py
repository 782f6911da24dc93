"""The simple recurrent network."""

from dataclasses import dataclass
from typing import Any, ClassVar

from charlm.cells.base import Array, GatedCell, State, Weights
from charlm.settings import setting


@dataclass(frozen=True, kw_only=True)
class RNN(GatedCell):
    """The simple recurrent network.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    x (B, I), h and h' (B, H). With ``nonlinearity="relu"`` max(0, .) stands in place of tanh.

    Source: Elman (1990), Finding structure in time, Cognitive Science 14(2).
    """

    nonlinearity: str = setting("tanh", "activation of the recurrence", choices=("tanh", "relu"))

    gates: ClassVar[tuple[str, ...]] = ("h",)

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """See the class."""
        (h,) = state
        a = projected + h @ w["weight_hh"].T + w["bias_hh"]
        return (xp.tanh(a) if self.nonlinearity == "tanh" else a.clip(min=0),)
