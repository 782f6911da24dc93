"""A run as one safe file.

A checkpoint is a safetensors file: numbers and a JSON header, nothing that can run. Its tensors,
all float32, are

    model.<parameter>               the weights, as ``ModelConfig.parameter_shapes`` lists them
    optimizer.<parameter>.<name>    what the optimizer keeps for each of them
    state.<name>                    the state (L, B, H) carried into the next window

and its header holds one JSON document: the format number, the configs, the vocabulary, where the
text came from, how far the run is, and the sha256 of every tensor. Random numbers are a function of
the seed and the step, so no generator needs to be stored.

Saving is atomic: whatever moment the power fails at, the old file or the new one is there, whole.
A file from a stranger is safe to open: all of it is checked before any of it is used.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from charlm.config import ModelConfig, TrainConfig
from charlm.errors import CharlmError, CheckpointError
from charlm.tokenizer import CharTokenizer

FORMAT = 1  # raise it with every change that older readers would misread
DOCUMENT = "charlm"  # the key of the JSON document in the header
CHECKSUM = "charlm.sha256"  # the key of its checksum

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Counters:
    """How far a run is.

    Attributes:
        step: updates done.
        best_loss: lowest validation loss so far (nats per character), None before the first.
        best_step: the step that reached it.
        loss_sum: sum of the training losses since the last evaluation.
        loss_count: how many there were.
        seconds: time spent training, over all sittings.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run is; see the module for what each tensor is called.

    Attributes:
        files: the texts, as the user named them.
        fingerprint: sha256 of the whole text.
        characters: the length of the whole text.
        precision: the arithmetic that the run trains with.
        state: the carried state by name, empty where the next window begins afresh.
    """

    model_config: ModelConfig
    train_config: TrainConfig
    tokenizer: CharTokenizer
    weights: Tensors
    files: tuple[str, ...] = ()
    fingerprint: str = ""
    characters: int = 0
    precision: str = "float32"
    counters: Counters = field(default_factory=Counters)
    optimizer: Tensors = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)

    def tensors(self) -> Tensors:
        """Return all tensors under the names that they have in the file."""
        groups = {"model": self.weights, "optimizer": self.optimizer, "state": self.state}
        return {
            f"{group}.{name}": np.asarray(tensor, order="C")
            for group, members in groups.items()
            for name, tensor in members.items()
        }


def locate(run: str | os.PathLike[str], name: str = "best") -> Path:
    """Return the checkpoint file that ``run`` names.

    Args:
        run: a checkpoint file, a run folder, or the name of a folder under ``checkpoints/``.
        name: ``"best"`` or ``"latest"``: the file wanted of a folder; if only the other one is
            there, that one.

    Raises:
        CheckpointError: if there is none.
    """
    for place in (Path(run), Path("checkpoints") / run):
        if place.is_file():
            return place
        if place.is_dir():
            for stem in dict.fromkeys((name, "best", "latest")):
                if (place / f"{stem}.safetensors").is_file():
                    return place / f"{stem}.safetensors"
            raise CheckpointError(f"run folder {place} holds no checkpoint")
    there = sorted(path.name for path in Path("checkpoints").glob("*/"))
    known = f"; there are: {', '.join(there)}" if there else ""
    raise CheckpointError(f"there is no run or checkpoint {str(run)!r}{known}")


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint`` to ``path``, wholly or not at all.

    Raises:
        CheckpointError: if it cannot be written; the old file, if any, is untouched.
    """
    tensors = checkpoint.tensors()
    document = json.dumps(
        {
            "format": FORMAT,
            "model": checkpoint.model_config.to_dict(),
            "train": checkpoint.train_config.to_dict(),
            "vocabulary": checkpoint.tokenizer.vocabulary,
            "unknown": checkpoint.tokenizer.unknown,
            "files": checkpoint.files,
            "fingerprint": checkpoint.fingerprint,
            "characters": checkpoint.characters,
            "precision": checkpoint.precision,
            "counters": asdict(checkpoint.counters),
            "sha256": {name: _checksum(tensor) for name, tensor in tensors.items()},
        }
    )
    data = safetensors.numpy.save(
        tensors, metadata={DOCUMENT: document, CHECKSUM: _digest(document.encode())}
    )
    write_atomically(path, data)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path``, sync it, and rename it into place.

    Raises:
        CheckpointError: if that fails; a file at ``path`` is then as it was.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # noqa: PTH101
        os.replace(temporary, path)  # noqa: PTH105
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power failure, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # pragma: no cover (Windows opens no folders)
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path, *, model_only: bool = False) -> Checkpoint:
    """Read the checkpoint at ``path``.

    Args:
        path: a file that :func:`save` wrote.
        model_only: leave the optimizer and the state unread.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or from a newer format.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            document = _document(file.metadata() or {}, path)
            tensors = {
                name: _tensor(file, name, document, path)
                for name in _names(file, document, path)
                if name.startswith("model.") or not model_only
            }
        return _assemble(document, tensors)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(_foreign(path, str(error))) from None
    except (CharlmError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from None


def _foreign(path: Path, reason: str) -> str:
    """Return what to say of a file that is not safetensors."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start.startswith(b"\x80"):
        return f"{path} is a pickle, which can run code: charlm opens safetensors files only"
    return f"{path} is no checkpoint, or a damaged one: {reason}"


