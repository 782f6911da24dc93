import math
import time

import pytest
import torch
from conftest import B, T, V, tiny_config

from charlm import machine
from charlm.config import TrainConfig
from charlm.errors import ConfigError
from charlm.model import CharLM

CPU = torch.device("cpu")
SIZES = {"batch_size": B, "seq_length": T}
HOWS = [("float32", 0), ("float32", 1)]


def test_every_way_to_train_is_timed():
    seconds = machine.seconds_per_window(tiny_config(), V, HOWS, **SIZES, device=CPU)
    assert list(seconds) == HOWS
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
    (precision, _), seconds = machine.fastest(machine.hows("auto", None, model), model, config)
    assert precision == "float32"
    assert math.isfinite(seconds)
    with pytest.raises(ConfigError, match="in bfloat16: choose --precision float32"):
        machine.fastest(machine.hows("bfloat16", None, model), model, config)


@pytest.mark.parametrize(("gain", "chosen"), [(1.5, 1), (1.1, 0), (0.5, 0)])
def test_only_a_clear_gain_counts(monkeypatch, gain, chosen):
    monkeypatch.setattr(
        machine, "seconds_per_window", lambda *_, **__: {HOWS[0]: 1.0, HOWS[1]: 1.0 / gain}
    )
    how, _ = machine.fastest(HOWS, CharLM(tiny_config(), V), TrainConfig(**SIZES))
    assert how == HOWS[chosen]


def test_an_unknown_precision_names_those_there_are():
    with pytest.raises(
        ConfigError, match=r"precision must be one of auto, float32, bfloat16, float16"
    ):
        machine.hows("float8", None, CharLM(tiny_config(), V))


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with machine.threads_of_torch(before + 1):
        assert torch.get_num_threads() == before + 1
    with machine.threads_of_torch(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_memory_is_kept_and_all_goes_on():
    machine.keep_memory()
    began = time.perf_counter()
    for _ in range(5):
        assert torch.ones(3_000_000).sum() == 3_000_000
    assert time.perf_counter() > began


@pytest.mark.parametrize("evaluation", [0.01, 3.0, 1000.0])
@pytest.mark.parametrize("epoch", [0.5, 1000.0])
def test_evaluations_are_at_least_ten_unless_they_would_cost_too_much(epoch, evaluation):
    config = machine.paced(TrainConfig(minutes=2.0), 0.1, epoch, evaluation)
    interval = config.eval_every * 0.1  # seconds
    assert config.warmup_steps == 60
    assert config.steps is None
    assert evaluation / interval <= machine.EVALUATION_SHARE
    assert interval <= max(min(12.0, 3 * epoch), evaluation / machine.EVALUATION_SHARE) + 0.1
    asked = TrainConfig(minutes=2.0, warmup_steps=7, eval_every=9)
    kept = machine.paced(asked, 0.1, epoch, evaluation)
    assert (kept.warmup_steps, kept.eval_every) == (7, 9)
