"""A cell that is written here and registered goes the whole way, with no other line changed."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK_FLAGS, B, E, H, T, V, assert_same_run, random_ids

from charlm import checkpoint as checkpoints
from charlm.cells import CELLS, Cell, Parameter
from charlm.config import ModelConfig
from charlm.evaluation.loss import evaluate
from charlm.inference.engine import Engine
from charlm.model.language_model import CharLM
from charlm.settings import setting
from charlm.training.presets import choose_configs
from charlm.training.start import start

WIDTH = 4  # of the second state, unlike all other sizes


@dataclass(frozen=True, kw_only=True)
class Leaky(Cell):
    """A leaky mean of the input, scaled by a gain, and a slower one of its first few units.

        h' = h + leak (tanh(W x) * gain - h)        s' = s + (h'[:WIDTH] - s) / 8

    One matrix, one vector that starts at 1, nothing recurrent, and a second state of another width.
    """

    leak: float = setting(0.5, "share of the state that is replaced", above=0, maximum=1)

    def parameters(self, input_size, hidden_size):
        draw = lambda xp, uniform: (2 * uniform - 1) / input_size**0.5  # noqa: E731
        return {
            "weight": Parameter((hidden_size, input_size), (draw,)),
            "gain": Parameter((hidden_size,), (1.0,)),
        }

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,), "slow": (WIDTH,)}

    def project(self, x, w):
        return x @ w["weight"].T

    def step(self, xp, projected, state, w):
        h, slow = state
        h = h + self.leak * (xp.tanh(projected) * w["gain"] - h)
        slow = slow + (h[..., :WIDTH] - slow) / 8
        return h, slow


@pytest.fixture(autouse=True)
def leaky(monkeypatch):
    monkeypatch.setitem(CELLS, "leaky", Leaky)


def config(**changes):
    sizes = {"embedding_size": E, "hidden_size": H, "num_layers": 2, "dropout": 0.0}
    return ModelConfig.from_dict({"backbone": "leaky", "leak": 0.25} | sizes | changes)


@pytest.mark.parametrize("drop", [[], ["--weight-drop", "0.3"]])
def test_it_trains_is_stopped_resumes_generates_and_scores(run, drop):
    flags = [*QUICK_FLAGS, "--backbone", "leaky", "--leak", "0.3", *drop]
    status, _, err = run("train", "text.txt", *flags, "--out", "straight")
    assert status == 0, err
    said = "--weight-drop has no effect: leaky has no recurrent matrix" in " ".join(err.split())
    assert said == bool(drop)
    stopped = start(
        ["text.txt"], out="stopped", backbone="leaky", leak=0.3, embedding_size=E, hidden_size=H,
        num_layers=2, batch_size=B, seq_length=T, steps=6, eval_every=2, precision="float32",
        device="cpu", weight_drop=0.3 if drop else 0.0,
    )  # fmt: skip
    for progress in stopped.progress():
        if progress.step == 3:
            stopped.save("latest")
            break
    del stopped, progress  # as a kill would
    assert run("resume", "stopped")[0] == 0
    assert_same_run("straight", "stopped")
    assert checkpoints.load(Path("stopped/latest.safetensors")).state["slow"].shape == (2, B, WIDTH)

    text = run("generate", "stopped", "--seed", 1, "-l", 30, "--save-state", "s")[1]
    assert text == run("generate", "straight", "--seed", 1, "-l", 30)[1]
    assert run("generate", "stopped", "--load-state", "s", "-l", 9)[0] == 0
    assert run("score", "stopped", "text.txt", "--by-line")[0] == 0
    held_out = json.loads(run("evaluate", "stopped", "text.txt", "--held-out", "--json")[1])
    metrics = Path("stopped/metrics.jsonl").read_text().splitlines()
    assert held_out["nats_per_char"] == min(json.loads(m)["validation_loss"] for m in metrics)
    facts = json.loads(run("info", "stopped", "--json")[1])
    assert facts["model"]["leak"] == 0.3


def test_presets_leave_out_what_it_has_no_use_for():
    """A text that is read often gets DropConnect, but not for a cell without a recurrent matrix."""
    for backbone, drops in (("lstm", True), ("leaky", False)):
        model, _, notices = choose_configs(130_000, {"backbone": backbone, "epochs": 5})
        assert bool(model.weight_drop) == drops == ("weight_drop" in notices[0])
        assert ("coupled_gates" in notices[0]) == drops


def test_its_initial_values_are_those_that_it_declares():
    layer = CharLM(config(), V, seed=1).backbone.layers[0]
    assert (layer.gain == 1).all()
    assert 0.1 < layer.weight.abs().max() <= E**-0.5
    assert not torch.equal(layer.weight, CharLM(config(), V, seed=2).backbone.layers[0].weight)


def test_whole_window_step_by_step_and_carried_chunks_agree_from_a_state_that_is_not_zero():
    model = CharLM(config(), V, seed=1).eval()
    engine = Engine(model.config, model.weights())
    ids = random_ids(1, B, T)
    rng = np.random.default_rng(2)
    state = tuple(rng.normal(size=s).astype(np.float32) for s in config().state_shapes(B).values())
    with torch.no_grad():
        whole, after = model(torch.from_numpy(ids), tuple(map(torch.from_numpy, state)))
        first, between = model(torch.from_numpy(ids[:, :3]), tuple(map(torch.from_numpy, state)))
        rest, end = model(torch.from_numpy(ids[:, 3:]), between)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, rtol=0, atol=1e-6)
    stepper = engine.stepper(state)
    steps = np.stack([stepper.step(ids[:, t]).copy() for t in range(T)], axis=1)
    np.testing.assert_allclose(steps, whole.numpy(), rtol=0, atol=1e-5)
    for found in (stepper.state, tuple(s.numpy() for s in end)):
        for ours, theirs in zip(found, after, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


def test_it_is_evaluated_in_chunks_as_in_one():
    model = CharLM(config(leak=0.01), V, seed=1)
    ids = random_ids(3, 5000)
    one, many = (evaluate(model, ids, batch_size=size).nats_per_char for size in (1, 4))
    assert abs(one - many) < 1e-5


def test_its_options_are_checked_and_belong_to_it_alone(run):
    status, _, err = run("train", "text.txt", "--backbone", "leaky", "--leak", 2)
    assert (status, err) == (1, "charlm: error: --leak must be at most 1 (got 2.0)\n")
    status, _, err = run("train", "text.txt", "--leak", 0.5)
    assert status == 1
    assert "leak does not go with backbone 'lstm': leave it out, or choose" in err
    assert "backbone leaky: share of the state that is replaced" in " ".join(
        run("train", "--help")[1].split()
    )
