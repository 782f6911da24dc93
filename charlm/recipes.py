"""What to train a text with: settings that were measured to be good, by its length and the time.

How much can be learned depends on how often the text can be read in the time that there is. So the
time counts in characters: those that this machine, by a short measurement, would read of a
``REFERENCE`` model in it.
"""

from typing import Any

from charlm.config import ModelConfig, Settings, TrainConfig, nearest
from charlm.errors import ConfigError

REFERENCE = ModelConfig(), TrainConfig(batch_size=16, seq_length=128)

Row = tuple[float, dict[str, int | float]]

# By the most characters of a text, and in it by the most characters that the time suffices for:
# what differs from the defaults.
RECIPES: tuple[tuple[float, tuple[Row, ...]], ...] = (
    (
        50_000,
        ((float("inf"), {"hidden_size": 256, "dropout": 0.5, "batch_size": 8, "seq_length": 64}),),
    ),
    (400_000, ((float("inf"), {"dropout": 0.5, "batch_size": 16}),)),
)
MOST_HELD_OUT = 200_000  # characters of validation, unless asked for; more only cost time


def configs_for(
    num_characters: int, given: dict[str, Any], *, readable: float = float("inf")
) -> tuple[ModelConfig, TrainConfig, list[str]]:
    """Return the configs to train with on a text, and a line that tells what was chosen, if any.

    What the user gave stays. The rest follows ``RECIPES``; lanes and windows that would not fit
    into a very short text are halved until they do.

    Args:
        num_characters: the length of the whole text.
        given: settings of ``ModelConfig`` and ``TrainConfig`` by name.
        readable: characters that a ``REFERENCE`` model could read in the time that there is.

    Raises:
        ConfigError: for an unknown setting or one out of bounds, or two that contradict each other.
    """
    known = [*ModelConfig.names(), *TrainConfig.names()]
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}{nearest(name, known)}")
    if "steps" in given and "minutes" in given:
        raise ConfigError("steps and minutes cannot both be given: one follows from the other")
    asked = TrainConfig(**_picked(TrainConfig, given))
    chosen = {k: v for k, v in recipe(num_characters, readable).items() if k not in given}
    if (
        "validation_fraction" not in given
        and num_characters * asked.validation_fraction > MOST_HELD_OUT
    ):
        chosen["validation_fraction"] = round(MOST_HELD_OUT / num_characters, 6)
    sizes = _picked(TrainConfig, asked.to_dict() | chosen)
    room = int(num_characters * (1 - asked.validation_fraction)) - 1  # characters to read
    for name, least in (("batch_size", 4), ("seq_length", 8), ("batch_size", 1), ("seq_length", 1)):
        while (
            name not in given
            and sizes[name] > least
            and room < sizes["batch_size"] * sizes["seq_length"]
        ):
            sizes[name] //= 2
            chosen[name] = sizes[name]
    settings = chosen | given
    notice = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return (
        ModelConfig(**_picked(ModelConfig, settings)),
        TrainConfig(**_picked(TrainConfig, settings)),
        [f"for a text of {num_characters:,} characters: {notice}"] if chosen else [],
    )


def recipe(num_characters: int, readable: float) -> dict[str, int | float]:
    """Return what differs from the defaults for a text of this length and the time there is."""
    for longest, rows in RECIPES:
        if num_characters <= longest:
            return next(settings for most, settings in rows if readable <= most)
    return {}


def _picked(config: type[Settings], settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in config.names() if name in settings}
