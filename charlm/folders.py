"""The folder of a run: made, filled line by line, cut back.

best.safetensors      the checkpoint with the lowest validation loss
latest.safetensors    the checkpoint to go on from
metrics.jsonl         one line of JSON per evaluation
text.npy, text.json   the ids of a large text, see ``texts``
"""

import itertools
import json
import os
import shlex
from pathlib import Path
from typing import Any

from charlm import checkpoint as checkpoints
from charlm.corpus import PathLike
from charlm.errors import CheckpointError, ConfigError

METRICS = "metrics.jsonl"


def log(folder: Path, values: dict[str, Any]) -> None:
    """Add a line to the metrics of a run.

    Raises:
        CheckpointError: if it cannot be written.
    """
    path = folder / METRICS
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


def cut_metrics(folder: Path, step: int) -> None:
    """Remove from the metrics all that was written after ``step``, and a half-written line."""
    path = folder / METRICS
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if not line.endswith("\n") or json.loads(line)["step"] > step:
                break
        except (ValueError, TypeError, KeyError):
            break
        kept.append(line)
    checkpoints.write_atomically(path, "".join(kept).encode())


def check_new(folder: Path) -> None:
    """Refuse a folder for a new run that holds something already."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, no run folder: choose another name with --out")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"run folder {folder} is there already and not empty: choose another with --out, "
            f"or go on with it: charlm resume {shlex.quote(str(folder))}"
        )


def make(text: Path, out: PathLike | None) -> Path:
    """Make the folder of a new run on ``text``, and return it."""
    if out is None:
        return _new_folder(text)
    checkpoints.make_folder(Path(out))
    return Path(out)


def _new_folder(text: Path) -> Path:
    """Make the folder of a new run on ``text``, which no other run has, and return it."""
    parent = Path("checkpoints")
    checkpoints.make_folder(parent)
    for number in itertools.count(1):
        folder = parent / (text.stem if number == 1 else f"{text.stem}-{number}")
        try:
            folder.mkdir()  # fails if it is there, also when another run made it this very moment
        except FileExistsError:
            continue
        except OSError as error:
            raise CheckpointError(f"cannot make folder {folder}: {error.strerror}") from None
        return folder
    raise AssertionError
