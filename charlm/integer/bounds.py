"""How many bits of an activation keep every sum of the network exact."""

import math

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.quantization import BIAS_BITS, exponents
from charlm.tensor_file import Floats, Tensors

MOST_ACTIVATION_BITS, LEAST_ACTIVATION_BITS = 8, 4
EXACT_SUM = 2.0**24  # whole numbers up to it are exact in float32
LARGEST_SUM = EXACT_SUM * 2.0**-BIAS_BITS  # larger ones are too large for the unit of a bias
MARGIN = 32.0  # beside the sums: the places in a table, see ``functions.CENTER``


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
    units: dict[int, NDArray[np.float64]] = {}  # of the weights
    for array in arrays:
        rows = len(array)
        size = np.abs(array.astype(np.float64))
        if array.ndim > 1:
            unit = np.ldexp(1.0, -exponents(array).reshape(rows, -1).max(axis=1).astype(np.int32))
            units[rows] = np.minimum(units.get(rows, 1.0), unit)
            size = bound * size.reshape(rows, -1).sum(axis=1)
        sizes[rows] = sizes.get(rows, MARGIN) + size
    if max(size.max() for size in sizes.values()) > LARGEST_SUM:
        return 1.0
    room = (float((EXACT_SUM * unit / sizes[rows]).min()) for rows, unit in units.items())
    return min(room, default=EXACT_SUM)  # of a cell without a matrix
