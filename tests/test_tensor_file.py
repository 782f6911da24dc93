"""The file that checkpoints and saved states share: what does not hold what it says is refused."""

import json
import os
import subprocess
import sys
import textwrap
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from conftest import ROOT

from charlm import files, tensor_file
from charlm.errors import CheckpointError, ConfigError
from charlm.files import TEMPORARY, sha256

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(7), "z.c": np.ones(5)}
SHAPES = {"a": (2, 3), "b": (), "z.c": (5,)}


def load(path, shapes=SHAPES, **options):
    return tensor_file.load(path, "thing", lambda document: shapes, **options)


@pytest.fixture
def saved(tmp_path):
    tensor_file.save(tmp_path / "t", "thing", {"more": ["ü", 1]}, TENSORS)
    return tmp_path / "t"


def written(path, tensors, document=None, header=None):
    """Write a file as a stranger could, with the checksum of its document right."""
    checksums = {name: tensor_file.checksum(np.asarray(t)) for name, t in tensors.items()}
    text = json.dumps({"kind": "thing", "format": 1, "sha256": checksums} | (document or {}))
    metadata = {"charlm": text, "charlm.sha256": sha256(text.encode())}
    if header is None:
        path.write_bytes(safetensors.numpy.save(tensors, metadata))
        return
    data = json.dumps({"__metadata__": metadata} | header).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data)


def test_what_is_saved_is_loaded_and_any_reader_opens_it(saved):
    document, tensors = load(saved)
    assert document["more"] == ["ü", 1]
    assert {name: t.shape for name, t in tensors.items()} == SHAPES
    for found in (tensors, safetensors.numpy.load_file(saved)):
        assert all(np.array_equal(found[name], TENSORS[name]) for name in TENSORS)
        assert all(t.dtype == np.float32 for t in found.values())
    assert load(saved, prefix="z.")[1].keys() == {"z.c"}
    assert tensor_file.kind_of(saved) == "thing"


def test_another_kind_is_refused_by_name(saved):
    with pytest.raises(CheckpointError, match="is not a cat, but a thing"):
        tensor_file.load(saved, "cat", lambda document: SHAPES)


def test_a_document_that_makes_no_sense_is_damage(saved):
    def refuse(document):
        raise ConfigError("size must be small")

    with pytest.raises(CheckpointError, match=r"thing .* is damaged: size must be small"):
        tensor_file.load(saved, "thing", refuse)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8"])
def test_other_types_are_refused(tmp_path, dtype):
    written(tmp_path / "t", {"a": np.ones((2, 3), dtype)})
    with pytest.raises(CheckpointError, match="not all float32"):
        load(tmp_path / "t", {"a": (2, 3)})


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "BOOL", "nonsense", 3, None])
def test_types_that_numpy_does_not_have_are_refused(tmp_path, dtype):
    header = {"a": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, 24]}}
    written(tmp_path / "t", {"a": np.ones((2, 3), np.float32)}, header=header)
    with pytest.raises(CheckpointError, match="not all float32"):
        load(tmp_path / "t", {"a": (2, 3)})


@pytest.mark.parametrize(
    "offsets", [[0, 12], [4, 28], [0, 10**15], [-8, 16], [0.0, 24.5], [0], "ab", None, [[0], [24]]]
)
def test_places_that_make_no_sense_are_refused(tmp_path, offsets):
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": offsets}}
    written(tmp_path / "t", {"a": np.ones((2, 3), np.float32)}, header=header)
    with (tmp_path / "t").open("ab") as file:
        file.write(np.ones(6, np.float32).tobytes())
    with pytest.raises(CheckpointError, match="is damaged"):
        load(tmp_path / "t", {"a": (2, 3)})


@pytest.mark.parametrize(
    "content",
    [
        b"", b"1234567", (1 << 63).to_bytes(8, "little") + b"{}", b"\0" * 64, b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"{",
        (200_000).to_bytes(8, "little") + b"[" * 200_000, (8).to_bytes(8, "little") + b"\xff" * 8,
    ],
)  # fmt: skip
def test_what_has_no_header_is_refused(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a thing, or a damaged one"):
        load(tmp_path / "t")
    assert tensor_file.kind_of(tmp_path / "t") is None


def test_a_byte_too_many_is_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="bytes, and has"):
        load(saved)


@pytest.mark.parametrize("name", ["open", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_whole_and_nothing_else(saved, monkeypatch, name):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, full)
    with pytest.raises(CheckpointError, match=r"cannot write .*: No space left on device"):
        tensor_file.save(saved, "thing", {}, TENSORS)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_temporary_files_have_names_of_the_pattern_and_no_name_twice(saved, monkeypatch):
    names, rename = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (names.append(Path(a).name), rename(a, b)))
    for _ in range(9):
        tensor_file.save(saved, "thing", {}, TENSORS)
    assert len(set(names)) == 9
    assert all(fnmatch(name, TEMPORARY) for name in names)


@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_what_lies_at_the_temporary_name_is_never_written_to(saved, monkeypatch, request, kind):
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * count)
    temporary = files.temporary_path(saved)
    victim = saved.with_name("victim")
    victim.write_text("mine")
    before = saved.read_bytes()
    if kind == "link":
        temporary.symlink_to(victim)
    elif kind == "file":
        os.link(victim, temporary)
    else:
        os.mkfifo(temporary)
        reader = os.open(temporary, os.O_RDONLY | os.O_NONBLOCK)  # so that a writer never waits
        request.addfinalizer(lambda: os.close(reader))
    with pytest.raises(CheckpointError, match="File exists"):
        tensor_file.save(saved, "thing", {}, {})
    assert saved.read_bytes() == before
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("size", [2 << 30, 4 << 40])
def test_a_sparse_file_that_claims_to_be_huge_takes_no_memory(tmp_path, size):
    """Names and shapes are those that are asked for; only the checksum cannot be right."""
    rows = size // 4096
    header = {"a": {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [0, size]}}
    written(tmp_path / "t", {"a": np.ones(1, np.float32)}, header=header)
    start = (tmp_path / "t").stat().st_size
    try:
        with (tmp_path / "t").open("r+b") as file:
            file.truncate(start + size)
    except OSError:
        pytest.skip("this file system has no files of this size")
    program = f"""
        import resource, signal
        from pathlib import Path
        from charlm import files, tensor_file
        from charlm.errors import CheckpointError
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tensor_file.PIECE = 1 << 20
        signal.alarm(1)  # to verify terabytes takes hours, and takes no more memory
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(CheckpointError("time")))
        try:
            tensor_file.load(Path("t"), "thing", lambda document: {{"a": ({rows}, 1024)}})
        except CheckpointError:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert int(done.stdout) < 50_000, done.stderr  # kilobytes
