"""What a model has read, as a thing that can be kept.

A :class:`Reading` is all that generation needs of a text that came before: a few kilobytes, however
long the text was. Any number of samples can go on from one.

Its file is a safetensors file with the tensors ``logits`` and ``state.<name>``, and in its header
the fingerprint of the model, as a state means nothing to any other model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from charlm.checkpoint import write_atomically
from charlm.errors import CheckpointError

KEY = "charlm.reading"  # of the fingerprint in the header


@dataclass(frozen=True)
class Reading:
    """What a model has read.

    Attributes:
        logits: of the character that comes next, (V,).
        state: after the last character read, arrays (L, 1, H).
    """

    logits: NDArray[Any]
    state: tuple[NDArray[Any], ...]


def save(reading: Reading, path: Path, *, model: str, names: tuple[str, ...]) -> None:
    """Write a reading to ``path``, wholly or not at all.

    Args:
        reading: what to save.
        path: the file.
        model: the fingerprint of the model that read.
        names: what the cell calls each array of its state.

    Raises:
        CheckpointError: if it cannot be written; the old file, if any, is untouched.
    """
    tensors = {"logits": reading.logits} | _named(reading.state, names)
    data = safetensors.numpy.save(
        {name: np.asarray(tensor, np.float32, order="C") for name, tensor in tensors.items()},
        metadata={KEY: model},
    )
    write_atomically(path, data)


def load(path: Path, like: Reading, *, model: str, names: tuple[str, ...]) -> Reading:
    """Return the reading that :func:`save` wrote to ``path``.

    Args:
        path: the file.
        like: any reading of the same model, for its shapes.
        model: the fingerprint of the model that is to go on.
        names: what the cell calls each array of its state.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign, or of another model.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            owner = (file.metadata() or {}).get(KEY)
            expected = {"logits": like.logits} | _named(like.state, names)
            if owner is None or set(file.keys()) != set(expected):
                raise CheckpointError(f"{path} holds no state that charlm generate saved")
            if owner != model:
                raise CheckpointError(
                    f"the state in {path} is of another model: load it with the run that saved it"
                )
            kinds = {file.get_slice(name).get_dtype() for name in expected}
            found = {name: file.get_tensor(name) for name in expected} if kinds == {"F32"} else {}
    except FileNotFoundError:
        raise CheckpointError(f"state file {path} does not exist") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read the state in {path}: {error}") from None
    for name, tensor in expected.items():
        if name not in found or found[name].shape != tensor.shape:
            raise CheckpointError(f"the state in {path} is damaged: {name} has another shape")
        if not np.isfinite(found[name]).all():
            raise CheckpointError(f"the state in {path} is damaged: {name} holds no numbers")
    return Reading(found["logits"], tuple(found[f"state.{name}"] for name in names))


def _named(state: tuple[NDArray[Any], ...], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    return {f"state.{name}": array for name, array in zip(names, state, strict=True)}
