"""One step of each recurrence, written once and run by numpy and by torch alike.

Letters, here and in all of charlm:

    B lanes (batch)     T window length    V vocabulary       E embedding
    H hidden size       L layers           N characters       I input size of a layer (E or H)
    G gates of a cell

A cell works on the last axis of its arrays and knows nothing of windows, layers or autograd. It is
split in two so that a caller can hoist the first half out of the loop over time:

    ``project``  W_ih x + b_ih, the input product: of one character or of a whole window at once;
    ``step``     the recurrence itself, (input product, state) -> next state.

``xp`` is the array library, ``numpy`` or ``torch``. The output of a step is the first array of its
next state. Every cell reads its weights from a mapping with these names and shapes:

    weight_ih (G*H, I)    weight_hh (G*H, H)    bias_ih (G*H)    bias_hh (G*H)

with the gates stacked along the first axis in the order that the cell's docstring gives.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

Array = Any  # a numpy.ndarray or a torch.Tensor; this room imports neither
Weights = Mapping[str, Array]
State = tuple[Array, ...]


def sigmoid(xp: Any, x: Array) -> Array:
    """Return the logistic function of ``x``, through tanh, which cannot overflow."""
    return 0.5 + 0.5 * xp.tanh(0.5 * x)


def split(gates: Array, count: int) -> list[Array]:
    """Cut the last axis of ``gates`` (..., count * H) into ``count`` views (..., H)."""
    size = gates.shape[-1] // count
    return [gates[..., i * size : (i + 1) * size] for i in range(count)]


class Cell:
    """What all cells share: shapes, the input product, and the form of ``step``."""

    gates: ClassVar[tuple[str, ...]]  # in the order in which the weights stack them
    state_names: ClassVar[tuple[str, ...]]  # the output h first
    nonlinearities: ClassVar[tuple[str, ...]] = ("tanh",)

    def __init__(self, nonlinearity: str = "tanh"):
        self.nonlinearity = nonlinearity

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight of a layer of this cell."""
        rows = len(self.gates) * hidden_size
        return {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }

    def project(self, x: Array, w: Weights) -> Array:
        """Return the input product W_ih x + b_ih: (..., I) -> (..., G*H)."""
        return x @ w["weight_ih"].T + w["bias_ih"]

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """Return the next state; ``projected`` is (B, G*H), each array of a state (B, H)."""
        raise NotImplementedError  # pragma: no cover


class RNN(Cell):
    """The simple recurrent network.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    x (B, I), h and h' (B, H). With ``nonlinearity="relu"`` max(0, .) stands in place of tanh.

    Source: Elman (1990), Finding structure in time, Cognitive Science 14(2).
    """

    gates = ("h",)
    state_names = ("h",)
    nonlinearities = ("tanh", "relu")

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """See the class."""
        (h,) = state
        a = projected + h @ w["weight_hh"].T + w["bias_hh"]
        return (xp.tanh(a) if self.nonlinearity == "tanh" else a.clip(min=0),)


class LSTM(Cell):
    """Long short-term memory with a forget gate.

        i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi)     input gate
        f  = sigmoid(W_if x + b_if + W_hf h + b_hf)     forget gate
        g  = tanh   (W_ig x + b_ig + W_hg h + b_hg)     candidate
        o  = sigmoid(W_io x + b_io + W_ho h + b_ho)     output gate
        c' = f * c + i * g
        h' = o * tanh(c')

    x (B, I); all others (B, H); * is elementwise; gates stacked i, f, g, o.

    Source: Hochreiter and Schmidhuber (1997), Long short-term memory, Neural Computation 9(8),
    without peepholes; the forget gate of Gers, Schmidhuber and Cummins (2000), Learning to forget,
    Neural Computation 12(10).
    """

    gates = ("i", "f", "g", "o")
    state_names = ("h", "c")

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """See the class."""
        h, c = state
        i, f, g, o = split(projected + h @ w["weight_hh"].T + w["bias_hh"], 4)
        c = sigmoid(xp, f) * c + sigmoid(xp, i) * xp.tanh(g)
        return sigmoid(xp, o) * xp.tanh(c), c


class GRU(Cell):
    """The gated recurrent unit, with the reset gate after the product.

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)          reset gate
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)          update gate
        n  = tanh   (W_in x + b_in + r * (W_hn h + b_hn))    candidate
        h' = (1 - z) * n + z * h

    x (B, I); all others (B, H); * is elementwise; gates stacked r, z, n.

    Source: Cho et al. (2014), Learning phrase representations using RNN encoder-decoder,
    arXiv:1406.1078. The paper applies the reset gate before the product, W_hn (r * h), and lets z
    stand for what is kept of h, as here. torch, cuDNN and charlm apply it after the product, which
    makes all recurrent products of a step a single one.
    """

    gates = ("r", "z", "n")
    state_names = ("h",)

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """See the class."""
        (h,) = state
        x_r, x_z, x_n = split(projected, 3)
        h_r, h_z, h_n = split(h @ w["weight_hh"].T + w["bias_hh"], 3)
        r = sigmoid(xp, x_r + h_r)
        z = sigmoid(xp, x_z + h_z)
        n = xp.tanh(x_n + r * h_n)
        return ((1 - z) * n + z * h,)


CELLS: dict[str, type[Cell]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
