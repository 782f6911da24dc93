"""Long short-term memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charlm.cells.base import Array, GatedCell, Parameter, Shape, State, Weights, sigmoid, split
from charlm.settings import setting

CELL_CLIP = 50.0  # a cell that its gates see stays within -50 and 50


@dataclass(frozen=True, kw_only=True)
class LSTM(GatedCell):
    """Long short-term memory with a forget gate.

        i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi)     input gate
        f  = sigmoid(W_if x + b_if + W_hf h + b_hf)     forget gate
        g  = tanh   (W_ig x + b_ig + W_hg h + b_hg)     candidate
        o  = sigmoid(W_io x + b_io + W_ho h + b_ho)     output gate
        c' = f * c + i * g
        h' = o * tanh(c')

    With ``peepholes`` the gates see the cell: p_i * c, p_f * c and p_o * c' are added inside the
    three sigmoids. A gate that sees its cell can hold itself open, and the cell would grow for as
    long as the text goes on; so c' is clipped to [-50, 50]. With ``coupled_gates`` there is no
    input gate but i = 1 - f.

    x (B, I); all others (B, H); * is elementwise; gates stacked i, f, g, o, or f, g, o, and p
    stacked alike. The bias of the forget gate starts at 1: Gers et al. (2000), Jozefowicz et al.
    (2015); of coupled gates it starts at 0, so that half of the cell is kept and half is new.
    Peepholes start at 0.

    Source: Hochreiter and Schmidhuber (1997), Long short-term memory, Neural Computation 9(8); the
    forget gate of Gers, Schmidhuber and Cummins (2000), Learning to forget, Neural Computation
    12(10); peepholes of Gers, Schraudolph and Schmidhuber (2002), Learning precise timing with LSTM
    recurrent networks, JMLR 3, clipped as by Sak, Senior and Beaufays (2014), Long short-term
    memory based recurrent neural network architectures, arXiv:1402.1128; the coupled gates of Greff
    et al. (2017), LSTM: a search space odyssey, arXiv:1503.04069.
    """

    peepholes: bool = setting(False, "let the gates see the state of the cell")
    coupled_gates: bool = setting(
        False, "let the input gate be 1 - the forget gate: a quarter fewer weights"
    )

    @property
    def gates(self) -> tuple[str, ...]:
        """See :class:`GatedCell`."""
        return ("f", "g", "o") if self.coupled_gates else ("i", "f", "g", "o")

    @property
    def initial_bias(self) -> Mapping[str, float]:
        """See :class:`GatedCell`."""
        return {} if self.coupled_gates else {"f": 1.0}

    @property
    def gate_names(self) -> tuple[str, ...]:
        """See :class:`charlm.cells.base.Cell`."""
        return tuple(name for name in self.gates if name != "g")

    def parameters(self, input_size: int, hidden_size: int) -> dict[str, Parameter]:
        """See :class:`charlm.cells.base.Cell`."""
        found = super().parameters(input_size, hidden_size)
        if self.peepholes:
            found["peephole"] = Parameter((len(self.gate_names) * hidden_size,))
        return found

    def state_shapes(self, hidden_size: int) -> dict[str, Shape]:
        """See :class:`charlm.cells.base.Cell`."""
        return {"h": (hidden_size,), "c": (hidden_size,)}

    def activations(self, xp: Any, projected: Array, state: State, w: Weights) -> dict[str, Array]:
        """See the class."""
        h, c = state
        inside = split(projected + h @ w["weight_hh"].T + w["bias_hh"], len(self.gates))
        a = dict(zip(self.gates, inside, strict=True))
        if self.peepholes:
            *others, last = split(w["peephole"], len(self.gate_names))
            for name, p in zip(self.gate_names, others, strict=False):
                a[name] = a[name] + p * c
        a = {name: xp.tanh(x) if name == "g" else sigmoid(xp, x) for name, x in a.items()}
        if self.peepholes:
            a["o"] = sigmoid(xp, inside[-1] + last * self._cell(a, c))
        return a

    def update(self, xp: Any, a: Mapping[str, Array], state: State, w: Weights) -> State:
        """See the class."""
        c = self._cell(a, state[1])
        return a["o"] * xp.tanh(c), c

    def _cell(self, a: Mapping[str, Array], c: Array) -> Array:
        """Return c' for the gates and c."""
        i = 1 - a["f"] if self.coupled_gates else a["i"]
        c = a["f"] * c + i * a["g"]
        return c.clip(min=-CELL_CLIP, max=CELL_CLIP) if self.peepholes else c
