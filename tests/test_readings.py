import numpy as np
import pytest
import safetensors.numpy
from conftest import DATA

import charlm
from charlm import readings
from charlm.errors import CheckpointError
from charlm.readings import KEY, Reading

NAMES = ("h", "c")
ANY = Reading(np.arange(5, dtype=np.float32), tuple(np.full((2, 1, 3), x, "f4") for x in (1, 2)))


def load(path, **changes):
    return readings.load(path, ANY, **{"model": "m", "names": NAMES, **changes})


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
    good = {"logits": ANY.logits, "state.h": ANY.state[0], "state.c": ANY.state[1]}
    header = {KEY: "m"}
    yield "no state", good, None
    yield "no state", good | {"more": ANY.logits}, header
    yield "no state", {"logits": ANY.logits}, header
    yield "another shape", good | {"logits": ANY.logits[:4]}, header
    yield "another shape", good | {"state.c": ANY.state[1].astype("f8")}, header
    yield "no numbers", good | {"state.c": ANY.state[1] * np.float32(np.nan)}, header


@pytest.mark.parametrize(("message", "tensors", "header"), list(damaged()))
def test_damage_is_refused(tmp_path, message, tensors, header):
    path = tmp_path / "state"
    safetensors.numpy.save_file(tensors, path, metadata=header)
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "none")
    readings.save(ANY, tmp_path / "state", model="m", names=NAMES)
    whole = (tmp_path / "state").read_bytes()
    for count in (0, 1, 8, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:count])
        with pytest.raises(CheckpointError, match="cannot read the state"):
            load(tmp_path / "cut")
    with pytest.raises(CheckpointError, match="no state that charlm generate saved"):
        load(DATA / "format-1-lstm.safetensors")


def test_two_models_have_two_fingerprints():
    one, other, again = (
        charlm.load(DATA / f"format-1-{name}.safetensors").fingerprint()
        for name in ("lstm", "gru", "lstm")
    )
    assert one == again != other
