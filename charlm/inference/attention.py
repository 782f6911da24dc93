"""The attention in numpy, moved in place; the equations are those of ``cells.Attention``."""

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from charlm.cells import Cell
from charlm.cells.attention import SIZE
from charlm.cells.base import State, split
from charlm.inference.kernels import Kernel
from charlm.tensor_file import Floats

BLOCK = 64  # characters at a time, of a window


class AttentionKernel(Kernel):
    """See :class:`Kernel`.

    There is room for more keys and values than are looked at, so that new ones are put behind the
    others, and all are moved to the front only once in a while.
    """

    dtype: Any = np.float32  # of keys and values

    def __init__(self, cell: Cell, w: Any, state: State):
        self.cell, self.w = cell, w
        self.y, keys, values = (array.copy() for array in state)
        self.window = keys.shape[1]
        room = np.zeros((len(keys), self.window + BLOCK, SIZE), self.dtype)
        self.keys = np.concatenate([self.kept(keys), room], 1)
        self.values = np.concatenate([self.kept(values), room], 1)
        self.end = self.window  # of the keys and values that there are

    @classmethod
    def prepared(cls, w: Any, *, upper: bool) -> Any:
        """See :class:`Kernel`."""
        beyond = np.full(BLOCK - 1, -math.inf, np.float32)
        return {**w, "padded": np.concatenate([beyond, w["bias"], beyond])}

    def kept(self, array: Floats) -> NDArray[Any]:
        """Return keys or values (B, T, D) as they are kept here."""
        return array

    def given(self, array: NDArray[Any]) -> Floats:
        """Return what :meth:`kept` was given."""
        return array

    @property
    def state(self) -> State:
        """The state, arrays (B, ...)."""
        last = slice(self.end - self.window, self.end)
        return self.y, self.given(self.keys[:, last]), self.given(self.values[:, last])

    @state.setter
    def state(self, state: State) -> None:
        raise AttributeError("a kernel is moved, not set")

    @property
    def output(self) -> Floats:
        """See :class:`Kernel`."""
        return self.y  # type: ignore[no-any-return]

    def reset(self, rows: NDArray[np.bool_]) -> None:
        """See :class:`Kernel`."""
        for array in (self.y, self.keys, self.values):
            array[rows] = 0

    def move(self, projected: Floats) -> None:
        """See :class:`Kernel`."""
        self._read(projected[None], self.w["bias"])

    def read(self, projected: Floats) -> Floats:
        """See :class:`Kernel`."""
        padded, found = self.w["padded"], []
        for start in range(0, len(projected), BLOCK):
            block = projected[start : start + BLOCK]
            beyond = BLOCK - len(block)
            biases = sliding_window_view(padded[beyond:], self.window + len(block) - 1)
            found.append(self._read(block, biases[len(block) - 1 :: -1]))
        return np.concatenate(found)

    def _read(self, projected: Floats, bias: Floats) -> Floats:
        """Read some characters: q, k, v (T, B, 3D) and bias (T, N + T - 1) -> y (T, B, D)."""
        count = len(projected)
        if self.end + count > self.keys.shape[1]:
            for array in (self.keys, self.values):
                array[:, : self.window] = array[:, self.end - self.window : self.end]
            self.end = self.window
        q, k, v = split(projected.swapaxes(0, 1), 3)  # (B, T, D)
        begin, self.end = self.end - self.window, self.end + count
        self.keys[:, self.end - count : self.end] = self.kept(k)
        self.values[:, self.end - count : self.end] = self.kept(v)
        # The step t looks at the keys begin + t to begin + t + N - 1, the values one further on.
        keys, values = self.keys[:, begin : self.end - 1], self.values[:, begin + 1 : self.end]
        y = self.attend(q * np.float32(SIZE**-0.5), keys, values, bias)
        self.y = y[:, -1]
        return y.swapaxes(0, 1)

    def attend(self, q: Floats, keys: NDArray[Any], values: NDArray[Any], bias: Floats) -> Floats:
        """Return what queries (B, T, D) find by keys in values (B, M, D), with bias (T, M)."""
        a = q @ keys.swapaxes(1, 2)  # (B, T, M)
        a += bias
        a -= a.max(-1, keepdims=True)
        np.exp(a, out=a)
        y: Floats = a @ values
        y /= a.sum(-1, keepdims=True)
        return y
