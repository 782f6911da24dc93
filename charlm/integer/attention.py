"""The attention in whole numbers, see ``cells.Attention`` and :mod:`charlm.integer`.

Queries, keys and values are multiples of ``2 ** -ATTENTION_BITS`` below ``LARGEST``, and what the
values are multiplied with are whole numbers up to ``2 ** SHARE_BITS``. So all sums are exact in
float64: of 64 products of two numbers of 20 bits, and of 8,192 products of 17 and 20 bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.cells import Cell
from charlm.cells.base import State
from charlm.inference.attention import AttentionKernel
from charlm.inference.sampling import Doubles
from charlm.integer import functions
from charlm.integer.kernels import ExactKernel
from charlm.tensor_file import Floats

ATTENTION_BITS, SHARE_BITS = 12, 16
LARGEST = 128.0
UNITS = 2.0**ATTENTION_BITS


def _whole(array: NDArray[Any]) -> Doubles:
    """Return numbers in units of ``2 ** -ATTENTION_BITS``."""
    units: Doubles = np.rint(array.astype(np.float64) * UNITS)
    return np.clip(units, -LARGEST * UNITS, LARGEST * UNITS)


class ExactAttention(AttentionKernel, ExactKernel):
    """The attention; keys and values are kept in units."""

    dtype = np.float64

    def __init__(self, cell: Cell, w: Any, state: State, bits: int):
        super().__init__(cell, w, state)
        self.units = np.float32(2.0**bits)

    def kept(self, array: Floats) -> Doubles:
        """See :class:`AttentionKernel`."""
        return _whole(array)

    def given(self, array: Doubles) -> Floats:
        """See :class:`AttentionKernel`."""
        return (array / UNITS).astype(np.float32)

    @property
    def output(self) -> Floats:
        """See :class:`ExactKernel`."""
        return np.rint(self.y * self.units)  # type: ignore[no-any-return]

    def read(self, projected: Floats) -> Floats:
        """See :class:`ExactKernel`."""
        return np.rint(super().read(projected) * self.units)  # type: ignore[no-any-return]

    def attend(self, q: Floats, keys: Doubles, values: Doubles, bias: Floats) -> Floats:
        """See :class:`AttentionKernel`."""
        scores = _whole(q) @ keys.swapaxes(1, 2)  # (B, T, M)
        scores /= UNITS**2
        scores += bias
        gaps = scores.max(-1, keepdims=True) - scores
        shares = np.floor(functions.weights(gaps) * 2.0 ** (SHARE_BITS - functions.WEIGHT_BITS))
        y = shares @ values
        y /= shares.sum(-1, keepdims=True) * UNITS
        return y.astype(np.float32)
