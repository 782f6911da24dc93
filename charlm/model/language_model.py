"""The language model: embedding, backbone, linear head."""

import numpy as np
import torch
from torch import Tensor, nn

from charlm.cells.base import State
from charlm.config import ModelConfig
from charlm.model.device import torch_threads
from charlm.model.layers import Backbone, locked_dropout


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Draw nothing: :class:`CharLM` does, with a generator of its own."""


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Draw nothing: :class:`CharLM` does, with a generator of its own."""


class CharLM(nn.Module):
    """A character-level language model: (ids (B, T), state) -> (logits (B, T, V), state).

    Its parameters are those that ``config.parameter_shapes(vocab_size)`` lists.

    Args:
        config: what the model computes.
        vocab_size: the number of symbols (V).
        implementation: ``"fused"`` or ``"reference"``, see :mod:`charlm.model.layers`.
        seed: of the initial weights; torch's global generator is neither read nor changed.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        *,
        implementation: str = "fused",
        seed: int = 0,
    ):
        super().__init__()
        self.config = config
        self.embedding = _Embedding(vocab_size, config.embedding_size)
        self.backbone = Backbone(config, implementation)
        self.head = _Linear(config.output_size, vocab_size)
        if config.tie_weights:
            self.head.weight = self.embedding.weight
        with torch_threads(1):  # the last bits of an orthogonal matrix depend on their number
            self.reset_parameters(torch.Generator().manual_seed(seed))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights anew; the first prediction is then close to uniform."""
        self.backbone.reset_parameters(generator)
        nn.init.xavier_uniform_(self.head.weight, generator=generator)
        nn.init.zeros_(self.head.bias)
        if not self.config.tie_weights:  # where they are tied, the scale of the head counts
            nn.init.normal_(self.embedding.weight, generator=generator)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any character: tensors (L, B, ...) of zeros."""
        return self.backbone.initial_state(batch_size)

    def forward(
        self, ids: Tensor, state: State, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """Read a window.

        Args:
            ids: characters (B, T), int64.
            state: tensors (L, B, ...), from :meth:`initial_state` or from the window before.
            generator: draws the dropout masks in training mode; None is torch's global one.

        Returns:
            The logits (B, T, V) of the character after each one read, and the next state.
        """
        share, processes = self.config.dropout if self.training else 0.0, self.backbone.processes
        x = self.embedding(ids)  # (B, T, E)
        if share:
            # Half of it, as a character at the input has no stand-in.
            x = locked_dropout(x, share / 2, generator, processes)
        y, state = self.backbone(x, state, generator)  # (B, T, output size)
        if share:
            y = locked_dropout(y, share, generator, processes)
        return self.head(y), state

    def weights(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters by name, float32, on the CPU; a tied one stands once."""
        return {
            name: parameter.detach().float().cpu().numpy().copy()
            for name, parameter in self.named_parameters()
        }

    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Take over the parameters that :meth:`weights` returned."""
        parameters = dict(self.named_parameters())
        assert parameters.keys() == weights.keys()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(weights[name]))
