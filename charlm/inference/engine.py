"""The network stepped in numpy: no torch, starts at once.

torch repacks its weights at every call, which for one character at a time costs far more than the
arithmetic. Here a step is little more than reading every weight once. The input product of layer 0
has only V values, so it is a table (V, P). How a layer is stepped is in
:mod:`charlm.inference.kernels`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.cells import Cell
from charlm.cells.base import State
from charlm.config import ModelConfig, SampleConfig
from charlm.inference.kernels import KERNELS, Kernel
from charlm.inference.sampling import Doubles, silent, surprisal, unnormalized
from charlm.tensor_file import Floats, Tensors


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
        self.cell: Cell = config.cell
        self.fused = implementation == "fused"
        parts = [
            {name: weights[f"backbone.layers.{k}.{name}"] for name in config.layer_parameters(k)}
            for k in range(config.num_layers)
        ]
        with silent():
            self._prepare(weights, parts)
        self.head_weight = weights["embedding.weight" if config.tie_weights else "head.weight"]
        self.head_bias = weights["head.bias"]

    def _prepare(self, weights: Tensors, parts: list[Tensors]) -> None:
        """Set kernel, layers and table, from the weights of all and those of each layer."""
        self.kernel = KERNELS.get(self.cell, Kernel) if self.fused else Kernel
        self.layers = [self.kernel.prepared(part, upper=k > 0) for k, part in enumerate(parts)]
        first = self.kernel(self.cell, self.layers[0], self._of_layer(self.initial_state(1), 0))
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
        return [
            self.kernel(self.cell, w, self._of_layer(state, layer))
            for layer, w in enumerate(self.layers)
        ]

    def predict(self, y: Floats, out: Floats | None = None) -> Floats:
        """Return the logits (..., V) for outputs of the backbone (..., H), in ``out`` if given."""
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

    @staticmethod
    def _of_layer(state: State, layer: int) -> State:
        return tuple(s[layer] for s in state)


class Stepper:
    """B sequences, stepped side by side in place: what a call returns the next one overwrites."""

    def __init__(self, engine: Engine, state: State):
        self.engine = engine
        self.kernels = engine.kernels(state)
        vocab_size, size = engine.head_weight.shape
        count = state[0].shape[1]
        self.x = np.empty((count, size), np.float32)
        self.logits = np.empty((count, vocab_size), np.float32)

    @property
    def state(self) -> State:
        """A copy of the state, arrays (L, B, ...)."""
        return tuple(np.stack(s) for s in zip(*(k.state for k in self.kernels), strict=True))

    def step(self, ids: NDArray[Any]) -> Floats:
        """Read one character of each sequence: ids (B,) -> logits (B, V) of the next."""
        if self.engine.line_end is not None:
            for kernel in self.kernels:
                kernel.reset(ids == self.engine.line_end)
        first, *others = self.kernels
        first.move(self.engine.table[ids])
        x = first.output  # (B, H)
        for kernel in others:
            kernel.feed(x)
            if self.engine.config.residual:
                x = np.add(x, kernel.output, out=self.x)
            else:
                x = kernel.output
        return self.engine.predict(x, self.logits)

    def read(self, ids: NDArray[Any]) -> Floats:
        """Read a window: ids (B, T) -> outputs of the backbone (B, T, H).

        Of a model of items, a line end may be only the first character, in the initial state.

        Layer by layer, so that the input product of a layer is one for the whole window.
        """
        x: Floats | None = None  # (T, B, H)
        for kernel in self.kernels:
            projected = self.engine.table[ids.T] if x is None else kernel.project(x)
            y = np.empty((*ids.T.shape, self.x.shape[1]), np.float32)
            for t, product in enumerate(projected):
                kernel.move(product)
                y[t] = kernel.output
            x = y if x is None or not self.engine.config.residual else x + y
        assert x is not None
        return x.swapaxes(0, 1)

    def predict(self, y: Floats) -> Floats:
        """Return the logits (..., V) that outputs of the backbone (..., H) stand for."""
        return self.engine.predict(y)
