"""What an inspection reads is what the model computes, and what it clamps has that effect alone."""

import numpy as np
import pytest
from conftest import BACKBONES, LINEAR, PLAIN, B, H, L, is_unbounded, tiny_config, words

from charlm.api import LanguageModel
from charlm.cells import CELLS
from charlm.checkpoint import Checkpoint
from charlm.data.tokenizer import CharTokenizer
from charlm.insight.reading import Unit, clamped_bits, read
from charlm.model.language_model import CharLM

TEXT = words(500, seed=5)


def model(backbone="lstm", variant="plain", *, seed=3, scale=2.0, text=TEXT, **changes):
    """Return a language model with random weights, large enough that the context matters."""
    tokenizer = CharTokenizer.from_text(text)
    scale = (
        min(scale, 1.0) if is_unbounded(backbone, variant) else scale
    )  # or it grows without bound
    config = tiny_config(backbone, variant, **changes)
    weights = CharLM(config, tokenizer.vocab_size, seed=seed).weights()
    return LanguageModel(
        Checkpoint(
            model_config=config,
            tokenizer=tokenizer,
            weights={n: w * scale for n, w in weights.items()},
        )
    )


def reading_of(lm, text=TEXT):
    ids = lm.tokenizer.encode(text)
    return read(lm.engine, lm.checkpoint.weights, ids, lm.read())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_two_halves_of_a_step_are_the_step(backbone):
    config = tiny_config(*backbone)
    cell, random = config.cell, np.random.default_rng(2)
    w = {
        name: random.normal(size=parameter.shape)
        for name, parameter in config.layer_parameters(0).items()
    }
    state = tuple(random.normal(size=(B, *shape)) for shape in cell.state_shapes(H).values())
    projected = cell.project(random.normal(size=(B, config.embedding_size)), w)
    if not cell.gate_names:
        pytest.skip("a cell without gates has one step in one piece")
    a = cell.activations(np, projected, state, w)
    for one, other in zip(
        cell.update(np, a, state, w), cell.step(np, projected, state, w), strict=True
    ):
        assert np.array_equal(one, other)
    for name in cell.gate_names:
        assert a[name].shape == (B, H)
        assert ((a[name] > 0) & (a[name] < 1)).all()


@pytest.mark.parametrize(
    ("backbone", "residual"), [*[(b, True) for b in BACKBONES], *[(b, False) for b in PLAIN]]
)
def test_a_reading_is_what_the_model_computes(backbone, residual):
    lm = model(*backbone, residual=residual)
    reading = reading_of(lm)
    assert reading.bits == pytest.approx(lm.score(TEXT), abs=1e-4)
    for place in (0, 1, 700, len(TEXT) - 1):  # the state after it, and what was expected there
        before = lm.read(TEXT[:place], state=lm.read())
        chances = np.exp(before.logits - before.logits.max())
        chances /= chances.sum()
        best = np.argsort(-chances, kind="stable")[:5]
        assert reading.probabilities[place] == pytest.approx(chances[best], abs=1e-4)
        assert chances[reading.likeliest[place]] == pytest.approx(chances[best], abs=1e-4)
        after = lm.read(TEXT[place], state=before).state
        for array, state in zip(reading.states.values(), after, strict=False):
            assert array[place] == pytest.approx(state[:, 0], abs=1e-3)
        if place + 1 < len(TEXT):
            for one, other in zip(reading.state_at(np.array([place + 1])), after, strict=True):
                assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("backbone", [("lstm", "plain"), ("gru", "plain")])
