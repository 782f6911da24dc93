"""The ids of a text: large ones stay in a file, and train the same."""

import json
import os
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, assert_same_run

from charlm import checkpoint as checkpoints
from charlm.data import id_cache, text_files
from charlm.data.text_files import read_text, survey, text_reader
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CharlmError, CorpusError
from charlm.training.resume import resume
from charlm.training.start import start


@pytest.fixture
def large(monkeypatch):
    """Take every text for a large one, and read it in small pieces."""
    monkeypatch.setattr(id_cache, "LARGE", 1)
    monkeypatch.setattr(text_files, "CHUNK", 97)


def trained(run):
    for _ in run.progress():
        pass
    return run


def test_a_large_text_stays_in_a_file_and_trains_the_same(workplace, large, monkeypatch):
    run = trained(start(["text.txt"], out="large", **QUICK))
    assert isinstance(run.trainer.dataset.train, np.memmap)
    ids = np.load("large/text.npy")
    assert run.trainer.dataset.tokenizer.decode(ids) == read_text(["text.txt"])
    monkeypatch.setattr(id_cache, "LARGE", 10**9)
    trained(start(["text.txt"], out="small", **QUICK))
    assert not Path("small/text.npy").exists()
    assert_same_run("large", "small")


def test_a_large_text_is_not_needed_to_go_on(workplace, large):
    trained(start(["text.txt"], out="run", **QUICK))
    Path("text.txt").unlink()
    trained(resume("run", steps=9))
    assert checkpoints.load(Path("run/latest.safetensors")).counters.step == 9


def forge(change):
    """Change the ids in a run folder, their checksum right."""
    ids = change(np.load("run/text.npy"))
    np.save("run/text.npy", ids)
    facts = json.loads(Path("run/text.json").read_text())
    Path("run/text.json").write_text(json.dumps(facts | {"sha256": id_cache._checksum(ids)}))


FORGED = {
    "range": lambda ids: np.where(np.arange(len(ids)) == 5, 200, ids).astype(ids.dtype),
    "type": lambda ids: ids.astype(np.uint16),
    "length": lambda ids: ids[:-9],
}


@pytest.mark.parametrize("damage", ["flip", "cut", "facts", "gone", *FORGED])
def test_ids_that_are_damaged_are_made_anew(workplace, large, damage):
    trained(start(["text.txt"], out="run", **QUICK))
    path, facts = Path("run/text.npy"), Path("run/text.json")
    whole = path.read_bytes()
    if damage == "flip":
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    elif damage == "cut":
        path.write_bytes(whole[:-9])
    elif damage == "facts":
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"unknown": True}))
    elif damage in FORGED:
        forge(FORGED[damage])
    else:
        path.unlink()
    trained(resume("run", steps=9))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["text.npy", "text.json"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_no_link_and_no_pipe_is_read_or_written_in_the_place_of_the_ids(
    workplace, large, name, kind
):
    trained(start(["text.txt"], out="run", **QUICK))
    path, elsewhere = Path("run") / name, Path("elsewhere").absolute()
    whole = path.read_bytes()
    path.rename(elsewhere)
    if kind == "link":
        path.symlink_to(elsewhere)
    else:
        os.mkfifo(path)
    trained(resume("run", steps=9))
    assert path.is_file()
    assert not path.is_symlink()
    assert path.read_bytes() == elsewhere.read_bytes() == whole


@pytest.mark.parametrize("settings", [{"batch_size": 10**9}, {"min_count": 10**6}])
def test_what_fails_leaves_nothing(workplace, large, settings):
    with pytest.raises(CharlmError):
        start(["text.txt"], out="run", **(QUICK | settings))
    assert sorted(path.name for path in Path().iterdir()) == ["text.txt"]


def test_a_pipe_is_read_once(workplace):
    trained(start(["text.txt"], out="file", **QUICK))
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text(read_text(["text.txt"])))
    writer.start()
    trained(start(["pipe"], out="pipes", **QUICK))
    writer.join()
    a, b = (checkpoints.load(Path(name) / "best.safetensors") for name in ("file", "pipes"))
    assert a.source.fingerprint == b.source.fingerprint
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.mark.parametrize("change", ["x", ""])
def test_a_text_that_changes_while_it_is_read_is_refused(workplace, change):
    path = Path("text.txt")
    read = text_reader([path])
    found = survey(read())
    path.write_text(path.read_text()[:-5] + change)
    with pytest.raises(CorpusError, match="has changed while it was read"):
        id_cache.encode(read, found, CharTokenizer.from_counts(found.counts), None)


@pytest.mark.parametrize("emoji", ["", "\U0001f600"])
def test_memory_does_not_grow_with_the_text_but_for_its_ids(tmp_path, emoji):
    path = tmp_path / "large.txt"
    path.write_bytes(("the quick brown fox\r\n" * 20_000 + emoji).encode() * 100)
    tracemalloc.start()
    read = text_reader([path])
    found = survey(read())
    ids = id_cache.encode(read, found, CharTokenizer.from_counts(found.counts), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ids) == found.characters
    assert peak < ids.nbytes + 18 * text_files.CHUNK


def test_progress_is_told_in_bytes_for_both_passes(workplace):
    seen = []
    start(["text.txt"], out="run", **QUICK, on_progress=seen.append)
    assert sum(seen) == 2 * Path("text.txt").stat().st_size
