"""The simple recurrent network."""

from dataclasses import dataclass, replace
from typing import Any

from charlm.cells.base import Array, GatedCell, Parameter, State, Weights
from charlm.settings import setting


@dataclass(frozen=True, kw_only=True)
class RNN(GatedCell):
    """The simple recurrent network.

        h' = f(W_ih x + b_ih + W_hh h + b_hh)

    x (B, I), h and h' (B, H). f is tanh, max(0, .) with ``nonlinearity="relu"``, or nothing with
    ``"identity"``: then the network is linear but for its head. W_hh starts orthogonal, or as the
    identity: with relu that is the IRNN, which copies its state as long as nothing else is learned.

    Source: Elman (1990), Finding structure in time, Cognitive Science 14(2); the IRNN of Le et al.
    (2015), A simple way to initialize recurrent networks of rectified linear units,
    arXiv:1504.00941.
    """

    nonlinearity: str = setting(
        "tanh", "activation of the recurrence", choices=("tanh", "relu", "identity")
    )
    recurrent_init: str = setting(
        "orthogonal",
        "how the recurrent matrix starts",
        choices=("orthogonal", "identity"),
        compare=False,
    )

    @property
    def gates(self) -> tuple[str, ...]:
        """See :class:`GatedCell`."""
        return ("h",)

    def parameters(self, input_size: int, hidden_size: int) -> dict[str, Parameter]:
        """See :class:`charlm.cells.base.Cell`."""
        found = super().parameters(input_size, hidden_size)
        weight = found["weight_hh"]
        return found | {"weight_hh": replace(weight, init=(self.recurrent_init,))}

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """See the class."""
        (h,) = state
        a = projected + h @ w["weight_hh"].T + w["bias_hh"]
        if self.nonlinearity == "tanh":
            return (xp.tanh(a),)
        return (a.clip(min=0) if self.nonlinearity == "relu" else a,)
