"""Kernels: one layer of a recurrence in numpy, moved in place.

The equations are those of :mod:`charlm.cells`, with which the tests compare every kernel here. A
cell without a kernel of its own is stepped by its equations (:class:`Kernel`). What makes a kernel
fast:

    where a cell needs only the sum of its two products, upper layers have one product, W (x, h);
    sigmoid(a) = 0.5 + 0.5 tanh(0.5 a), and with the inner 0.5 folded into the weights (a power of
    two, so exact) one call of tanh serves all gates of a layer;
    arrays are made once, not at every step.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from charlm.cells import GRU, LSTM, RNN, Cell
from charlm.cells.base import State, split
from charlm.tensor_file import Floats, Tensors


class Kernel:
    """One layer, moved in place. This one runs the equations of the cell itself.

    Args:
        cell: the recurrence.
        w: the weights, as :meth:`prepared` returned them.
        state: arrays (B, ...) to start from; they are copied.
    """

    def __init__(self, cell: Cell, w: Tensors, state: State):
        self.cell = cell
        self.w = w
        self.state: State = tuple(s.copy() for s in state)

    @classmethod
    def prepared(cls, w: Tensors, *, upper: bool) -> Tensors:
        """Return the weights of a layer, or of an upper layer, as this kernel wants them."""
        return w

    def reset(self, rows: NDArray[np.bool_]) -> None:
        """Begin again in the initial state in some lanes (B,)."""
        for array in self.state:
            array[rows] = 0

    @property
    def output(self) -> Floats:
        """The output after the last character, (B, H)."""
        return self.state[0]  # type: ignore[no-any-return]

    def project(self, x: Floats) -> Floats:
        """Return the input product of one character or many: (..., I) -> (..., P)."""
        return self.cell.project(x, self.w)  # type: ignore[no-any-return]

    def move(self, projected: Floats) -> None:
        """Read one character per lane, given its input product (B, P)."""
        self.state = self.cell.step(np, projected, self.state, self.w)

    def feed(self, x: Floats) -> None:
        """Read one character per lane, given the input of the layer (B, I)."""
        self.move(self.project(x))

    def read(self, projected: Floats) -> Floats:
        """Read a window, given its input products (T, B, P); return the outputs (T, B, H)."""
        y = np.empty((*projected.shape[:2], self.output.shape[1]), np.float32)
        for t, product in enumerate(projected):
            self.move(product)
            y[t] = self.output
        return y


def by_gate(rows: Floats, order: Sequence[int], halved: int) -> Floats:
    """Return ``rows`` (G*H, ...) with its gates in ``order``, the first ``halved`` of them halved.

    Those are the gates of a sigmoid, see the docstring of this module.
    """
    gates = rows.reshape(len(order), -1, *rows.shape[1:])[list(order)]
    gates[:halved] *= 0.5
    return gates.reshape(rows.shape)


def side_by_side(width: int, h: Floats) -> tuple[Floats, Floats, Floats]:
    """Return an array (B, width) for (x, h), its part for x, and its part with ``h`` in it."""
    both = np.empty((len(h), width), np.float32)
    x, inside = np.split(both, [width - h.shape[1]], axis=1)
    inside[:] = h
    return both, x, inside


def sigmoids(tanhs: Floats) -> None:
    """Turn tanh(a / 2) into sigmoid(a), in place."""
    tanhs *= 0.5
    tanhs += 0.5


class Summed:
    """What kernels share whose cell needs only the sum of its input and its recurrent product.

    Attributes:
        h: what the recurrent product takes (B, H).
        a: the sum (B, G*H).
    """

    h: Floats
    a: Floats

    @staticmethod
    def arranged(w: Tensors, *, upper: bool) -> Tensors:
        """Return weights with one matrix, ``joint``, for both products of an upper layer.

        Args:
            w: ``weight_ih``, ``weight_hh`` and ``bias``.
            upper: whether the layer is one.
        """
        if not upper:
            return w
        joint = np.concatenate([w["weight_ih"], w["weight_hh"]], axis=1)
        inputs = w["weight_ih"].shape[1]
        return w | {
            "joint": joint,
            "weight_ih": joint[:, :inputs],
            "weight_hh": joint[:, inputs:],
        }

    def set_products(self, w: Tensors, h: Floats) -> None:
        """Make ready to move from ``h`` with weights that :meth:`arranged` returned."""
        self.input, self.recurrent, self.bias = w["weight_ih"].T, w["weight_hh"].T, w["bias"]
        self.a = np.empty((len(h), len(self.bias)), np.float32)
        # Only matmul takes a part of a matrix as it is; dot is a bit faster.
        self.product: Callable[..., Any] = np.matmul if "joint" in w else np.dot
        self.h = h
        if "joint" in w:
            self.joint = w["joint"].T
            self.both, self.x, self.h = side_by_side(len(self.joint), h)

    def project(self, x: Floats) -> Floats:
        """See :class:`Kernel`."""
        return x @ self.input + self.bias

    def move(self, projected: Floats) -> None:
        """See :class:`Kernel`."""
        self.product(self.h, self.recurrent, out=self.a)
        self.a += projected
        self.activate()

    def feed(self, x: Floats) -> None:
        """See :class:`Kernel`."""
        self.x[:] = x
        np.dot(self.both, self.joint, out=self.a)
        self.a += self.bias
        self.activate()

    def activate(self) -> None:
        """Move the state, given the sum of the products in ``a``."""
        raise NotImplementedError  # pragma: no cover


class SummedKernel(Summed, Kernel):
    """The kernel of such a cell in float32."""

    order: ClassVar[tuple[int, ...]]  # of the gates, those of a sigmoid first
    halved: ClassVar[int]  # how many those are

    def __init__(self, cell: Cell, w: Tensors, state: State):
        super().__init__(cell, w, state)
        self.set_products(w, self.state[0])
        self.state = (self.h, *self.state[1:])

    @classmethod
    def prepared(cls, w: Tensors, *, upper: bool) -> Tensors:
        """See :class:`Kernel`."""
        weights = {n: by_gate(w[n], cls.order, cls.halved) for n in ("weight_ih", "weight_hh")}
        bias = by_gate(w["bias_ih"] + w["bias_hh"], cls.order, cls.halved)
        return cls.arranged(weights | {"bias": bias}, upper=upper)


class RNNKernel(SummedKernel):
    """See ``cells.RNN``."""

    order, halved = (0,), 0

    def __init__(self, cell: Cell, w: Tensors, state: State):
        super().__init__(cell, w, state)
        self.is_relu = cell == RNN(nonlinearity="relu")

    def activate(self) -> None:
        """See :class:`SummedKernel`."""
        (h,) = self.state
        if self.is_relu:
            np.maximum(self.a, 0, out=h)
        else:
            np.tanh(self.a, out=h)


class LSTMKernel(SummedKernel):
    """See ``cells.LSTM``."""

    order, halved = (0, 1, 3, 2), 3  # i, f, o, g

    def __init__(self, cell: Cell, w: Tensors, state: State):
        super().__init__(cell, w, state)
        size = state[0].shape[1]
        self.sigmoids = self.a[:, : 3 * size]
        self.i, self.f, self.o, self.g = split(self.a, 4)

    def activate(self) -> None:
        """See :class:`SummedKernel`."""
        h, c = self.state
        np.tanh(self.a, out=self.a)
        sigmoids(self.sigmoids)
        c *= self.f
        self.i *= self.g
        c += self.i
        np.tanh(c, out=self.g)
        np.multiply(self.o, self.g, out=h)


class CoupledLSTMKernel(SummedKernel):
    """See ``cells.LSTM``, with coupled gates."""

    order, halved = (0, 2, 1), 2  # f, o, g

    def __init__(self, cell: Cell, w: Tensors, state: State):
        super().__init__(cell, w, state)
        size = state[0].shape[1]
        self.sigmoids = self.a[:, : 2 * size]
        self.f, self.o, self.g = split(self.a, 3)

    def activate(self) -> None:
        """See :class:`SummedKernel`."""
        h, c = self.state
        np.tanh(self.a, out=self.a)
        sigmoids(self.sigmoids)
        c -= self.g  # c' = g + f (c - g)
        c *= self.f
        c += self.g
        np.tanh(c, out=self.g)
        np.multiply(self.o, self.g, out=h)


class Apart:
    """What kernels share of a cell whose two products of one gate may not be summed, a GRU.

    The gates are n, r, z of the input, and r, z, n of the state. In an upper layer of one lane
    there is one product all the same, of (x, h) with a matrix of which a quarter is zeros:

        n   r   z   0    from x
        0   r   z   n    from h

    Attributes:
        h: what the recurrent product takes (B, H).
        rz, n: the sums of two gates (B, 2H), and what n has of the state (B, H).
    """

    MOST = 384  # units up to which that is faster than two products
    h: Floats

    @classmethod
    def arranged(cls, w: Tensors, *, upper: bool) -> Tensors:
        """Return weights with the gates of the input rolled to n, r, z, and that matrix if any.

        Args:
            w: the parameters of a GRU, gates r, z, n.
            upper: whether the layer is one that has an input of H.
        """
        size = w["weight_hh"].shape[1]
        w = w | {name: np.roll(w[name], size, axis=0) for name in ("weight_ih", "bias_ih")}
        if not upper or size > cls.MOST:
            return w
        inputs = w["weight_ih"].shape[1]
        joint = np.zeros((4 * size, inputs + size), np.float32)
        joint[:-size, :inputs] = w["weight_ih"]
        joint[size:, inputs:] = w["weight_hh"]
        bias = np.zeros(4 * size, np.float32)
        bias[:-size] += w["bias_ih"]
        bias[size:] += w["bias_hh"]
        return w | {"joint": joint, "joint_bias": bias}

    def set_products(self, w: Tensors, h: Floats) -> None:
        """Make ready to move from ``h`` with weights that :meth:`arranged` returned."""
        lanes, size = h.shape
        self.input, self.bias = w["weight_ih"].T, w["bias_ih"]
        self.recurrent, self.own_bias = w["weight_hh"].T, w["bias_hh"]
        self.is_joint = lanes == 1 and "joint" in w
        self.a = np.empty((lanes, (4 if self.is_joint else 3) * size), np.float32)
        self.of_state = self.a[:, -3 * size :]
        self.rz, self.n = self.of_state[:, : 2 * size], self.of_state[:, 2 * size :]
        self.h = h
        if self.is_joint:
            self.joint, self.joint_bias = w["joint"].T, w["joint_bias"]
            self.both, self.x, self.h = side_by_side(len(self.joint), h)

    def project(self, x: Floats) -> Floats:
        """See :class:`Kernel`."""
        return x @ self.input + self.bias

    def move(self, projected: Floats) -> None:
        """See :class:`Kernel`."""
        size = self.n.shape[1]
        np.dot(self.h, self.recurrent, out=self.of_state)
        self.of_state += self.own_bias
        self.rz += projected[:, size:]
        self.activate(projected[:, :size])

    def feed(self, x: Floats) -> None:
        """See :class:`Kernel`."""
        if self.is_joint:
            self.x[:] = x
            np.dot(self.both, self.joint, out=self.a)
            self.a += self.joint_bias
            self.activate(self.a[:, : self.n.shape[1]])
        else:
            self.move(self.project(x))

    def activate(self, x_n: Floats) -> None:
        """Move the state, given ``rz``, ``n`` and what n has of the input (B, H)."""
        raise NotImplementedError  # pragma: no cover


class GRUKernel(Apart, Kernel):
    """See ``cells.GRU``."""

    def __init__(self, cell: Cell, w: Tensors, state: State):
        super().__init__(cell, w, state)
        self.set_products(w, self.state[0])
        self.state = (self.h,)
        self.r, self.z = split(self.rz, 2)

    @classmethod
    def prepared(cls, w: Tensors, *, upper: bool) -> Tensors:
        """See :class:`Kernel`."""
        ordered = {name: by_gate(rows, (0, 1, 2), 2) for name, rows in w.items()}
        return cls.arranged(ordered, upper=upper)

    def activate(self, x_n: Floats) -> None:
        """See :class:`Apart`."""
        h = self.h
        np.tanh(self.rz, out=self.rz)
        sigmoids(self.rz)
        self.n *= self.r
        self.n += x_n
        np.tanh(self.n, out=self.n)
        h -= self.n  # h' = n + z (h - n)
        h *= self.z
        h += self.n


KERNELS: dict[Cell, type[Kernel]] = {
    RNN(): RNNKernel,
    RNN(nonlinearity="relu"): RNNKernel,
    LSTM(): LSTMKernel,
    LSTM(coupled_gates=True): CoupledLSTMKernel,
    GRU(): GRUKernel,
}
