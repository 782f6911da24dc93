"""A run as one safe file: the format of a checkpoint, and nothing else.

A checkpoint is a file of :mod:`charlm.tensor_file` with the tensors

    model.<parameter>               the weights, as ``ModelConfig.parameter_shapes`` lists them
    optimizer.<parameter>.<name>    what the optimizer keeps for each of them, after the first step
    state.<name>                    the state (L, B, ...) carried into the next window

and with the settings, the vocabulary, where the text came from and how far the run is in its
document. Random numbers are a function of the seed and the step, so no generator is stored.

A model file is the same with the weights alone: enough for all but ``resume``. Of a model in whole
numbers (:mod:`charlm.quantization`) it has in place of each matrix

    whole.<parameter>               its whole numbers, of 8 bits
    exponent.<parameter>            and for each row the k of its unit 2 ** -k
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from charlm import quantization, tensor_file
from charlm.cells import CELLS
from charlm.config import Counters, ModelConfig, Source, Stage, TrainConfig, has_basis
from charlm.data import file_types, id_cache
from charlm.data.text_files import TEXT_SUFFIXES
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CheckpointError, argument
from charlm.files import TEMPORARY, PathLike, as_path, check_name, sha256, shell_command
from charlm.tensor_file import Document, Floats, Integers, Shapes, Tensors

KIND = "checkpoint"
MODEL = "model"  # the kind of a model file
WEIGHTS = "model."  # what the names of all weights begin with
GROUPS = (WEIGHTS, "optimizer.", "state.")  # what the names of tensors begin with
WHOLE, EXPONENT = tensor_file.INTEGERS


class MissingCellError(CheckpointError):
    """A checkpoint is whole, but of a cell that is not registered."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run is; see the module for what each tensor is called.

    Attributes:
        source: the text, and how the run is computed.
        stages: what it was trained with before ``resume`` changed that, oldest first.
        weights, optimizer, state: the tensors, without the first part of their names.
        exact: whether the model is computed in whole numbers, to which its weights are rounded.
    """

    model_config: ModelConfig
    train_config: TrainConfig = field(default_factory=TrainConfig)
    tokenizer: CharTokenizer
    source: Source = field(default_factory=Source)
    counters: Counters = field(default_factory=Counters)
    stages: tuple[Stage, ...] = ()
    weights: Tensors
    optimizer: Tensors = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)
    exact: bool = False

    def last_stage(self) -> Stage:
        """Return what the run is trained with now, as a stage."""
        return Stage(
            step=self.counters.step,
            precision=self.source.precision,
            threads=self.source.threads,
            processes=self.source.processes,
            train_config=self.train_config,
        )

    def tensors(self) -> Tensors:
        """Return all tensors under the names that they have in the file."""
        groups = {"model": self.weights, "optimizer": self.optimizer, "state": self.state}
        return {
            f"{group}.{name}": tensor
            for group, members in groups.items()
            for name, tensor in members.items()
        }

    def weights_sha256(self) -> str:
        """Return the sha256 of the names and checksums of all weights."""
        checksums = {name: tensor_file.checksum(t) for name, t in sorted(self.weights.items())}
        return sha256(repr(checksums).encode())

    def fingerprint(self) -> str:
        """Return the sha256 of all that makes the model what it computes."""
        config = self.model_config
        what = [config.backbone, config.changed_options(), config.residual, config.tie_weights]
        what += [name for name in ("items", "attention") if getattr(config, name)]
        what += ["exact"] if self.exact else []
        what += [self.tokenizer.vocabulary, self.tokenizer.unknown]
        weights = sorted(self.weights.items())
        parts = (part for name, tensor in weights for part in (name.encode(), tensor.tobytes()))
        return sha256(json.dumps(what).encode(), *parts)

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


def locate(run: PathLike, name: str = "best") -> Path:
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
        _refuse_text(here)
        return here
    if here.is_dir() or below.is_dir():
        folder = here if here.is_dir() else below
        raise CheckpointError(f"folder {folder} holds no checkpoint{_what_to_do(folder)}")
    there = sorted(path.name for path in Path("checkpoints").glob("*/"))
    known = f"; there are: {', '.join(there)}" if there else ""
    raise CheckpointError(f"there is no run or checkpoint {str(run)!r}{known}")


def _refuse_text(file: Path) -> None:
    """Raise CheckpointError if a file that is given for a run is a text."""
    try:
        with file.open("rb") as stream:
            head = stream.read(file_types.HEAD)
    except OSError:
        return  # to load it is an error, which says so
    if file_types.is_text(head):
        command = shell_command(["charlm", "train", as_path(file)])
        raise CheckpointError(f"{file} is a text, not a run: {command} makes a model of it")


def _what_to_do(folder: Path) -> str:
    """Return what to do with a folder that is given for a run and holds no checkpoint."""
    if is_unused(folder):
        return (
            ": a training that is killed before its first save leaves none; begin it again with "
            "the same command"
        )
    if any(path.suffix.lower() in TEXT_SUFFIXES for path in folder.iterdir()):
        command = shell_command(["charlm", "train", as_path(folder)])
        return f", but texts: {command} makes a model of them"
    return ""


def is_unused(folder: Path) -> bool:
    """Return whether a folder is empty, but for what a start leaves that was killed."""
    leftovers = set(folder.glob(TEMPORARY))
    if id_cache.is_cache(folder):
        leftovers |= {folder / id_cache.IDS, folder / id_cache.FACTS}
    return all(path in leftovers for path in folder.iterdir())


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint`` to ``path``, wholly or not at all.

    Raises:
        CheckpointError: if it cannot be written; the old file, if any, is untouched.
    """
    tensor_file.save(path, KIND, _document(checkpoint), checkpoint.tensors())


