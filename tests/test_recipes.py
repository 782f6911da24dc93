import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import ModelConfig, TrainConfig
from charlm.errors import ConfigError
from charlm.recipes import RECIPES, configs_for, recipe


@given(st.integers(1, 3_000_000))
def test_chosen_sizes_fit_the_text(num_characters):
    model, train, notices = configs_for(num_characters, {})
    room = int(num_characters * 0.9) - 1
    assert train.batch_size * train.seq_length <= max(1, room)
    told = (model, train) != (ModelConfig(), TrainConfig())
    assert len(notices) == (1 if told else 0)


@given(st.integers(1, 3_000_000), st.integers(1, 300), st.integers(1, 300))
def test_sizes_that_were_asked_for_are_never_changed(num_characters, batch_size, hidden_size):
    given_settings = {"batch_size": batch_size, "hidden_size": hidden_size}
    model, train, notices = configs_for(num_characters, given_settings)
    assert (train.batch_size, model.hidden_size) == (batch_size, hidden_size)
    assert "batch_size" not in "".join(notices)


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.1", None, -1, 0, 1])
def test_bad_shares_are_refused_before_anything_is_computed_from_them(value):
    with pytest.raises(ConfigError, match="validation_fraction must be"):
        configs_for(1000, {"validation_fraction": value})


@given(st.integers(1, 10**9), st.floats(1, 1e12))
def test_there_is_a_recipe_for_every_text_and_time(num_characters, readable):
    configs_for(num_characters, {}, readable=readable)


def test_recipes_are_in_order_and_know_what_they_set():
    lengths = [longest for longest, _ in RECIPES]
    assert lengths == sorted(lengths)
    for _, rows in RECIPES:
        times = [most for most, _ in rows]
        assert times == sorted(times)
        assert times[-1] == math.inf
        for _, settings in rows:
            assert settings.keys() <= {*ModelConfig.names(), *TrainConfig.names()}


def test_more_time_for_a_text_means_more_dropout():
    for longest, rows in RECIPES:
        shares = [recipe(int(min(longest, 10**9)), most).get("dropout", 0.0) for most, _ in rows]
        assert shares == sorted(shares)


def test_steps_and_minutes_exclude_each_other():
    with pytest.raises(ConfigError, match="steps and minutes cannot both be given"):
        configs_for(1000, {"steps": 3, "minutes": 2.0})
