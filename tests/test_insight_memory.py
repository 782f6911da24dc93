"""Memory, gradients and connectivity are what their definitions say."""

import numpy as np
import pytest
import torch
from conftest import BACKBONES, L, tiny_config, words
from test_insight_reading import model, reading_of
from torch.nn.functional import cross_entropy

from charlm.config import TrainConfig
from charlm.insight import memory
from charlm.insight.connectivity import connectivity
from charlm.insight.gradients import (
    gradient_norms,
    half_distance,
    measure_gradients,
    state_gradients,
    unrolled,
)
from charlm.insight.matching import codes
from charlm.model.language_model import CharLM

TEXT = words(500, seed=5)


def test_a_short_context_is_exactly_that_long():
    """The loss with k characters of context is that of a text of k characters, read alone."""
    lm = model("lstm")
    ids = lm.tokenizer.encode(TEXT)
    windows = ids[np.array([3, 400])[:, None] + np.arange(10)]
    found = memory._read(lm.engine, windows, memory.no_progress)
    for row, window in enumerate(windows):
        state = lm.engine.initial_state(1)
        for place, character in enumerate(window[:-1]):
            logits, state = lm.engine.step(np.array([character]), state)
            chances = np.exp(logits[0]) / np.exp(logits[0]).sum()
            expected = -np.log2(chances[window[place + 1]])
            assert found[row, place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_the_context_costs_what_the_text_costs(backbone):
    """Far from the start the excess is 0, as nets this small forget; close to it it is not."""
    lm = model(*backbone, scale=1.3)
    reading = reading_of(lm)
    found = memory.measure_memory(lm.engine, reading.ids, reading.bits)
    assert found.full == pytest.approx(lm.score(TEXT).mean(), abs=1e-4)
    assert found.nearest.contexts[-1] <= memory.most_context(len(TEXT))
    assert found.nearest.loss[-1] == pytest.approx(found.full, abs=0.02 * found.full)
    assert found.nearest.error[0] > 1e-4 > found.nearest.error[-1]
    assert "characters of context, their order for" in str(found)


def test_reach_is_where_the_loss_stays_close():
    def curve(*losses):
        contexts = np.array([1, 3, 10, 30])
        return memory.Curve(contexts=contexts, loss=np.array(losses), error=np.zeros(4))

    found = memory.Memory(
        full=2.0, nearest=curve(4, 2.01, 2.3, 2.01), shuffled=curve(2.5, 2.4, 2.3, 2.2)
    )
    assert found.reach == 30
    assert found.order is None
    assert str(found) == "uses about 30 characters of context, their order for more than 30"


def test_shuffling_leaves_the_near_characters():
    """With a net that sees one character only, what is before it may be in any order."""
    lm = model("rnn")
    for layer in range(L):
        lm.checkpoint.weights[f"backbone.layers.{layer}.weight_hh"][:] = 0
    lm = type(lm)(lm.checkpoint)
    reading = reading_of(lm)
    found = memory.measure_memory(lm.engine, reading.ids, reading.bits)
    assert found.shuffled.loss == pytest.approx(np.full(len(found.shuffled.loss), found.full), 1e-4)
    assert (found.reach, found.order) == (1, 1)


def double_net(backbone):
    net = CharLM(tiny_config(*backbone), 13, seed=4).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    return net


def loss_with(net, window, step, layer, array, change):
    """Return the loss of the last character if something is added to a state on the way."""
    config, cell = net.config, net.config.cell
    weights = [dict(one.named_parameters()) for one in net.backbone.layers[:L]]
    states = config.layer_states(net.initial_state(len(window)))
    attended = states[-1]
    for t in range(window.shape[1] - 1):
        x = net.embedding(window[:, t])
        for k, w in enumerate(weights):
            projected = cell.project(x, w)
            before, states[k] = states[k], cell.step(torch, projected, states[k], w)
            if (t, k) == (step, layer):
                if array == 0:
                    states[k] = (states[k][0] + change, *states[k][1:])
                else:  # c of the LSTM; the output of the same step depends on it
                    c = states[k][1] + change
                    states[k] = cell.activations(torch, projected, before, w)["o"] * c.tanh(), c
            x = x + states[k][0] if k > 0 and config.residual else states[k][0]
        if config.attention:
            head = net.backbone.layers[L]
            w = dict(head.named_parameters())
            projected = head.cell.project(x, w)
            attended = head.cell.step(torch, projected, attended, w)
            x = torch.cat([x, attended[0]], 1)
    return cross_entropy(net.head(x), window[:, -1], reduction="sum").item()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_state_gradients_agree_with_finite_differences(backbone):
    net = double_net(backbone)
    random = torch.Generator().manual_seed(1)
    window = torch.randint(0, 13, (3, 9), generator=random)
    found = state_gradients(net, window, net.initial_state(3))
    assert len(found) == 8
    for step in (0, 3, 7):
        for layer in range(L):
            for array, gradient in enumerate(found[step][layer]):
                way = torch.randn(gradient.shape, generator=random, dtype=torch.float64)
                size = 1e-5
                high, low = (
                    loss_with(net, window, step, layer, array, sign * size * way)
                    for sign in (1, -1)
                )
                expected = (high - low) / (2 * size)
                assert float((gradient * way).sum()) == pytest.approx(expected, abs=1e-4)


def test_the_norm_by_distance_is_the_mean_of_the_lanes():
    net = CharLM(tiny_config("lstm"), 13, seed=4)
    ids = np.random.default_rng(3).integers(0, 13, 31)
    found = gradient_norms(net, ids, distance=30, places=1)  # no room for a warm-up
    window = torch.from_numpy(ids[None])
    gradients = state_gradients(net, window, net.initial_state(1))
    assert [len(layer) for layer in found] == [2, 2]
    for k in range(L):
        for i in range(2):
            expected = [float(step[k][i].norm()) for step in reversed(gradients)]
            assert found[k][i] == pytest.approx(expected, rel=1e-5)


def test_half_distance_is_that_of_a_steady_fall():
    """Whatever the first value, which no step of the recurrence stands before."""
    for distance in (0.5, 2.0, 30.0):
        norms = 0.5 ** (np.arange(200) / distance)
        norms[0] = 7
        assert half_distance(norms) == pytest.approx(distance, rel=0.02)
    assert half_distance(np.array([1.0, 2.0, 3.0])) is None
    assert half_distance(np.array([3.0, 2.0, 2.0])) is None
    assert half_distance(np.array([3.0, 2.0, 0.0, 0.0])) is not None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_are_those_of_the_trained_net_and_of_its_start(backbone):
    lm = model(*backbone, scale=1.0, seed=6)
    training = TrainConfig(steps=1, seed=6, batch_size=3, seq_length=20, grad_clip=0.01)
    ids = lm.tokenizer.encode(TEXT)
    found = measure_gradients(lm.config, lm.checkpoint.weights, ids, training)
    assert {flow.layer for flow in found.flows} == {1, 2}
    for flow in found.flows:  # these weights are the initial ones of that seed
        assert flow.trained == pytest.approx(flow.untrained, rel=1e-4)
    assert found.clipping.clipped == 1.0
    assert found.clipping.factor == pytest.approx((0.01 / found.clipping.norms).mean())


def test_connectivity_is_the_gradient_by_each_earlier_character():
    lm = model("gru")
    reading = reading_of(lm, TEXT[:60])
    found = connectivity(reading, depth=7)
    assert found.shape == (60, 7)
    assert (found[0] == 0).all()
    assert (found[3, 3:] == 0).all()
    assert (found[3, :3] > 0).all()
    net = CharLM(lm.config, lm.tokenizer.vocab_size)
    net.load_weights(lm.checkpoint.weights)
    ids = torch.from_numpy(reading.ids.astype(np.int64))
    x = net.embedding(ids[None, :40]).detach().requires_grad_()  # all that is before, at once
    state = tuple(torch.from_numpy(s) for s in reading.before)
    _, logits = unrolled(net, x, state)
    (gradient,) = torch.autograd.grad(logits[0, ids[40]], x)
    expected = gradient[0].norm(dim=1).flip(0)[:7].numpy()
    assert found[40] == pytest.approx(expected, rel=1e-3)


def test_codes_keep_the_largest_differences():
    random = np.random.default_rng(1)
    states = random.normal(size=(200, 23)).astype(np.float32)
    states[:, 5] *= 50
    found = codes(states)
    assert found.shape == (200, 16)
    assert abs(np.corrcoef(found[:, 0], states[:, 5])[0, 1]) > 0.99
    assert np.abs(found.astype(int)).max() == 127
