import numpy as np
import pytest
from conftest import BACKBONES, V, tiny_config
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charlm.config import SampleConfig
from charlm.errors import ConfigError, DivergenceError
from charlm.inference.decoding import Block, blocks
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.inference.sampling import (
    allowed_mask,
    choose,
    probabilities,
    seeded,
    surprisal,
    unnormalized,
)

LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))


class Chain:
    """A model whose logits are a row of a table: the character before decides."""

    def __init__(self, table):
        self.table = np.asarray(table, dtype=np.float64)

    def stepper(self, state):
        return Chain.Stepper(self.table, state)

    class Stepper:
        def __init__(self, table, state):
            self.table, self.state = table, state

        def step(self, ids):
            self.state = (self.state[0] + 1,)
            return self.table[ids]


def prompt(chain):
    return PromptState(chain.table[0], (np.zeros((1, 1, 1)),))


def block(chain, config, indices=range(1), **options):
    return Block(chain, prompt(chain), config, indices, **options)


def sample(chain, count, config, **options):
    """Return what is drawn in ``count`` steps, (count, B)."""
    drawn = block(chain, config, **options)
    return np.array([drawn.draw() for _ in range(count)])


CONTROLS = st.builds(
    SampleConfig,
    temperature=st.floats(1e-3, 50),
    top_k=st.integers(0, 45),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)


@given(LOGITS, CONTROLS)
@example(  # as likely, once rounded
    np.array([-7.8143e-41, 0.0], np.float32), SampleConfig(temperature=1.0, top_p=0.5)
)
def test_probabilities_are_a_distribution_that_keeps_the_order(logits, config):
    p = probabilities(logits, config)
    assert p.min() >= 0
    assert abs(p.sum() - 1) < 1e-9
    assert p[logits.argmax()] == p.max() > 0
    if config.top_k:
        assert np.count_nonzero(p) <= config.top_k
    assert p[p > 0].min() >= config.min_p * p.max() * (1 - 1e-9)


@given(LOGITS, CONTROLS)
def test_what_stays_is_what_every_control_alone_lets_stay_and_keeps_its_proportions(logits, config):
    """Top-p sees what top-k has left, so only the others are compared alone."""
    full = probabilities(logits, SampleConfig(temperature=config.temperature))
    p = probabilities(logits, config)
    kept = p > 0
    np.testing.assert_allclose(p[kept], full[kept] / full[kept].sum(), rtol=1e-9)
    for name in ("top_k", "min_p"):
        alone = SampleConfig(temperature=config.temperature, **{name: getattr(config, name)})
        assert not (kept & (probabilities(logits, alone) == 0)).any()


@given(LOGITS, st.floats(0.05, 0.999))
def test_top_p_keeps_the_fewest_that_hold_the_share(logits, share):
    full = probabilities(logits, SampleConfig(temperature=1.0))
    kept = probabilities(logits, SampleConfig(temperature=1.0, top_p=share)) > 0
    held = full[kept].sum()
    assert held >= share - 1e-9
    assert held - full[kept].min() < share + 1e-9
    assert full[kept].min() >= full[~kept].max(initial=0)


@given(LOGITS, st.floats(0, 1))
def test_min_p_keeps_exactly_what_is_likely_enough(logits, share):
    w = unnormalized(logits[None], SampleConfig(temperature=1.0))[0]
    kept = probabilities(logits, SampleConfig(temperature=1.0, min_p=share)) > 0
    assert np.array_equal(kept, (w >= share) & (w > 0))


@given(LOGITS)
def test_temperature_zero_is_argmax(logits):
    p = probabilities(logits, SampleConfig(temperature=0))
    assert p[logits.argmax()] == 1
    assert p.sum() == 1


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-3, 1e300])
def test_no_temperature_makes_anything_but_numbers(temperature):
    logits = np.array([1e4, -1e4, 9.9e3, -np.inf, 3e38])
    for values in (logits, logits[:4]):
        with np.errstate(all="raise", under="ignore"):
            p = probabilities(
                values, SampleConfig(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1)
            )
        assert np.isfinite(p).all()
        assert abs(p.sum() - 1) < 1e-12


def test_sampling_frequencies_fit_the_distribution():
    logits = np.log([0.5, 0.25, 0.125, 0.0625, 0.0625])
    count, lanes = 4_000, 5
    for config in (
        SampleConfig(temperature=1.0, seed=1),
        SampleConfig(temperature=0.7, seed=2),
        SampleConfig(temperature=1.3, top_k=3, top_p=0.95, seed=3),
        SampleConfig(temperature=1.3, min_p=0.2, seed=4),
    ):
        expected = probabilities(logits, config) * count * lanes
        drawn = sample(Chain([logits] * 5), count, config, indices=range(lanes))
        counts = np.bincount(drawn.ravel(), minlength=5)
        kept = expected > 0
        assert not counts[~kept].any()
        chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
        assert chi_square < 23.5  # 4 degrees of freedom: false alarms below 1 in 10,000


