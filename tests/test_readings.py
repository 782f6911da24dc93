import os
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from conftest import DATA

from charlm import checkpoint as checkpoints
from charlm import readings
from charlm.api import LanguageModel
from charlm.errors import CheckpointError, ConfigError
from charlm.readings import CHECKSUM, MODEL, Reading
from charlm.tokenizer import CharTokenizer

NAMES = ("h", "c")
ANY = Reading(np.arange(5, dtype=np.float32), tuple(np.full((2, 1, 3), x, "f4") for x in (1, 2)))
SHAPES = {name: tensor.shape for name, tensor in ANY.tensors(NAMES).items()}


def load(path):
    return readings.load(path, model="m", shapes=SHAPES)


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "state"
    readings.save(ANY, path, model="m", names=NAMES)
    found = load(path)
    assert np.array_equal(found.logits, ANY.logits)
    assert all(np.array_equal(a, b) for a, b in zip(found.state, ANY.state, strict=True))
    assert path.stat().st_size < 1000


def test_another_model_is_refused(tmp_path):
    readings.save(ANY, tmp_path / "state", model="other", names=NAMES)
    with pytest.raises(CheckpointError, match="of another model"):
        load(tmp_path / "state")


def damaged():
    good = ANY.tensors(NAMES)
    header = {MODEL: "m"}
    yield "no state", good, None
    yield "its shapes", good | {"more": ANY.logits}, header
    yield "its shapes", {"logits": ANY.logits}, header
    yield "its shapes", good | {"logits": ANY.logits[:4]}, header
    yield "its checksum", good | {"state.c": ANY.state[1] * 2}, header
    yield "no numbers", good | {"state.c": ANY.state[1].astype("f8")}, header
    yield "no numbers", good | {"state.c": ANY.state[1] * np.float32(np.nan)}, header


@pytest.mark.parametrize(("message", "tensors", "header"), list(damaged()))
def test_damage_is_refused(tmp_path, message, tensors, header):
    path = tmp_path / "state"
    if message == "no numbers":
        header = header | {CHECKSUM: readings._checksum(tensors)}
    safetensors.numpy.save_file(tensors, path, metadata=header)
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_every_flipped_byte_and_every_truncation_is_refused_or_harmless(tmp_path):
    path = tmp_path / "state"
    readings.save(ANY, path, model="m", names=NAMES)
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1
        for changed in (bytes(data), whole[:place]):
            path.write_bytes(changed)
            try:
                found = load(path)
            except CheckpointError:
                continue
            assert np.array_equal(found.logits, ANY.logits)
            assert all(np.array_equal(a, b) for a, b in zip(found.state, ANY.state, strict=True))


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no state that charlm generate saved"):
        load(DATA / "format-1-lstm.safetensors")


def test_a_place_where_something_would_be_lost_is_refused(tmp_path):
    (tmp_path / "text").write_text("abc")
    readings.save(ANY, tmp_path / "state", model="m", names=NAMES)
    readings.check_target(tmp_path / "state")
    readings.check_target(tmp_path / "new")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(path.name for path in tmp_path.iterdir())
    for name, message in [
        ("text", "no saved state"), ("none/state", "no folder"), (".", "is a folder"),
        ("pipe", "no regular file"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            readings.check_target(tmp_path / name)
        with pytest.raises(CheckpointError, match=message):
            readings.save(ANY, tmp_path / name, model="m", names=NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("state")
    readings.save(ANY, tmp_path / "link", model="m", names=NAMES)
    assert (tmp_path / "link").is_symlink()
    assert (
        load(tmp_path / "state").tensors(NAMES).keys()
        == load(tmp_path / "link").tensors(NAMES).keys()
    )


def lm_of(name, **changes):
    found = checkpoints.load(DATA / f"format-1-{name}.safetensors")
    config = replace(found.model_config, **changes)
    return LanguageModel(config, found.tokenizer, found.weights)


def test_a_fingerprint_is_of_what_a_model_computes():
    lm = lm_of("lstm")
    assert lm.fingerprint() == lm_of("lstm", dropout=0.1, weight_drop=0.1).fingerprint()
    other = lm_of("lstm")
    other.tokenizer = CharTokenizer(lm.tokenizer.vocabulary[::-1])
    weights = {name: tensor.copy() for name, tensor in lm._weights.items()}
    weights["head.bias"][0] += 1
    changed = LanguageModel(lm.config, lm.tokenizer, weights)
    others = [lm_of("gru"), lm_of("lstm", residual=False), other, changed]
    assert len({one.fingerprint() for one in (lm, *others)}) == 5


def test_the_state_of_another_model_is_refused():
    lm, other = lm_of("lstm"), lm_of("gru")
    for use in (lm.read, lm.generate, lm.score):
        with pytest.raises(ConfigError, match="of another model"):
            use("abc", state=other.read("abc"))
    with pytest.raises(ConfigError, match="of another model"):
        lm.save_state(other.read("abc"), "any")
