"""The network stepped in whole numbers: the engine of :mod:`charlm.inference`, with exact sums.

Every matrix product takes whole numbers: weights as :mod:`charlm.quantization` rounds
them, and activations in units of ``2 ** -bits``. All else is plain float32 arithmetic in the order
in which the cell states it, with the functions of :mod:`charlm.integer.functions`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.cells import Attention, Cell
from charlm.cells.base import State
from charlm.config import ModelConfig, SampleConfig
from charlm.inference.engine import Engine
from charlm.inference.kernels import Kernel
from charlm.inference.sampling import Doubles, check_finite, filtered, likeliest
from charlm.integer import functions
from charlm.integer.attention import ExactAttention
from charlm.integer.bounds import LARGEST_SUM, activation_bits
from charlm.integer.kernels import EXACT_KERNELS, ExactKernel, Matrix
from charlm.integer.random import Generator
from charlm.quantization import rounded
from charlm.tensor_file import Floats, Tensors

TABLE_BITS = 12  # of the input product of layer 0, after the point


def exact_kernel_of(cell: Cell, *, fused: bool = True) -> type[ExactKernel]:
    """Return the kernel of a cell: the fastest one, or that of its equations."""
    if isinstance(cell, Attention):
        return ExactAttention
    return EXACT_KERNELS.get(cell, ExactKernel) if fused else ExactKernel


class ExactEngine(Engine):
    """The language model of ``config`` with ``weights``, rounded to whole numbers.

    See :class:`charlm.inference.engine.Engine` for the arguments.

    Raises:
        ConfigError: if its layers are too wide for exact sums, or its cell uses what is not exact.
    """

    exact = True

    def __init__(
        self,
        config: ModelConfig,
        weights: Tensors,
        *,
        line_end: int | None = None,
        implementation: str = "fused",
    ):
        weights = rounded(weights)
        self.bits = activation_bits(config, weights)
        super().__init__(config, weights, line_end=line_end, implementation=implementation)
        self.head = Matrix(self.head_weight, self.bits)

    def _prepare(self, weights: Tensors, parts: list[Tensors]) -> None:
        self.exact_kinds = [exact_kernel_of(cell, fused=self.fused) for cell in self.cells]
        self.bounded = all(kind.bounded for kind in self.exact_kinds)
        self.layers = [
            kind.prepared(_exact(part, self.bits), upper=k > 0)
            for k, (kind, part) in enumerate(zip(self.exact_kinds, parts, strict=True))
        ]
        scale = np.float32(2**TABLE_BITS)
        first, *_ = self.exact_kinds
        projected = self.cells[0].project(weights["embedding.weight"], _exact(parts[0], None))
        projected = np.rint(projected * scale) / scale
        if first.bounded:  # beyond it each gate is at its limit, and a cast could overflow
            projected = np.clip(projected, -LARGEST_SUM, LARGEST_SUM)
        self.table = first.of_table(projected, self.layers[0])

    def kernels(self, state: State) -> list[Kernel]:
        """See :class:`Engine`."""
        states = self.config.layer_states(state)
        layers = zip(self.exact_kinds, self.cells, self.layers, states, strict=True)
        return [kind(cell, w, before, self.bits) for kind, cell, w, before in layers]

    def predict(self, y: Floats, out: Floats | None = None) -> Floats:
        """See :class:`Engine`; ``y`` is in units of ``2 ** -bits``."""
        if self.bounded:
            result = np.dot(y, self.head.scaled, out=out)
        else:
            result = (y * np.float32(2.0**-self.bits)) @ self.head.T
            if out is not None:
                out[:] = result
                result = out
        result += self.head_bias
        return result

    def weights(self, logits: NDArray[Any], config: SampleConfig) -> Doubles:
        """See :class:`Engine`; they are whole numbers, so their sums are exact."""
        best = np.maximum.reduce(logits, axis=1, keepdims=True)
        if not self.bounded:
            check_finite(best)
        if config.temperature == 0:
            return likeliest(logits)
        gaps = best - logits.astype(np.float64)
        return filtered(functions.weights(gaps, 1 / config.temperature), logits, config)

    def surprisal(self, logits: NDArray[Any], ids: NDArray[Any]) -> Doubles:
        """See :class:`Engine`."""
        gaps = logits.max(axis=-1, keepdims=True).astype(np.float64) - logits
        picked = np.take_along_axis(gaps, np.asarray(ids, np.intp)[..., None], axis=-1)[..., 0]
        sums: Doubles = functions.weights(gaps).sum(axis=-1)
        result: Doubles = functions.log(sums * 2.0**-functions.WEIGHT_BITS) + picked
        return result

    def generator(self, seed: int, samples: Sequence[int]) -> Generator:
        """See :class:`Engine`."""
        return Generator(seed, samples)


def _exact(w: Tensors, bits: int | None) -> dict[str, Any]:
    return {name: Matrix(a, bits) if a.ndim > 1 else a for name, a in w.items()}
