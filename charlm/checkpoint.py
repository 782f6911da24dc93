"""A run as one safe file.

A checkpoint is a safetensors file: numbers and a JSON header, nothing that can run. Its tensors,
all float32, are

    model.<parameter>               the weights, as ``ModelConfig.parameter_shapes`` lists them
    optimizer.<parameter>.<name>    what the optimizer keeps for each of them, after the first step
    state.<name>                    the state (L, B, H) carried into the next window

and its header holds one JSON document: the format number, the configs, the vocabulary, where the
text came from, how far the run is, and the sha256 of every tensor. Random numbers are a function of
the seed and the step, so no generator needs to be stored.

Saving is atomic: whatever moment the power fails at, the old file or the new one is there, whole.
A file from a stranger is safe to open: all of it is checked before any of it is used.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from charlm.config import PRECISIONS, ModelConfig, Settings, TrainConfig, setting
from charlm.errors import CharlmError, CheckpointError
from charlm.tokenizer import CharTokenizer

FORMAT = 3  # raise it with every change that older readers would misread
DOCUMENT = "charlm"  # the key of the JSON document in the header
CHECKSUM = "charlm.sha256"  # the key of its checksum

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Counters(Settings):
    """How far a run is."""

    step: int = setting(0, "updates done", minimum=0)
    best_loss: float | None = setting(None, "lowest validation loss so far (nats per character)")
    best_step: int = setting(0, "the step that reached it", minimum=0)
    loss_sum: float = setting(0.0, "sum of the training losses since the last evaluation")
    loss_count: int = setting(0, "how many these are", minimum=0)
    seconds: float = setting(0.0, "time spent training, over all sittings", minimum=0)


@dataclass(frozen=True, kw_only=True)
class _Header(Settings):
    """The plain values of a document, checked like settings."""

    vocabulary: str = setting("", "the characters by id")
    unknown: bool = setting(False, "whether there is an unknown symbol")
    fingerprint: str = setting("", "sha256 of the text")
    characters: int = setting(0, "length of the text", minimum=0)
    precision: str = setting("float32", "arithmetic of training", choices=PRECISIONS)
    threads: int = setting(0, "threads of torch in training, 0 = its choice", minimum=0)
    init_from: str = setting("", "the run whose weights it began with, if any")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run is; see the module for what each tensor is called.

    Attributes:
        files: the texts, as the user named them.
        fingerprint: sha256 of the whole text.
        characters: the length of the whole text.
        precision: the arithmetic that the run trains with.
        threads: how many of torch it trains with, 0 for torch's choice.
        init_from: the run whose weights it began with, as the user named it, if any.
        weights, optimizer, state: the tensors, without the first part of their names.
    """

    model_config: ModelConfig
    train_config: TrainConfig
    tokenizer: CharTokenizer
    weights: Tensors
    files: tuple[str, ...] = ()
    fingerprint: str = ""
    characters: int = 0
    precision: str = PRECISIONS[0]
    threads: int = 0
    init_from: str = ""
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

    def weights_for(self, tokenizer: CharTokenizer, fresh: Tensors) -> Tensors:
        """Return the weights for a vocabulary that holds this one, row by row of a character.

        Args:
            tokenizer: the vocabulary.
            fresh: weights for it; the rows of characters that are not known here stay theirs.
        """
        place = tokenizer.encode(self.tokenizer.vocabulary)
        result = dict(self.weights)
        for name in ("embedding.weight", "head.weight", "head.bias"):
            if name in fresh:
                result[name] = fresh[name].copy()
                result[name][place] = self.weights[name]
        return result


