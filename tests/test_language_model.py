import math

import numpy as np
import pytest
import torch
from conftest import BACKBONES, B, E, H, T, V, random_ids, tiny_config
from torch.nn import functional as F

from charlm.errors import ConfigError
from charlm.model import language_model, layers
from charlm.model.language_model import CharLM


def model_of(name="lstm", variant="plain", seed=1, **changes):
    return CharLM(tiny_config(name, variant, **changes), V, seed=seed)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_parameters_are_those_that_the_config_lists(name, variant, tied):
    changes = {"tie_weights": True, "embedding_size": H} if tied else {}
    if tied and variant == "attention":
        with pytest.raises(ConfigError, match="cannot both be given"):
            tiny_config(name, variant, **changes)
        return
    model = model_of(name, variant, **changes)
    shapes = model.config.parameter_shapes(V)
    assert {key: tuple(p.shape) for key, p in model.named_parameters()} == shapes
    assert {key: a.shape for key, a in model.weights().items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == model.config.num_parameters(V)


def test_tied_weights_stay_tied_through_save_and_load():
    config = tiny_config(tie_weights=True, embedding_size=H)
    one, other = CharLM(config, V, seed=1), CharLM(config, V, seed=2)
    other.load_weights(one.weights())
    assert other.head.weight is other.embedding.weight
    ids = torch.from_numpy(random_ids(0, B, T))
    state = one.initial_state(B)
    assert torch.equal(one(ids, state)[0], other(ids, state)[0])


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_the_untrained_loss_is_that_of_a_guess(name, variant):
    model = CharLM(tiny_config(name, variant, hidden_size=64), V, seed=1)
    ids = torch.from_numpy(random_ids(0, B, 200))
    logits, _ = model(ids, model.initial_state(B))
    targets = torch.from_numpy(random_ids(1, B, 200))
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert abs(loss - math.log(V)) < 0.5


def test_weights_are_drawn_from_the_seed_alone():
    before = torch.get_rng_state()
    one, same, other = model_of(seed=1), model_of(seed=1), model_of(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in one.weights().items():
        assert np.array_equal(value, same.weights()[name])
    assert not np.array_equal(one.weights()["head.weight"], other.weights()["head.weight"])


def test_dropout_acts_in_training_mode_only_and_follows_the_generator():
    model = model_of(dropout=0.5)
    ids, state = torch.from_numpy(random_ids(0, B, T)), model.initial_state(B)

    def logits(seed):
        return model(ids, state, torch.Generator().manual_seed(seed))[0]

    model.train()
    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    model.eval()
    assert torch.equal(logits(1), logits(2))


def test_residual_paths_begin_with_the_second_layer():
    with_path, without = model_of(residual=True), model_of(residual=False)
    ids, state = torch.from_numpy(random_ids(0, B, T)), with_path.initial_state(B)
    assert not torch.equal(with_path(ids, state)[0], without(ids, state)[0])
    single = [model_of(residual=r, num_layers=1, embedding_size=E) for r in (True, False)]
    state = single[0].initial_state(B)
    assert torch.equal(single[0](ids, state)[0], single[1](ids, state)[0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_dropout_acts_at_the_input_between_layers_and_at_the_output(count, monkeypatch):
    places = []

    def noted(x, share, *rest):
        places.append((x.shape[-1], share))
        return x

    monkeypatch.setattr(layers, "locked_dropout", noted)
    monkeypatch.setattr(language_model, "locked_dropout", noted)
    model = model_of(dropout=0.5, num_layers=count).train()
    model(torch.from_numpy(random_ids(0, B, T)), model.initial_state(B))
    assert places == [(E, 0.25), *[(H, 0.5)] * (count - 1), (H, 0.5)]
