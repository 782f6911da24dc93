"""Kernels of the network in whole numbers: one layer, moved in place.

:class:`ExactKernel` runs the equations of any cell. Those below it give the same bits faster, for
cells whose outputs are within -1 and 1: there every sum is exact, so it may be made in another
order. A step of theirs counts in entries of a table: weights are multiplied by ``STEPS``, and what
is added is a place in the table at once. What that multiplies with are powers of two, so exact.
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from charlm.cells import GRU, LSTM, RNN, Cell
from charlm.cells.base import State, split
from charlm.errors import ConfigError
from charlm.inference.kernels import Apart, Kernel, Summed, by_gate
from charlm.integer.bounds import EXACT_SUM, LARGEST_SUM
from charlm.integer.functions import CENTER, EXACT, SIGMOID, STEPS, TANH
from charlm.quantization import exponents
from charlm.tensor_file import Floats

TANH_STEPS = TANH * np.float32(STEPS)
MIDDLE = np.array(CENTER, np.float32)  # an array is added faster than a number


class Matrix:
    """A matrix (R, C) of weights, for cells to be used as ``x @ w.T`` and in no other way.

    What is multiplied with it is rounded to multiples of ``2 ** -bits`` first. Where it is so large
    that sums would not be exact, it is rounded to as many multiples of a larger power of two, for
    each lane by itself.

    Args:
        values: the weights, as ``quantization.rounded`` returns them.
        bits: of what is multiplied with it; None is for what is a multiple of a power of two
            already, such as an embedding: it is not rounded.
    """

    __array_ufunc__ = None  # so that an array leaves the product to this class

    def __init__(self, values: Floats, bits: int | None):
        self.values = values
        self.bits = bits
        self.T = _Product(self)
        self.parts: dict[tuple[int, int, int], Matrix] = {}
        if bits is not None:
            self.scaled = values.T * np.float32(2.0**-bits)  # for what is in units of 2 ** -bits
            units = np.ldexp(1.0, -exponents(values).astype(np.int32))
            sums = np.abs(values.astype(np.float64)).sum(axis=-1) / units
            # Less the half by which rounding makes a number larger.
            self.most = np.float32((EXACT_SUM / max(1.0, sums.max()) - 0.5) * 2.0**-bits)

    def __getitem__(self, rows: slice) -> "Matrix":
        key = rows.indices(len(self.values))
        if key not in self.parts:
            self.parts[key] = Matrix(self.values[rows], self.bits)
        return self.parts[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by copy and pickle
            raise AttributeError(name)
        raise ConfigError(f"in whole numbers a cell may use a matrix as x @ w.T only, not {name}")


class _Product:
    __array_ufunc__ = None

    def __init__(self, matrix: Matrix):
        self.matrix = matrix

    def __rmatmul__(self, x: Floats) -> Floats:
        matrix = self.matrix
        if matrix.bits is None:
            doubles = x.astype(np.float64) @ matrix.values.T.astype(np.float64)
            return doubles.astype(np.float32)
        most = np.abs(x).max(axis=-1, keepdims=True)
        if (most <= matrix.most).all():
            return self._of_small(x)
        _, e = np.frexp(most / matrix.most)
        e = np.where(most > matrix.most, e, 0)
        return np.ldexp(self._of_small(np.ldexp(x, -e)), e)

    def _of_small(self, x: Floats) -> Floats:
        assert self.matrix.bits is not None
        return np.rint(x * np.float32(2.0**self.matrix.bits)) @ self.matrix.scaled  # type: ignore[no-any-return]


class ExactKernel(Kernel):
    """One layer, moved in place by the equations of its cell.

    Its input and its output are in units of ``2 ** -bits``.

    Args:
        cell: the recurrence.
        w: the weights, as :meth:`prepared` returned them.
        state: arrays (B, ...) to start from; they are copied.
        bits: see above.
    """

    bounded: ClassVar[bool] = False  # whether outputs are known to be within -1 and 1

    def __init__(self, cell: Cell, w: Any, state: State, bits: int):
        super().__init__(cell, w, state)
        self.units = np.float32(2.0**bits)

    @classmethod
    def of_table(cls, projected: Floats, w: Any) -> Floats:
        """Return what :meth:`move` wants, of the input products that the cell gives (V, P)."""
        return projected

    @property
    def output(self) -> Floats:
        """See :class:`Kernel`."""
        return np.rint(self.state[0] * self.units)  # type: ignore[no-any-return]

    def project(self, x: Floats) -> Floats:
        """See :class:`Kernel`."""
        return self.cell.project(x / self.units, self.w)  # type: ignore[no-any-return]

    def move(self, projected: Floats) -> None:
        """See :class:`Kernel`."""
        self.state = self.cell.step(EXACT, projected, self.state, self.w)


class FusedKernel(ExactKernel):
    """A layer of a cell with gates and bounded outputs. It keeps h in units of ``2 ** -bits``.

    Attributes:
        unrounded: the output before it is rounded (B, H).
        h: the output (B, H).
    """

    h: Floats
    bounded = True
    order: ClassVar[tuple[int, ...]]  # of the gates, those of a sigmoid first
    halved: ClassVar[int]  # how many those are: sigmoid(a) = 0.5 + 0.5 tanh(0.5 a)

    def __init__(self, cell: Cell, w: Any, state: State, bits: int):
        self.cell = cell
        self.w = w
        self.units = np.float32(2.0**bits)
        self.tanh = TANH * self.units
        # A state from elsewhere may be larger, and sums would not be exact any more.
        self.unrounded = np.clip(state[0], -1, 1) * self.units

    @property
    def state(self) -> State:
        """The state, arrays (B, ...)."""
        return (self.unrounded / self.units, *self.others())

    @state.setter
    def state(self, state: State) -> None:
        raise AttributeError("a kernel is moved, not set")

    def others(self) -> State:
        """Return copies of the arrays of the state behind the first one."""
        return ()

    def reset(self, rows: NDArray[np.bool_]) -> None:
        """See :class:`Kernel`."""
        self.unrounded[rows] = self.h[rows] = 0

    @property
    def output(self) -> Floats:
        """See :class:`Kernel`."""
        return self.h

    @classmethod
    def places_by_gate(cls, rows: Floats) -> Floats:
        """Return rows (G*H, ...) in the order of this kernel, as steps of a table."""
        return by_gate(rows, cls.order, cls.halved) * np.float32(STEPS)

    @classmethod
    def weights_by_gate(cls, w: Any) -> dict[str, Floats]:
        """Return the matrices as that, for inputs in units of ``2 ** -bits``."""
        unit = np.float32(2.0 ** -w["weight_hh"].bits)
        return {n: cls.places_by_gate(w[n].values) * unit for n in ("weight_ih", "weight_hh")}


class SummedKernel(Summed, FusedKernel):
    """A cell that needs only the sum of its input product and its recurrent product.

    What it sums up, ``a``, are places in the tables.
    """

    def __init__(self, cell: Cell, w: Any, state: State, bits: int):
        super().__init__(cell, w, state, bits)
        self.set_products(w, np.rint(self.unrounded))
        self.places: NDArray[np.intp] = np.empty(self.a.shape, np.intp)

    @classmethod
    def prepared(cls, w: Any, *, upper: bool) -> Any:
        """See :class:`Kernel`."""
        bias = cls.places_by_gate(w["bias_ih"] + w["bias_hh"]) + np.float32(CENTER)
        arranged = cls.arranged(cls.weights_by_gate(w) | {"bias": bias}, upper=upper)
        return arranged | {"bias_hh": w["bias_hh"]}

    @classmethod
    def of_table(cls, projected: Floats, w: Any) -> Floats:
        """See :class:`ExactKernel`."""
        rows = (projected + w["bias_hh"]).T
        return np.ascontiguousarray(cls.places_by_gate(rows).T) + np.float32(CENTER)


class RNNKernel(SummedKernel):
    """See ``cells.RNN``, with tanh."""

    order, halved = (0,), 0

    def activate(self) -> None:
        """See :class:`SummedKernel`."""
        np.copyto(self.places, self.a, casting="unsafe")
        self.tanh.take(self.places, mode="clip", out=self.unrounded)
        np.rint(self.unrounded, out=self.h)


class LSTMKernel(SummedKernel):
    """See ``cells.LSTM``."""

    order: ClassVar[tuple[int, ...]] = (0, 1, 3, 2)  # i, f, o, g
    halved = 3

    def __init__(self, cell: Cell, w: Any, state: State, bits: int):
        super().__init__(cell, w, state, bits)
        self.c = np.clip(state[1], -LARGEST_SUM, LARGEST_SUM) * np.float32(STEPS)
        lanes, size = self.h.shape
        self.gates = np.empty((lanes, self.halved * size), np.float32)
        *_, self.f, self.o = split(self.gates, self.halved)
        self.g = np.empty((lanes, size), np.float32)
        self.at_gates, self.at_g = self.places[:, :-size], self.places[:, -size:]
        self.at_c: NDArray[np.intp] = np.empty((lanes, size), np.intp)

    def others(self) -> State:
        """See :class:`FusedKernel`; c is kept in steps of the table."""
        return (self.c / np.float32(STEPS),)

    def reset(self, rows: NDArray[np.bool_]) -> None:
        """See :class:`Kernel`."""
        super().reset(rows)
        self.c[rows] = 0

    def input_gate(self) -> Floats:
        """Return i (B, H)."""
        return self.gates[:, : self.g.shape[1]]

    def activate(self) -> None:
        """See :class:`SummedKernel`."""
        np.copyto(self.places, self.a, casting="unsafe")
        SIGMOID.take(self.at_gates, mode="clip", out=self.gates)
        TANH_STEPS.take(self.at_g, mode="clip", out=self.g)
        c = self.c
        c *= self.f
        self.g *= self.input_gate()
        c += self.g
        np.add(c, MIDDLE, out=self.g)
        np.copyto(self.at_c, self.g, casting="unsafe")
        self.tanh.take(self.at_c, mode="clip", out=self.unrounded)
        self.unrounded *= self.o
        np.rint(self.unrounded, out=self.h)


class CoupledLSTMKernel(LSTMKernel):
    """See ``cells.LSTM``, with coupled gates."""

    order, halved = (0, 2, 1), 2  # f, o, g

    def input_gate(self) -> Floats:
        """See :class:`LSTMKernel`."""
        i: Floats = 1 - self.f
        return i


class GRUKernel(Apart, FusedKernel):
    """See ``cells.GRU``."""

    order, halved = (0, 1, 2), 2

    def __init__(self, cell: Cell, w: Any, state: State, bits: int):
        super().__init__(cell, w, state, bits)
        self.set_products(w, np.rint(self.unrounded))
        self.gates = np.empty(self.rz.shape, np.float32)
        self.r, self.z = split(self.gates, 2)
        self.at_gates: NDArray[np.intp] = np.empty(self.rz.shape, np.intp)
        self.at_n: NDArray[np.intp] = np.empty(self.n.shape, np.intp)
        self.rest = np.empty(self.n.shape, np.float32)

    @classmethod
    def prepared(cls, w: Any, *, upper: bool) -> Any:
        """See :class:`Kernel`."""
        biases = {name: cls.places_by_gate(w[name]) for name in ("bias_ih", "bias_hh")}
        size = len(w["bias_hh"]) // 3
        biases["bias_hh"][: 2 * size] += CENTER
        return cls.arranged(cls.weights_by_gate(w) | biases, upper=upper)

    @classmethod
    def of_table(cls, projected: Floats, w: Any) -> Floats:
        """See :class:`ExactKernel`."""
        size = projected.shape[1] // 3
        return np.ascontiguousarray(np.roll(cls.places_by_gate(projected.T), size, axis=0).T)

    def activate(self, x_n: Floats) -> None:
        """See :class:`Apart`."""
        np.copyto(self.at_gates, self.rz, casting="unsafe")
        SIGMOID.take(self.at_gates, mode="clip", out=self.gates)
        self.n *= self.r
        self.n += x_n
        self.n += MIDDLE
        np.copyto(self.at_n, self.n, casting="unsafe")
        self.tanh.take(self.at_n, mode="clip", out=self.n)
        np.subtract(1, self.z, out=self.rest)
        self.n *= self.rest
        self.unrounded *= self.z
        self.unrounded += self.n
        np.rint(self.unrounded, out=self.h)


EXACT_KERNELS: dict[Cell, type[ExactKernel]] = {
    RNN(): RNNKernel,
    LSTM(): LSTMKernel,
    LSTM(coupled_gates=True): CoupledLSTMKernel,
    GRU(): GRUKernel,
}
