"""The metrics of a run: what each of its evaluations has found."""

import json
import math
from pathlib import Path
from typing import Any

from charlm.checkpoint import Checkpoint
from charlm.data.dataset import training_length
from charlm.errors import CheckpointError
from charlm.files import open_regular
from charlm.training.run_dir import LONGEST_LINE

NUMBERS = ("step", "epoch", "train_loss", "validation_loss", "seconds", "chars_per_second")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the evaluations of a run, oldest first.

    >>> read_metrics(Path("checkpoints/english/metrics.jsonl"))[-1]["validation_loss"]

    Args:
        path: the metrics of a run. A last line without its end is being written, and left out.

    Returns:
        ``NUMBERS`` of each evaluation by name; losses are in nats per character.

    Raises:
        CheckpointError: if the file is missing, or a line of it is damaged.
    """
    found = []
    try:
        with open_regular(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    break
                found.append(_numbers(line, f"line {number} of {path}"))
    except OSError as error:
        raise CheckpointError(f"cannot read metrics {path}: {error.strerror}") from None
    return found


def _numbers(line: bytes, where: str) -> dict[str, float]:
    try:
        values: dict[str, Any] = json.loads(line)
        numbers = {name: values[name] for name in NUMBERS}
        if all(type(n) in (int, float) and math.isfinite(n) for n in numbers.values()):
            return numbers
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        pass
    raise CheckpointError(f"{where} is damaged: it does not hold the figures of an evaluation")


def epoch_characters(checkpoint: Checkpoint) -> int:
    """Return how many characters a run reads in an epoch: those of its training part in lanes.

    Of a list that is about as many: which items are held out depends on the items.
    """
    config = checkpoint.train_config
    length = training_length(checkpoint.source.characters, config.validation_fraction)
    if checkpoint.model_config.items:
        return length
    return (length - 1) // config.batch_size * config.batch_size
