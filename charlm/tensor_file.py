"""A safetensors file whose header is checked before any tensor is read.

Checkpoints and saved states share this format. Tensors are float32; those whose names begin with
``whole.`` or ``exponent.`` are whole numbers of 8 bits, see :mod:`charlm.quantization`. The
metadata of the header hold one JSON document and its checksum:

    charlm         {"kind": what the file is, "format": number, "sha256": {tensor: checksum}, ...}
    charlm.sha256  the sha256 of that document

Such a file can hold numbers and text, but nothing that can run. Names, types, shapes and places of
all tensors are compared with what the document asks for first. Then each tensor is verified piece
by piece before memory is taken for it, so a file that claims to be huge costs nothing.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from charlm.errors import CharlmError, CheckpointError
from charlm.files import check_name, is_regular_file, sha256, write_atomically

FORMAT = 2  # raise it with every change that older readers would misread
FLOATS_FORMAT = 1  # of a file without whole numbers, which older readers read
INTEGERS = ("whole.", "exponent.")  # what the names of tensors of whole numbers begin with
DOCUMENT = "charlm"  # the key of the JSON document in the metadata
CHECKSUM = "charlm.sha256"  # the key of its checksum
LONGEST_HEADER = 1 << 24  # bytes
PIECE = 1 << 22  # bytes of a tensor that are verified at a time

Floats = NDArray[np.float32]
Integers = NDArray[np.int8]
Tensors = dict[str, Floats]
Document = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


def save(
    path: Path, kind: str, document: Document, tensors: Mapping[str, Floats | Integers]
) -> None:
    """Write a file of some kind atomically.

    Args:
        path: the file.
        kind: what it is, such as ``"checkpoint"``.
        document: what to keep beside the tensors, as JSON.
        tensors: arrays by name.

    Raises:
        CheckpointError: if it cannot be written; the old file, if any, is then untouched.
    """
    arrays = {name: np.asarray(t, type_of(name), order="C") for name, t in tensors.items()}
    checksums = {name: checksum(array) for name, array in arrays.items()}
    number = FORMAT if any(name.startswith(INTEGERS) for name in arrays) else FLOATS_FORMAT
    text = json.dumps({"kind": kind, "format": number, "sha256": checksums} | document)
    metadata = {DOCUMENT: text, CHECKSUM: sha256(text.encode())}
    write_atomically(path, safetensors.numpy.save(arrays, metadata=metadata))


def load(
    path: Path,
    kind: str,
    shapes_for: Callable[[Document], Shapes],
    *,
    prefix: str | tuple[str, ...] = "",
) -> tuple[Document, dict[str, Any]]:
    """Read a file that :func:`save` wrote.

    Args:
        path: the file.
        kind: what it must be.
        shapes_for: returns the names and shapes of all tensors that a document asks for; may raise
            any error of charlm for a document that makes no sense.
        prefix: read only the tensors whose names begin with it, or with one of several.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or from a newer format.
    """
    if path.exists() and not is_regular_file(path):
        raise CheckpointError(f"{path} is not a regular file, so not a {kind}")
    try:
        with path.open("rb") as file:
            try:
                header = _read_header(file)
            except (ValueError, TypeError, RecursionError) as error:
                raise CheckpointError(_foreign(file, path, kind, str(error))) from None
            document = _checked_document(header.pop("__metadata__", {}), path, kind)
            places = _places(header, document, shapes_for(document), file)
            names = [name for name in places if name.startswith(prefix)]
            return document, {
                name: _read(file, *places[name], name, document["sha256"][name]) for name in names
            }
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{kind} {path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {kind} {path}: {error.strerror or error}") from None
    except (CharlmError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{kind} {path} is damaged: {error}") from None


def check_target(path: Path, kind: str) -> None:
    """Refuse a place where no file can be written, or where one of another kind would be lost.

    Raises:
        ConfigError: for what cannot be the name of a file.
        CheckpointError: see above.
    """
    check_name(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise CheckpointError(f"cannot write {path}: it is a folder")
    if path.exists() and not is_regular_file(path):  # a device, a pipe
        raise CheckpointError(f"cannot write {path}: it is not a regular file")
    if path.exists() and kind_of(path) != kind:
        raise CheckpointError(f"{path} is there already, and not a {kind}: choose another name")


def kind_of(path: Path) -> str | None:
    """Return the kind of a file that :func:`save` wrote, None for anything else."""
    if not is_regular_file(path):
        return None
    try:
        with path.open("rb") as file:
            return str(json.loads(_read_header(file)["__metadata__"][DOCUMENT])["kind"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return None


def type_of(name: str) -> np.dtype[Any]:
    """Return the type of the numbers of a tensor."""
    return np.dtype("i1" if name.startswith(INTEGERS) else "<f4")


def checksum(tensor: Floats | Integers) -> str:
    """Return the sha256 of the shape and the bytes of ``tensor``."""
    return sha256(repr(tensor.shape).encode(), tensor.reshape(-1).data)


def _read_header(file: IO[bytes]) -> dict[str, Any]:
    """Return the header of a safetensors file: its metadata, and type, shape and place by name."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(LONGEST_HEADER, _size(file) - 8):
        raise ValueError("it has no header of a safetensors file")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    return header


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _checked_document(metadata: dict[str, Any], path: Path, kind: str) -> Document:
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


def _places(
    header: dict[str, Any], document: Document, shapes: Shapes, file: IO[bytes]
) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return where in the file each tensor begins, and its shape.

    Raises:
        ValueError: unless the header lists exactly the tensors that it should, and the file holds
            them end to end and nothing else.
    """
    if header.keys() != document["sha256"].keys():
        raise ValueError("its tensors are not those it lists")
    if {name: tuple(entry["shape"]) for name, entry in header.items()} != shapes:
        raise ValueError("its tensors are not of the names and shapes that its settings ask for")
    for name, entry in header.items():
        if entry["dtype"] != ("I8" if name.startswith(INTEGERS) else "F32"):
            raise ValueError("its tensors are not all float32, or int8 for whole numbers")
    places, first = {}, file.tell()
    end = first
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        size = type_of(name).itemsize * math.prod(shapes[name])
        if header[name]["data_offsets"] != [end - first, end - first + size]:
            raise ValueError("its tensors do not stand end to end")
        places[name] = (end, shapes[name])
        end += size
    if end != _size(file):
        raise ValueError(f"it should have {end:,} bytes, and has {_size(file):,}")
    return places


def _read(file: IO[bytes], start: int, shape: tuple[int, ...], name: str, expected: str) -> Floats:
    """Return a tensor, verified before memory is taken for it."""
    dtype = type_of(name)
    size = dtype.itemsize * math.prod(shape)
    digest = hashlib.sha256(repr(shape).encode())
    finite = True
    file.seek(start)
    for offset in range(0, size, PIECE):
        piece = file.read(min(PIECE, size - offset))
        digest.update(piece)
        finite = finite and bool(np.isfinite(np.frombuffer(piece, dtype)).all())
    if digest.hexdigest() != expected:
        raise ValueError(f"the checksum of {name} is wrong")
    if not finite:
        raise ValueError("its tensors are not all finite numbers")
    file.seek(start)
    array = np.fromfile(file, dtype, size // dtype.itemsize)
    return array.astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _foreign(file: IO[bytes], path: Path, kind: str, reason: str) -> str:
    """Return what to say of a file that is not safetensors."""
    file.seek(0)
    start = file.read(2)
    if start == b"PK" or start.startswith(b"\x80"):
        return f"{path} is a pickle, which can run code: charlm opens safetensors files only"
    return f"{path} is not a {kind}, or a damaged one: {reason}"
