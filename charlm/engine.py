"""The model stepped in numpy: no torch, starts at once.

It runs the very equations of ``cells``. torch repacks its weights at every call, which for one
character at a time costs far more than the arithmetic.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import Tensors
from charlm.config import ModelConfig

State = tuple[NDArray[np.float32], ...]


class Engine:
    """The language model of ``config`` with ``weights``, a :class:`charlm.generation.Stepper`.

    Args:
        config: what the model computes.
        weights: the parameters that ``config.parameter_shapes`` lists, float32.
    """

    def __init__(self, config: ModelConfig, weights: Tensors):
        self.config = config
        self.cell = config.cell
        names = self.cell.shapes(config.input_size(0), config.hidden_size)
        self.layers = [
            {name: weights[f"backbone.layers.{layer}.{name}"] for name in names}
            for layer in range(config.num_layers)
        ]
        embedding = weights["embedding.weight"]
        self.table = self.cell.project(embedding, self.layers[0])  # (V, G*H), of layer 0
        self.head_weight = embedding if config.tie_weights else weights["head.weight"]
        self.head_bias = weights["head.bias"]

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any character: arrays (L, B, H) of zeros."""
        shape = (self.config.num_layers, batch_size, self.config.hidden_size)
        return tuple(np.zeros(shape, np.float32) for _ in self.cell.state_names)

    def step(self, ids: NDArray[Any], state: State) -> tuple[NDArray[np.float32], State]:
        """Read one character per lane: ids (B,) -> logits (B, V) of the next one, next state."""
        first, *others = self.layers
        after = [self.cell.step(np, self.table[ids], tuple(s[0] for s in state), first)]
        x = after[0][0]  # (B, H)
        for layer, w in enumerate(others, start=1):
            projected = self.cell.project(x, w)  # (B, G*H)
            after.append(self.cell.step(np, projected, tuple(s[layer] for s in state), w))
            x = x + after[-1][0] if self.config.residual else after[-1][0]
        logits = x @ self.head_weight.T + self.head_bias  # (B, V)
        return logits, tuple(np.stack(arrays) for arrays in zip(*after, strict=True))
