"""Presets: what to train a text with, by what it is like and the time that there is.

A text counts by its length, its vocabulary, and how much it repeats itself.

How large a model can be trained, and how often a text will be read, depends on the machine. So the
time counts in characters: as many as this machine reads of a ``REFERENCE`` model in it. The
measurements are in tests/benchmarks/results/experiments.md.
"""

import math
from typing import Any

from charlm.config import ModelConfig, TrainConfig, option_names
from charlm.errors import ConfigError, argument
from charlm.settings import Settings, refuse_unknown

REFERENCE = ModelConfig(), TrainConfig()

Chosen = dict[str, int | float | str]
Rows = tuple[tuple[float, Chosen], ...]  # up to so many: what is set

# For any text: at least as good as an LSTM with an input gate of its own, and smaller.
ALWAYS: Chosen = {"coupled_gates": True}
SMALL: Chosen = {"hidden_size": 256, "learning_rate": 0.008}
# By how often the time would suffice to read the text, and then by how many characters it suffices
# for. A small model learns more in a short time, and for longer where it reads the text seldom:
# there it learns from reading more, not from being larger.
READ_ONCE, READ_SELDOM = 1.5, 3  # times, at most
BY_TIME: tuple[tuple[float, Rows], ...] = (
    (READ_ONCE, ((1_200_000, SMALL), (20_000_000, SMALL | {"learning_rate": 0.005}))),
    (READ_SELDOM, ((20_000_000, SMALL),)),
    (
        math.inf,
        ((1_200_000, SMALL), (40_000_000, {"hidden_size": 384, "learning_rate": 0.006})),
    ),
)
# By how often they would read the text: what is read often must not be memorised. The optimizer
# that learns more from each step is no better there.
BY_EPOCHS: Rows = (
    (READ_ONCE, {"dropout": 0.0, "optimizer": "soap"}),
    (READ_SELDOM, {"dropout": 0.1, "optimizer": "soap"}),
    (8, {"dropout": 0.1, "weight_drop": 0.15}),
    (25, {"dropout": 0.2, "weight_drop": 0.2}),
    (math.inf, {"dropout": 0.3, "weight_drop": 0.25}),
)
# By the length of the text; this comes after those above, and so decides.
SHORT: Chosen = {"hidden_size": 256, "batch_size": 8, "optimizer": "adamw"}
BY_LENGTH: Rows = (
    (
        50_000,
        SHORT | {"dropout": 0.6, "weight_drop": 0.0, "learning_rate": 0.006, "seq_length": 64},
    ),
    (150_000, SHORT | {"dropout": 0.25, "weight_drop": 0.2, "learning_rate": 0.008}),
    (400_000, SHORT | {"dropout": 0.2, "weight_drop": 0.2, "learning_rate": 0.008}),
)
# A text that repeats much of what it has said, as programs and manuals do, is worth the time that
# attention takes. In one of up to 50,000 characters there is too little to learn it from.
REPETITIVE = 0.05  # see data.repetition
REPEATED: Chosen = {"attention": 512}
# And for such short texts, by how many characters there are for each symbol of the vocabulary:
# where most symbols are rare, as in Chinese verse, a text is memorised sooner.
BY_VOCABULARY: Rows = ((50, {"dropout": 0.6, "weight_drop": 0.0, "learning_rate": 0.006}),)
# Up to so many characters, and so many for each symbol: the most epochs. With more, a text is
# memorised.
MAX_EPOCHS: tuple[tuple[int, float, int], ...] = (
    (50_000, math.inf, 10),
    (400_000, 50, 8),
    (400_000, math.inf, 22),
)
MOST_HELD_OUT = 200_000  # characters of validation, unless asked for; more only cost time


