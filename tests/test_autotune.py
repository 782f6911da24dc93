import math

import pytest
import torch
from conftest import B, T, V, tiny_config

from charlm.config import ComputeConfig, TrainConfig
from charlm.errors import ConfigError
from charlm.model.language_model import CharLM
from charlm.training import autotune
from charlm.training.autotune import SMALL, Compute

CPU = torch.device("cpu")
SIZES = {"batch_size": B, "seq_length": T}
CANDIDATES = [Compute("float32", 0), Compute("float32", 1)]


def test_every_way_to_train_is_timed():
    seconds = autotune.seconds_per_window(tiny_config(), V, CANDIDATES, **SIZES, device=CPU)
    assert list(seconds) == CANDIDATES
    assert all(0 < value < 10 for value in seconds.values())


def unable(monkeypatch):
    """Let this CPU be one that cannot train in bfloat16."""
    forward = CharLM.forward

    def refuse(*arguments, **options):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor")
        return forward(*arguments, **options)

    monkeypatch.setattr(CharLM, "forward", refuse)


def test_what_the_cpu_cannot_do_is_left_out_or_refused_where_it_was_asked_for(monkeypatch):
    unable(monkeypatch)
    model, config = CharLM(tiny_config(), V), TrainConfig(**SIZES)
    (precision, _), seconds = autotune.fastest(
        autotune.candidates(ComputeConfig(), model), model, config
    )
    assert precision == "float32"
    assert math.isfinite(seconds)
    asked = ComputeConfig(precision="bfloat16")
    with pytest.raises(ConfigError, match="in bfloat16: choose --precision float32"):
        autotune.fastest(autotune.candidates(asked, model), model, config)


@pytest.mark.parametrize(("gain", "chosen"), [(1.5, 1), (1.1, 0), (0.5, 0)])
def test_only_a_clear_gain_counts(monkeypatch, gain, chosen):
    monkeypatch.setattr(
        autotune,
        "seconds_per_window",
        lambda *_, **__: {CANDIDATES[0]: 1.0, CANDIDATES[1]: 1.0 / gain},
    )
    found, _ = autotune.fastest(CANDIDATES, CharLM(tiny_config(), V), TrainConfig(**SIZES))
    assert found == CANDIDATES[chosen]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": "float8"}, "precision must be one of auto, float32, bfloat16, float16"),
        ({"threads": -1}, "threads must be at least 0"),
        ({"threads": 257}, "threads must be at most 256"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, mps"),
    ],
)
def test_what_is_unknown_or_out_of_bounds_is_refused_before_anything_is_timed(asked, message):
    with pytest.raises(ConfigError, match=message):
        ComputeConfig(**asked)


@pytest.mark.parametrize(
    ("asked", "hidden_size", "expected"),
    [
        ({}, SMALL, [(p, n) for n in (0, 1) for p in ("float32", "bfloat16")]),
        ({}, SMALL + 1, [("float32", 0), ("bfloat16", 0)]),
        ({"precision": "float16"}, SMALL, [("float16", 0), ("float16", 1)]),
        ({"threads": 2}, SMALL, [("float32", 2), ("bfloat16", 2)]),
        ({"precision": "bfloat16", "threads": 0}, SMALL, [("bfloat16", 0)]),
    ],
)
def test_what_is_asked_for_is_the_only_candidate(asked, hidden_size, expected):
    model = CharLM(tiny_config(hidden_size=hidden_size), V)
    assert autotune.candidates(ComputeConfig(**asked), model) == expected


@pytest.mark.parametrize("evaluation", [0.01, 3.0, 1000.0])
@pytest.mark.parametrize("epoch", [0.5, 1000.0])
def test_evaluations_are_at_least_ten_unless_they_would_cost_too_much(epoch, evaluation):
    config = autotune.plan_evaluations(TrainConfig(minutes=2.0), 0.1, epoch, evaluation)
    interval = config.eval_every * 0.1  # seconds
    assert config.warmup_steps == 60
    assert config.steps is None
    assert evaluation / interval <= autotune.EVALUATION_SHARE
    assert interval <= max(min(12.0, 3 * epoch), evaluation / autotune.EVALUATION_SHARE) + 0.1
    asked = TrainConfig(minutes=2.0, warmup_steps=7, eval_every=9)
    kept = autotune.plan_evaluations(asked, 0.1, epoch, evaluation)
    assert (kept.warmup_steps, kept.eval_every) == (7, 9)
