import json
import os
import pickle
import stat
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from conftest import DATA, GOLDEN, B, E, H, L

from charlm import tensor_file
from charlm.api import LanguageModel
from charlm.checkpoint import Checkpoint, load, locate, save
from charlm.config import Counters, ModelConfig, Source, Stage, TrainConfig
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CheckpointError
from charlm.files import sha256


def some_checkpoint():
    rng = np.random.default_rng(0)
    config = ModelConfig(embedding_size=E, hidden_size=H, num_layers=L)
    tokenizer = CharTokenizer("\n abé漢\U0001f600\ufffd", unknown=True)
    shapes = config.parameter_shapes(tokenizer.vocab_size)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Checkpoint(
        model_config=config,
        train_config=TrainConfig(batch_size=B),
        tokenizer=tokenizer,
        weights=weights,
        source=Source(
            files=("a b.txt", "ü.txt", "\udcff"),
            fingerprint="0" * 64,
            characters=123,
            precision="bfloat16",
            processes=2,
        ),
        stages=(Stage(step=3, precision="float16", train_config=TrainConfig(steps=3)),),
        counters=Counters(step=5, best_loss=1.5, best_step=4, loss_sum=0.1, seconds=2.5),
        optimizer={
            f"{name}.{key}": np.full(() if key == "step" else shape, 5, np.float32)
            for name, shape in shapes.items()
            for key in ("step", "exp_avg", "exp_avg_sq")
        },
        state={name: np.ones((L, B, H), np.float32) for name in ("h", "c")},
    )


@pytest.fixture
def saved(tmp_path):
    save(some_checkpoint(), tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


def assert_same(one, other):
    for group in ("weights", "optimizer", "state"):
        ours, theirs = getattr(one, group), getattr(other, group)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    plain = {group: {} for group in ("weights", "optimizer", "state")}
    assert replace(one, **plain) == replace(other, **plain)


def test_load_undoes_save(saved):
    assert_same(load(saved), some_checkpoint())


def test_a_reader_that_only_generates_reads_only_the_model(saved):
    found = load(saved, model_only=True)
    assert_same(found, replace(some_checkpoint(), optimizer={}, state={}))


def test_damage_to_the_optimizer_is_no_concern_of_a_reader_that_only_generates(saved):
    data = bytearray(saved.read_bytes())
    data[data.index(np.full(H, 5, np.float32).tobytes())] ^= 1
    saved.write_bytes(data)
    assert_same(load(saved, model_only=True), replace(some_checkpoint(), optimizer={}, state={}))
    with pytest.raises(CheckpointError, match="the checksum of optimizer"):
        load(saved)


def test_any_safetensors_reader_opens_the_file(saved):
    tensors = safetensors.numpy.load_file(saved)
    assert {name.split(".")[0] for name in tensors} == {"model", "optimizer", "state"}


def test_every_truncation_is_refused(saved):
    data = saved.read_bytes()
    for length in [*range(0, 300, 7), *range(300, len(data), 997), len(data) - 1]:
        saved.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            load(saved)


def test_every_flipped_bit_is_refused_or_harmless(saved):
    """At 400 places of header and tensors; harmless is a bit in the padding of the header."""
    data = saved.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*rng.integers(0, header, 200), *rng.integers(header, len(data), 200)]
    refused = 0
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        try:
            assert_same(load(saved), some_checkpoint())
        except CheckpointError:
            refused += 1
    assert refused > 390


def rewrite(path, change):
    """Change the document and the tensors of a checkpoint, the checksum of its header right."""
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "np") as file:
        document = json.loads(file.metadata()["charlm"])
    change(document, tensors)
    text = json.dumps(document)
    header = {"charlm": text, "charlm.sha256": sha256(text.encode())}
    path.write_bytes(safetensors.numpy.save(tensors, header))


