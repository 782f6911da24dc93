import os
from dataclasses import replace

import numpy as np
import pytest
from conftest import DATA, H, L, V, tiny_config

from charlm import checkpoint as checkpoints
from charlm import tensor_file
from charlm.api import LanguageModel
from charlm.checkpoint import Checkpoint
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CheckpointError, ConfigError
from charlm.inference import prompt_state
from charlm.inference.prompt_state import KIND, PromptState

CONFIG = tiny_config("lstm")
STATE = tuple(np.full((L, 1, H), x, np.float32) for x in (1, 2))
ANY = PromptState(np.arange(V, dtype=np.float32), STATE)


def save(path, state=ANY, model="m"):
    prompt_state.save(state, path, CONFIG, model)


def load(path, config=CONFIG, vocab_size=V):
    return prompt_state.load(path, config, vocab_size, "m")


def assert_is_any(found):
    assert np.array_equal(found.logits, ANY.logits)
    assert all(np.array_equal(a, b) for a, b in zip(found.state, ANY.state, strict=True))


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path / "state")
    assert_is_any(load(tmp_path / "state"))
    assert (tmp_path / "state").stat().st_size < 1000


def test_another_model_is_refused(tmp_path):
    save(tmp_path / "state", model="other")
    with pytest.raises(CheckpointError, match="of another model"):
        load(tmp_path / "state")
    save(tmp_path / "state")
    for config, vocab_size in [(tiny_config("gru"), V), (CONFIG, V + 1)]:
        with pytest.raises(CheckpointError, match="not of the names and shapes"):
            load(tmp_path / "state", config, vocab_size)


def test_a_state_that_is_not_finite_is_refused(tmp_path, monkeypatch):
    bad = replace(ANY, logits=ANY.logits * np.float32(np.nan))
    with pytest.raises(CheckpointError, match="holds NaN or infinite"):
        save(tmp_path / "state", bad)
    with monkeypatch.context() as patch:
        patch.setattr(prompt_state.np, "isfinite", lambda array: np.ones(1, bool))
        save(tmp_path / "state", bad)
    with pytest.raises(CheckpointError, match="not all finite"):
        load(tmp_path / "state")


def test_every_flipped_byte_and_every_truncation_is_refused_or_harmless(tmp_path):
    path = tmp_path / "state"
    save(path)
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
            assert_is_any(found)


def test_what_is_not_a_state_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="is not a saved state, but a checkpoint"):
        load(DATA / "golden-lstm.safetensors")


def test_a_place_where_something_would_be_lost_is_refused(tmp_path):
    (tmp_path / "text").write_text("abc")
    tensor_file.save(tmp_path / "other", "another kind", {}, {})
    save(tmp_path / "state")
    prompt_state.check_target(tmp_path / "state")
    prompt_state.check_target(tmp_path / "new")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(path.name for path in tmp_path.iterdir())
    for name, message in [
        ("text", f"not a {KIND}"), ("other", f"not a {KIND}"), ("none/state", "no folder"),
        (".", "is a folder"), ("pipe", "not a regular file"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            prompt_state.check_target(tmp_path / name)
        with pytest.raises(CheckpointError, match=message):
            save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("state")
    save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    for name in ("state", "link"):
        assert_is_any(load(tmp_path / name))


def lm_of(name, **changes):
    found = checkpoints.load(DATA / f"golden-{name}.safetensors")
    config = replace(found.model_config, **changes)
    return LanguageModel(
        Checkpoint(model_config=config, tokenizer=found.tokenizer, weights=found.weights)
    )


def test_a_fingerprint_is_of_what_a_model_computes():
    lm = lm_of("lstm")
    assert lm.fingerprint() == lm_of("lstm", dropout=0.1, weight_drop=0.1).fingerprint()
    reversed_tokenizer = CharTokenizer(lm.tokenizer.vocabulary[::-1])
    other = LanguageModel(
        Checkpoint(
            model_config=lm.config, tokenizer=reversed_tokenizer, weights=lm.checkpoint.weights
        )
    )
    weights = {name: tensor.copy() for name, tensor in lm.checkpoint.weights.items()}
    weights["head.bias"][0] += 1
    changed = LanguageModel(
        Checkpoint(model_config=lm.config, tokenizer=lm.tokenizer, weights=weights)
    )
    others = [lm_of("gru"), lm_of("lstm", residual=False), other, changed]
    assert len({one.fingerprint() for one in (lm, *others)}) == 5


def test_the_state_of_another_model_is_refused():
    lm, other = lm_of("lstm"), lm_of("gru")
    for use in (lm.read, lm.generate, lm.score):
        with pytest.raises(ConfigError, match="of another model"):
            use("abc", state=other.read("abc"))
    with pytest.raises(ConfigError, match="of another model"):
        lm.save_state(other.read("abc"), "any")
