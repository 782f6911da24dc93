"""The settings of charlm: what the model computes, how it is trained, how text is drawn.

What a run *computes* is saved with it. :class:`ComputeConfig` says *how* it is computed, which may
differ from session to session. ``vocab_size`` is not a setting, as it follows from the text.
"""

import functools
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Self

from charlm.cells import CELLS, Cell, Parameter
from charlm.cells.variants import variant
from charlm.errors import ConfigError, argument
from charlm.settings import Settings, setting

DEVICES = ("auto", "cpu", "cuda", "mps")
# Arithmetic of the products in training, the first two of a CPU; weights are always float32.
PRECISIONS = ("float32", "bfloat16", "float16")
DECAY_SHARE = 0.5  # share of a run in which the learning rate falls, unless decay_steps is given


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

    @property
    def cell(self) -> Cell:
        """The recurrence of every layer."""
        return CELLS[self.backbone].from_dict(self.cell_options)

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
        options = {name: value for name, value in values.items() if name in option_names()}
        rest = {name: value for name, value in values.items() if name not in options}
        return replace(super().from_dict(rest), cell_options=options)

    def to_dict(self) -> dict[str, Any]:
        """See :class:`ModelConfig`."""
        return super().to_dict() | self.cell_options

    def input_size(self, layer: int) -> int:
        """Return the input size of a layer: E for the first one, H for the others."""
        return self.embedding_size if layer == 0 else self.hidden_size

    def layer_parameters(self, layer: int) -> dict[str, Parameter]:
        """Return the parameters of a layer by name."""
        return self.cell.parameters(self.input_size(layer), self.hidden_size)

    @property
    def has_recurrent_parameters(self) -> bool:
        """Whether there is anything that ``weight_drop`` could drop."""
        return any(p.recurrent for p in self.layer_parameters(0).values())

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape (L, B, ...) of each array of the state."""
        shapes = self.cell.state_shapes(self.hidden_size)
        return {name: (self.num_layers, batch_size, *shape) for name, shape in shapes.items()}

    def parameter_shapes(self, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter; a tied matrix is listed once."""
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (vocab_size, self.embedding_size)}
        for layer in range(self.num_layers):
            parameters = self.layer_parameters(layer)
            shapes |= {f"backbone.layers.{layer}.{name}": p.shape for name, p in parameters.items()}
        if not self.tie_weights:
            shapes["head.weight"] = (vocab_size, self.hidden_size)
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


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """How the model is fitted to a text."""

    steps: int | None = setting(
        None, "updates of the weights (default: as many as the minutes hold)", minimum=1
    )
    epochs: int | None = setting(None, "times to read the text, in place of steps", minimum=1)
    minutes: float = setting(
        5.0, "minutes to train, unless steps or epochs are given", above=0, maximum=1_000_000
    )
    batch_size: int = setting(16, "parallel lanes of text (B)", minimum=1)
    seq_length: int = setting(128, "characters per lane and step (T)", minimum=1)
    optimizer: str = setting("adamw", "rule of the update", choices=("adamw", "sgd"))
    learning_rate: float = setting(0.005, "peak learning rate", above=0)
    warmup_steps: int | None = setting(
        None, "first steps, in which the learning rate rises (default: a twentieth)", minimum=0
    )
    decay_steps: int | None = setting(
        None, "last steps, in which the learning rate falls to near 0 (default: half)", minimum=0
    )
    decay_plan: str = setting(
        "",
        "in place of decay_steps: at which steps the end was planned, where it was then, and how "
        "far apart evaluations were from there on, as 600:1200,900:1150:20; the repeat: line of a "
        "run in minutes has it",
    )
    beta1: float = setting(0.6, "adamw: decay of the mean of gradients", minimum=0, below=1)
    beta2: float = setting(0.98, "adamw: decay of the mean of their squares", minimum=0, below=1)
    momentum: float = setting(0.9, "momentum of sgd", minimum=0, below=1)
    weight_decay: float = setting(0.1, "decoupled decay, on matrices only", minimum=0)
    grad_clip: float = setting(1.0, "bound on the norm of the whole gradient, 0 = off", minimum=0)
    eval_every: int = setting(
        0, "steps between evaluations, 0 = about ten in a run, at least one per 500", minimum=0
    )
    save_every: int = setting(
        0, "steps between saves, 0 = at evaluations, but no more than take a little time", minimum=0
    )
    validation_fraction: float = setting(
        0.1, "share of the text, at its end, held out to measure", above=0, below=1
    )
    min_count: int = setting(
        1, "rarer characters become one unknown symbol, 1 = keep all", minimum=1
    )
    seed: int = setting(1, "seed of weights and dropout", minimum=0, maximum=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        plan = _parse_plan(self.decay_plan)
        if plan and self.steps not in (None, plan[-1][1]):
            raise ConfigError(
                f"{argument('decay_plan')} ends at step {plan[-1][1]}, but {argument('steps')} is "
                f"{self.steps}: leave one out"
            )

    @property
    def total_steps(self) -> int | None:
        """All steps of the run; None while that follows from the time."""
        plan = _parse_plan(self.decay_plan)
        return plan[-1][1] if self.steps is None and plan else self.steps

    @property
    def warmup(self) -> int:
        """Steps in which the rate rises: ``warmup_steps``, or a twentieth of all."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(0.05 * (self.total_steps or 0))

    @property
    def decay(self) -> tuple[tuple[int, int], ...]:
        """Steps from which the rate falls, each with the end that was then planned.

        There is more than one where a run in minutes had to change its end, and none while the end
        is not known.
        """
        if self.decay_plan:
            return tuple((start, end) for start, end, _ in _parse_plan(self.decay_plan))
        if self.steps is None:
            return ()
        share = round(DECAY_SHARE * self.steps)
        steps = share if self.decay_steps is None else min(self.decay_steps, self.steps)
        return ((self.steps - steps, self.steps),)

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations: ``eval_every``, or about ten a run, at least one per 500."""
        return self.eval_every or min(500, math.ceil((self.total_steps or 5000) / 10))

    def is_evaluated(self, step: int) -> bool:
        """Return whether an evaluation follows ``step`` steps, unless it is the last one."""
        planned = [every for start, _, every in _parse_plan(self.decay_plan) if start < step]
        return step % ((planned and planned[-1]) or self.evaluation_interval) == 0


@functools.lru_cache(maxsize=8)  # asked for at every step
def _parse_plan(plan: str) -> tuple[tuple[int, int, int], ...]:
    """Return the entries of a ``decay_plan``: step, end, steps between evaluations or 0."""
    if not plan:
        return ()
    entry = "[0-9]{1,15}:[0-9]{1,15}(:[1-9][0-9]{0,14})?"
    if not re.fullmatch(f"{entry}(,{entry})*", plan):
        raise ConfigError(
            f"{argument('decay_plan')} must be pairs of steps, as 600:1200,900:1150 (got {plan!r})"
        )
    numbers = [[*map(int, one.split(":")), 0] for one in plan.split(",")]
    entries = tuple((start, end, every) for start, end, every, *_ in numbers)
    starts = [start for start, _, _ in entries]
    ends_so_far = [math.inf, *(end for _, end, _ in entries[:-1])]
    if starts != sorted(set(starts)) or any(
        start >= min(end, before)
        for (start, end, _), before in zip(entries, ends_so_far, strict=True)
    ):
        raise ConfigError(
            f"{argument('decay_plan')} must set each end ahead, and before the end so far (got "
            f"{plan!r})"
        )
    return entries


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Settings):
    """How training is computed: none of this is a property of the model."""

    device: str = setting(
        "auto",
        "where to compute; auto takes a GPU if there is one that can, on a Mac the faster of GPU "
        "and CPU. charlm has never run on a GPU, a Mac or Windows: they are imitated in its tests",
        choices=DEVICES,
    )
    precision: str = setting(
        "auto",
        "arithmetic of training; auto is the fastest here, in resume that of the run so far",
        choices=("auto", *PRECISIONS),
    )
    threads: int | None = setting(
        None,
        "threads of torch, 0 = as many as it takes (default: those that are fastest at the time)",
        minimum=0,
        maximum=256,  # torch would try to start any number of them
    )


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Settings):
    """What a comparison of backbones trains, and what it shows of each."""

    backbones: str = setting(
        "", "backbones, separated by commas, as in lstm,gru+no-reset-after (default: all)"
    )
    seeds: int = setting(
        1, "trainings of each backbone, with the seeds 1, 2, ...", minimum=1, maximum=1000
    )
    equal: str = setting(
        "time",
        "what is equal beside the text: time is the budget and all sizes; parameters is the "
        "budget and about the number of parameters, by other hidden sizes",
        choices=("time", "parameters"),
    )
    prompt: str = setting("", "what each model continues (default: the start of a line)")

    def __post_init__(self) -> None:
        super().__post_init__()
        words = self.backbone_names
        try:
            found = [variant(word) for word in words]
        except ConfigError as error:
            raise ConfigError(f"{argument('backbones')}: {error}") from None
        twice = [word for n, word in enumerate(words) if found[n] in found[:n]]
        if twice:
            raise ConfigError(f"{argument('backbones')} names {twice[0]} twice: name it once")

    @property
    def backbone_names(self) -> list[str]:
        """The backbones to train, in the order given; of none given all that there are."""
        return [name.strip() for name in self.backbones.split(",")] if self.backbones else [*CELLS]


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Settings):
    """How characters are drawn."""

    length: int = setting(500, "new characters per sample, 0 = without end", minimum=0)
    temperature: float = setting(
        0.8, "below 1 safer, above 1 wilder, 0 = always the likeliest", minimum=0
    )
    top_k: int = setting(0, "draw among the k likeliest only, 0 = all", minimum=0)
    top_p: float = setting(
        1.0, "draw among the likeliest that hold this share, 1 = all", above=0, maximum=1
    )
    min_p: float = setting(
        0.0,
        "draw only what is at least this share as likely as the likeliest, 0 = all",
        minimum=0,
        maximum=1,
    )
    allow: tuple[str, ...] = setting(
        (), "draw only characters of this text; repeatable (default: all)"
    )
    forbid: tuple[str, ...] = setting(
        (), "never draw a character of this text; repeatable (default: none)"
    )
    stop: tuple[str, ...] = setting((), "end before this text; repeatable (default: none)")
    num_samples: int = setting(1, "independent samples", minimum=1)
    seed: int | None = setting(
        None, "seed of the drawing (default: random, and printed)", minimum=0, maximum=2**32 - 1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length == 0 and self.num_samples > 1:
            raise ConfigError(
                f"{argument('length')} 0, without end, goes with one sample: leave "
                f"{argument('num_samples')} out"
            )


@dataclass(frozen=True, kw_only=True)
class LinesConfig(Settings):
    """Which lines are wanted of a model of one item per line, such as names."""

    lines: int = setting(
        0, "write so many lines, each a new item, in place of a text", minimum=0, maximum=10**9
    )
    min_length: int = setting(1, "fewest characters of a line", minimum=0)
    max_length: int = setting(200, "most characters of a line", minimum=1, maximum=10**9)
    starts_with: str = setting("", "what every line begins with (default: anything)")
    unique: bool = setting(False, "no line twice")
    tries: int = setting(0, "most lines to draw in all, 0 = 100 for each one wanted", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_length > self.max_length:
            raise ConfigError(
                f"{argument('min_length')} ({self.min_length}) is above "
                f"{argument('max_length')} ({self.max_length})"
            )
        if len(self.starts_with) > self.max_length:
            raise ConfigError(
                f"{argument('starts_with')} is longer than {argument('max_length')} "
                f"({self.max_length})"
            )
        if "\n" in self.starts_with:
            raise ConfigError(f"{argument('starts_with')} must be one line")
