"""What a model computes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from charlm.cells import CELLS, Attention, Cell, Parameter
from charlm.cells.base import Array, State
from charlm.config.training import ComputeConfig, TrainConfig
from charlm.errors import ConfigError, argument
from charlm.settings import Settings, setting

MOST_NUMBERS = 1 << 24  # of the state of all lanes together, see ModelConfig.most_lanes


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """What the model computes.

    In ``from_dict`` and ``to_dict`` the options of the cell stand beside the other settings:

        >>> ModelConfig.from_dict({"backbone": "rnn", "nonlinearity": "relu"}).cell
        RNN(nonlinearity='relu')

    Attributes:
        cell_options: settings of the cell itself, by name.
    """

    backbone: str = setting("lstm", "recurrent cell of every layer", choices=CELLS)
    embedding_size: int = setting(
        128, "numbers per character at the input (E)", minimum=1, maximum=16_384
    )
    hidden_size: int = setting(512, "units per recurrent layer (H)", minimum=1, maximum=16_384)
    num_layers: int = setting(2, "recurrent layers (L)", minimum=1, maximum=64)
    dropout: float = setting(
        0.5, "share of units dropped between layers, half of it at the input", minimum=0, below=1
    )
    weight_drop: float = setting(
        0.0,
        "DropConnect: share of each recurrent matrix dropped for a window, to 1/256",
        minimum=0,
        maximum=0.9,
    )
    residual: bool = setting(True, "add the input of every layer from the second on to its output")
    tie_weights: bool = setting(False, "one matrix for input and output (needs E = H)")
    attention: int = setting(
        0,
        "let one attention head look at so many characters before, beside the recurrent layers; "
        "0 = none",
        minimum=0,
        maximum=8192,
    )
    items: bool | None = setting(
        None,
        "take every line for an item of its own, such as a name: items come in random order, and "
        "each is read from the initial state (default: if the text is a sorted list)",
    )
    cell_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.cell_options:
            if name not in CELLS[self.backbone].names():
                owners = ", ".join(b for b, cell in CELLS.items() if name in cell.names())
                raise ConfigError(
                    f"{argument(name)} does not go with backbone {self.backbone!r}: leave it out, "
                    f"or choose a backbone that has it ({owners or 'none has'})"
                )
        object.__setattr__(self, "cell_options", self.cell.to_dict())  # checked, with defaults
        if self.tie_weights and self.embedding_size != self.hidden_size:
            raise ConfigError(
                f"{argument('tie_weights')} needs {argument('embedding_size')} "
                f"({self.embedding_size}) equal to {argument('hidden_size')} "
                f"({self.hidden_size}): set both to the same number"
            )
        if self.tie_weights and self.attention:
            raise ConfigError(
                f"{argument('tie_weights')} and {argument('attention')} cannot both be given: with "
                "attention the output has more columns than the input"
            )

    @property
    def description(self) -> str:
        """The layers in a few words.

        >>> ModelConfig(attention=512).description
        'lstm, 2 x 512 units, attention over 512 characters'
        """
        size = f"{self.backbone}, {self.num_layers} x {self.hidden_size} units"
        return f"{size}, attention over {self.attention:,} characters" if self.attention else size

    @property
    def cell(self) -> Cell:
        """The recurrence of every recurrent layer."""
        return CELLS[self.backbone].from_dict(self.cell_options)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cell of each layer: of the recurrent ones, then of the attention, if any."""
        head = (Attention(window=self.attention),) if self.attention else ()
        return (*[self.cell] * self.num_layers, *head)

    def changed_options(self) -> dict[str, Any]:
        """Return the options of the cell that change what it computes, those at defaults left out.

        So a cell that is given another option later computes what it did. The option
        ``nonlinearity`` always stands here, as it did before that was so.
        """
        return {
            item.name: self.cell_options[item.name]
            for item in CELLS[self.backbone].settings()
            if item.name == "nonlinearity"
            or (item.compare and self.cell_options[item.name] != item.default)
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """See :class:`ModelConfig`."""
        known = option_names()
        options = {name: value for name, value in values.items() if name in known}
        rest = {name: value for name, value in values.items() if name not in options}
        return replace(super().from_dict(rest), cell_options=options)

    def to_dict(self) -> dict[str, Any]:
        """See :class:`ModelConfig`."""
        return super().to_dict() | self.cell_options

    def input_size(self, layer: int) -> int:
        """Return the input size of a layer: E for the first one, H for the others."""
        return self.embedding_size if layer == 0 else self.hidden_size

    @property
    def output_size(self) -> int:
        """How many numbers the head reads: H, and those of the attention beside them."""
        heads = self.cells[self.num_layers :]
        return self.hidden_size + sum(head.state_shapes(self.hidden_size)["y"][0] for head in heads)

    def passed_on(self, xp: Any, layer: int, x: Array, y: Array) -> Array:
        """Return what goes on from a layer: its output ``y`` (..., H), with its input ``x``.

        Args:
            xp: the array library, ``numpy`` or ``torch``.
            layer: from 0 on.
            x: (..., I).
            y: (..., H), or (..., D) from the attention.
        """
        if layer == self.num_layers:
            return xp.concatenate([x, y], -1)
        return x + y if layer > 0 and self.residual else y

    def layer_parameters(self, layer: int) -> dict[str, Parameter]:
        """Return the parameters of a layer by name."""
        return self.cells[layer].parameters(self.input_size(layer), self.hidden_size)

    @property
    def has_recurrent_parameters(self) -> bool:
        """Whether there is anything that ``weight_drop`` could drop."""
        return any(p.recurrent for p in self.layer_parameters(0).values())

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape (L, B, ...) of each array of the state.

        Those of the attention are (1, B, ...), and have names that begin with ``attention_``.
        """
        shapes = self.cell.state_shapes(self.hidden_size)
        found = {name: (self.num_layers, batch_size, *shape) for name, shape in shapes.items()}
        for head in self.cells[self.num_layers :]:
            for name, shape in head.state_shapes(self.hidden_size).items():
                found[f"attention_{name}"] = (1, batch_size, *shape)
        return found

    def most_lanes(self) -> int:
        """Return how many lanes may be read side by side, so that their state fits into 64 MB."""
        numbers = sum(math.prod(shape) for shape in self.state_shapes(1).values())
        return max(1, MOST_NUMBERS // numbers)

    def recurrent_state(self, state: State) -> State:
        """Return the arrays of the recurrent layers (L, B, ...), without those of the attention."""
        return state[: len(self.cell.state_shapes(self.hidden_size))]

    def layer_states(self, state: State) -> list[State]:
        """Return the state of each layer, arrays (B, ...), given that of all."""
        own = self.recurrent_state(state)
        layers = [tuple(s[layer] for s in own) for layer in range(self.num_layers)]
        return [*layers, *[tuple(s[0] for s in state[len(own) :])] * bool(self.attention)]

    def whole_state(self, layers: Sequence[State], stack: Callable[..., Any]) -> State:
        """Return the state (L, B, ...), given that of each layer and the ``stack`` of a library."""
        kinds = layers[: self.num_layers], layers[self.num_layers :]
        return tuple(stack(s) for kind in kinds for s in zip(*kind, strict=True))

    def parameter_shapes(self, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter; a tied matrix is listed once."""
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (vocab_size, self.embedding_size)}
        for layer in range(len(self.cells)):
            parameters = self.layer_parameters(layer)
            shapes |= {f"backbone.layers.{layer}.{name}": p.shape for name, p in parameters.items()}
        if not self.tie_weights:
            shapes["head.weight"] = (vocab_size, self.output_size)
        return shapes | {"head.bias": (vocab_size,)}

    def num_parameters(self, vocab_size: int) -> int:
        """Return how many numbers the model learns."""
        return sum(math.prod(shape) for shape in self.parameter_shapes(vocab_size).values())


def option_names() -> list[str]:
    """Return the names of the options of all cells.

    Raises:
        ConfigError: if a cell has an option with the name of another setting.
    """
    for backbone, cell in CELLS.items():
        for config in (ModelConfig, TrainConfig, ComputeConfig):
            for name in set(cell.names()) & set(config.names()):
                raise ConfigError(
                    f"option {name} of backbone {backbone!r} has the name of another setting: "
                    "rename it in the cell"
                )
    return [name for cell in CELLS.values() for name in cell.names()]