def locate(run: str | os.PathLike[str], name: str = "best") -> Path:
    """Return the checkpoint file that ``run`` names.

    Args:
        run: a checkpoint file, a run folder, or the name of a folder under ``checkpoints/``.
        name: ``"best"`` or ``"latest"``: the file wanted of a folder; if only the other one is
            there, that one.

    Raises:
        CheckpointError: if there is none.
    """
    here, below = Path(run), Path("checkpoints") / run
    if here.suffix == ".safetensors" and here.is_file():
        return here
    for place in (here, below):
        for stem in dict.fromkeys((name, "best", "latest")):
            if (place / f"{stem}.safetensors").is_file():
                return place / f"{stem}.safetensors"
    if here.is_file():
        return here
    if here.is_dir() or below.is_dir():
        raise CheckpointError(f"folder {here if here.is_dir() else below} holds no checkpoint")
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
            "threads": checkpoint.threads,
            "init_from": checkpoint.init_from,
            "counters": checkpoint.counters.to_dict(),
            "sha256": {name: _checksum(tensor) for name, tensor in tensors.items()},
        }
    )
    data = safetensors.numpy.save(
        tensors, metadata={DOCUMENT: document, CHECKSUM: _digest(document.encode())}
    )
    write_atomically(path, data)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it, unless it is there.

    Raises:
        CheckpointError: if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make folder {folder}: {error.strerror}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path``, sync it, and rename it into place.

    Raises:
        CheckpointError: if that fails; at ``path`` is then the old file or the new one, whole.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # one name, so that kills leave no heap of them
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


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
    if path.exists() and not path.is_file():  # to open a pipe would wait for ever
        raise CheckpointError(f"{path} is no regular file, so no checkpoint")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            document = _document(file.metadata() or {}, path)
            tensors = {
                name: _tensor(file, name, document, path)
                for name in _names(file, document, path)
                if name.startswith("model.") or not model_only
            }
        return _assemble(document, tensors, model_only=model_only)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_other(path)}") from None
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{_foreign(path, str(error))}{_other(path)}") from None
    except (CharlmError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}{_other(path)}") from None


def _other(path: Path) -> str:
    """Return a hint to the other checkpoint of the run, if there is one."""
    other = path.with_stem({"best": "latest", "latest": "best"}.get(path.stem, path.stem))
    if other == path or not other.is_file():
        return ""
    return f"; {other} beside it may be whole: remove {path.name} to use it"


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
    if type(document["format"]) is not int or document["format"] < 1:
        raise ValueError("its format is not a number")
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


def _assemble(document: dict[str, Any], tensors: Tensors, *, model_only: bool) -> Checkpoint:
    """Return the checkpoint, its types and shapes checked against each other."""
    if document["format"] == 1:
        document = _from_format_1(document)
    model_config = ModelConfig.from_dict(document["model"])
    train_config = TrainConfig.from_dict(document["train"])
    counters = Counters.from_dict(document["counters"])
    header = _Header.from_dict({name: document[name] for name in _Header.names()})
    tokenizer = CharTokenizer(header.vocabulary, unknown=header.unknown)
    files = document["files"]
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ValueError("its files are not names")
    shapes = model_config.parameter_shapes(tokenizer.vocab_size)
    expected = {f"model.{name}": shape for name, shape in shapes.items()}
    if not model_only:
        expected |= _training_shapes(shapes, model_config, train_config, counters)
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise ValueError("its tensors are not of the names and shapes that its settings ask for")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("its tensors are not all finite numbers")
    groups: dict[str, Tensors] = {"model": {}, "optimizer": {}, "state": {}}
    for name, tensor in tensors.items():
        group, _, member = name.partition(".")
        groups[group][member] = tensor
    return Checkpoint(
        model_config=model_config,
        train_config=train_config,
        tokenizer=tokenizer,
        weights=groups["model"],
        files=tuple(files),
        fingerprint=header.fingerprint,
        characters=header.characters,
        precision=header.precision,
        threads=header.threads,
        init_from=header.init_from,
        counters=counters,
        optimizer=groups["optimizer"],
        state=groups["state"],
    )


def _from_format_1(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of format 1, with what it had no settings for, as one of format 2."""
    train = document["train"] | {"beta1": 0.9, "beta2": 0.99}
    steps, share = train["steps"], train.pop("warmup_fraction")
    train["warmup_steps"] = round(share * steps)
    train["decay_steps"] = steps - train["warmup_steps"]
    return document | {"train": train, "threads": 0, "init_from": ""}


def _training_shapes(
    weights: dict[str, tuple[int, ...]], model: ModelConfig, train: TrainConfig, counters: Counters
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of what a run keeps beside its weights."""
    state_shape = (model.num_layers, train.batch_size, model.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {
        f"state.{name}": state_shape for name in model.cell.state_names
    }
    if counters.step > 0:
        for name, shape in weights.items():
            if train.optimizer == "adamw":
                shapes[f"optimizer.{name}.step"] = ()
                shapes[f"optimizer.{name}.exp_avg"] = shape
                shapes[f"optimizer.{name}.exp_avg_sq"] = shape
            elif train.momentum > 0:
                shapes[f"optimizer.{name}.momentum_buffer"] = shape
    return shapes


def _checksum(tensor: NDArray[np.float32]) -> str:
    """Return the sha256 of the shape and the bytes of ``tensor``."""
    return _digest(repr(tensor.shape).encode(), tensor.tobytes())


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
