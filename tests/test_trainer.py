import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import EVERY, B, T, dataset_of, tiny_config, words

from charlm.api import LanguageModel
from charlm.cli.progress import decay_line
from charlm.config import PRECISIONS, TrainConfig
from charlm.errors import ConfigError, CorpusError, DivergenceError
from charlm.evaluation.loss import Evaluation, evaluate
from charlm.model.language_model import CharLM
from charlm.training import optim
from charlm.training import trainer as trainers
from charlm.training.optim import learning_rate, make_optimizer
from charlm.training.trainer import Trainer

OPTIMIZERS = ["adamw", "soap", "sgd"]

DATASET = dataset_of(words(600), 0.03)  # little is held out, as evaluations take time


def trainer_of(name="lstm", variant="plain", *, dataset=DATASET, precision="float32", **settings):
    model_settings = {"dropout": settings.pop("dropout", 0.3)}
    for key in ("hidden_size", "embedding_size"):
        if key in settings:
            model_settings[key] = settings.pop(key)
    config = TrainConfig(**{"batch_size": B, "seq_length": T, "steps": 12, **settings})
    model = CharLM(
        tiny_config(name, variant, **model_settings), dataset.tokenizer.vocab_size, seed=1
    )
    return Trainer(model, dataset, config, precision=precision)


def run_for(trainer, steps):
    """Train for some steps; return what was reported, times left out."""
    reported = []
    for progress in trainer.run():
        reported.append(
            (progress.step, progress.train_loss, progress.validation_loss, progress.grad_norm)
        )
        if progress.step == steps:
            break
    return reported


def assert_same_weights(one, other):
    for name, value in one.model.weights().items():
        assert np.array_equal(value, other.model.weights()[name]), name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_resume_is_bit_exact(name, variant, optimizer, precision):
    probe(name, precision)
    settings = {"optimizer": optimizer, "precision": precision, "eval_every": 4, "dropout": 0.3}
    straight, first, second = (trainer_of(name, variant, steps=10, **settings) for _ in range(3))
    reported = run_for(straight, 10)
    before = run_for(first, 6)
    torch.manual_seed(99)  # whatever else draws random numbers in between
    second.restore(first.checkpoint())
    assert before + run_for(second, 10) == reported
    assert_same_weights(straight, second)
    assert straight.counters.best_loss == second.counters.best_loss


@functools.cache
def probe(backbone, precision):
    """Skip where this CPU cannot train so at all, like most of them an LSTM in float16."""
    try:
        trainer_of(backbone, precision=precision).step()
    except RuntimeError as error:
        pytest.skip(f"no {precision} for this backbone on this CPU: {error}")


def test_evaluation_and_sampling_in_between_change_nothing():
    one, other = trainer_of(), trainer_of()
    for trainer in (one, other):
        for progress in trainer.run():
            if trainer is other and progress.step % 2:
                evaluate(trainer.model, DATASET.validation)
                LanguageModel(trainer.checkpoint()).generate(length=9)
                torch.rand(5)
    assert_same_weights(one, other)


