"""What a model has read, as a thing that can be kept.

A :class:`Reading` is all that generation needs of a text that came before: a few kilobytes, however
long the text was. Any number of samples can go on from one.

Its file is a safetensors file with the tensors ``logits`` and ``state.<name>``, and in its header
the fingerprint of the model, as a state means nothing to any other model, and a checksum.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from charlm.checkpoint import write_atomically
from charlm.errors import CheckpointError

MODEL = "charlm.reading"  # the key of the model's fingerprint in the header
CHECKSUM = "charlm.sha256"  # the key of the checksum of all tensors
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model has read.

    Attributes:
        logits: of the character that comes next, (V,).
        state: after the last character read, arrays (L, 1, H).
    """

    logits: NDArray[Any]
    state: tuple[NDArray[Any], ...]

    def tensors(self, names: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return the arrays by their names in a file; ``names`` are those of the cell's state."""
        named = {"logits": self.logits} | {
            f"state.{name}": array for name, array in zip(names, self.state, strict=False)
        }
        return {name: np.asarray(array, np.float32, order="C") for name, array in named.items()}


def save(reading: Reading, path: Path, *, model: str, names: tuple[str, ...]) -> None:
    """Write a reading to ``path``, wholly or not at all.

    Args:
        reading: what to save.
        path: the file.
        model: the fingerprint of the model that read.
        names: what the cell calls each array of its state.

    Raises:
        CheckpointError: if it cannot be written, or something else would be lost; what is there, if
            anything, is then untouched.
    """
    path = path.resolve()  # of a link the file behind it
    check_target(path)
    tensors = reading.tensors(names)
    metadata = {MODEL: model, CHECKSUM: _checksum(tensors)}
    write_atomically(path, safetensors.numpy.save(tensors, metadata=metadata))


def check_target(path: Path) -> None:
    """Refuse a place where a reading cannot be saved, or where something else would be lost.

    Raises:
        CheckpointError: see above.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise CheckpointError(f"cannot write {path}: it is a folder")
    if path.exists() and not path.is_file():  # a device, a pipe
        raise CheckpointError(f"cannot write {path}: it is no regular file")
    if path.is_file() and MODEL not in _header(path):
        raise CheckpointError(f"{path} is there already, and no saved state: choose another name")


def _header(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return {}


def load(path: Path, *, model: str, shapes: Shapes) -> Reading:
    """Return the reading that :func:`save` wrote to ``path``.

    Args:
        path: the file.
        model: the fingerprint of the model that is to go on.
        shapes: of its tensors by name, ``logits`` first.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign, or of another model.
    """
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        raise CheckpointError(f"state file {path} {what}")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            if MODEL not in header:
                raise CheckpointError(f"{path} holds no state that charlm generate saved")
            if header[MODEL] != model:
                raise CheckpointError(
                    f"the state in {path} is of another model: load it with the run that saved it"
                )
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if found != shapes:
                raise CheckpointError(f"the state in {path} is damaged: its shapes are wrong")
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read the state in {path}: {error}") from None
    if _checksum(tensors) != header.get(CHECKSUM):
        raise CheckpointError(f"the state in {path} is damaged: its checksum is wrong")
    if not all(t.dtype == np.float32 and np.isfinite(t).all() for t in tensors.values()):
        raise CheckpointError(f"the state in {path} is damaged: it holds no numbers")
    logits, *state = tensors.values()
    return Reading(logits, tuple(state))


def _checksum(tensors: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.tobytes())
    return digest.hexdigest()