def save_model(checkpoint: Checkpoint, path: Path) -> None:
    """Write the weights of ``checkpoint`` to a model file, wholly or not at all.

    Raises:
        CheckpointError: if it cannot be written, or something else than a model file would be lost;
            what is there, if anything, is then untouched.
    """
    check_name(path)
    path = path.resolve()  # of a link the file behind it
    tensor_file.check_target(path, MODEL)
    tensors: dict[str, Floats | Integers] = {}
    for name, weight in checkpoint.weights.items():
        if checkpoint.exact and weight.ndim > 1:
            tensors[WHOLE + name], tensors[EXPONENT + name] = quantization.whole(weight)
        else:
            tensors[WEIGHTS + name] = weight
    tensor_file.save(path, MODEL, _document(checkpoint), tensors)


def in_whole_numbers(checkpoint: Checkpoint) -> Checkpoint:
    """Return the model of a checkpoint, without its run, in whole numbers."""
    weights = quantization.rounded(checkpoint.weights)
    return replace(checkpoint, weights=weights, optimizer={}, state={}, exact=True)


def _document(checkpoint: Checkpoint) -> Document:
    """Return all of a checkpoint but its tensors."""
    return {
        "model": checkpoint.model_config.to_dict(),
        "train": checkpoint.train_config.to_dict(),
        "vocabulary": checkpoint.tokenizer.vocabulary,
        "unknown": checkpoint.tokenizer.unknown,
        "source": checkpoint.source.to_dict(),
        "files": checkpoint.source.files,
        "counters": checkpoint.counters.to_dict(),
        "stages": [(s.to_dict(), s.train_config.to_dict()) for s in checkpoint.stages],
    } | ({"exact": True} if checkpoint.exact else {})


def load(path: Path, *, model_only: bool = False) -> Checkpoint:
    """Read the checkpoint at ``path``.

    Args:
        path: a file that :func:`save` wrote, or, with ``model_only``, :func:`save_model`.
        model_only: leave the optimizer and the state unread.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or from a newer format.
    """
    if not model_only and tensor_file.kind_of(path) == MODEL:
        raise CheckpointError(
            f"{path} holds a model without its run, which cannot be resumed: begin a new run from "
            f"it with train and {argument('init_from')}"
        )
    return _load(path, (WEIGHTS, WHOLE, EXPONENT) if model_only else GROUPS)


def load_head(path: Path) -> Checkpoint:
    """Read the checkpoint at ``path`` without its tensors, which is quick for any size.

    >>> load_head(locate("english", "latest")).counters.best_loss

    Args:
        path: a file that :func:`save` wrote.

    Raises:
        CheckpointError: as for :func:`load`, but that the tensors are not verified.
    """
    return _load(path, ())