def choose_configs(
    num_characters: int,
    given: dict[str, Any],
    *,
    vocab_size: int = 1,
    readable: float | None = None,
    lines: int = 1,
    is_list: bool = False,
    repetition: float = 0.0,
) -> tuple[ModelConfig, TrainConfig, list[str]]:
    """Return the configs to train with on a text, and lines that tell what was chosen.

    What the user gave stays. The rest follows the tables above, but for what the cell has no use
    for; lanes and windows that would not fit into a very short text are halved until they do. The
    lines are for ``errors.written``.

    Args:
        num_characters: the length of the whole text.
        given: settings of ``ModelConfig``, its cell and ``TrainConfig`` by name.
        vocab_size: the number of symbols (V).
        readable: characters that a ``REFERENCE`` model could read in the time that there is; None
            is as many as it reads in the given steps.
        lines: how many it has.
        is_list: whether it looks like a list, whose lines are items, see ``data.items``.
        repetition: how much of it stood a little before, see ``data.repetition``.

    Raises:
        ConfigError: for an unknown setting or one out of bounds, or two that contradict each other.
    """
    known = [*ModelConfig.names(), *TrainConfig.names(), *option_names()]
    refuse_unknown(given, known)
    lengths = [name for name in ("steps", "epochs", "minutes") if given.get(name) is not None]
    if len(lengths) > 1:
        raise ConfigError(
            f"{' and '.join(map(argument, lengths))} cannot both be given: one follows from the "
            "other"
        )
    refuse_two_falls(given)
    asked = TrainConfig(**_part(TrainConfig, given))
    model = _model_config(given)
    if readable is None:
        _, reference = REFERENCE
        steps = math.inf if asked.total_steps is None else asked.total_steps
        readable = steps * reference.batch_size * reference.seq_length
        if asked.epochs is not None:
            readable = float(asked.epochs * num_characters)
    chosen = presets(num_characters, vocab_size, readable, repetition)
    chosen = {name: value for name, value in chosen.items() if name not in given}
    notices = []
    items = is_list if given.get("items") is None else given["items"]
    if is_list and items and not given.get("items"):
        notices.append(
            f"a list of {lines:,} items: each is learned by itself, in random order; "
            f"{argument('items', False)} learns it as one text"
        )
    for name in ALWAYS.keys() - set(model.cell.names()):
        chosen.pop(name, None)
    if items or model.tie_weights:  # no item knows of another; a tied head has no room
        chosen.pop("attention", None)
    if not model.has_recurrent_parameters:
        chosen.pop("weight_drop", None)
        if model.weight_drop:
            notices.append(
                f"{argument('weight_drop')} has no effect: {model.backbone} has no recurrent matrix"
            )
    if (
        "validation_fraction" not in given
        and num_characters * asked.validation_fraction > MOST_HELD_OUT
    ):
        chosen["validation_fraction"] = round(MOST_HELD_OUT / num_characters, 6)
    sizes = _part(TrainConfig, asked.to_dict() | chosen)
    if not items:
        chosen |= fitting(num_characters, sizes, given)
    elif "batch_size" not in given:
        chosen["batch_size"] = items_at_a_time(num_characters, lines, sizes)
    if chosen:
        words = ", ".join(argument(name, value) for name, value in chosen.items())
        notices.insert(0, f"for a text of {num_characters:,} characters: {words}")
    settings = chosen | given | ({"items": True} if items else {})
    return _model_config(settings), TrainConfig(**_part(TrainConfig, settings)), notices


def refuse_two_falls(given: dict[str, Any]) -> None:
    """Raise ConfigError for settings that tell in two ways when the learning rate falls."""
    if given.get("decay_steps") is not None and given.get("decay_plan"):
        raise ConfigError(
            f"{argument('decay_steps')} and {argument('decay_plan')} cannot both be given: the one "
            "is in place of the other"
        )


def presets(
    num_characters: int, vocab_size: int, readable: float, repetition: float = 0.0
) -> Chosen:
    """Return what differs from the defaults for a text, its vocabulary and the time there is."""
    epochs = readable / max(1, num_characters)
    tables = [
        (next(rows for most, rows in BY_TIME if epochs <= most), readable),
        (BY_EPOCHS, epochs),
        (BY_LENGTH, num_characters),
    ]
    result = dict(ALWAYS)
    if num_characters <= BY_LENGTH[-1][0]:
        tables.append((BY_VOCABULARY, num_characters / vocab_size))
    if num_characters > BY_LENGTH[0][0] and repetition >= REPETITIVE:
        result |= REPEATED
    for rows, value in tables:
        result |= next((settings for most, settings in rows if value <= most), {})
    return result


def fitting(num_characters: int, sizes: dict[str, Any], given: dict[str, Any]) -> dict[str, int]:
    """Return smaller sizes where a short text would not fill a window of every lane."""
    room = int(num_characters * (1 - sizes["validation_fraction"])) - 1  # characters to read
    found: dict[str, int] = {}
    for name, least in (("batch_size", 4), ("seq_length", 8), ("batch_size", 1), ("seq_length", 1)):
        now = sizes | found
        while (
            name not in given and now[name] > least and room < now["batch_size"] * now["seq_length"]
        ):
            now[name] = found[name] = now[name] // 2
    return found


def items_at_a_time(num_characters: int, lines: int, sizes: dict[str, Any]) -> int:
    """Return how many items of a list hold as much as a batch of a text; fewer if it is short."""
    mean = max(2.0, num_characters / lines)
    usual = int(sizes["batch_size"])
    wanted = usual * int(sizes["seq_length"]) / mean
    return min(max(1, lines // 8), max(usual, 8 * round(wanted / 8)))


def max_epochs(num_characters: int, vocab_size: int) -> float:
    """Return how often a text of this length and vocabulary should be read at most."""
    for most, for_each, epochs in MAX_EPOCHS:
        if num_characters <= most and num_characters / vocab_size <= for_each:
            return epochs
    return math.inf


def _part(config: type[Settings], settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in config.names() if name in settings}


def _model_config(settings: dict[str, Any]) -> ModelConfig:
    return ModelConfig.from_dict(
        {name: value for name, value in settings.items() if name not in TrainConfig.names()}
    )
