"""The attention: what it reads out, how far back, and with which bits."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import V, random_ids, tiny_config, words

from charlm.api import LanguageModel
from charlm.cells import Attention
from charlm.cells.attention import SIZE
from charlm.checkpoint import Checkpoint
from charlm.config import ModelConfig
from charlm.data.tokenizer import CharTokenizer
from charlm.inference.attention import BLOCK, AttentionKernel
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.inference.scoring import score
from charlm.insight.connectivity import connectivity
from charlm.insight.memory import measure_memory
from charlm.insight.reading import Unit, clamped_bits, read
from charlm.integer.attention import ATTENTION_BITS, LARGEST, SHARE_BITS, ExactAttention
from charlm.model.fused.attention import attention_loop
from charlm.model.language_model import CharLM

B, N = 3, 9


def zeros(window, lanes=B):
    shapes = Attention(window=window).state_shapes(SIZE).values()
    return tuple(np.zeros((lanes, *shape), np.float32) for shape in shapes)


def by_torch(x, w, window):
    w = {name: torch.from_numpy(array) for name, array in w.items()}
    y, _ = attention_loop(
        torch.from_numpy(x), tuple(map(torch.from_numpy, zeros(window, len(x)))), w
    )
    return y.numpy()


def by_numpy(x, w, window):
    cell = Attention(window=window)
    kernel = AttentionKernel(cell, AttentionKernel.prepared(w, upper=True), zeros(window, len(x)))
    return kernel.read(kernel.project(x.swapaxes(0, 1))).swapaxes(0, 1)


def by_steps(x, w, window):
    cell, state, found = Attention(window=window), zeros(window, len(x)), []
    for t in range(x.shape[1]):
        state = cell.step(np, cell.project(x[:, t], w), state, w)
        found.append(state[0])
    return np.stack(found, 1)


WAYS = [by_torch, by_numpy, by_steps]


def some_weights(window, inputs, seed=1):
    random = np.random.default_rng(seed)
    weight = random.normal(0, 0.3, (3 * SIZE, inputs)).astype(np.float32)
    return {"weight": weight, "bias": random.normal(size=window).astype(np.float32)}


@pytest.mark.parametrize("way", WAYS)
def test_an_input_counts_for_so_many_steps_and_no_longer(way):
    """Its value is looked at in N steps, beginning with its own, its key in the N after that."""
    random = np.random.default_rng(2)
    x = random.normal(size=(B, 40, 5)).astype(np.float32)
    w = some_weights(N, 5)
    other = x.copy()
    other[:, 13] += 1
    changed = (np.abs(way(x, w, N) - way(other, w, N)) > 1e-6).any(axis=(0, 2))
    assert np.flatnonzero(changed).tolist() == list(range(13, 13 + N + 1))


@pytest.mark.parametrize("way", WAYS)
def test_it_reads_out_what_followed_where_things_were_alike(way):
    """With keys and queries that are sharp, y is the mean of what stood behind earlier ones."""
    ids = np.random.default_rng(3).integers(0, 4, 60)
    unit = np.eye(SIZE, dtype=np.float32)
    w = {"weight": np.concatenate([400 * unit, unit, unit]), "bias": np.zeros(N, np.float32)}
    y = way(unit[ids][None], w, N)[0]
    told = 0
    for t in range(N, 60):
        places = [j for j in range(t - N, t) if ids[j] == ids[t]]
        if places:
            expected = np.mean([unit[ids[j + 1]] for j in places], axis=0)
            np.testing.assert_allclose(y[t], expected, rtol=0, atol=1e-5)
            told += 1
    assert told > 40


@pytest.mark.parametrize("window", [1, 7, BLOCK, 150])
@pytest.mark.parametrize("kind", [AttentionKernel, ExactAttention])
def test_a_kernel_reads_windows_of_any_length_as_step_by_step(kind, window):
    x = np.random.default_rng(4).normal(size=(3 * BLOCK + 5, B, 11)).astype(np.float32)
    cell, w = Attention(window=window), some_weights(window, 11)
    prepared, bits = kind.prepared(w, upper=True), (8,) * (kind is ExactAttention)
    one, other = (kind(cell, prepared, zeros(window), *bits) for _ in range(2))
    projected = x @ w["weight"].T
    steps = []
    for row in projected:
        one.move(row)
        steps.append(one.output.copy())
    cuts = np.split(projected, [3, 3, 3 + BLOCK, 4 + BLOCK])
    windows = np.concatenate([other.read(part) for part in cuts if len(part)])
    exactly = kind is ExactAttention
    np.testing.assert_allclose(windows, steps, rtol=0, atol=0 if exactly else 1e-5)
    for mine, its in zip(one.state, other.state, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=0 if exactly else 1e-5)


def test_in_whole_numbers_no_sum_is_rounded():
    """Not even where all queries, keys and values are as large as they may be."""
    window = 8192
    random = np.random.default_rng(5)
    state = zeros(window, 1)
    for array in state[1:]:
        array[:] = LARGEST * random.choice([-1, 1], array.shape)
        array[:, :, 0] -= random.random((1, window)).astype(np.float32)
    w = ExactAttention.prepared(some_weights(window, 5), upper=True)
    kernel = ExactAttention(Attention(window=window), w, state, 8)
    keys, values = kernel.keys[0, 1 : window + 1], kernel.values[0, 1 : window + 1]
    q = random.choice([-LARGEST, LARGEST], SIZE) * 2**ATTENTION_BITS
    for row in (keys, values):
        assert (np.abs(row) <= LARGEST * 2**ATTENTION_BITS).all()
        assert (row == np.rint(row)).all()
    scores = keys @ q
    for place in (0, 1, 5000):
        assert int(scores[place]) == sum(
            int(a) * int(b) for a, b in zip(keys[place], q, strict=True)
        )
    shares = np.full(window, 2.0**SHARE_BITS)
    exact = [sum(map(int, column)) << SHARE_BITS for column in values.T[:2]]
    assert [int(total) for total in (shares @ values)[:2]] == exact
    total = Fraction(int(shares.sum()))
    assert total == window << SHARE_BITS


def test_a_long_text_is_read_in_chunks_that_meet():
    """The warm-up is longer by the window, so no chunk has to be read again."""
    config = ModelConfig.from_dict(tiny_config("lstm").to_dict() | {"attention": 700})
    model = CharLM(config, V, seed=2)
    engine = Engine(config, model.weights())
    ids = random_ids(1, 6 * (512 + 700) + 1)
    before = engine.initial_state(1)
    told = []
    found = score(engine, ids, PromptState(np.zeros(V, np.float32), before), told.append)
    assert sum(told) == len(ids) + 2 * (512 + 700)
    stepper = engine.stepper(before)
    alone = [
        engine.surprisal(stepper.step(ids[t : t + 1]), ids[t + 1 : t + 2])[0] for t in range(6000)
    ]
    np.testing.assert_allclose(found[1:6001], alone, rtol=0, atol=1e-3)


def test_how_many_lanes_are_read_at_a_time_changes_no_figure(monkeypatch):
    """The state of a lane is large, so there may be few; here there are six."""
    text = words(300, seed=5)
    lm = LanguageModel(checkpoint_of(text))
    ids = lm.tokenizer.encode(text)
    one, other = [], []
    for found in (one, other):
        reading = read(lm.engine, lm.checkpoint.weights, ids, lm.read())
        starts = np.array([40, 333, 700])
        clamps = [(Unit(1 + n % 2, "h", n), 0.3) for n in range(5)]
        memory = measure_memory(lm.engine, ids[:1200], reading.bits[:1200])
        found += [
            clamped_bits(reading, clamps, starts, 30),
            connectivity(reading, depth=3),
            memory.nearest.loss,
        ]
        monkeypatch.setattr("charlm.config.model.MOST_NUMBERS", 8000)
    assert lm.config.most_lanes() == 6
    for mine, its in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-4)


def checkpoint_of(text):
    config = tiny_config("lstm", "attention")
    tokenizer = CharTokenizer.from_text(text)
    weights = CharLM(config, tokenizer.vocab_size, seed=3).weights()
    weights = {name: 2 * array for name, array in weights.items()}
    return Checkpoint(model_config=config, tokenizer=tokenizer, weights=weights)
