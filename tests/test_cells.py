"""The equations: numpy and torch run the same lines and get the same numbers."""

import numpy as np
import pytest
import torch
from conftest import EVERY, B, H, V, tiny_config

from charlm.cells import CELLS, attention
from charlm.cells.lstm import CELL_CLIP
from charlm.integer.functions import EXACT
from charlm.model.language_model import CharLM

I = 5  # noqa: E741


def cell_of(name, variant):
    """Return the recurrence of a net; of one with attention, the attention."""
    return tiny_config(name, variant).cells[-1]


def weights(cell, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=p.shape) for name, p in cell.parameters(I, H).items()}


def inputs(cell, seed=1):
    rng = np.random.default_rng(seed)
    shapes = cell.state_shapes(H).values()
    return rng.normal(size=(B, I)), tuple(rng.normal(size=(B, *shape)) for shape in shapes)


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_numpy_and_torch_agree(name, variant):
    cell = cell_of(name, variant)
    w, (x, state) = weights(cell), inputs(cell)
    by_numpy = cell.step(np, cell.project(x, w), state, w)
    tw = {key: torch.from_numpy(value) for key, value in w.items()}
    projected = cell.project(torch.from_numpy(x), tw)
    by_torch = cell.step(torch, projected, tuple(map(torch.from_numpy, state)), tw)
    for ours, theirs in zip(by_numpy, by_torch, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "variant", "stock"),
    [
        ("rnn", "plain", torch.nn.RNNCell(I, H)),
        ("rnn", "relu", torch.nn.RNNCell(I, H, nonlinearity="relu")),
        ("lstm", "plain", torch.nn.LSTMCell(I, H)),
        ("gru", "plain", torch.nn.GRUCell(I, H)),
    ],
)
def test_a_step_is_that_of_torchs_own_cell(name, variant, stock):
    cell = cell_of(name, variant)
    stock = stock.double()
    w = {key: value.detach().numpy() for key, value in stock.named_parameters()}
    assert {key: value.shape for key, value in w.items()} == {
        key: declared.shape for key, declared in cell.parameters(I, H).items()
    }
    x, state = inputs(cell)
    before = tuple(map(torch.from_numpy, state))
    expected = stock(torch.from_numpy(x), before if name == "lstm" else before[0])
    expected = expected if name == "lstm" else (expected,)
    for ours, theirs in zip(cell.step(np, cell.project(x, w), state, w), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_gradients_are_those_of_finite_differences(monkeypatch, name, variant):
    monkeypatch.setattr(attention, "SIZE", 2)  # or there are thousands of differences
    cell = cell_of(name, variant)
    w = {key: torch.from_numpy(v).requires_grad_() for key, v in weights(cell).items()}
    x, state = inputs(cell)
    arrays = [torch.from_numpy(a).requires_grad_() for a in (x, *state)]

    def step(x, *rest):
        state, values = rest[:count], rest[count:]
        named = dict(zip(w, values, strict=True))
        return cell.step(torch, cell.project(x, named), state, named)

    count = len(state)
    assert torch.autograd.gradcheck(step, (*arrays, *w.values()))


def test_gates_saturate_without_overflow():
    cell = CELLS["lstm"]()
    w = {name: np.zeros(declared.shape) for name, declared in cell.parameters(I, H).items()}
    state = tuple(np.ones((B, H)) for _ in cell.state_shapes(H))
    with np.errstate(all="raise"):
        for size in (1e4, -1e4):
            result = cell.step(np, np.full((B, 4 * H), size), state, w)
            assert all(np.isfinite(array).all() for array in result)


@pytest.mark.parametrize("xp", [np, EXACT, torch], ids=["numpy", "exact", "torch"])
def test_a_cell_that_its_gates_see_grows_up_to_its_bound(xp):
    """It holds its gates open, and each step adds as much as it can."""
    cell = cell_of("lstm", "peepholes")
    w = {name: np.zeros(p.shape, np.float32) for name, p in cell.parameters(I, H).items()}
    w["peephole"] += 1
    projected = np.full((B, 4 * H), 8, np.float32)
    state = tuple(np.zeros((B, H), np.float32) for _ in "hc")
    if xp is torch:
        w = {name: torch.from_numpy(value) for name, value in w.items()}
        projected, *state = map(torch.from_numpy, (projected, *state))
    sizes = []
    for _ in range(int(CELL_CLIP) + 5):
        state = cell.step(xp, projected, tuple(state), w)
        sizes.append(float(state[1].max()))
    assert sizes[:3] == pytest.approx([1, 2, 3], abs=0.01)
    assert sizes[-5:] == [CELL_CLIP] * 5


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_cells_are_equal_if_they_compute_the_same(name, variant):
    cells = [tiny_config(*backbone).cell for backbone in EVERY if backbone[1] != "attention"]
    cell = tiny_config(name, variant).cell
    assert cells.count(cell) == 1
    assert len(set(cells)) == len(cells)
    assert type(cell) is CELLS[name]


def test_how_a_matrix_starts_changes_nothing_that_a_cell_computes():
    one, other = (
        tiny_config("rnn", "relu", recurrent_init=how) for how in ("identity", "orthogonal")
    )
    assert one.cell == other.cell
    weight = CharLM(one, V, seed=1).backbone.layers[1].weight_hh
    assert torch.equal(weight, torch.eye(H))
    assert one.changed_options() == other.changed_options() == {"nonlinearity": "relu"}


def test_an_option_that_came_later_does_not_change_what_a_model_is_known_by():
    """Saved states and compressed texts name their model by a digest of these."""
    assert tiny_config("lstm").changed_options() == {}
    assert tiny_config("gru").changed_options() == {}
    assert tiny_config("rnn").changed_options() == {"nonlinearity": "tanh"}
    assert tiny_config("gru", "before").changed_options() == {"reset_after": False}
