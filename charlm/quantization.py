"""Weights of 8 bits: whole numbers from -127 to 127 times one power of two for each row.

Biases become multiples of ``2 ** -BIAS_BITS``. Rounding a second time changes nothing.
"""

from pathlib import Path

import numpy as np

from charlm.errors import CheckpointError
from charlm.tensor_file import Floats, Integers, Tensors

MOST = 127  # the largest whole number of a weight
FINEST = 10  # no weight is finer than 2 ** -FINEST, so no sum is finer than with that weight
COARSEST = -100  # no weight is larger than MOST * 2 ** -COARSEST, which float32 still has
BIAS_BITS = 12


def exponents(matrix: Floats) -> Integers:
    """Return for each row (...) of a matrix (..., C) the k of its unit 2 ** -k."""
    most = np.abs(matrix).max(axis=-1)
    k = 7 - np.frexp(most)[1]  # so that the largest one is from 64 to 128
    k = np.where(np.rint(np.ldexp(most, k)) > MOST, k - 1, k)
    result: Integers = np.clip(k, COARSEST, FINEST).astype(np.int8)
    return result


def whole(matrix: Floats) -> tuple[Integers, Integers]:
    """Return a matrix (..., C) as whole numbers, and the exponents (...) of its rows."""
    k = exponents(matrix)
    numbers = np.rint(np.ldexp(matrix, k[..., None].astype(np.int32)))
    return np.clip(numbers, -MOST, MOST).astype(np.int8), k


def values(numbers: Integers, k: Integers) -> Floats:
    """Return the matrix that :func:`whole` made whole numbers of, as float32."""
    return np.ldexp(numbers.astype(np.float32), -k[..., None].astype(np.int32))


def read_values(numbers: Integers, k: Integers, path: Path) -> Floats:
    """Return :func:`values` of what a file holds; CheckpointError if a unit is out of range."""
    if k.min() < COARSEST or k.max() > FINEST:
        raise CheckpointError(f"{path} is no model that charlm wrote: a unit is out of range")
    return values(numbers, k)


def rounded(weights: Tensors) -> Tensors:
    """Return weights as the network in whole numbers has them, still as float32."""
    result = {}
    for name, array in weights.items():
        if array.ndim > 1:
            result[name] = values(*whole(array))
        else:
            scale = np.float32(2**BIAS_BITS)
            with np.errstate(over="ignore"):  # what is infinite then is refused as too large
                result[name] = np.rint(array * scale) / scale
    return result
