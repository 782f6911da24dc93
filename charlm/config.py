"""The settings, checked on creation.

Each field of a config states its default, its help and its bounds once, with :func:`setting`. The
flags of the command line, the checks and the table of settings in the README derive from that.
``vocab_size`` is no setting (it follows from the text), nor are device, paths and precision, which
say *how* something is computed and may differ from run to run.
"""

import contextlib
import math
import numbers
import operator
import types
import typing
from dataclasses import Field, asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Self

from charlm.cells import CELLS, Cell
from charlm.errors import ConfigError

# Arithmetic of the products in training, the first two of a CPU; weights are always float32.
PRECISIONS = ("float32", "bfloat16", "float16")

# The words of each bound, and what holds between a value and it.
BOUNDS = {
    "minimum": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a field: its default, one line of help, and the bounds that creation checks."""
    bounds = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    return field(default=default, metadata={"help": help, "choices": choices, **bounds})


def field_type(item: "Field[Any]") -> Any:
    """Return the type of a field, ``int`` for ``int | None``."""
    if isinstance(item.type, types.UnionType):
        return next(t for t in typing.get_args(item.type) if t is not type(None))
    return item.type


def nearest(name: str, known: list[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word nearest to ``name``, or nothing."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of the configs: checks types and bounds, and reads itself from a mapping."""

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, self._checked(item, getattr(self, item.name)))

    @staticmethod
    def _checked(item: "Field[Any]", value: Any) -> Any:
        if value is None and isinstance(item.type, types.UnionType):
            return None
        kind = field_type(item)
        # numpy's numbers are numbers too; True and False are not.
        if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            value = int(value)
        if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # an integer too large for a float
                value = float(value)
        if typing.get_origin(kind) is tuple:
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
                raise ConfigError(f"{item.name} must be texts (got {value!r})")
            if "" in texts:
                raise ConfigError(f"{item.name} must not be an empty text")
            return tuple(texts)
        if type(value) is not kind:
            raise ConfigError(f"{item.name} must be of type {kind.__name__} (got {value!r})")
        if kind is float and not math.isfinite(value):
            raise ConfigError(f"{item.name} must be a finite number (got {value})")
        rules = item.metadata
        if rules["choices"] is not None and value not in rules["choices"]:
            names = ", ".join(rules["choices"])
            hint = nearest(value, list(rules["choices"]))
            raise ConfigError(f"{item.name} must be one of {names} (got {value!r}){hint}")
        for rule, (words, holds) in BOUNDS.items():
            if rules[rule] is not None and not holds(value, rules[rule]):
                raise ConfigError(f"{item.name} must be {words} {rules[rule]} (got {value})")
        if kind is int and abs(value) >= 2**63:
            raise ConfigError(f"{item.name} must fit into 64 bits")
        return value

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return [item.name for item in fields(cls)]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the config with ``values``; a missing key takes its default.

        Raises:
            ConfigError: for an unknown key (naming the nearest one) or a value out of bounds.
        """
        for name in values:
            if name not in cls.names():
                raise ConfigError(f"unknown setting {name!r}{nearest(name, cls.names())}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """What the model computes."""

    backbone: str = setting("lstm", "recurrent cell of every layer", choices=tuple(CELLS))
    nonlinearity: str = setting("tanh", "activation of the rnn cell", choices=("tanh", "relu"))
    embedding_size: int = setting(
        128, "numbers per character at the input (E)", minimum=1, maximum=16_384
    )
    hidden_size: int = setting(512, "units per recurrent layer (H)", minimum=1, maximum=16_384)
    num_layers: int = setting(2, "recurrent layers (L)", minimum=1, maximum=64)
    dropout: float = setting(
        0.5, "share of units dropped between layers, half of it at the input", minimum=0, below=1
    )
    weight_drop: float = setting(
        0.0, "share of each recurrent matrix dropped for a window, to 1/256", minimum=0, maximum=0.9
    )
    residual: bool = setting(True, "add the input of every layer from the second on to its output")
    tie_weights: bool = setting(False, "one matrix for input and output (needs E = H)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nonlinearity not in CELLS[self.backbone].nonlinearities:
            raise ConfigError(
                f"nonlinearity {self.nonlinearity!r} does not go with backbone {self.backbone!r}: "
                "leave it out, or choose backbone 'rnn'"
            )
        if self.tie_weights and self.embedding_size != self.hidden_size:
            raise ConfigError(
                f"tie_weights needs embedding_size ({self.embedding_size}) equal to "
                f"hidden_size ({self.hidden_size}): set both to the same number"
            )

    @property
    def cell(self) -> Cell:
        """The recurrence of every layer."""
        return CELLS[self.backbone](self.nonlinearity)

    def input_size(self, layer: int) -> int:
        """Return the input size of a layer: E for the first one, H for the others."""
        return self.embedding_size if layer == 0 else self.hidden_size

    def parameter_shapes(self, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter; a tied matrix is listed once."""
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (vocab_size, self.embedding_size)}
        for layer in range(self.num_layers):
            weights = self.cell.shapes(self.input_size(layer), self.hidden_size)
            shapes |= {f"backbone.layers.{layer}.{name}": s for name, s in weights.items()}
        if not self.tie_weights:
            shapes["head.weight"] = (vocab_size, self.hidden_size)
        return shapes | {"head.bias": (vocab_size,)}

    def num_parameters(self, vocab_size: int) -> int:
        """Return how many numbers the model learns."""
        return sum(math.prod(shape) for shape in self.parameter_shapes(vocab_size).values())


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """How the model is fitted to a text."""

    steps: int | None = setting(
        None, "updates of the weights (as many as the minutes hold)", minimum=1
    )
    minutes: float = setting(
        5.0, "time to train, unless the steps are given", above=0, maximum=1_000_000
    )
    batch_size: int = setting(16, "parallel lanes of text (B)", minimum=1)
    seq_length: int = setting(128, "characters per lane and step (T)", minimum=1)
    optimizer: str = setting("adamw", "rule of the update", choices=("adamw", "sgd"))
    learning_rate: float = setting(0.005, "peak learning rate", above=0)
    warmup_steps: int | None = setting(
        None, "first steps, in which the rate rises (a twentieth)", minimum=0
    )
    decay_steps: int | None = setting(
        None, "last steps, in which the rate falls to near 0 (the last half)", minimum=0
    )
    beta1: float = setting(0.6, "adamw: decay of the mean of gradients", minimum=0, below=1)
    beta2: float = setting(0.98, "adamw: decay of the mean of their squares", minimum=0, below=1)
    momentum: float = setting(0.9, "momentum of sgd", minimum=0, below=1)
    weight_decay: float = setting(0.1, "decoupled decay, on matrices only", minimum=0)
    grad_clip: float = setting(1.0, "bound on the norm of the whole gradient, 0 = off", minimum=0)
    eval_every: int = setting(
        0, "steps between evaluations, 0 = about ten in a run, at least one per 500", minimum=0
    )
    save_every: int = setting(0, "steps between saves, 0 = at evaluations", minimum=0)
    validation_fraction: float = setting(
        0.1, "share of the text, at its end, held out to measure", above=0, below=1
    )
    min_count: int = setting(
        1, "rarer characters become one unknown symbol, 1 = keep all", minimum=1
    )
    seed: int = setting(1, "seed of weights and dropout", minimum=0, maximum=2**63 - 1)

    @property
    def warmup(self) -> int:
        """Steps in which the rate rises: ``warmup_steps``, or a twentieth of all."""
        return round(0.05 * (self.steps or 0)) if self.warmup_steps is None else self.warmup_steps

    @property
    def decay(self) -> int | None:
        """Steps in which the rate falls, at the end; None while that is not known yet."""
        if self.steps is None:
            return None
        return round(0.5 * self.steps) if self.decay_steps is None else self.decay_steps

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations: ``eval_every``, or about ten a run, at least one per 500."""
        return self.eval_every or min(500, math.ceil((self.steps or 5000) / 10))

    @property
    def save_interval(self) -> int:
        """Steps between saves: ``save_every``, or the interval of evaluations."""
        return self.save_every or self.evaluation_interval


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
    allow: tuple[str, ...] = setting((), "draw only characters of this text; repeatable (all)")
    forbid: tuple[str, ...] = setting((), "never draw a character of this text; repeatable (none)")
    stop: tuple[str, ...] = setting((), "end before this text; repeatable (none)")
    num_samples: int = setting(1, "independent samples", minimum=1)
    seed: int | None = setting(
        None, "seed of the drawing (random, and printed)", minimum=0, maximum=2**32 - 1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length == 0 and self.num_samples > 1:
            raise ConfigError("length 0, without end, goes with one sample: leave num_samples out")


@dataclass(frozen=True, kw_only=True)
class LinesConfig(Settings):
    """Which lines are wanted of a model of one item per line, such as names."""

    lines: int = setting(0, "write so many lines, each a new item, in place of a text", minimum=0)
    min_length: int = setting(1, "fewest characters of a line", minimum=0)
    max_length: int = setting(200, "most characters of a line", minimum=1)
    starts_with: str = setting("", "what every line begins with (anything)")
    unique: bool = setting(False, "no line twice")
    tries: int = setting(0, "most lines to draw in all, 0 = 100 for each one wanted", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_length > self.max_length:
            raise ConfigError(
                f"min_length ({self.min_length}) is above max_length ({self.max_length})"
            )
        if len(self.starts_with) > self.max_length:
            raise ConfigError(f"starts_with is longer than max_length ({self.max_length})")
        if "\n" in self.starts_with:
            raise ConfigError("starts_with must be one line")
