"""A safetensors file whose header is checked before any tensor is read.

Checkpoints and saved states share this format. All tensors are float32. The metadata of the header
hold one JSON document and its checksum:

    charlm         {"kind": what the file is, "format": number, "sha256": {tensor: checksum}, ...}
    charlm.sha256  the sha256 of that document

Such a file can hold numbers and text, but nothing that can run. Names, types and shapes of all
tensors are compared with what the document asks for first; only then are tensors read.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from charlm.errors import CharlmError, CheckpointError
from charlm.files import is_regular_file, sha256, write_atomically

FORMAT = 1  # raise it with every change that older readers would misread
DOCUMENT = "charlm"  # the key of the JSON document in the metadata
CHECKSUM = "charlm.sha256"  # the key of its checksum

Floats = NDArray[np.float32]
Tensors = dict[str, Floats]
Document = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


def save(path: Path, kind: str, document: Document, tensors: Tensors) -> None:
    """Write a file of some kind atomically.

    Args:
        path: the file.
        kind: what it is, such as ``"checkpoint"``.
        document: what to keep beside the tensors, as JSON.
        tensors: float32 arrays by name.

    Raises:
        CheckpointError: if it cannot be written; the old file, if any, is then untouched.
    """
    arrays = {name: np.asarray(tensor, np.float32, order="C") for name, tensor in tensors.items()}
    checksums = {name: checksum(array) for name, array in arrays.items()}
    text = json.dumps({"kind": kind, "format": FORMAT, "sha256": checksums} | document)
    metadata = {DOCUMENT: text, CHECKSUM: sha256(text.encode())}
    write_atomically(path, safetensors.numpy.save(arrays, metadata=metadata))


def load(
    path: Path, kind: str, shapes_for: Callable[[Document], Shapes], *, prefix: str = ""
) -> tuple[Document, Tensors]:
    """Read a file that :func:`save` wrote.

    Args:
        path: the file.
        kind: what it must be.
        shapes_for: returns the names and shapes of all tensors that a document asks for; may raise
            any error of charlm for a document that makes no sense.
        prefix: read only the tensors whose names begin with it.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or from a newer format.
    """
    if path.exists() and not is_regular_file(path):
        raise CheckpointError(f"{path} is not a regular file, so not a {kind}")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            document = _checked_document(file.metadata() or {}, path, kind)
            _check_header(file, document, shapes_for(document))
            names = [name for name in document["sha256"] if name.startswith(prefix)]
            return document, {name: _read(file, name, document) for name in names}
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{kind} {path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {kind} {path}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(_foreign(path, kind, str(error))) from None
    except (CharlmError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{kind} {path} is damaged: {error}") from None


def kind_of(path: Path) -> str | None:
    """Return the kind of a file that :func:`save` wrote, None for any other file."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return str(json.loads((file.metadata() or {})[DOCUMENT])["kind"])
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def checksum(tensor: Floats) -> str:
    """Return the sha256 of the shape and the bytes of ``tensor``."""
    return sha256(repr(tensor.shape).encode(), tensor.reshape(-1).data)


def _checked_document(metadata: dict[str, str], path: Path, kind: str) -> Document:
    text = metadata.get(DOCUMENT)
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file, but not one of charlm")
    document = json.loads(text)
    if type(document["format"]) is not int or document["format"] < 1:
        raise ValueError("its format is not a number")
    if document["format"] > FORMAT:
        raise CheckpointError(
            f"{kind} {path} has format {document['format']}, and this charlm reads up to "
            f"{FORMAT}: install a newer charlm"
        )
    if sha256(text.encode()) != metadata.get(CHECKSUM):
        raise ValueError("the checksum of its header is wrong")
    if document["kind"] != kind:
        raise CheckpointError(f"{path} is not a {kind}, but a {document['kind']}")
    assert isinstance(document, dict)
    return document


def _check_header(file: Any, document: Document, shapes: Shapes) -> None:
    """Raise ValueError unless the header lists exactly the tensors that it should."""
    names = set(file.keys())
    if names != set(document["sha256"]):
        raise ValueError("its tensors are not those it lists")
    slices = {name: file.get_slice(name) for name in names}
    if {name: tuple(part.get_shape()) for name, part in slices.items()} != shapes:
        raise ValueError("its tensors are not of the names and shapes that its settings ask for")
    if not all(part.get_dtype() == "F32" for part in slices.values()):
        raise ValueError("its tensors are not all float32")


def _read(file: Any, name: str, document: Document) -> Floats:
    tensor: Floats = file.get_tensor(name)
    if checksum(tensor) != document["sha256"][name]:
        raise ValueError(f"the checksum of {name} is wrong")
    if not np.isfinite(tensor).all():
        raise ValueError("its tensors are not all finite numbers")
    return tensor


def _foreign(path: Path, kind: str, reason: str) -> str:
    """Return what to say of a file that is not safetensors."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start.startswith(b"\x80"):
        return f"{path} is a pickle, which can run code: charlm opens safetensors files only"
    return f"{path} is not a {kind}, or a damaged one: {reason}"
