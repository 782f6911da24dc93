"""The network stepped in numpy: no torch, starts at once.

torch repacks its weights at every call, which for one character at a time costs far more than the
arithmetic. Here a step is little more than reading every weight once. The input product of layer 0
has only V values, so it is a table (V, P). How a layer is stepped is in
:mod:`charlm.inference.kernels`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.cells import Attention, Cell
from charlm.cells.base import State
from charlm.config import ModelConfig, SampleConfig
from charlm.inference.attention import AttentionKernel
from charlm.inference.kernels import KERNELS, Kernel
from charlm.inference.sampling import Doubles, silent, surprisal, unnormalized
from charlm.tensor_file import Floats, Tensors


def kernel_of(cell: Cell) -> type[Kernel]:
    """Return the fastest kernel of a cell."""
    return AttentionKernel if isinstance(cell, Attention) else KERNELS.get(cell, Kernel)


class RandomNumbers(Protocol):
    """A source of random numbers for each of some samples."""

    def random(self, count: int) -> Doubles:
        """Return the next numbers from [0, 1) of each sample (B, count)."""


class Generators:
    """The generators of numpy for some samples."""

    def __init__(self, seed: int, samples: Sequence[int]):
        self.generators = [np.random.default_rng([seed, sample]) for sample in samples]

    def random(self, count: int) -> Doubles:
        """See :class:`RandomNumbers`."""
        return np.array([generator.random(count) for generator in self.generators])


class Engine:
    """The language model of ``config`` with ``weights``.

    Args:
        config: what the model computes.
        weights: the parameters that ``config.parameter_shapes`` lists, float32.
        line_end: the id of the line end if the model is one of items, see ``data.items``: what
            reads it begins again in the initial state.
        implementation: ``"fused"`` for the kernel of the cell, if it has one; ``"reference"`` for
            its equations.
    """

    exact: ClassVar[bool] = False  # whether the same bits are promised however a text is read

    def __init__(
        self,
        config: ModelConfig,
        weights: Tensors,
        *,
        line_end: int | None = None,
        implementation: str = "fused",
    ):
        self.config = config
        self.line_end = line_end
        self.cells: tuple[Cell, ...] = config.cells
        self.fused = implementation == "fused"
        parts = [
            {name: weights[f"backbone.layers.{k}.{name}"] for name in config.layer_parameters(k)}
            for k in range(len(config.cells))
        ]
        with silent():
            self._prepare(weights, parts)
        self.head_weight = weights["embedding.weight" if config.tie_weights else "head.weight"]
        self.head_bias = weights["head.bias"]

    def _prepare(self, weights: Tensors, parts: list[Tensors]) -> None:
        """Set kernel, layers and table, from the weights of all and those of each layer."""
        self.kinds = [kernel_of(cell) if self.fused else Kernel for cell in self.cells]
        self.layers = [
            kind.prepared(part, upper=k > 0)
            for k, (kind, part) in enumerate(zip(self.kinds, parts, strict=True))
        ]
        first, *_ = self.kernels(self.initial_state(1))
        # (V, P): the input product of layer 0
        self.table: Floats = first.project(weights["embedding.weight"])

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any character: arrays (L, B, ...) of zeros."""
        shapes = self.config.state_shapes(batch_size).values()
        return tuple(np.zeros(shape, np.float32) for shape in shapes)

    def stepper(self, state: State) -> "Stepper":
        """Return B sequences that go on from ``state``, arrays (L, B, ...), which is copied."""
        return Stepper(self, state)

    def step(self, ids: NDArray[Any], state: State) -> tuple[Floats, State]:
        """Read one character of each sequence: ids (B,) -> logits (B, V), next state."""
        stepper = self.stepper(state)
        return stepper.step(ids), stepper.state

    def kernels(self, state: State) -> list[Kernel]:
        """Return a kernel for each layer, at ``state``."""
        states = self.config.layer_states(state)
        layers = zip(self.kinds, self.cells, self.layers, states, strict=True)
        return [kind(cell, w, before) for kind, cell, w, before in layers]

    def predict(self, y: Floats, out: Floats | None = None) -> Floats:
        """Return the logits (..., V) for outputs of the backbone (..., output size), in ``out``."""
        logits = np.dot(y, self.head_weight.T, out=out)
        logits += self.head_bias
        return logits

    def weights(self, logits: NDArray[Any], config: SampleConfig) -> Doubles:
        """Return weights to draw the next characters by, see ``sampling.unnormalized``."""
        return unnormalized(logits, config)

    def surprisal(self, logits: NDArray[Any], ids: NDArray[Any]) -> Doubles:
        """Return -log p of characters ``ids`` (...), in nats, for logits (..., V)."""
        return surprisal(logits, ids)

    def generator(self, seed: int, samples: Sequence[int]) -> RandomNumbers:
        """Return the random numbers that samples are drawn with, each with those of its own."""
        return Generators(seed, samples)


class Stepper:
    """B sequences, stepped side by side in place: what a call returns the next one overwrites."""

    def __init__(self, engine: Engine, state: State):
        self.engine = engine
        self.kernels = engine.kernels(state)
        vocab_size, _ = engine.head_weight.shape
        count = state[0].shape[1]
        self.logits = np.empty((count, vocab_size), np.float32)

    @property
    def state(self) -> State:
        """A copy of the state, arrays (L, B, ...)."""
        return self.engine.config.whole_state([k.state for k in self.kernels], np.stack)

    def step(self, ids: NDArray[Any]) -> Floats:
        """Read one character of each sequence: ids (B,) -> logits (B, V) of the next."""
        if self.engine.line_end is not None:
            for kernel in self.kernels:
                kernel.reset(ids == self.engine.line_end)
        first, *others = self.kernels
        first.move(self.engine.table[ids])
        x = first.output  # (B, H)
        for layer, kernel in enumerate(others, 1):
            kernel.feed(x)
            x = self.engine.config.passed_on(np, layer, x, kernel.output)
        return self.engine.predict(x, self.logits)

    def read(self, ids: NDArray[Any]) -> Floats:
        """Read a window: ids (B, T) -> outputs of the backbone (B, T, output size).

        Of a model of items, a line end may be only the first character, in the initial state.

        Layer by layer, so that the input product of a layer is one for the whole window.
        """
        first, *others = self.kernels
        x = first.read(self.engine.table[ids.T])  # (T, B, H)
        for layer, kernel in enumerate(others, 1):
            y = kernel.read(kernel.project(x))
            x = self.engine.config.passed_on(np, layer, x, y)
        return x.swapaxes(0, 1)

    def predict(self, y: Floats) -> Floats:
        """Return the logits (..., V) that outputs of the backbone (..., output size) stand for."""
        return self.engine.predict(y)
