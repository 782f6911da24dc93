import math
from bisect import bisect_left
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.cells import LSTM
from charlm.config import ModelConfig, TrainConfig
from charlm.errors import ConfigError, argument
from charlm.training.presets import (
    ALWAYS,
    BY_EPOCHS,
    BY_LENGTH,
    BY_TIME,
    BY_VOCABULARY,
    MAX_EPOCHS,
    MOST_HELD_OUT,
    REPEATED,
    REPETITIVE,
    choose_configs,
    max_epochs,
    presets,
)


@given(st.integers(1, 3_000_000))
def test_chosen_sizes_fit_the_text(num_characters):
    _, train, notices = choose_configs(num_characters, {})
    room = int(num_characters * 0.9) - 1
    assert train.batch_size * train.seq_length <= max(1, room)
    assert len(notices) == 1


@given(st.integers(1, 3_000_000), st.integers(1, 300), st.integers(1, 300))
def test_sizes_that_were_asked_for_are_never_changed(num_characters, batch_size, hidden_size):
    given_settings = {"batch_size": batch_size, "hidden_size": hidden_size}
    model, train, notices = choose_configs(num_characters, given_settings)
    assert (train.batch_size, model.hidden_size) == (batch_size, hidden_size)
    assert "batch_size" not in "".join(notices)


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.1", None, -1, 0, 1])
def test_bad_shares_are_refused_before_anything_is_computed_from_them(value):
    with pytest.raises(ConfigError, match="validation_fraction must be"):
        choose_configs(1000, {"validation_fraction": value})


def row(rows, value):
    """Return the settings of the row of a table that applies to ``value``, by bisection."""
    place = bisect_left([most for most, _ in rows], value)
    return rows[place][1] if place < len(rows) else {}


TABLES_BY_TIME = [rows for _, rows in BY_TIME]
LIMITS = [most for rows in (*TABLES_BY_TIME, BY_LENGTH) for most, _ in rows]
LENGTHS = st.integers(1, 10**9) | st.integers(1, 10**6) | st.sampled_from(LIMITS)
TIMES = st.floats(1, 1e12) | st.floats(1, 1e8) | st.sampled_from([float(most) for most in LIMITS])
VOCABULARIES = st.integers(1, 1_114_112) | st.integers(1, 5000)


@given(LENGTHS, VOCABULARIES, TIMES, st.floats(0, 1) | st.just(REPETITIVE))
def test_every_text_and_time_gets_the_rows_of_the_tables_that_apply(
    num_characters, vocab_size, readable, repetition
):
    model, train, notices = choose_configs(
        num_characters,
        {},
        vocab_size=vocab_size,
        readable=readable,
        repetition=repetition,
    )
    epochs = readable / num_characters
    expected = (
        ALWAYS
        | row(row(BY_TIME, epochs), readable)
        | row(BY_EPOCHS, epochs)
        | row(BY_LENGTH, num_characters)
    )
    if row(BY_LENGTH, num_characters):
        expected |= row(BY_VOCABULARY, num_characters / vocab_size)
    if num_characters > 50_000 and repetition >= REPETITIVE:
        expected |= REPEATED
    assert presets(num_characters, vocab_size, readable, repetition) == expected
    known = (*ModelConfig.names(), *LSTM.names())
    of_model = {name: value for name, value in expected.items() if name in known}
    assert model == ModelConfig.from_dict(of_model)
    fitted = ("batch_size", "seq_length", "validation_fraction")
    expected = TrainConfig(**{n: v for n, v in expected.items() if n not in of_model})
    assert train == replace(expected, **{name: getattr(train, name) for name in fitted})
    assert train.batch_size <= expected.batch_size
    assert train.seq_length <= expected.seq_length
    # Halved until they fit, and no further.
    room = int(num_characters * 0.9) - 1
    fits = 1 << (room.bit_length() - 1) if room > 0 else 1
    assert train.batch_size * train.seq_length == min(
        expected.batch_size * expected.seq_length, fits
    )
    if num_characters <= 10 * MOST_HELD_OUT:
        assert train.validation_fraction == 0.1
    else:
        assert train.validation_fraction == pytest.approx(MOST_HELD_OUT / num_characters, abs=5e-7)
    for config in (model, train):
        for name, value in config.to_dict().items():
            if value != type(config)().to_dict()[name]:
                assert argument(name, value) in notices[0]


@pytest.mark.parametrize("rows", [*TABLES_BY_TIME, BY_EPOCHS, BY_LENGTH, BY_VOCABULARY])
def test_tables_are_in_order_and_know_what_they_set(rows):
    limits = [most for most, _ in rows]
    assert limits == sorted(limits)
    for _, settings in rows:
        assert settings.keys() <= {*ModelConfig.names(), *TrainConfig.names()}


@given(st.integers(1, 10**9), VOCABULARIES, st.floats(1, 1e12), st.floats(1, 1e12))
def test_more_time_never_means_a_smaller_model_or_less_dropout(
    num_characters, vocab_size, one, other
):
    less, more = (
        choose_configs(num_characters, {}, vocab_size=vocab_size, readable=time)[0]
        for time in sorted((one, other))
    )
    assert less.hidden_size <= more.hidden_size
    assert less.dropout <= more.dropout
    assert less.weight_drop <= more.weight_drop


@given(st.integers(1, 10**9), VOCABULARIES, VOCABULARIES, TIMES)
def test_a_larger_vocabulary_never_means_less_dropout(num_characters, one, other, readable):
    fewer, more = (
        choose_configs(num_characters, {}, vocab_size=size, readable=readable)[0]
        for size in sorted((one, other))
    )
    assert fewer.dropout <= more.dropout


@pytest.mark.parametrize("given", [{"items": True}, {"tie_weights": True, "hidden_size": 128}])
def test_what_attention_does_not_go_with_has_none(given):
    assert choose_configs(10**6, {}, repetition=0.1)[0].attention == REPEATED["attention"]
    assert choose_configs(10**6, given, repetition=0.1)[0].attention == 0


def test_only_short_texts_can_be_read_too_often():
    lengths = (1000, 50_000, 50_001, 400_000, 400_001, 10**9)
    for vocab_size in (1, 60, 5000, 1_114_112):
        epochs = [max_epochs(n, vocab_size) for n in lengths]
        assert all(1 < most < 100 for most in epochs[:4])
        assert epochs[4:] == [math.inf, math.inf]


@given(LENGTHS, VOCABULARIES)
def test_the_most_epochs_are_of_the_first_row_that_applies_or_there_are_none(length, vocab_size):
    expected = [
        epochs
        for most, for_each, epochs in MAX_EPOCHS
        if length <= most and length <= for_each * vocab_size
    ]
    assert max_epochs(length, vocab_size) == (expected[0] if expected else math.inf)
    assert max_epochs(length, vocab_size) >= max_epochs(length, 2 * vocab_size)


def test_given_steps_count_as_time():
    assert (
        choose_configs(10**6, {"steps": 10})[0]
        == choose_configs(10**6, {}, readable=10 * 16 * 128)[0]
    )


def test_steps_and_minutes_exclude_each_other():
    with pytest.raises(ConfigError, match="steps and minutes cannot both be given"):
        choose_configs(1000, {"steps": 3, "minutes": 2.0})
