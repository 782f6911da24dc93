"""The settings as keywords, for type checkers; a test holds them to the configs."""

from collections.abc import Sequence
from typing import Any, TypedDict

from charlm.config import LinesConfig, SampleConfig
from charlm.errors import ConfigError
from charlm.settings import refuse_unknown


class _DrawSettings(TypedDict, total=False):
    """What :class:`SampleSettings` and :class:`LinesSettings` share."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    allow: str | Sequence[str]
    forbid: str | Sequence[str]
    seed: int | None


class TextSettings(_DrawSettings, total=False):
    """The settings of :class:`SampleConfig` for one text: all but ``num_samples``."""

    length: int
    stop: str | Sequence[str]


class SampleSettings(TextSettings, total=False):
    """The settings of :class:`SampleConfig` as keywords."""

    num_samples: int


class LinesSettings(_DrawSettings, total=False):
    """The settings of :class:`LinesConfig` as keywords, with those of how characters are drawn.

    ``lines`` itself is not among them: it is an argument.
    """

    min_length: int
    max_length: int
    starts_with: str
    unique: bool
    tries: int


class ComputeSettings(TypedDict, total=False):
    """The settings of :class:`ComputeConfig` as keywords."""

    device: str
    precision: str
    threads: int | None


class TrainSettings(ComputeSettings, total=False):
    """The settings of the model, the cells, the training and the computing as keywords."""

    backbone: str
    nonlinearity: str
    recurrent_init: str
    peepholes: bool
    coupled_gates: bool
    reset_after: bool
    embedding_size: int
    hidden_size: int
    num_layers: int
    dropout: float
    weight_drop: float
    residual: bool
    tie_weights: bool
    attention: int
    items: bool | None
    steps: int | None
    epochs: int | None
    minutes: float
    batch_size: int
    seq_length: int
    optimizer: str
    learning_rate: float
    warmup_steps: int | None
    decay_steps: int | None
    decay_plan: str
    beta1: float
    beta2: float
    momentum: float
    weight_decay: float
    logit_growth: float
    grad_clip: float
    eval_every: int
    save_every: int
    validation_fraction: float
    min_count: int
    seed: int


def line_configs(lines: int, settings: dict[str, Any]) -> tuple[LinesConfig, SampleConfig]:
    """Return which lines are wanted and how they are drawn, from keywords of both."""
    for name in ("length", "stop", "num_samples"):
        if name in settings:
            raise ConfigError(f"{name} does not go with lines(), where it follows from the rest")
    own = LinesConfig.names()
    refuse_unknown(settings, [*own, *SampleConfig.names(), "known", "with_surprisal"])
    config = LinesConfig(lines=lines, **{n: v for n, v in settings.items() if n in own})
    return config, SampleConfig(**{n: v for n, v in settings.items() if n not in own})
