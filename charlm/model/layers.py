"""Recurrent layers and their stack: (x, state) -> (y, state).

A stack is L layers of one cell, each its own module, with dropout between them and, from the second
layer on, a residual path around each (Kim et al. 2017, arXiv:1701.03360). An attention head on top
of them is a layer too, whose output goes on beside its input. A layer has two implementations over
the same parameters: ``"fused"`` runs the fastest loop that there is, see :mod:`charlm.model.fused`;
``"reference"`` loops over the equations of the cell. A cell without a fused loop always runs the
reference.

State is a tuple of tensors (L, B, ...), passed in and handed back, never kept in a module.
"""

import torch
from torch import Tensor, nn

from charlm.cells import Cell, Parameter
from charlm.cells.base import Init, State
from charlm.config import ModelConfig
from charlm.model.distributed import Processes
from charlm.model.fused import fused_loop

ALONE = Processes()
IMPLEMENTATIONS = ("fused", "reference")


def locked_dropout(
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

    The share is rounded to one in 256: on a CPU, whether an entry is dropped takes one random byte.

    Source: Wan et al. (2013), Regularization of neural networks using DropConnect; on recurrent
    matrices Merity et al. (2017), arXiv:1708.02182.
    """
    bound = round(256 * share)
    if weight.device.type == "cpu":
        words = torch.empty((weight.numel() + 7) // 8, dtype=torch.int64)
        words.random_(-(2**63), None, generator=generator)
        kept = words.view(torch.uint8)[: weight.numel()].view(weight.shape) >= bound
    else:  # Apple's GPUs do not draw from so wide a range, and for others it is no faster
        kept = torch.empty_like(weight).bernoulli_(1 - bound / 256, generator=generator)
    return weight * kept * (256 / (256 - bound))


def initialize(block: Tensor, init: Init, generator: torch.Generator) -> None:
    """Fill a block of a parameter with its initial values, see ``cells.base.Init``."""
    if init == "xavier_uniform":
        nn.init.xavier_uniform_(block, generator=generator)
    elif init == "orthogonal":
        nn.init.orthogonal_(block, generator=generator)
    elif init == "identity":
        nn.init.eye_(block)
    elif callable(init):
        with torch.no_grad():
            block.copy_(init(torch, torch.rand(block.shape, generator=generator)))
    else:
        nn.init.constant_(block, float(init))


class Layer(nn.Module):
    """One recurrent layer: (x (B, T, I), state of (B, ...)) -> (y (B, T, H), state of (B, ...)).

    Args:
        cell: the recurrence.
        parameters: its parameters by name.
        implementation: one of ``IMPLEMENTATIONS``.
    """

    def __init__(self, cell: Cell, parameters: dict[str, Parameter], implementation: str):
        super().__init__()
        self.cell = cell
        self.fused = implementation == "fused"
        self.declared = parameters
        for name, declared in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.empty(declared.shape)))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights as the cell declares them."""
        for name, parameter in self.named_parameters():
            inits = self.declared[name].init
            for init, block in zip(inits, parameter.chunk(len(inits)), strict=True):
                initialize(block, init, generator)

    def forward(
        self, x: Tensor, state: State, share: float, generator: torch.Generator | None
    ) -> tuple[Tensor, State]:
        """Run over a window, with ``share`` of the recurrent parameters dropped; see the class."""
        weights: dict[str, Tensor] = dict(self.named_parameters())
        for name, declared in self.declared.items() if share else ():
            if declared.recurrent:
                weights[name] = drop_connect(weights[name], share, generator)
        loop = fused_loop(self.cell, x.device.type) if self.fused else None
        if loop is not None:
            return loop(x, state, weights)
        projected = self.cell.project(x, weights)  # (B, T, P)
        outputs = []
        for t in range(x.shape[1]):
            state = self.cell.step(torch, projected[:, t], state, weights)
            outputs.append(state[0])
        return torch.stack(outputs, dim=1), state


class Backbone(nn.Module):
    """A stack of layers: (x (B, T, E), state) -> (y (B, T, output size), state).

    Args:
        config: what the model computes.
        implementation: one of ``IMPLEMENTATIONS``.
    """

    processes = ALONE

    def __init__(self, config: ModelConfig, implementation: str = "fused"):
        super().__init__()
        assert implementation in IMPLEMENTATIONS, implementation
        self.config = config
        self.layers = nn.ModuleList(
            Layer(cell, config.layer_parameters(layer), implementation)
            for layer, cell in enumerate(config.cells)
        )

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights again."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.reset_parameters(generator)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any character: tensors (L, B, ...) of zeros."""
        like = next(self.parameters())
        return tuple(map(like.new_zeros, self.config.state_shapes(batch_size).values()))

    def forward(
        self, x: Tensor, state: State, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """Run the stack over a window; ``generator`` draws what is dropped in training mode."""
        share = self.config.dropout if self.training else 0.0
        weight_share = self.config.weight_drop if self.training else 0.0
        layer_states = []
        befores = self.config.layer_states(state)
        for index, (layer, before) in enumerate(zip(self.layers, befores, strict=True)):
            # Not before the attention: keys of windows with other masks would not be comparable.
            dropout = share and 0 < index < self.config.num_layers
            inside = locked_dropout(x, share, generator, self.processes) if dropout else x
            y, layer_state = layer(inside, before, weight_share, generator)
            x = self.config.passed_on(torch, index, x, y)
            layer_states.append(layer_state)
        return x, self.config.whole_state(layer_states, torch.stack)