def rewritten(path, **changes):
    """Rewrite the JSON document of a checkpoint, its checksum right."""
    rewrite(path, lambda document, tensors: document.update(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": tensor_file.FORMAT + 1},
            "has format 3, and this charlm reads up to 2",
        ),
        ({"format": "new"}, "damaged"),
        ({"format": 0}, "its format is not a number"),
        ({"model": {"hidden_size": 12}}, "not of the names and shapes"),
        ({"train": {"optimizer": "sgd", "batch_size": B}}, "not of the names and shapes"),
        ({"train": {"batch_size": 5}}, "not of the names and shapes"),
        ({"model": {"hidden_sise": 12}}, "unknown setting 'hidden_sise'; did you mean"),
        ({"model": {"hidden_size": -1}}, "hidden_size must be at least 1"),
        ({"vocabulary": "aa"}, "each only once"),
        ({"vocabulary": 7}, "its vocabulary is not a text"),
        ({"unknown": "yes"}, "its vocabulary is not a text"),
        ({"train": []}, "damaged"),
        ({"counters": {"step": -3}}, "step must be at least 0"),
        ({"counters": {"step": 2.5}}, "step must be of type int"),
        ({"counters": {"stop": 3}}, "unknown setting 'stop'"),
        ({"counters": {"seconds": "long"}}, "seconds must be of type float"),
        ({"counters": {"best_loss": "low"}}, "best_loss must be of type float"),
        ({"counters": {}}, "not of the names and shapes"),  # step 0 has no optimizer state
        ({"source": {"fingerprint": None}}, "fingerprint must be of type str"),
        ({"source": {"precision": "float8"}}, "precision must be one of"),
        ({"stages": [[{"step": -1}, {}]]}, "step must be at least 0"),
        ({"stages": [[{}, {"steps": 0}]]}, "steps must be at least 1"),
        ({"stages": 3}, "damaged"),
        ({"files": [1, 2]}, "its files are not names"),
        ({"files": "a.txt"}, "its files are not names"),
        ({"sha256": {}}, "its tensors are not those it lists"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(saved, changes, message):
    rewritten(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(saved)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch pickle-was-run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Bomb()), "is a pickle"),
        (b"PK\x03\x04 as torch.save writes", "is a pickle"),
        (b"", "is not a checkpoint"),
        (b"just a text", "is not a checkpoint"),
        (safetensors.numpy.save({"a": np.ones(3)}), "not one of charlm"),
        (b"\xff" * 64, "is not a checkpoint"),
    ],
)
def test_foreign_files_are_refused_and_not_run(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "x.safetensors")
    assert not (tmp_path / "pickle-was-run").exists()


@pytest.mark.parametrize("place", ["optimizer.head.bias.exp_avg", "state.h", "model.head.bias"])
@pytest.mark.parametrize("change", ["left out", "of another shape", "of another type"])
def test_a_tensor_that_does_not_belong_is_refused(saved, place, change):
    """With its checksum right: a scalar moment, for one, would make torch read beyond its end."""

    def changed(document, tensors):
        if change == "left out":
            del tensors[place]
        elif change == "of another shape":
            tensors[place] = np.ones((), np.float32)
        else:
            tensors[place] = tensors[place].astype(np.float64)
        document["sha256"] = {name: tensor_file.checksum(t) for name, t in tensors.items()}

    rewrite(saved, changed)
    with pytest.raises(CheckpointError, match="is damaged"):
        load(saved)


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    bad = some_checkpoint()
    bad.weights["head.bias"][2] = np.nan
    save(bad, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not all finite"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_whole(saved, monkeypatch, name):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(replace(some_checkpoint(), stages=()), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_rename_is_made_to_last(saved, monkeypatch):
    calls = []
    rename, sync = os.replace, os.fsync

    def is_folder(descriptor):
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)

    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("rename"), rename(*a)))
    monkeypatch.setattr(
        os, "fsync", lambda d: (calls.append("folder" if is_folder(d) else "file"), sync(d))
    )
    save(some_checkpoint(), saved)
    assert calls == ["file", "rename", "folder"]


def test_a_checkpoint_is_as_private_as_the_user_wants_files_to_be(saved):
    before = os.umask(0o077)
    try:
        saved.unlink()
        save(some_checkpoint(), saved)
    finally:
        os.umask(before)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


def test_locate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "checkpoints" / "mine"
    run.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        locate("mine")
    (tmp_path / "mine").mkdir()  # an unrelated folder of the same name hides nothing
    for name in ("latest", "best"):
        save(some_checkpoint(), run / f"{name}.safetensors")
        assert locate(run) == run / f"{name}.safetensors"
    assert locate("mine").samefile(run / "best.safetensors")
    assert locate("mine", "latest").name == "latest.safetensors"
    assert locate(run / "latest.safetensors").name == "latest.safetensors"
    with pytest.raises(CheckpointError, match="no run or checkpoint 'yours'; there are: mine"):
        locate("yours")


@pytest.mark.parametrize("name", GOLDEN)
def test_a_frozen_checkpoint_generates_its_recorded_text(name):
    found = load(DATA / f"golden-{name}.safetensors", model_only=True)
    record = json.loads((DATA / f"golden-{name}.json").read_text("utf-8"))
    lm = LanguageModel(found)
    assert lm.generate(**record["settings"]) == record["text"]
