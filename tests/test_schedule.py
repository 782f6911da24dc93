"""When a run evaluates, and when a run in minutes ends."""

import itertools
import random
from dataclasses import replace

import pytest
import torch
from conftest import B, T, dataset_of, tiny_config, words

from charlm.config import Counters, TrainConfig
from charlm.errors import ConfigError
from charlm.model.language_model import CharLM
from charlm.training import schedule
from charlm.training.optim import FINAL_RATE, learning_rate
from charlm.training.schedule import (
    EVALUATION_SHARE,
    LEAST_EVALUATED,
    TimePlan,
    evaluated_length,
    evaluation_cost,
)
from charlm.training.trainer import Trainer

DATASET = dataset_of(words(600))


def test_the_rate_falls_on_from_where_it_was_to_every_new_end():
    config = TrainConfig(warmup_steps=0, decay_plan="100:200,150:300,240:270", learning_rate=1.0)
    assert config.total_steps == 270
    rates = [learning_rate(step, config) for step in range(271)]
    assert set(rates[:101]) == {1.0}
    assert rates[150] == pytest.approx(FINAL_RATE + (1 - FINAL_RATE) * 0.5)
    assert rates[225] == pytest.approx(FINAL_RATE + (1 - FINAL_RATE) * 0.25)
    assert rates[240] == pytest.approx(FINAL_RATE + (1 - FINAL_RATE) * 0.2)
    assert rates[270] == FINAL_RATE
    falls = [a - b for a, b in itertools.pairwise(rates[100:])]
    assert all(0 < fall <= 0.01 for fall in falls)


def test_a_plan_of_one_end_is_what_decay_steps_say():
    plan = TrainConfig(steps=90, warmup_steps=5, decay_plan="60:90")
    same = TrainConfig(steps=90, warmup_steps=5, decay_steps=30)
    assert [learning_rate(s, plan) for s in range(90)] == [
        learning_rate(s, same) for s in range(90)
    ]


