import numpy as np
import pytest
from conftest import probabilities
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charlm.config import SampleConfig
from charlm.errors import ConfigError
from charlm.inference.sampling import (
    allowed_mask,
    choose,
    seeded,
    surprisal,
    unnormalized,
)

LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))


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
def test_every_temperature_gives_finite_probabilities(temperature):
    logits = np.array([1e4, -1e4, 9.9e3, -np.inf, 3e38])
    for values in (logits, logits[:4]):
        with np.errstate(all="raise", under="ignore"):
            p = probabilities(
                values, SampleConfig(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1)
            )
        assert np.isfinite(p).all()
        assert abs(p.sum() - 1) < 1e-12


def test_choose_takes_in_every_number_between_0_and_1():
    w = np.array([[0.0, 0.3, 0.0, 0.7, 0.0]] * 2)
    uniform = np.array([0.0, np.nextafter(1, 0)])
    assert choose(w, uniform).tolist() == [1, 3]
    assert [choose(w[:1], uniform[i : i + 1]).item() for i in range(2)] == [1, 3]


def test_surprisal_is_the_log_of_the_softmax():
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)) * 30
    ids = np.random.default_rng(1).integers(0, 5, (2, 3))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, ids[..., None], -1)[..., 0])
    np.testing.assert_allclose(surprisal(logits, ids), expected, rtol=1e-12, atol=1e-14)


def test_nothing_left_to_draw():
    with pytest.raises(ConfigError, match="leave no character"):
        allowed_mask("ab", SampleConfig(allow="a", forbid="a"), None)


def test_a_missing_seed_is_drawn_and_a_given_one_kept():
    assert seeded(SampleConfig(seed=5)).seed == 5
    assert len({seeded(SampleConfig()).seed for _ in range(8)}) > 1