def test_gradients_stop_at_the_edge_of_a_window_and_the_state_does_not():
    """The gradient of a step is that of its window alone, begun with the state from before."""
    trainer, twin = (trainer_of(dropout=0.0, grad_clip=0) for _ in range(2))
    trainer.step()
    carried = tuple(s.clone() for s in trainer.state)
    assert all(s.any() for s in carried)
    twin.model.load_weights(trainer.model.weights())
    window = trainer.stream.window(1)
    assert not window.restart
    logits, _ = twin.model(twin._tensor(window.inputs), carried)
    targets = twin._tensor(window.targets)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    expected = torch.autograd.grad(loss, list(twin.model.parameters()))
    trainer.step()
    for parameter, gradient in zip(trainer.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_state_is_carried_and_begins_afresh_only_with_an_epoch_and_where_reading_jumps():
    epoch = trainer_of().stream.windows_per_epoch
    steps, fall = 2 * epoch + 5, epoch // 2
    trainer = trainer_of(
        dropout=0.0, learning_rate=1e-30, weight_decay=0.0, steps=steps, decay_steps=fall
    )
    stream, jump = trainer.stream, trainer.config.fall[0]
    state = trainer.model.initial_state(B)
    for _ in range(steps):
        step = trainer.counters.step
        window = stream.window(step, trainer.config.fall)
        if step in (0, epoch, jump):
            assert window.restart
            state = trainer.model.initial_state(B)
        with torch.no_grad():
            _, state = trainer.model(trainer._tensor(window.inputs), state)
        trainer.step()
        for ours, theirs in zip(trainer.state, state, strict=True):
            torch.testing.assert_close(ours, theirs)
            assert not ours.requires_grad


@pytest.mark.parametrize("bound", [0.05, 100.0, 0.0])
def test_clipping_bounds_the_norm_and_else_changes_nothing(bound, monkeypatch):
    seen = {}

    def look(trainer):
        optimizer_step = trainer.optimizer.step

        def step():
            grads = [p.grad.flatten() for p in trainer.model.parameters()]
            seen[trainer] = torch.cat(grads)
            optimizer_step()

        monkeypatch.setattr(trainer.optimizer, "step", step)
        return trainer.step()[1]

    clipped, free = trainer_of(grad_clip=bound), trainer_of(grad_clip=0)
    norm = look(clipped)
    assert norm == look(free) == pytest.approx(seen[free].norm().item(), rel=1e-5)
    assert 0.05 < norm < 100
    if bound == 0.05:
        assert seen[clipped].norm().item() <= 0.05 * (1 + 1e-5)
        direction = seen[free] * (0.05 / norm)
        torch.testing.assert_close(seen[clipped], direction, rtol=1e-3, atol=1e-8)
    else:
        assert torch.equal(seen[clipped], seen[free])


def test_the_rate_rises_stays_and_falls_to_near_0():
    config = TrainConfig(steps=200, warmup_steps=20, decay_steps=80, learning_rate=0.5)
    rates = [learning_rate(step, config) for step in range(200)]
    assert rates[0] == 0.5 / 20
    assert rates[:20] == sorted(rates[:20])
    assert set(rates[19:121]) == {0.5}
    assert rates[120:] == sorted(rates[120:], reverse=True)
    assert 0.005 < rates[-1] < 0.012
    # What is not given: a twentieth and a half.
    assert [learning_rate(step, TrainConfig(steps=200)) for step in (9, 100)] == [0.005] * 2
    assert learning_rate(101, TrainConfig(steps=200)) < 0.005
    assert learning_rate(0, TrainConfig(steps=1)) > 0


def test_without_a_known_end_the_rate_stays():
    config = TrainConfig(warmup_steps=5)
    assert {learning_rate(step, config) for step in range(4, 10**6, 999)} == {0.005}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_acts_on_matrices_only(optimizer):
    trainer = trainer_of(optimizer=optimizer, weight_decay=0.7)
    groups = make_optimizer(trainer.model, trainer.config).param_groups
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay == {p: 0.7 if p.ndim > 1 else 0.0 for p in trainer.model.parameters()}


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_a_regular_text_is_learned_within_seconds(name, variant):
    trainer = trainer_of(
        name, variant, dataset=dataset_of("abc" * 400), dropout=0.0, steps=100,
        learning_rate=0.02, eval_every=100,
    )  # fmt: skip
    run_for(trainer, 100)
    assert trainer.counters.best_loss / math.log(2) < 0.05


def test_a_text_without_order_stays_at_its_unigram_entropy():
    """Characters drawn at random with known odds: no model can be better than their entropy.

    Over 2,000 held-out characters the entropy of the sample strays from the true one by a standard
    error of 0.011; the bounds below are 4.5 of them: false alarms 1 in 100,000.
    """
    odds = np.array([0.5, 0.25, 0.125, 0.125])
    text = "".join(np.random.default_rng(0).choice(list("abcd"), 20_000, p=odds))
    trainer = trainer_of(dataset=dataset_of(text), steps=150, batch_size=20, learning_rate=0.01)
    run_for(trainer, 150)
    entropy = -(odds * np.log(odds)).sum()
    assert -0.05 < trainer.counters.best_loss - entropy < 0.10


def test_what_is_read_often_makes_a_model_less_sure():
    """Trained with logits times 1.2, it takes odds of 4 to 1 for their 1.2th root.

    The log odds in its predictions, beside those of the text: three seeds gave 0.81 to 0.84 (1/1.2
    is 0.83), and 0.97 to 1.01 without the factor.
    """
    text = "".join(np.random.default_rng(4).choice(list("ab"), 4_000, p=[0.8, 0.2]))
    dataset = dataset_of(text)
    odds = np.bincount(dataset.train) / len(dataset.train)
    ids = torch.from_numpy(dataset.train[None, :999].astype(np.int64))
    for growth, expected in ((0.5, 1 / 1.2), (0.0, 1.0)):
        trainer = trainer_of(
            "rnn", dataset=dataset, steps=340, batch_size=16, learning_rate=0.01,
            dropout=0.0, logit_growth=growth, eval_every=340,
        )  # fmt: skip
        run_for(trainer, 340)
        logits, _ = trainer.model.eval()(ids, trainer.model.initial_state(1))
        mean = logits.detach().mean((0, 1))
        found = float(mean[0] - mean[1]) / math.log(odds[0] / odds[1])
        assert found == pytest.approx(expected, abs=0.06)


def test_nothing_is_scaled_in_the_first_reading():
    one, other = trainer_of(logit_growth=0.0), trainer_of(logit_growth=0.5)
    first = one.stream.windows_per_epoch
    for step in range(first + 1):
        assert (one.step()[0] == other.step()[0]) == (step < first)


def test_reported_losses_are_means_since_the_last_evaluation():
    trainer, twin = trainer_of(eval_every=5), trainer_of(eval_every=5)
    losses = []
    for progress in trainer.run():
        losses.append(twin.step()[0])
        since = losses[(progress.step - 1) // 5 * 5 :]
        assert progress.train_loss == pytest.approx(sum(since) / len(since))
        assert (progress.validation_loss is None) == (progress.step not in (5, 10, 12))


class Clock:
    """A clock on which every step of a trainer takes a second."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("charlm.training.trainer.time.perf_counter", lambda: self.now)
        step = Trainer.step

        def ticking(trainer):
            self.now += 1.0
            return step(trainer)

        monkeypatch.setattr(Trainer, "step", ticking)


def in_minutes(minutes, **settings):
    config = {"batch_size": B, "seq_length": T, "warmup_steps": 3, "eval_every": 7, **settings}
    model = CharLM(tiny_config(), DATASET.tokenizer.vocab_size, seed=1)
    return Trainer(model, DATASET, TrainConfig(minutes=minutes, **config))


def test_a_run_in_minutes_ends_in_time_with_a_rate_near_0(monkeypatch):
    Clock(monkeypatch)
    trainer = in_minutes(1.0)
    progress = list(trainer.run())
    assert [p.seconds_left for p in progress] == [60.0 - p.step for p in progress]
    assert progress[-1].step == progress[-1].steps == 60
    assert progress[-1].learning_rate < 0.05 * progress[20].learning_rate
    assert progress[-1].validation_loss is not None
    (decay,) = [p for p in progress if p.decay_reason is not None]
    assert (decay.step, decay.decay_reason) == (30, "time")
    assert decay_line(decay) == (
        "0.5 minutes are left; the learning rate falls from here to the end at step 60"
    )
    assert [p.steps for p in progress] == [None] * 29 + [60] * 31


def test_a_run_in_minutes_is_repeated_by_its_steps(monkeypatch):
    Clock(monkeypatch)
    timed = in_minutes(0.5)
    reported = run_for(timed, 30)
    config = timed.config
    assert (config.total_steps, config.decay_plan) == (30, "15:30")
    again = in_minutes(99.0, steps=30, decay_plan="15:30")
    assert run_for(again, 30) == reported
    assert_same_weights(timed, again)


@pytest.mark.parametrize("stop", [9, 20])
def test_a_run_in_minutes_is_resumed_exactly(monkeypatch, stop):
    Clock(monkeypatch)
    straight, first = in_minutes(0.5), in_minutes(0.5)
    reported = run_for(straight, 30)
    before = run_for(first, stop)
    saved = first.checkpoint()
    model = CharLM(saved.model_config, DATASET.tokenizer.vocab_size)
    second = Trainer(model, DATASET, saved.train_config)
    second.restore(saved)
    assert before + run_for(second, 30) == reported
    assert_same_weights(straight, second)


def test_a_run_in_minutes_ends_early_where_validation_does_not_improve(monkeypatch):
    Clock(monkeypatch)
    losses = iter([3.0, 2.0, 2.1, 2.2, 2.1, 2.3, *[2.5] * 99])

    def found(*_, **__):
        return Evaluation(next(losses), 100)

    monkeypatch.setattr("charlm.training.trainer.evaluate", found)
    trainer = in_minutes(100.0)
    progress = list(trainer.run())
    (decay,) = [p for p in progress if p.decay_reason is not None]
    assert (decay.step, decay.decay_reason, decay.best_step) == (35, "early stopping", 14)
    assert decay_line(decay) == (
        "early stopping: validation has not improved since step 14; "
        "the learning rate falls from here to the end at step 53"
    )
    assert progress[-1].step == 35 + 18  # PATIENCE evaluations later, and half as many steps again


class Late:
    """An event of a GPU that is behind: nothing may be read before somebody has waited for it."""

    def __init__(self):
        self.has_come = False

    def synchronize(self):
        self.has_come = True


def test_losses_that_are_read_late_are_the_same(monkeypatch):
    """As on a GPU, which may be a few steps behind, and never more, until an evaluation."""
    monkeypatch.setattr(trainers, "MOST_UNREAD", 2)
    prompt, late = trainer_of(eval_every=5), trainer_of(eval_every=5)
    reported = run_for(prompt, 12)
    read, unread, events = Trainer.read, [], []

    def after_the_step(trainer, *, but=0):
        if trainer.counters.step > trainer.unread[-1][0]:
            read(trainer, but=but)
            unread.append(len(trainer.unread))
            assert [e.has_come for e in events] == [True] * (len(events) - unread[-1]) + [
                False
            ] * unread[-1]

    def queue(trainer, step, values):
        events.append(Late())
        trainer.unread.append((step, values, events[-1]))

    monkeypatch.setattr(Trainer, "read", after_the_step)
    monkeypatch.setattr(Trainer, "_queue", queue)
    theirs = run_for(late, 12)
    assert unread == [1, 2, 2, 2, 0, 1, 2, 2, 2, 0, 1, 0]
    assert [theirs[i] for i in (4, 9, 11)] == [reported[i] for i in (4, 9, 11)]
    assert_same_weights(prompt, late)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("backbone", ["rnn", "lstm", "gru"])
def test_an_overflow_in_float16_halves_the_scale_and_is_resumed_exactly(
    monkeypatch, backbone, optimizer
):
    settings = {"precision": "float16", "optimizer": optimizer, "steps": 26}
    probe(backbone, "float16")
    monkeypatch.setattr(optim, "FLOAT16_SCALE", 2.0**34)  # of which no gradient is finite
    straight, first = (trainer_of(backbone, **settings) for _ in range(2))
    weights = straight.model.weights()
    reported = run_for(straight, 26)
    assert not all(np.array_equal(weights[n], w) for n, w in straight.model.weights().items())
    assert all(math.isfinite(value) for step in reported for value in step if value is not None)
    before = run_for(first, 7)
    between = first.checkpoint()
    assert between.counters.loss_scale == 2.0 ** (34 - 7)  # nothing but overflows so far
    second = trainer_of(backbone, **settings)
    second.restore(between)
    assert before + run_for(second, 26) == reported
    assert_same_weights(straight, second)
    assert straight.checkpoint().counters == replace(
        second.checkpoint().counters, seconds=straight.counters.seconds
    )


def test_gradients_that_no_scale_makes_finite_end_a_run(monkeypatch):
    probe("rnn", "float16")
    trainer = trainer_of("rnn", precision="float16", steps=40)
    monkeypatch.setattr(optim, "FLOAT16_SCALE", 1.0)
    backward = torch.Tensor.backward

    def spoilt(tensor, *arguments, **options):
        backward(tensor, *arguments, **options)
        next(trainer.model.parameters()).grad.fill_(math.inf)

    monkeypatch.setattr(torch.Tensor, "backward", spoilt)
    with pytest.raises(DivergenceError, match=r"norm became inf at step 21 .*precision=float32"):
        run_for(trainer, 40)


def test_a_real_explosion_stops_before_the_weights_are_spoilt():
    trainer = trainer_of("rnn", "relu", optimizer="sgd", learning_rate=1e6, grad_clip=0, steps=200)
    with pytest.raises(DivergenceError, match=r"at step \d+ with a learning rate of .*: lower"):
        run_for(trainer, 200)
    assert all(np.isfinite(w).all() for w in trainer.model.weights().values())


def test_sizes_and_precision_are_checked():
    with pytest.raises(CorpusError, match="lower batch_size"):
        trainer_of(batch_size=500)
    with pytest.raises(ConfigError, match="precision must be one of float32, bfloat16"):
        trainer_of(precision="float8")


@pytest.mark.parametrize("precision", PRECISIONS[1:])
@pytest.mark.parametrize("backbone", ["rnn", "lstm", "gru"])
def test_half_precision_stays_near_float32(backbone, precision):
    """Losses, and norms of the gradient, which the scale of float16 must not touch."""
    probe(backbone, precision)
    for bound in (0.0, 0.1):
        settings = {"dropout": 0.0, "hidden_size": 32, "grad_clip": bound}
        one, other = (
            [
                (step[1], step[3])
                for step in run_for(trainer_of(backbone, precision=p, **settings), 12)
            ]
            for p in ("float32", precision)
        )
        losses, norms = zip(np.transpose(one), np.transpose(other), strict=True)
        np.testing.assert_allclose(*losses, rtol=0.01)
        np.testing.assert_allclose(*norms, rtol=0.03)
