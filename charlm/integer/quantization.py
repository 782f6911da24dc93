"""Weights of 8 bits, and how many bits of an activation keep every sum exact.

A row of a matrix becomes whole numbers from -127 to 127 times one power of two; biases become
multiples of ``2 ** -BIAS_BITS``. Rounding a second time changes nothing.
"""

import math

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.tensor_file import Floats, Tensors

MOST = 127  # the largest whole number of a weight
FINEST = 10  # no weight is finer than 2 ** -FINEST, so no sum than that of an activation too
BIAS_BITS = 12
MOST_ACTIVATION_BITS, LEAST_ACTIVATION_BITS = 8, 4
EXACT = 2.0**24  # whole numbers up to it are exact in float32
MARGIN = 32.0  # beside the sums: the places in a table, see ``functions.CENTER``


def exponents(matrix: Floats) -> NDArray[np.int8]:
    """Return for each row (...) of a matrix (..., C) the k of its unit 2 ** -k."""
    most = np.abs(matrix).max(axis=-1)
    k = 7 - np.frexp(most)[1]  # so that the largest one is from 64 to 128
    k = np.where(np.rint(np.ldexp(most, k)) > MOST, k - 1, k)
    return np.clip(k, -100, FINEST).astype(np.int8)


def whole(matrix: Floats) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Return a matrix (..., C) as whole numbers, and the exponents (...) of its rows."""
    k = exponents(matrix)
    return np.rint(np.ldexp(matrix, k[..., None].astype(np.int32))).astype(np.int8), k


def values(numbers: NDArray[np.int8], k: NDArray[np.int8]) -> Floats:
    """Return the matrix that :func:`whole` made whole numbers of, as float32."""
    return np.ldexp(numbers.astype(np.float32), -k[..., None].astype(np.int32))


def rounded(weights: Tensors) -> Tensors:
    """Return weights as the network in whole numbers has them, still as float32."""
    result = {}
    for name, array in weights.items():
        if array.ndim > 1:
            result[name] = values(*whole(array))
        else:
            scale = np.float32(2**BIAS_BITS)
            result[name] = np.rint(array * scale) / scale
    return result


def activation_bits(config: ModelConfig, weights: Tensors) -> int:
    """Return how many bits after the point an activation may have, so that all sums are exact.

    A sum is exact in float32 if the sizes of all that is added, in multiples of the finest unit
    among it, are below 2 ** 24 together. Outputs of a layer are taken to be within -1 and 1; for a
    cell that has others see ``engine.Matrix``.

    Args:
        config: of the model.
        weights: as :func:`rounded` returns them.

    Raises:
        ConfigError: if a layer is so wide that too few bits are left.
    """
    parts = [
        (
            [weights[f"backbone.layers.{layer}.{name}"] for name in config.layer_parameters(layer)],
            max(1, layer if config.residual else 1),
        )
        for layer in range(config.num_layers)
    ]
    head = weights["embedding.weight" if config.tie_weights else "head.weight"]
    parts.append(([head, weights["head.bias"]], config.num_layers if config.residual else 1))
    room = min(_room(arrays, bound) for arrays, bound in parts)
    bits = min(MOST_ACTIVATION_BITS, math.floor(math.log2(room)))
    if bits < LEAST_ACTIVATION_BITS:
        raise ConfigError(
            f"a model with layers of {config.hidden_size} units cannot be computed in whole "
            "numbers: their sums are too large"
        )
    return bits


def _room(arrays: list[Floats], bound: int) -> float:
    """Return how many units 1 may have in inputs of matrices that are added row by row."""
    sizes: dict[int, NDArray[np.float64]] = {}  # by the number of rows: all that is added
    units: dict[int, NDArray[np.float64]] = {}
    for array in arrays:
        rows = len(array)
        size, unit = np.abs(array.astype(np.float64)), np.full(rows, 2.0**-BIAS_BITS)
        if array.ndim > 1:
            unit = np.ldexp(1.0, -exponents(array).reshape(rows, -1).max(axis=1).astype(np.int32))
            size = bound * size.reshape(rows, -1).sum(axis=1)
        sizes[rows] = sizes.get(rows, MARGIN) + size
        units[rows] = np.minimum(units.get(rows, 1.0), unit)
    return min(float((EXACT * units[rows] / sizes[rows]).min()) for rows in sizes)