@pytest.mark.parametrize(
    "plan",
    [
        "5",
        "5:",
        "7:7",
        "9:5",
        "5:9,5:11",
        "5:9,9:11",
        "5:9,4:11",
        "5:9;6:8",
        "5:9:0",
        "5:9:1:2",
        "-1:4",
        "x:y",
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan):
    with pytest.raises(ConfigError, match="decay_plan must"):
        TrainConfig(decay_plan=plan)


def test_steps_must_be_those_of_the_plan():
    with pytest.raises(ConfigError, match="decay_plan ends at step 9, but steps is 8"):
        TrainConfig(steps=8, decay_plan="5:9")


@pytest.mark.parametrize("steps", [1, 70, 1000, 30_000, 10**6])
@pytest.mark.parametrize("held_out", [2, 3000, 111_540, 10**7])
def test_evaluations_on_the_way_are_short_but_in_a_long_run_whole(steps, held_out):
    config = TrainConfig(steps=steps, eval_every=-(-steps // 10))
    length = evaluated_length(config, held_out, 2048)
    trained = config.eval_every * 2048
    if length == held_out:
        assert evaluation_cost(length) <= EVALUATION_SHARE * trained or length <= LEAST_EVALUATED
    else:
        assert LEAST_EVALUATED <= length < held_out
        assert evaluation_cost(length) <= 1.4 * max(LEAST_EVALUATED, EVALUATION_SHARE * trained)


class Machine:
    """A clock on which a step takes as long as ``seconds`` says at that time.

    Nothing is computed in a step; its loss tells the learning rate, and that of an evaluation the
    rates so far. That real steps are repeated too is for ``test_trainer.py``.
    """

    def __init__(self, monkeypatch, seconds):
        self.now = 0.0
        monkeypatch.setattr("charlm.training.trainer.time.perf_counter", lambda: self.now)

        def step(trainer):
            self.now += seconds(self.now)
            number = trainer.counters.step
            rate = learning_rate(number, trainer.config)
            trainer.learned = getattr(trainer, "learned", 0.0) + rate
            trainer._queue(number, torch.tensor([rate, 1.0], dtype=torch.float64))
            trainer.counters = replace(trainer.counters, step=number + 1)

        monkeypatch.setattr(Trainer, "step", step)
        monkeypatch.setattr(Trainer, "validation_loss", lambda trainer, **_: 9.0 - trainer.learned)


def trainer_of(**settings):
    sizes = {"batch_size": B, "seq_length": T, "warmup_steps": 3, "eval_every": 20}
    model = CharLM(tiny_config("rnn", num_layers=1), DATASET.tokenizer.vocab_size, seed=1)
    return Trainer(model, DATASET, TrainConfig(**sizes | settings))


LOADS = {
    "busy in the second half": lambda now: 0.2 if now < 33 else 0.9,
    "busy in the first half": lambda now: 0.9 if now < 33 else 0.2,
    "busy near the end": lambda now: 0.2 if now < 52 else 0.8,
    "busy now and then": lambda now: 0.6 if int(now / 7) % 2 else 0.2,
    "noisy": lambda now: random.Random(now).uniform(0.1, 0.4),
}


@pytest.mark.parametrize(
    "settings", [{}, {"decay_steps": 40}, {"decay_steps": 0}, {"decay_plan": "100:500"}]
)
@pytest.mark.parametrize("load", LOADS)
def test_a_run_in_minutes_ends_in_time_and_is_repeated_by_its_plan(monkeypatch, load, settings):
    machine = Machine(monkeypatch, LOADS[load])
    timed = trainer_of(minutes=1.0, **settings)
    losses = [progress.train_loss for progress in timed.run()]
    assert 57 - 2 <= machine.now <= 63 + 2
    config = timed.config
    assert config.total_steps == len(losses)
    if settings != {"decay_steps": 0}:
        assert learning_rate(len(losses) - 1, config) < 0.2 * config.learning_rate
    again = trainer_of(steps=config.total_steps, decay_plan=config.decay_plan)
    assert [progress.train_loss for progress in again.run()] == losses


@pytest.mark.parametrize("load", LOADS)
def test_there_are_eight_evaluations_under_any_load_and_they_are_repeated(monkeypatch, load):
    Machine(monkeypatch, LOADS[load])
    monkeypatch.setattr(schedule, "PATIENCE", 99)
    timed = trainer_of(minutes=1.0, eval_every=round(60 / 16 / LOADS[load](0)))
    timed.most_interval = 10**6
    found = [progress.validation_loss for progress in timed.run()]
    assert sum(loss is not None for loss in found) >= 8
    config = timed.config
    again = trainer_of(
        steps=config.total_steps, decay_plan=config.decay_plan, eval_every=config.eval_every
    )
    assert [progress.validation_loss for progress in again.run()] == found


def test_a_steady_machine_plans_once(monkeypatch):
    Machine(monkeypatch, lambda now: 0.25)
    trainer = trainer_of(minutes=1.0)
    plans = {trainer.config.decay_plan for _ in trainer.run()}
    assert plans == {"", "120:240"}


def test_an_end_that_the_text_has_set_is_never_passed(monkeypatch):
    Machine(monkeypatch, lambda now: 0.5 if now < 5 else 0.1)
    trainer = trainer_of(minutes=1.0, decay_plan="60:110")
    assert [progress.step for progress in trainer.run()][-1] == 110


@pytest.mark.parametrize("guessed", [1, 7, 60, 500])
def test_evaluations_follow_the_pace_that_is_found(monkeypatch, guessed):
    """Whatever the pace was taken for at the start; and the run is repeated with its interval."""
    Machine(monkeypatch, lambda now: 0.25)
    monkeypatch.setattr(schedule, "PATIENCE", 99)
    trainer = trainer_of(minutes=1.0, eval_every=guessed)
    trainer.most_interval = 10**6
    found = [progress.validation_loss for progress in trainer.run()]
    assert 8 <= sum(loss is not None for loss in found) <= 14 or guessed == 1
    config = trainer.config
    again = trainer_of(
        steps=config.total_steps, decay_plan=config.decay_plan, eval_every=config.eval_every
    )
    assert [progress.validation_loss for progress in again.run()] == found


def test_a_short_text_is_evaluated_once_in_so_many_epochs(monkeypatch):
    Machine(monkeypatch, lambda now: 0.25)
    monkeypatch.setattr(schedule, "PATIENCE", 99)
    trainer = trainer_of(minutes=1.0, eval_every=4)
    trainer.most_interval = 4
    assert sum(progress.validation_loss is not None for progress in trainer.run()) == 60


@pytest.mark.parametrize("first", [0.0, 30.0])
def test_no_end_is_planned_by_a_step_that_no_clock_sees_or_a_slow_first_one(first):
    """As where a run is resumed that is past its half: the clock of Windows ticks in 16 ms."""
    config = TrainConfig(minutes=10.0, warmup_steps=3, eval_every=50)
    counters = Counters(step=900, seconds=400.0)
    plan = TimePlan(config, counters, held_out=3000, step_characters=500.0)
    spent, ends = 0.0, []
    for number in range(200):
        seconds = 0.1 if number else first
        spent += seconds
        counters = replace(counters, step=counters.step + 1, seconds=400.0 + spent)
        plan.note(seconds, spent, config, evaluation_seconds=None)
        config, _ = plan.update(config, counters)
        ends.append(config.total_steps)
    fitting = 900 + (600 - 400 - first) / 0.1
    planned = [end for end in ends if end is not None]
    assert len(planned) > 150
    assert all(0.9 * fitting < end < 1.1 * fitting for end in planned)


def test_a_run_with_hardly_any_time_left_ends_at_once():
    config = TrainConfig(minutes=1.0, warmup_steps=3, eval_every=50)
    counters = Counters(step=901, seconds=59.9)
    plan = TimePlan(config, counters, held_out=3000, step_characters=500.0)
    plan.note(0.3, 0.3, config, evaluation_seconds=None)
    assert plan.update(config, counters)[0].total_steps == 902
