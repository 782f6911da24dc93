"""What a recurrence is, for torch and numpy alike.

A :class:`Cell` is complete: its parameters with their initial values, the shapes of its state, the
input product and one step. The torch model, the numpy engine, the checkpoint, the presets and the
command line ask the cell for these and never look at its name.

Letters, here and in all of charlm:

    B lanes (batch)     T window length    V vocabulary       E embedding size
    H hidden size       L layers           N characters       I input size of a layer (E or H)
    G gates of a cell

A cell works on the last axis of its arrays. It knows nothing of windows, layers or gradients. The
work of a step is split in two, so that a caller can do the first half for a whole window at once:

    ``project``   the input product, which needs no state
    ``step``      the recurrence: (input product, state) -> next state
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from charlm.errors import ConfigError
from charlm.settings import Settings

Array = Any  # a numpy.ndarray or a torch.Tensor; this package imports neither
Weights = Mapping[str, Array]
State = tuple[Array, ...]
Shape = tuple[int, ...]

DISTRIBUTIONS = ("xavier_uniform", "orthogonal", "identity")
# How a block of a parameter starts: one of these, a constant, or a function that is given the array
# library and uniform numbers from [0, 1) in the shape of the block.
Init = str | float | Callable[[Any, Array], Array]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a layer: its shape and how it starts.

    Attributes:
        shape: the shape of the whole array.
        init: initial values, one entry for each of as many equal blocks of rows (such as gates).
        recurrent: whether it multiplies the state. DropConnect drops entries of such parameters.
    """

    shape: Shape
    init: tuple[Init, ...] = (0.0,)
    recurrent: bool = False

    def __post_init__(self) -> None:
        if not self.shape or self.shape[0] % len(self.init):
            raise ConfigError(
                f"a parameter of shape {self.shape} has no {len(self.init)} equal blocks of rows, "
                "one for each entry of init"
            )
        for init in self.init:
            if isinstance(init, str) and init not in DISTRIBUTIONS:
                names = ", ".join(DISTRIBUTIONS)
                raise ConfigError(
                    f"init must be one of {names}, a number or a function, not {init!r}"
                )


@dataclass(frozen=True, kw_only=True)
class Cell(Settings):
    """One recurrence. Its fields, if any, are options that the user can set.

    Two cells are equal if they compute the same, so a cell can be the key of a table of fast
    implementations.
    """

    def parameters(self, input_size: int, hidden_size: int) -> dict[str, Parameter]:
        """Return the parameters of one layer by name."""
        raise NotImplementedError  # pragma: no cover

    def state_shapes(self, hidden_size: int) -> dict[str, Shape]:
        """Return the shape of each array of the state of one lane, the output (H,) first."""
        return {"h": (hidden_size,)}

    def project(self, x: Array, w: Weights) -> Array:
        """Return the input product of one character or a whole window: (..., I) -> (..., P).

        P may be any width.
        """
        raise NotImplementedError  # pragma: no cover

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """Return the next state, whose first array is the output.

        A cell defines either this, or its two halves ``activations`` and ``update``, between which
        its gates can be looked at.

        Args:
            xp: the array library, ``numpy`` or ``torch``.
            projected: the input product (B, P).
            state: arrays (B, ...) in the order of ``state_shapes``.
            w: the parameters by name.
        """
        return self.update(xp, self.activations(xp, projected, state, w), state, w)

    @property
    def gate_names(self) -> tuple[str, ...]:
        """Which of the activations are gates: (B, H), between 0 (shut) and 1 (open)."""
        return ()

    def activations(self, xp: Any, projected: Array, state: State, w: Weights) -> dict[str, Array]:
        """Return by name what a step computes from its input and the state; see :meth:`step`."""
        raise NotImplementedError  # pragma: no cover

    def update(self, xp: Any, a: Mapping[str, Array], state: State, w: Weights) -> State:
        """Return the next state from the activations; see :meth:`step`."""
        raise NotImplementedError  # pragma: no cover


@dataclass(frozen=True, kw_only=True)
class LinearCell(Cell):
    """A cell whose state moves unit by unit, by factors that do not depend on the state.

        h' = decay * h + increment        all (B, H), * is elementwise

    So all of a window but these sums can be computed at once. Such a cell defines ``activations``,
    which are given no state, and ``terms``.
    """

    def terms(self, xp: Any, a: Mapping[str, Array], w: Weights) -> tuple[Array, Array]:
        """Return decay and increment (..., H), of one character or a whole window."""
        raise NotImplementedError  # pragma: no cover

    def update(self, xp: Any, a: Mapping[str, Array], state: State, w: Weights) -> State:
        """See the class."""
        decay, increment = self.terms(xp, a, w)
        return (decay * state[0] + increment,)


@dataclass(frozen=True, kw_only=True)
class GatedCell(Cell):
    """A cell with the parameters of ``torch.nn.RNN``, ``LSTM`` and ``GRU``.

        weight_ih (G*H, I)    weight_hh (G*H, H)    bias_ih (G*H)    bias_hh (G*H)

    The gates are stacked along the first axis. Input matrices start as Glorot and Bengio (2010)
    propose, recurrent matrices orthogonal (Saxe et al. 2013, arXiv:1312.6120), gate by gate.
    """

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates in the order in which the weights stack them."""
        raise NotImplementedError  # pragma: no cover

    @property
    def initial_bias(self) -> Mapping[str, float]:
        """The initial bias by gate, where it is not 0."""
        return {}

    def parameters(self, input_size: int, hidden_size: int) -> dict[str, Parameter]:
        """See :class:`Cell`."""
        count = len(self.gates)
        rows = count * hidden_size
        bias = tuple(self.initial_bias.get(gate, 0.0) for gate in self.gates)
        return {
            "weight_ih": Parameter((rows, input_size), ("xavier_uniform",) * count),
            "weight_hh": Parameter((rows, hidden_size), ("orthogonal",) * count, recurrent=True),
            "bias_ih": Parameter((rows,), bias),
            "bias_hh": Parameter((rows,)),
        }

    def project(self, x: Array, w: Weights) -> Array:
        """Return W_ih x + b_ih: (..., I) -> (..., G*H)."""
        return x @ w["weight_ih"].T + w["bias_ih"]


def sigmoid(xp: Any, x: Array) -> Array:
    """Return the logistic function of ``x``, through tanh, which cannot overflow."""
    return 0.5 + 0.5 * xp.tanh(0.5 * x)


def split(gates: Array, count: int) -> list[Array]:
    """Cut the last axis of ``gates`` (..., count * H) into ``count`` views (..., H)."""
    size = gates.shape[-1] // count
    return [gates[..., i * size : (i + 1) * size] for i in range(count)]
