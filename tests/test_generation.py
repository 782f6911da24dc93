import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charlm.config import SampleConfig
from charlm.errors import DivergenceError
from charlm.generation import draw, generate, probabilities, read, seeded

LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))


class Chain:
    """A stepper whose logits are a row of a table: the character before decides."""

    def __init__(self, table):
        self.table = np.asarray(table, dtype=np.float64)

    def initial_state(self, batch_size):
        return (np.zeros((1, batch_size, 1)),)

    def step(self, ids, state):
        return self.table[ids], (state[0] + 1,)


def sample(chain, config, **options):
    logits, state = read(chain, np.array([0]), chain.initial_state(1))
    return list(generate(chain, logits, state, config, **options))


@given(LOGITS, st.floats(1e-3, 50), st.integers(0, 45), st.floats(0.01, 1))
@example(np.array([-7.8143e-41, 0.0], np.float32), 1.0, 0, 0.5)  # as likely, once rounded
def test_probabilities_are_a_distribution_that_keeps_the_order(logits, temperature, top_k, top_p):
    config = SampleConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    p = probabilities(logits, config)
    assert p.min() >= 0
    assert abs(p.sum() - 1) < 1e-9
    assert p[logits.argmax()] == p.max() > 0
    if top_k:
        assert np.count_nonzero(p) <= top_k


@given(LOGITS, st.floats(0.05, 0.999))
def test_top_p_keeps_the_fewest_that_hold_the_share(logits, share):
    full = probabilities(logits, SampleConfig(temperature=1.0))
    kept = probabilities(logits, SampleConfig(temperature=1.0, top_p=share)) > 0
    held = full[kept].sum()
    assert held >= share - 1e-9
    assert held - full[kept].min() < share + 1e-9
    assert full[kept].min() >= full[~kept].max(initial=0)


@given(LOGITS)
def test_temperature_zero_is_argmax(logits):
    p = probabilities(logits, SampleConfig(temperature=0))
    assert p[logits.argmax()] == 1
    assert p.sum() == 1


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-3, 1e300])
def test_no_temperature_makes_anything_but_numbers(temperature):
    logits = np.array([1e4, -1e4, 9.9e3, -np.inf])
    with np.errstate(all="raise", under="ignore"):
        p = probabilities(logits, SampleConfig(temperature=temperature, top_k=3, top_p=0.9))
    assert np.isfinite(p).all()
    assert abs(p.sum() - 1) < 1e-12


def test_sampling_frequencies_fit_the_distribution():
    logits = np.log([0.5, 0.25, 0.125, 0.0625, 0.0625])
    count = 20_000
    for config in (
        SampleConfig(temperature=1.0, seed=1, length=count),
        SampleConfig(temperature=0.7, seed=2, length=count),
        SampleConfig(temperature=1.3, top_k=3, top_p=0.95, seed=3, length=count),
    ):
        expected = probabilities(logits, config) * count
        drawn = np.bincount(sample(Chain([logits] * 5), config), minlength=5)
        kept = expected > 0
        assert not drawn[~kept].any()
        chi_square = ((drawn - expected)[kept] ** 2 / expected[kept]).sum()
        assert chi_square < 23.5  # 4 degrees of freedom: false alarms below 1 in 10,000


def test_draw_takes_in_every_number_between_0_and_1():
    class Fixed:
        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

    p = np.array([0.0, 0.3, 0.0, 0.7, 0.0])
    assert draw(p, Fixed(0.0)) == 1
    assert draw(p, Fixed(np.nextafter(1, 0))) == 3


def test_sample_i_depends_on_the_seed_and_on_i_alone():
    chain = Chain(np.random.default_rng(0).normal(size=(6, 6)))
    config = SampleConfig(seed=7, length=40)
    texts = [sample(chain, config, index=i) for i in range(5)]
    assert texts == [sample(chain, config, index=i) for i in reversed(range(5))][::-1]
    assert len({tuple(text) for text in texts}) == 5
    assert sample(chain, SampleConfig(seed=8, length=40)) != texts[0]


@pytest.mark.parametrize("length", [0, 1, 17])
def test_length_counts_new_characters(length):
    assert len(sample(Chain(np.eye(3)), SampleConfig(seed=1, length=length))) == length


def test_logits_that_are_no_numbers_raise():
    with pytest.raises(DivergenceError, match="no numbers"):
        sample(Chain([[np.nan, 1.0]] * 2), SampleConfig(seed=1, length=3))


def test_a_banned_character_is_never_drawn():
    drawn = sample(Chain([[9.0, 1, 1]] * 3), SampleConfig(seed=1, length=300), banned=0)
    assert set(drawn) == {1, 2}


def test_a_missing_seed_is_drawn_and_a_given_one_kept():
    assert seeded(SampleConfig(seed=5)).seed == 5
    assert len({seeded(SampleConfig()).seed for _ in range(8)}) > 1
