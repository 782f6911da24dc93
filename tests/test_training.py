import math

import numpy as np
import pytest
import torch
from conftest import BACKBONES, B, T, V, tiny_config, words

from charlm.api import LanguageModel
from charlm.config import TrainConfig
from charlm.corpus import Corpus
from charlm.errors import ConfigError, CorpusError, DivergenceError
from charlm.evaluation import evaluate
from charlm.model import CharLM
from charlm.tokenizer import CharTokenizer
from charlm.training import Trainer, bfloat16_gain, learning_rate, make_optimizer


def corpus_of(text):
    return Corpus.from_text(text, CharTokenizer.from_text(text), validation_fraction=0.1)


CORPUS = corpus_of(words(600))


def trainer_of(name="lstm", nonlinearity="tanh", *, corpus=CORPUS, precision="float32", **settings):
    model_settings = {"dropout": settings.pop("dropout", 0.3)}
    for key in ("hidden_size", "embedding_size"):
        if key in settings:
            model_settings[key] = settings.pop(key)
    config = TrainConfig(**{"batch_size": B, "seq_length": T, "steps": 12, **settings})
    model = CharLM(
        tiny_config(name, nonlinearity, **model_settings), corpus.tokenizer.vocab_size, seed=1
    )
    return Trainer(model, corpus, config, precision=precision)


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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("name", "nonlinearity"), BACKBONES)
def test_resume_is_bit_exact(name, nonlinearity, optimizer, precision):
    if precision == "bfloat16":
        probe_bfloat16()
    settings = {"optimizer": optimizer, "precision": precision, "eval_every": 4, "dropout": 0.3}
    straight = trainer_of(name, nonlinearity, **settings)
    reported = run_for(straight, 12)
    first = trainer_of(name, nonlinearity, **settings)
    before = run_for(first, 7)
    torch.manual_seed(99)  # whatever else draws random numbers in between
    second = trainer_of(name, nonlinearity, **settings)
    second.restore(first.checkpoint())
    assert before + run_for(second, 12) == reported
    assert_same_weights(straight, second)
    assert straight.counters.best_loss == second.counters.best_loss


def probe_bfloat16():
    """Skip where this CPU cannot train in bfloat16 at all."""
    try:
        trainer_of(precision="bfloat16").step()
    except RuntimeError as error:
        pytest.skip(f"no bfloat16 on this CPU: {error}")


def test_evaluation_and_sampling_in_between_change_nothing():
    one, other = trainer_of(), trainer_of()
    for trainer in (one, other):
        for progress in trainer.run():
            if trainer is other and progress.step % 2:
                evaluate(trainer.model, CORPUS.validation)
                LanguageModel.from_checkpoint(trainer.checkpoint()).generate(length=9)
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
    assert not window.fresh
    logits, _ = twin.model(twin._tensor(window.inputs), carried)
    targets = twin._tensor(window.targets)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    expected = torch.autograd.grad(loss, list(twin.model.parameters()))
    trainer.step()
    for parameter, gradient in zip(trainer.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_state_is_carried_and_begins_afresh_only_with_an_epoch():
    trainer = trainer_of(dropout=0.0, learning_rate=1e-30, weight_decay=0.0)
    stream = trainer.stream
    state = trainer.model.initial_state(B)
    for _ in range(stream.windows_per_epoch + 2):
        step = trainer.counters.step
        window = stream.window(step)
        if step in (0, stream.windows_per_epoch):
            assert window.fresh
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


def test_the_schedule_rises_falls_and_ends_near_0():
    config = TrainConfig(steps=200, warmup_fraction=0.1, learning_rate=0.5)
    rates = [learning_rate(step, config) for step in range(200)]
    assert rates[0] == 0.5 / 20
    assert max(rates) == rates[19] == rates[20] == 0.5
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0.005 <= rates[-1] < 0.0051
    assert learning_rate(0, TrainConfig(steps=1)) > 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weight_decay_acts_on_matrices_only(optimizer):
    trainer = trainer_of(optimizer=optimizer, weight_decay=0.7)
    groups = make_optimizer(trainer.model, trainer.config).param_groups
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay == {p: 0.7 if p.ndim > 1 else 0.0 for p in trainer.model.parameters()}


@pytest.mark.parametrize(("name", "nonlinearity"), BACKBONES)
def test_a_regular_text_is_learned_within_seconds(name, nonlinearity):
    trainer = trainer_of(
        name, nonlinearity, corpus=corpus_of("abc" * 400), dropout=0.0, steps=100,
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
    corpus = Corpus.from_text(text, CharTokenizer.from_text(text), validation_fraction=0.1)
    trainer = trainer_of(corpus=corpus, steps=150, batch_size=20, learning_rate=0.01)
    run_for(trainer, 150)
    entropy = -(odds * np.log(odds)).sum()
    assert -0.05 < trainer.counters.best_loss - entropy < 0.10


def test_reported_losses_are_means_since_the_last_evaluation():
    trainer, twin = trainer_of(eval_every=5), trainer_of(eval_every=5)
    losses = []
    for progress in trainer.run():
        losses.append(twin.step()[0])
        since = losses[(progress.step - 1) // 5 * 5 :]
        assert progress.train_loss == pytest.approx(sum(since) / len(since))
        assert (progress.validation_loss is None) == (progress.step not in (5, 10, 12))


def test_a_real_explosion_stops_before_the_weights_are_spoilt():
    trainer = trainer_of("rnn", "relu", optimizer="sgd", learning_rate=1e6, grad_clip=0, steps=200)
    with pytest.raises(DivergenceError, match=r"at step \d+ with a learning rate of .*: lower"):
        run_for(trainer, 200)
    assert all(np.isfinite(w).all() for w in trainer.model.weights().values())


def test_sizes_and_precision_are_checked():
    with pytest.raises(CorpusError, match="lower --batch-size"):
        trainer_of(batch_size=500)
    with pytest.raises(ConfigError, match="precision must be one of float32, bfloat16"):
        trainer_of(precision="float8")


def test_the_probe_measures_a_gain(monkeypatch):
    assert bfloat16_gain(tiny_config(), V, batch_size=B, seq_length=T, rounds=1) >= 0

    def unable(*_, **__):
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(CharLM, "forward", unable)
    assert bfloat16_gain(tiny_config(), V, batch_size=B, seq_length=T, rounds=1) == 0


def test_bfloat16_stays_near_float32():
    probe_bfloat16()
    settings = {"dropout": 0.0, "hidden_size": 32}
    losses = [
        [step[1] for step in run_for(trainer_of(precision=p, **settings), 12)]
        for p in ("float32", "bfloat16")
    ]
    np.testing.assert_allclose(*losses, rtol=0.01)
