import dataclasses
import math
import typing
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.cells import CELLS, RNN
from charlm.config import (
    ComputeConfig,
    LinesConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
)
from charlm.errors import ConfigError
from charlm.keywords import (
    ComputeSettings,
    LinesSettings,
    SampleSettings,
    TextSettings,
    TrainSettings,
)

CONFIGS = [ModelConfig, TrainConfig, ComputeConfig, SampleConfig, LinesConfig, *CELLS.values()]
ANYTHING = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(),
    st.binary(),
)


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_are_valid_and_survive_a_round_trip(config):
    assert config.from_dict(config().to_dict()) == config()


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_has_a_line_of_help(config):
    assert all(item.metadata["help"] for item in config.settings())
    others = {item.name for item in dataclasses.fields(config)} - set(config.names())
    assert others == ({"cell_options"} if config is ModelConfig else set())


@given(config=st.sampled_from([c for c in CONFIGS if c.settings()]), value=ANYTHING, data=st.data())
def test_any_value_is_taken_within_its_bounds_or_refused_with_one_line(config, value, data):
    item = data.draw(st.sampled_from(config.settings()))
    try:
        taken = getattr(config(**{item.name: value}), item.name)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert item.name in str(error) or value in ("relu", True)
    else:
        assert taken in (value, (value,))  # one text stands for a tuple of it
        assert not isinstance(taken, float) or math.isfinite(taken)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (SampleConfig, {"temperature": -0.1}, r"temperature must be at least 0 \(got -0.1\)"),
        (SampleConfig, {"temperature": math.nan}, r"temperature must be a finite number"),
        (SampleConfig, {"top_p": 0}, r"top_p must be above 0 \(got 0.0\)"),
        (SampleConfig, {"top_p": 1.5}, r"top_p must be at most 1"),
        (TrainConfig, {"validation_fraction": 0}, r"validation_fraction must be above 0"),
        (TrainConfig, {"steps": 2.5}, r"steps must be of type int \(got 2.5\)"),
        (TrainConfig, {"steps": True}, r"steps must be of type int"),
        (TrainConfig, {"steps": 10**400}, r"steps must fit into 64 bits"),
        (ModelConfig, {"backbone": "lstn"}, r"must be one of rnn, lstm, gru.*did you mean 'lstm'"),
        (ComputeConfig, {"device": "gpu"}, r"\(got 'gpu'\); did you mean 'cuda'"),
        (ModelConfig, {"nonlinearity": "relu"}, r"nonlinearity does not go with backbone 'lstm'"),
        (ModelConfig, {"tie_weights": True}, r"tie_weights needs embedding_size \(128\) equal to"),
    ],
)
def test_messages_name_the_setting_the_bound_and_the_value(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config.from_dict(settings)


def test_the_keywords_for_type_checkers_are_the_settings():
    def types(*configs):
        found = {item.name: item.type for config in configs for item in config.settings()}
        several = str | Sequence[str]  # creation makes tuples of them
        return {n: several if kind == tuple[str, ...] else kind for n, kind in found.items()}

    drawn = types(SampleConfig)
    assert typing.get_type_hints(SampleSettings) == drawn
    one = {n: kind for n, kind in drawn.items() if n != "num_samples"}
    assert typing.get_type_hints(TextSettings) == one
    derived = ("lines", "length", "stop", "num_samples")  # of lines() an argument, or they follow
    lines = {n: kind for n, kind in (drawn | types(LinesConfig)).items() if n not in derived}
    assert typing.get_type_hints(LinesSettings) == lines
    assert typing.get_type_hints(ComputeSettings) == types(ComputeConfig)
    expected = types(ModelConfig, *CELLS.values(), TrainConfig, ComputeConfig)
    assert typing.get_type_hints(TrainSettings) == expected


def test_options_of_a_cell_stand_beside_the_other_settings():
    config = ModelConfig.from_dict({"backbone": "rnn", "nonlinearity": "relu", "hidden_size": 3})
    assert config.cell == RNN(nonlinearity="relu")
    assert config.to_dict().items() >= {"nonlinearity": "relu", "hidden_size": 3}.items()
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert "nonlinearity" not in ModelConfig().to_dict()
    assert ModelConfig(backbone="rnn").to_dict()["nonlinearity"] == "tanh"


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    config = TrainConfig(steps=np.int64(3), learning_rate=np.float32(0.5))
    assert (type(config.steps), type(config.learning_rate)) == (int, float)


def test_an_unknown_setting_names_the_nearest_one():
    with pytest.raises(ConfigError, match="unknown setting 'hiden_size'; did you mean 'hidden_siz"):
        ModelConfig.from_dict({"hiden_size": 3})


def test_parameters_are_counted():
    # By hand: 13*5 embedding, LSTM 44*5 + 44*11 + 2*44 and 44*11 + 44*11 + 2*44, head 13*11 + 13.
    config = ModelConfig(embedding_size=5, hidden_size=11, num_layers=2)
    assert config.num_parameters(13) == 65 + 792 + 1056 + 156
