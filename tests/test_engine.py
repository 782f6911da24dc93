"""The engine and the torch model are the same function, also after carried states."""

import numpy as np
import pytest
import torch
from conftest import BACKBONES, DATA, GOLDEN, ROOT, B, H, T, V, random_ids, tiny_config

from charlm import checkpoint as checkpoints
from charlm.corpus import read_text
from charlm.engine import Engine
from charlm.generation import read
from charlm.model import CharLM


def log_probabilities(logits):
    logits = np.asarray(logits, dtype=np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("changes", [{}, {"residual": False}, {"num_layers": 1}, {"num_layers": 3}])
@pytest.mark.parametrize(("name", "nonlinearity"), BACKBONES)
def test_engine_agrees_with_the_reference_from_any_state(name, nonlinearity, changes):
    model = CharLM(tiny_config(name, nonlinearity, **changes), V, how="reference", seed=4).eval()
    engine = Engine(model.config, model.weights())
    rng = np.random.default_rng(5)
    state = tuple(rng.normal(size=s.shape).astype(np.float32) for s in engine.initial_state(B))
    ids = random_ids(6, B, T)
    with torch.no_grad():
        expected, after = model(torch.from_numpy(ids), tuple(map(torch.from_numpy, state)))
    for t in range(T):
        logits, state = engine.step(ids[:, t], state)
        np.testing.assert_allclose(logits, expected[:, t].numpy(), rtol=0, atol=1e-5)
    for ours, theirs in zip(state, after, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


def test_engine_with_tied_weights():
    model = CharLM(tiny_config(tie_weights=True, embedding_size=H), V, seed=4).eval()
    engine = Engine(model.config, model.weights())
    ids = random_ids(6, B, 1)
    with torch.no_grad():
        expected, _ = model(torch.from_numpy(ids), model.initial_state(B))
    logits, _ = engine.step(ids[:, 0], engine.initial_state(B))
    np.testing.assert_allclose(logits, expected[:, 0].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_engine_agrees_on_a_trained_model_after_a_long_read(name):
    found = checkpoints.load(DATA / f"format-1-{name}.safetensors")
    ids = found.tokenizer.encode(read_text([ROOT / "corpora" / "english.txt"])[5000:5400])
    model = CharLM(found.model_config, found.tokenizer.vocab_size).eval()
    model.load_weights(found.weights)
    engine = Engine(found.model_config, found.weights)
    with torch.no_grad():
        whole = torch.from_numpy(ids.astype(np.int64))[None]
        expected = log_probabilities(model(whole, model.initial_state(1))[0][0].numpy())
    _, state = read(engine, ids[:200], engine.initial_state(1))
    for t in range(200, 400):
        logits, state = engine.step(ids[t : t + 1], state)
        np.testing.assert_allclose(log_probabilities(logits[0]), expected[t], rtol=0, atol=1e-4)


def test_a_step_leaves_its_state_as_it_was():
    engine = Engine(tiny_config(), CharLM(tiny_config(), V).weights())
    state = engine.initial_state(B)
    engine.step(random_ids(1, B), state)
    assert not any(s.any() for s in state)