def _document(header: dict[str, str], path: Path) -> dict[str, Any]:
    """Return the JSON document of a header, checked as a whole."""
    text = header.get(DOCUMENT)
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file, but not one of charlm")
    document = json.loads(text)
    if document["format"] > FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {document['format']}, and this charlm reads up to "
            f"{FORMAT}: install a newer charlm"
        )
    if _digest(text.encode()) != header.get(CHECKSUM):
        raise CheckpointError(f"checkpoint {path} is damaged: the checksum of its header is wrong")
    assert isinstance(document, dict)
    return document


def _names(file: Any, document: dict[str, Any], path: Path) -> list[str]:
    """Return the names of all tensors, which must be those that the document lists."""
    names = sorted(file.keys())
    if names != sorted(document["sha256"]):
        raise CheckpointError(f"checkpoint {path} is damaged: its tensors are not those it lists")
    return names


def _tensor(file: Any, name: str, document: dict[str, Any], path: Path) -> NDArray[np.float32]:
    """Return one tensor, its type and checksum checked."""
    if file.get_slice(name).get_dtype() == "F32":
        tensor: NDArray[np.float32] = file.get_tensor(name)
        if _checksum(tensor) == document["sha256"][name]:
            return tensor
    raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {name} is wrong")


def _assemble(document: dict[str, Any], tensors: Tensors) -> Checkpoint:
    """Return the checkpoint, its shapes checked against its configs."""
    model_config = ModelConfig.from_dict(document["model"])
    train_config = TrainConfig.from_dict(document["train"])
    tokenizer = CharTokenizer(document["vocabulary"], unknown=document["unknown"])
    groups: dict[str, Tensors] = {"model": {}, "optimizer": {}, "state": {}}
    for name, tensor in tensors.items():
        group, _, member = name.partition(".")
        groups[group][member] = tensor
    shapes = model_config.parameter_shapes(tokenizer.vocab_size)
    if {name: tensor.shape for name, tensor in groups["model"].items()} != shapes:
        raise ValueError("its weights do not have the shapes that its settings ask for")
    if not all(np.isfinite(tensor).all() for tensor in groups["model"].values()):
        raise ValueError("its weights are not all finite numbers")
    for name, tensor in groups["optimizer"].items():
        if tensor.shape not in ((), shapes[name.rpartition(".")[0]]):
            raise ValueError(f"optimizer.{name} does not have the shape of its weight")
    state_shape = (model_config.num_layers, train_config.batch_size, model_config.hidden_size)
    for name, tensor in groups["state"].items():
        if name not in model_config.cell.state_names or tensor.shape != state_shape:
            raise ValueError(f"state.{name} is not one that its settings ask for")
    counters = document["counters"]
    if set(counters) != {item.name for item in fields(Counters)}:
        raise ValueError("its counters are not those of this format")
    return Checkpoint(
        model_config=model_config,
        train_config=train_config,
        tokenizer=tokenizer,
        weights=groups["model"],
        files=tuple(document["files"]),
        fingerprint=document["fingerprint"],
        characters=document["characters"],
        precision=document["precision"],
        counters=Counters(**counters),
        optimizer=groups["optimizer"],
        state=groups["state"],
    )


def _checksum(tensor: NDArray[np.float32]) -> str:
    """Return the sha256 of the shape and the bytes of ``tensor``."""
    return _digest(repr(tensor.shape).encode(), tensor.tobytes())


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
