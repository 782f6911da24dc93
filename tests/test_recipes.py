import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import ModelConfig, TrainConfig
from charlm.errors import ConfigError
from charlm.recipes import BY_EPOCHS, BY_LENGTH, BY_TIME, configs_for, enough_epochs


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


@pytest.mark.parametrize("rows", [BY_TIME, BY_EPOCHS, BY_LENGTH])
def test_tables_are_in_order_and_know_what_they_set(rows):
    limits = [most for most, _ in rows]
    assert limits == sorted(limits)
    for _, settings in rows:
        assert settings.keys() <= {*ModelConfig.names(), *TrainConfig.names()}


@given(st.integers(1, 10**9), st.floats(1, 1e12), st.floats(1, 1e12))
def test_more_time_never_means_a_smaller_model_or_less_dropout(num_characters, one, other):
    less, more = (
        configs_for(num_characters, {}, readable=time)[0] for time in sorted((one, other))
    )
    assert less.hidden_size <= more.hidden_size
    assert less.dropout <= more.dropout
    assert less.weight_drop <= more.weight_drop


def test_only_short_texts_can_be_read_too_often():
    epochs = [enough_epochs(n) for n in (1000, 50_000, 50_001, 400_000, 400_001, 10**9)]
    assert epochs == sorted(epochs)
    assert 1 < epochs[0] < 100
    assert epochs[-2:] == [math.inf, math.inf]


def test_given_steps_count_as_time():
    assert configs_for(10**6, {"steps": 10})[0] == configs_for(10**6, {}, readable=10 * 16 * 128)[0]


def test_steps_and_minutes_exclude_each_other():
    with pytest.raises(ConfigError, match="steps and minutes cannot both be given"):
        configs_for(1000, {"steps": 3, "minutes": 2.0})