def _load(path: Path, prefixes: tuple[str, ...]) -> Checkpoint:
    """Read a checkpoint with the tensors whose names begin with one of ``prefixes``."""
    kind = MODEL if tensor_file.kind_of(path) == MODEL else KIND
    found: list[Checkpoint] = []  # the checkpoint of the document, still without tensors

    def shapes_for(document: Document) -> Shapes:
        found.append(_from_document(document))
        shapes = _shapes(found[0])
        return shapes if kind == KIND else _model_shapes(shapes, exact=found[0].exact)

    try:
        _, tensors = tensor_file.load(path, kind, shapes_for, prefix=prefixes)
    except MissingCellError:
        raise  # the other checkpoint of the run needs it too
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_other(path)}") from None
    groups: dict[str, Tensors] = {prefix: {} for prefix in GROUPS}
    for name in [name for name in tensors if name.startswith(WHOLE)]:
        member = name.removeprefix(WHOLE)
        numbers, exponents = tensors.pop(name), tensors.pop(EXPONENT + member)
        tensors[WEIGHTS + member] = quantization.read_values(numbers, exponents, path)
    for name, tensor in tensors.items():
        group, _, member = name.partition(".")
        groups[f"{group}."][member] = tensor
    weights, optimizer, state = (groups[prefix] for prefix in GROUPS)
    return replace(found[0], weights=weights, optimizer=optimizer, state=state)


def _other(path: Path) -> str:
    """Return a hint to the other checkpoint of the run, if there is one."""
    other = path.with_stem({"best": "latest", "latest": "best"}.get(path.stem, path.stem))
    if other == path or not other.is_file():
        return ""
    return f"; {other} beside it may be whole: remove {path.name} to use it"


def _from_document(document: Document) -> Checkpoint:
    """Return the checkpoint that a document describes, without its tensors."""
    files, unknown = document["files"], document["unknown"]
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ValueError("its files are not names")
    if type(document["vocabulary"]) is not str or type(unknown) is not bool:
        raise ValueError("its vocabulary is not a text")
    backbone = document["model"].get("backbone")
    if isinstance(backbone, str) and backbone not in CELLS:
        raise MissingCellError(
            f"the {KIND} needs the cell {backbone!r}, which this charlm does not have: add it to "
            "charlm.cells.CELLS, on the command line with --cell-file"
        )
    return Checkpoint(
        model_config=ModelConfig.from_dict(document["model"]),
        train_config=TrainConfig.from_dict(document["train"]),
        tokenizer=CharTokenizer(document["vocabulary"], unknown=unknown),
        source=replace(Source.from_dict(document["source"]), files=tuple(files)),
        counters=Counters.from_dict(document["counters"]),
        stages=tuple(
            replace(Stage.from_dict(stage), train_config=TrainConfig.from_dict(train))
            for stage, train in document["stages"]
        ),
        weights={},
        exact=document.get("exact") is True,
    )


def _model_shapes(shapes: Shapes, *, exact: bool) -> Shapes:
    """Return the names and shapes of the tensors of a model file, given those of a checkpoint."""
    result: Shapes = {}
    for name, shape in shapes.items():
        group, _, member = name.partition(".")
        if f"{group}." == WEIGHTS and exact and len(shape) > 1:
            result |= {WHOLE + member: shape, EXPONENT + member: shape[:-1]}
        elif f"{group}." == WEIGHTS:
            result[name] = shape
    return result


def _shapes(checkpoint: Checkpoint) -> Shapes:
    """Return the names and shapes of all tensors of a checkpoint."""
    model, train = checkpoint.model_config, checkpoint.train_config
    weights = model.parameter_shapes(checkpoint.tokenizer.vocab_size)
    shapes = {f"model.{name}": shape for name, shape in weights.items()}
    shapes |= {f"state.{n}": shape for n, shape in model.state_shapes(train.batch_size).items()}
    if checkpoint.counters.step > 0:
        for name, shape in weights.items():
            if train.optimizer in ("adamw", "soap"):
                shapes[f"optimizer.{name}.step"] = ()
                shapes[f"optimizer.{name}.exp_avg"] = shape
                shapes[f"optimizer.{name}.exp_avg_sq"] = shape
                if train.optimizer == "soap" and has_basis(shape):
                    for kept in ("covariance", "basis"):
                        shapes[f"optimizer.{name}.{kept}"] = (shape[1], shape[1])
            elif train.momentum > 0:
                shapes[f"optimizer.{name}.momentum_buffer"] = shape
    return shapes
