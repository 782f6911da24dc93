"""The same code on a GPU. Run with CHARLM_TEST_GPU=1; the rest of the suite does not see one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import BACKBONES, QUICK, B, T, V, random_ids, tiny_config

import charlm
from charlm.config import PRECISIONS
from charlm.evaluation.dynamic import evaluate_dynamic
from charlm.evaluation.loss import evaluate
from charlm.model.device import full_float32
from charlm.model.language_model import CharLM
from charlm.training.resume import resume
from charlm.training.start import start
from charlm.training.trainer import MOST_UNREAD

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU, or CHARLM_TEST_GPU is not 1"
)


@pytest.mark.parametrize("hidden_size", [24, 160, 384])  # cuDNN has other algorithms for each
@pytest.mark.parametrize(("name", "variant"), BACKBONES)
@full_float32()
def test_the_model_is_the_same_on_both(name, variant, hidden_size):
    model = CharLM(tiny_config(name, variant, hidden_size=hidden_size), V, seed=1)
    ids = torch.from_numpy(random_ids(1, B, T))
    results = []
    for device in ("cpu", "cuda"):
        model.to(device)
        logits, state = model(ids.to(device), model.initial_state(B))
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        results.append([a.cpu() for a in (logits, *state, *gradients)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backbone", ["rnn", "lstm", "gru"])
def test_a_run_on_a_gpu_is_taken_up_on_a_cpu(workplace, backbone, precision):
    settings = QUICK | {"device": "cuda", "precision": precision, "backbone": backbone}
    for _ in start(["text.txt"], out="run", **settings).progress():
        pass
    assert charlm.load("run").generate(length=5, seed=1)
    for _ in resume("run", steps=8, device="cpu", precision="float32").progress():
        pass
    assert (Path("run") / "latest.safetensors").is_file()


def test_evaluation_and_dynamic_evaluation():
    config = replace(tiny_config("lstm"), dropout=0.5)
    ids = random_ids(1, 300)
    figures = []
    for device in ("cpu", "cuda"):
        model = CharLM(config, V, seed=1).to(device)
        figures.append((evaluate(model, ids), evaluate_dynamic(model, ids)))
    for ours, theirs in zip(*figures, strict=True):
        assert ours.nats_per_char == pytest.approx(theirs.nats_per_char, abs=1e-3)


def test_the_cpu_is_a_few_steps_ahead_and_never_more(workplace):
    """Nobody waits for the GPU in a step but for those of some steps before."""
    run, unread = start(["text.txt"], out="run", **QUICK | {"device": "cuda", "steps": 40}), []
    for _ in run.progress():
        unread.append(len(run.trainer.unread))
    assert max(unread) == MOST_UNREAD
    assert unread[-1] == 0
