import math

import pytest
import torch
from conftest import B, T, V, tiny_config

from charlm.config import ComputeConfig
from charlm.errors import ConfigError
from charlm.model.language_model import CharLM
from charlm.training import autotune
from charlm.training.autotune import Compute, reference_speed  # which conftest replaces there

CPU = torch.device("cpu")
SIZES = {"batch_size": B, "seq_length": T}
CANDIDATES = [Compute("float32", 0), Compute("float32", 1)]


def test_every_way_to_train_is_timed():
    seconds = autotune.seconds_per_window(CharLM(tiny_config(), V), CANDIDATES, **SIZES)
    assert list(seconds) == CANDIDATES
    assert all(0 < value < 10 for value in seconds.values())


@pytest.mark.parametrize("rounds", [1, 2])
def test_no_more_rounds_are_done_than_are_asked_for(monkeypatch, rounds):
    done, forward = [], CharLM.forward
    monkeypatch.setattr(CharLM, "forward", lambda *a: done.append(a) or forward(*a))
    autotune.seconds_per_window(CharLM(tiny_config(), V), CANDIDATES, **SIZES, rounds=rounds)
    assert len(CANDIDATES) <= len(done) <= rounds * len(CANDIDATES)


def test_the_speed_of_the_reference_is_that_of_a_window_of_it(monkeypatch):
    """What was asked for is kept, but for float16, which an LSTM on a CPU cannot do."""
    asked = []

    def fastest(compute, model, *, rounds, **sizes):
        asked.append((compute.precision, model.config, rounds, sizes))
        return Compute("float32", 1), 0.5

    monkeypatch.setattr(autotune, "fastest", fastest)
    for precision in ("float32", "float16"):
        compute = ComputeConfig(precision=precision)
        assert reference_speed(V, CPU, compute, rounds=1) == 16 * 128 / 0.5
    sizes = {"batch_size": 16, "seq_length": 128}
    model = autotune.REFERENCE[0]
    assert asked == [("float32", model, 1, sizes), ("auto", model, 1, sizes)]


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
    model = CharLM(tiny_config(), V)
    (precision, _), seconds = autotune.fastest(ComputeConfig(), model, **SIZES)
    assert precision == "float32"
    assert math.isfinite(seconds)
    with pytest.raises(ConfigError, match=r"in bfloat16 \(could not .*\): choose prec"):
        autotune.fastest(ComputeConfig(precision="bfloat16"), model, **SIZES)


@pytest.mark.parametrize(
    ("bfloat16", "one_thread", "chosen"),
    [
        (1.5, 0.5, ("bfloat16", 0)),
        (1.1, 0.5, ("float32", 0)),  # not clearly faster
        (1.5, 1.01, ("bfloat16", 1)),  # the number of threads changes no result
        (0.5, 0.9, ("float32", 0)),
    ],
)
def test_only_a_clear_gain_changes_the_arithmetic(monkeypatch, bfloat16, one_thread, chosen):
    def seconds(_model, candidates, **_):
        speed = {"float32": 1.0, "bfloat16": bfloat16}
        return {
            c: 1 / speed[c.precision] / (one_thread if c.threads == 1 else 1) for c in candidates
        }

    monkeypatch.setattr(autotune, "seconds_per_window", seconds)
    monkeypatch.setattr(autotune, "thread_counts", lambda: [0, 1])
    monkeypatch.setattr(autotune, "cores_are_free", lambda _: True)
    found, _ = autotune.fastest(ComputeConfig(), CharLM(tiny_config(), V), **SIZES)
    assert found == chosen


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
    ("asked", "expected"),
    [
        ({}, ["float32", "bfloat16"]),
        ({"precision": "float16"}, ["float16"]),
        ({"precision": "bfloat16", "threads": 0}, ["bfloat16"]),
    ],
)
def test_what_is_asked_for_is_the_only_candidate(asked, expected):
    found = autotune.candidates(ComputeConfig(**asked), CPU, 3)
    assert found == [(precision, 3) for precision in expected]


def test_on_a_gpu_bfloat16_is_not_tried_as_torch_computes_it_in_float16():
    found = autotune.candidates(ComputeConfig(), torch.device("cuda"), 3)
    assert found == [("float32", 3), ("float16", 3)]


@pytest.mark.parametrize(
    ("seconds", "asked", "chosen"),
    [
        ({"mps": 2.0, "cpu": 1.0}, "auto", "cpu"),
        ({"mps": 1.0, "cpu": 2.0}, "auto", "mps"),
        ({"mps": 2.0, "cpu": 1.0}, "mps", "mps"),  # who asks for it gets it
        ({"cpu": 1.0}, "auto", "cpu"),
        ({}, "auto", "mps"),  # and the error of its own
    ],
)
def test_the_cpu_is_taken_where_it_is_faster_than_a_gpu_of_apple(
    monkeypatch, seconds, asked, chosen
):
    class Model:
        """A model that is moved from one device to another."""

        def to(self, device):
            self.place = device.type
            return self

    def fastest(_compute, model, **_):
        if model.place not in seconds:
            raise ConfigError("this machine cannot train")
        return Compute("float32", 0), seconds[model.place]

    monkeypatch.setattr(autotune, "fastest", fastest)
    asked = ComputeConfig(device=asked)
    device = autotune.faster_device(asked, Model(), torch.device("mps"), **SIZES)
    assert device.type == chosen
    for kind in ("cpu", "cuda"):
        there = torch.device(kind)
        assert autotune.faster_device(asked, None, there, **SIZES) == there


def test_the_round_in_which_a_gpu_loads_its_libraries_does_not_count(monkeypatch):
    """On a clock on which the first window takes five seconds and each one after it a tenth."""
    monkeypatch.setitem(autotune.UNTIMED, "cpu", 1)
    clock, forward = [0.0], CharLM.forward

    def ticking(*arguments):
        clock[0] += 0.1 if clock[0] else 5.0
        return forward(*arguments)

    monkeypatch.setattr(CharLM, "forward", ticking)
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: clock[0])
    seconds = autotune.seconds_per_window(CharLM(tiny_config(), V), CANDIDATES[:1], **SIZES)
    assert list(seconds.values()) == [pytest.approx(0.1)]
    assert clock[0] == pytest.approx(5.6)  # as many rounds as half a second holds


@pytest.mark.parametrize(("total", "expected"), [(1, [0]), (2, [0, 1]), (16, [0, 8, 1])])
def test_threads_are_all_of_them_or_half_or_one(monkeypatch, total, expected):
    monkeypatch.setattr(autotune.torch, "get_num_threads", lambda: total)
    assert autotune.thread_counts() == expected


def test_threads_that_get_no_core_are_not_even_timed(monkeypatch):
    timed = []

    def seconds(_model, candidates, **_):
        timed.extend(candidates)
        return dict.fromkeys(candidates, 1.0)

    monkeypatch.setattr(autotune, "seconds_per_window", seconds)
    monkeypatch.setattr(autotune, "thread_counts", lambda: [0, 1])
    monkeypatch.setattr(autotune, "cores_are_free", lambda count: count == 1)
    autotune.fastest(ComputeConfig(), CharLM(tiny_config(), V), **SIZES)
    assert {threads for _, threads in timed} == {1}
