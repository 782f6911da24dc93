"""Recurrent stacks: (x, state) -> (y, state).

A stack is L layers of one cell, each its own module, with dropout between them and, from the second
layer on, a residual path around each (Kim et al. 2017, arXiv:1701.03360). There are two *hows* of a
layer, over the same parameters: ``fused`` calls the fastest loop that there is, one of torch's or,
on a CPU, one of ``windows``; ``reference`` loops over the equations of ``cells``. A cell without a
fused loop always takes the reference.

State is a tuple of tensors (L, B, H), passed in and handed back, never kept in a module.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.processes import Processes
from charlm.windows import WINDOWS

State = tuple[Tensor, ...]
ALONE = Processes()
HOWS = ("fused", "reference")

# torch's own loops, by backbone and nonlinearity: (x, state, weights, ...) -> (y, next state).
KERNELS: dict[tuple[str, str], Callable[..., tuple[Tensor, ...]]] = {
    ("rnn", "tanh"): torch.rnn_tanh,
    ("rnn", "relu"): torch.rnn_relu,
    ("lstm", "tanh"): torch.lstm,
    ("gru", "tanh"): torch.gru,
}


def dropped(
    x: Tensor,
    share: float,
    generator: torch.Generator | None,
    processes: Processes = ALONE,
) -> Tensor:
    """Return ``x`` (B, T, H) with ``share`` of its units dropped, the others scaled up.

    One mask (B, 1, H) holds for the whole window ("locked" or variational dropout). The masks of
    all processes are drawn in each of them, so that a lane has its own wherever it is.

    Source: Gal and Ghahramani (2016), arXiv:1512.05287.
    """
    lanes = x.shape[0] * processes.size
    mask = torch.empty(lanes, 1, x.shape[2], device=x.device, dtype=torch.float32)
    mask.bernoulli_(1 - share, generator=generator).div_(1 - share)
    return x * mask[processes.lanes(lanes)].to(x.dtype)


def drop_connect(weight: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Return ``weight`` with ``share`` of its entries dropped, the others scaled up (DropConnect).

    The share is rounded to one in 256: whether an entry is dropped takes one random byte.

    Source: Wan et al. (2013), Regularization of neural networks using DropConnect; on recurrent
    matrices Merity et al. (2017), arXiv:1708.02182.
    """
    bound = round(256 * share)
    words = torch.empty((weight.numel() + 7) // 8, device=weight.device, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    kept = words.view(torch.uint8)[: weight.numel()].view(weight.shape) >= bound
    return weight * kept * (256 / (256 - bound))


class Layer(nn.Module):
    """One recurrent layer: (x (B, T, I), state of (B, H)) -> (y (B, T, H), state of (B, H))."""

    def __init__(self, config: ModelConfig, input_size: int, how: str):
        super().__init__()
        self.cell = config.cell
        loop = (config.backbone, config.nonlinearity)
        self.kernel = KERNELS.get(loop) if how == "fused" else None
        self.window = WINDOWS.get(loop) if how == "fused" else None
        for name, shape in self.cell.shapes(input_size, config.hidden_size).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights: Glorot at the input, orthogonal recurrent matrices, gate by gate.

        Biases are 0, but that of a forget gate is 1: Gers et al. (2000), Jozefowicz et al. (2015).
        Orthogonal matrices: Saxe et al. (2013), arXiv:1312.6120.
        """
        count = len(self.cell.gates)
        for name, parameter in self.named_parameters():
            for gate, block in zip(self.cell.gates, parameter.chunk(count), strict=True):
                if name == "weight_ih":
                    nn.init.xavier_uniform_(block, generator=generator)
                elif name == "weight_hh":
                    nn.init.orthogonal_(block, generator=generator)
                else:
                    nn.init.constant_(block, float((name, gate) == ("bias_ih", "f")))

    def forward(
        self, x: Tensor, state: State, share: float, generator: torch.Generator | None
    ) -> tuple[Tensor, State]:
        """Run over a window, with ``share`` of the recurrent matrix dropped; see the class."""
        weights: dict[str, Tensor] = dict(self.named_parameters())
        if share:
            weights["weight_hh"] = drop_connect(weights["weight_hh"], share, generator)
        if self.window is not None and x.device.type == "cpu":
            return self.window(x, state, weights)
        if self.kernel is not None:
            return self._kernel(x, state, weights)
        projected = self.cell.project(x, weights)  # (B, T, G*H)
        outputs = []
        for t in range(x.shape[1]):
            state = self.cell.step(torch, projected[:, t], state, weights)
            outputs.append(state[0])
        return torch.stack(outputs, dim=1), state

    def _kernel(self, x: Tensor, state: State, weights: dict[str, Tensor]) -> tuple[Tensor, State]:
        assert self.kernel is not None
        before: Any = tuple(s.unsqueeze(0) for s in state)  # one layer: (1, B, H) each
        if len(before) == 1:
            before = before[0]
        # The rest: with biases, one layer, no dropout of torch's, whether to keep what the way back
        # needs (cuDNN asks for it in the disguise of training mode), one direction, batch first.
        rest = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        y, *after = self.kernel(x, before, list(weights.values()), *rest)
        return y, tuple(s.squeeze(0) for s in after)


class Backbone(nn.Module):
    """A stack of layers: (x (B, T, E), state) -> (y (B, T, H), state)."""

    processes = ALONE

    def __init__(self, config: ModelConfig, how: str):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            Layer(config, config.input_size(layer), how) for layer in range(config.num_layers)
        )

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.reset_parameters(generator)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any character: tensors (L, B, H) of zeros."""
        like = next(self.parameters())
        shape = (self.config.num_layers, batch_size, self.config.hidden_size)
        return tuple(like.new_zeros(shape) for _ in self.config.cell.state_names)

    def forward(
        self, x: Tensor, state: State, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """Run the stack over a window; ``generator`` draws what is dropped in training mode."""
        share = self.config.dropout if self.training else 0.0
        of_weights = self.config.weight_drop if self.training else 0.0
        layer_states = []
        for index, layer in enumerate(self.layers):
            inside = dropped(x, share, generator, self.processes) if share and index > 0 else x
            before = tuple(s[index] for s in state)
            y, layer_state = layer(inside, before, of_weights, generator)
            x = x + y if index > 0 and self.config.residual else y
            layer_states.append(layer_state)
        return x, tuple(torch.stack(s) for s in zip(*layer_states, strict=True))


def build(config: ModelConfig, *, how: str = "fused") -> Backbone:
    """Return the stack of ``config``, its weights not drawn yet; ``how`` is one of ``HOWS``."""
    assert how in HOWS, how
    return Backbone(config, how)