def test_gates_are_those_that_made_the_states(backbone):
    """With the gates and the state before, the equations give the state that was recorded."""
    lm = model(*backbone)
    reading = reading_of(lm)
    places = np.arange(len(TEXT))
    before, inputs = reading.state_at(places), reading.layer_inputs(places)
    for layer in range(L):
        cell, w = lm.config.cell, reading.layers[layer]
        state = tuple(s[layer] for s in before)
        a = cell.activations(np, cell.project(inputs[layer], w), state, w)
        for name, gate in reading.gates(layer + 1).items():
            assert gate == pytest.approx(a[name], abs=1e-6)
            assert reading.unit(Unit(layer + 1, name, 4)) == pytest.approx(gate[:, 4])
        after = cell.update(np, a, state, w)
        for array, values in zip(reading.states.values(), after, strict=True):
            assert array[:, layer] == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("backbone", [("gru", "plain"), ("lstm", "attention")])
def test_items_begin_anew(backbone):
    text = "".join(f"{line}\n" for line in words(400, seed=2).split())
    lm = model(*backbone, items=True, text=text)
    reading = reading_of(lm, text)
    assert reading.bits == pytest.approx(lm.score(text), abs=1e-4)
    for place in (1, 50, text.index("\n", 90), text.index("\n", 90) + 1, 400):
        (state,) = (reading.state_at(np.array([place])),)
        expected = lm.read(text[:place], state=lm.read()).state
        for one, other in zip(state, expected, strict=True):
            if text[place] == "\n":  # which is read in the initial state
                other = np.zeros_like(other)
            assert one == pytest.approx(other, abs=1e-3)


STARTS = np.array([40, 333, 700])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_clamp_that_changes_nothing_changes_nothing(backbone):
    """A unit that nothing reads may have any value; one that is 0 may be held at 0."""
    lm = model(*backbone)
    weights = lm.checkpoint.weights
    if backbone[0] not in LINEAR:  # whose units do not read each other
        weights["backbone.layers.1.weight_hh"][:, 6] = 0
    weights["head.weight"][:, 6] = 0
    if backbone[1] == "attention":
        weights[f"backbone.layers.{L}.weight"][:, 6] = 0
    deaf = LanguageModel(
        Checkpoint(model_config=lm.config, tokenizer=lm.tokenizer, weights=weights)
    )
    reading = reading_of(deaf)
    bits = clamped_bits(reading, [(Unit(2, "h", 6), 0.7), (Unit(1, "h", 6), 0.7)], STARTS, 50)
    places = STARTS[:, None] + np.arange(50)
    assert bits[0] == pytest.approx(reading.bits[places], abs=1e-4)
    assert np.abs(bits[1] - reading.bits[places]).max() > 0.01  # the layer below is read


@pytest.mark.parametrize(("array", "layer"), [("c", 1), ("f", 2), ("o", 1)])
def test_a_clamp_holds_what_it_names(array, layer):
    """The clamped text is that of a net whose equations hold the unit, written down again here."""
    lm = model("lstm")
    reading = reading_of(lm)
    value, index = 0.4, 5
    (bits,) = clamped_bits(
        reading, [(Unit(layer, array, index), value)], np.array([30]), 20, warm_up=7
    )
    cell, weights = lm.config.cell, lm.checkpoint.weights
    state = [tuple(s[k] for s in reading.state_at(np.array([22]))) for k in range(L)]
    found = []
    for place in range(22, 49):
        x = weights["embedding.weight"][reading.ids[place : place + 1]]
        for k in range(L):
            w = reading.layers[k]
            a = cell.activations(np, cell.project(x, w), state[k], w)
            if k + 1 == layer and array in a:
                a[array][:, index] = value
            h, c = cell.update(np, a, state[k], w)
            if k + 1 == layer and array == "c":
                c[:, index] = value
            state[k] = h, c
            x = h if k == 0 else x + h
        logits = x @ weights["head.weight"].T + weights["head.bias"]
        chances = np.exp(logits) / np.exp(logits).sum()
        found.append(-np.log2(chances[0, reading.ids[place + 1]]))
    assert bits[0] == pytest.approx(found[7:], abs=1e-4)


def test_every_registered_cell_can_be_read():
    for backbone in CELLS:
        reading = reading_of(model(backbone))
        for _, name, values in reading.values():
            assert values.shape == (len(TEXT), H)
            assert name in reading.arrays
