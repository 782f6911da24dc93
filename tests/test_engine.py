"""The engine and the torch model are the same function, also after carried states."""

import numpy as np
import pytest
import torch
from conftest import DATA, EVERY, GOLDEN, ROOT, B, H, T, V, random_ids, tiny_config

import charlm
from charlm import checkpoint as checkpoints
from charlm.data.text_files import read_text
from charlm.inference.engine import Engine
from charlm.inference.kernels import KERNELS, Kernel
from charlm.insight import reading
from charlm.integer.engine import ExactEngine
from charlm.model.language_model import CharLM
from charlm.model.layers import IMPLEMENTATIONS

# From tests' sizes to those of the presets.
SIZES = [{}, {"residual": False}, {"num_layers": 1}, {"num_layers": 3}, {"hidden_size": 128}]


def log_probabilities(logits):
    logits = np.asarray(logits, dtype=np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def random_state(engine, count=B):
    rng = np.random.default_rng(5)
    return tuple(rng.normal(size=s.shape).astype(np.float32) for s in engine.initial_state(count))


def expected_of(model, ids, state):
    with torch.no_grad():
        logits, after = model.eval()(torch.from_numpy(ids), tuple(map(torch.from_numpy, state)))
    return logits.numpy(), tuple(s.numpy() for s in after)


def assert_states_close(ours, theirs, atol=1e-5):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("changes", SIZES)
@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_steps_and_windows_agree_with_the_reference_from_any_state(
    name, variant, changes, implementation
):
    config = tiny_config(name, variant, **changes)
    model = CharLM(config, V, implementation="reference", seed=4)
    engine = Engine(model.config, model.weights(), implementation=implementation)
    state = random_state(engine)
    ids = random_ids(6, B, T)
    expected, after = expected_of(model, ids, state)
    atol = 1e-5 * max(1, np.abs(expected).max())  # relu's values grow
    stepped = engine.stepper(state)
    for t in range(T):
        np.testing.assert_allclose(stepped.step(ids[:, t]), expected[:, t], rtol=0, atol=atol)
    assert_states_close(stepped.state, after, atol)
    windowed = engine.stepper(state)
    logits = windowed.predict(windowed.read(ids))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)
    assert_states_close(windowed.state, after, atol)


@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize("name", GOLDEN)
def test_one_lane_agrees_over_many_steps(name, size):
    model = CharLM(tiny_config(name, hidden_size=size, embedding_size=128), V, seed=4)
    engine = Engine(model.config, model.weights())
    state = random_state(engine, count=1)
    ids = random_ids(6, 1, 100)
    expected, after = expected_of(model, ids, state)
    stepper = engine.stepper(state)
    logits = np.stack([stepper.step(ids[:, t]).copy() for t in range(100)], axis=1)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert_states_close(stepper.state, after, 1e-4)


def test_engine_with_tied_weights():
    model = CharLM(tiny_config(tie_weights=True, embedding_size=H), V, seed=4)
    engine = Engine(model.config, model.weights())
    ids = random_ids(6, B, 1)
    expected, _ = expected_of(model, ids, engine.initial_state(B))
    logits, _ = engine.step(ids[:, 0], engine.initial_state(B))
    np.testing.assert_allclose(logits, expected[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_engine_agrees_on_a_trained_model_after_a_long_read(name):
    found = checkpoints.load(DATA / f"golden-{name}.safetensors")
    ids = found.tokenizer.encode(read_text([ROOT / "corpora" / "english.txt"])[5000:5400])
    model = CharLM(found.model_config, found.tokenizer.vocab_size)
    model.load_weights(found.weights)
    engine = Engine(found.model_config, found.weights)
    whole = ids.astype(np.int64)[None]
    expected, _ = expected_of(model, whole, engine.initial_state(1))
    stepper = engine.stepper(engine.initial_state(1))
    stepper.read(whole[:, :200])
    for t in range(200, 400):
        found = log_probabilities(stepper.step(ids[t : t + 1])[0])
        np.testing.assert_allclose(found, log_probabilities(expected[0, t]), rtol=0, atol=1e-4)


def test_a_step_leaves_its_state_as_it_was():
    engine = Engine(tiny_config(), CharLM(tiny_config(), V).weights())
    state = engine.initial_state(B)
    engine.step(random_ids(1, B), state)
    engine.stepper(state).read(random_ids(1, B, T))
    assert not any(s.any() for s in state)


def test_building_an_engine_leaves_the_weights_as_they_were():
    for name in GOLDEN:
        weights = CharLM(tiny_config(name), V).weights()
        before = {key: tensor.copy() for key, tensor in weights.items()}
        Engine(tiny_config(name), weights)
        assert all(np.array_equal(before[key], weights[key]) for key in before)


def test_numpy_never_warns_of_a_product(monkeypatch):
    """With Accelerate on a Mac it warns of a division by zero where nothing is wrong."""
    seen = []

    def looking(owner, name):
        function = getattr(owner, name)

        def wrapper(*arguments, **options):
            seen.append(np.geterr()["divide"])
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, wrapper)

    for owner in (Kernel, *KERNELS.values()):
        looking(owner, "project")
    looking(Engine, "predict")
    looking(ExactEngine, "predict")
    lm = charlm.load(DATA / "golden-gru.safetensors")
    text = lm.generate("ab", length=5)
    assert len(lm.generate("ab", num_samples=3, length=4)) == 3
    assert len(lm.score(text)) == 5
    reading.read(lm.engine, lm.checkpoint.weights, lm.tokenizer.encode(text), lm.read())
    exact = lm.exact()
    assert exact.generate("ab", length=5)
    assert len(exact.score(text)) == 5
    assert len(seen) > 20
    assert set(seen) == {"ignore"}