def test_choose_takes_in_every_number_between_0_and_1():
    w = np.array([[0.0, 0.3, 0.0, 0.7, 0.0]] * 2)
    uniform = np.array([0.0, np.nextafter(1, 0)])
    assert choose(w, uniform).tolist() == [1, 3]
    assert [choose(w[:1], uniform[i : i + 1]).item() for i in range(2)] == [1, 3]


def random_engine(config, scale):
    """Return an engine with random weights, and a reading of it."""
    rng = np.random.default_rng(1)
    tensors = {
        name: rng.normal(0, scale, shape).astype(np.float32)
        for name, shape in config.parameter_shapes(V).items()
    }
    engine = Engine(config, tensors)
    return engine, PromptState(rng.normal(size=V).astype(np.float32), engine.initial_state(1))


@pytest.mark.parametrize(("name", "nonlinearity"), BACKBONES)
def test_sample_i_depends_on_the_seed_and_on_i_alone(name, nonlinearity):
    """Blocks have fixed places and widths, so sample i is drawn by the same products."""
    engine, begin = random_engine(tiny_config(name, nonlinearity), 0.4)

    def texts(count, seed):
        found = []
        for indices in blocks(count):
            drawn = Block(engine, begin, SampleConfig(seed=seed), indices)
            found += list(np.array([drawn.draw() for _ in range(70)]).T)
        return np.array(found[:count])

    assert [len(texts(n, 7)) for n in (1, 2, 12)] == [1, 2, 12]
    assert np.array_equal(texts(12, 7)[:2], texts(2, 7))
    assert np.array_equal(texts(12, 7)[:1], texts(1, 7))
    assert len({tuple(text) for text in texts(70, 7)}) == 70
    assert not np.array_equal(texts(1, 8), texts(1, 7))


@given(st.integers(1, 400))
def test_blocks_hold_every_sample_once(count):
    found = [index for indices in blocks(count) for index in indices]
    assert found[:count] == list(range(count))
    assert len(next(blocks(count))) == 1


def test_a_block_leaves_its_reading_alone_and_tells_what_it_has_read_since():
    chain = Chain(np.random.default_rng(0).normal(size=(6, 6)))
    before = prompt(chain)
    drawn = Block(chain, before, SampleConfig(seed=1), range(3))
    for count in range(1, 5):
        ids = drawn.draw()
        after = drawn.prompt_state(2)
        assert after.state[0].shape == (1, 1, 1)
        assert after.state[0].item() == count
        assert np.array_equal(after.logits, chain.table[ids[2]])
    assert not before.state[0].any()
    assert np.array_equal(before.logits, chain.table[0])


def test_surprisal_is_the_log_of_the_softmax():
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)) * 30
    ids = np.random.default_rng(1).integers(0, 5, (2, 3))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, ids[..., None], -1)[..., 0])
    np.testing.assert_allclose(surprisal(logits, ids), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_raise(wrong, temperature):
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        sample(Chain([[wrong, 1.0]] * 2), 3, SampleConfig(seed=1, temperature=temperature))


@pytest.mark.parametrize(
    ("settings", "unknown_id", "left"),
    [
        ({}, None, "abcd"),
        ({}, 0, "bcd"),
        ({"allow": "bxa"}, None, "ab"),
        ({"forbid": "bx"}, None, "acd"),
        ({"allow": "abc", "forbid": "a"}, 1, "c"),
    ],
)
def test_only_allowed_characters_are_drawn(settings, unknown_id, left):
    config = SampleConfig(seed=1, temperature=3.0, **settings)
    mask = allowed_mask("abcd", config, unknown_id)
    drawn = sample(Chain([[9.0, 1, 1, 1]] * 4), 300, config, mask=mask)
    assert {"abcd"[i] for i in drawn.ravel()} == set(left)


def test_nothing_left_to_draw():
    with pytest.raises(ConfigError, match="leave no character"):
        allowed_mask("ab", SampleConfig(allow="a", forbid="a"), None)


def test_a_missing_seed_is_drawn_and_a_given_one_kept():
    assert seeded(SampleConfig(seed=5)).seed == 5
    assert len({seeded(SampleConfig()).seed for _ in range(8)}) > 1


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_no_bit_of_a_sample_depends_on_how_many_there_are(name):
    """At the sizes at which products of matrices take other ways for other numbers of lanes."""
    engine, begin = random_engine(tiny_config(name, hidden_size=512), 0.1)

    def logits(count):
        found = []
        for indices in blocks(count):
            drawn = Block(engine, begin, SampleConfig(seed=7), indices)
            for _ in range(5):
                drawn.draw()
            found += [row.tobytes() for row in drawn.logits]
        return found[:count]

    whole = logits(12)
    assert [whole[:n] == logits(n) for n in (1, 2, 9, 11)] == [True] * 4
