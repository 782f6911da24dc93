import math

import numpy as np
import pytest
import torch
from conftest import BACKBONES, DATA, GOLDEN, ROOT, V, random_ids, tiny_config
from torch.nn import functional as F

from charlm import checkpoint as checkpoints
from charlm.data.text_files import read_text
from charlm.errors import CorpusError, DivergenceError
from charlm.evaluation.loss import Evaluation, evaluate
from charlm.inference import scoring
from charlm.inference.chunked import WARM_UP
from charlm.inference.engine import Engine
from charlm.model.language_model import CharLM


def scored_one_by_one(model, ids):
    """Return the mean nats of ids[1:], read in one go from the beginning."""
    whole = torch.from_numpy(np.asarray(ids, dtype=np.int64))[None]
    with torch.no_grad():
        logits, _ = model.eval()(whole[:, :-1], model.initial_state(1))
    return F.cross_entropy(logits[0].double(), whole[0, 1:]).item()


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_one_chunk_is_the_plain_sum(name, variant):
    model = CharLM(tiny_config(name, variant), V, seed=1)
    ids = random_ids(1, 300)
    result = evaluate(model, ids, seq_length=37)
    assert result.characters == 299
    assert result.nats_per_char == pytest.approx(scored_one_by_one(model, ids), abs=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_chunks_and_windows_do_not_move_the_figure_of_a_trained_model(name):
    found = checkpoints.load(DATA / f"golden-{name}.safetensors")
    model = CharLM(found.model_config, found.tokenizer.vocab_size)
    model.load_weights(found.weights)
    ids = found.tokenizer.encode(read_text([ROOT / "corpora" / "english.txt"])[-5_003:])
    exact = scored_one_by_one(model, ids)
    for batch_size, seq_length in [(1, 999), (2, 64), (7, 100), (64, 256)]:
        result = evaluate(model, ids, batch_size=batch_size, seq_length=seq_length)
        assert result.characters == 5_002
        assert abs(result.nats_per_char - exact) < 1e-4  # the promise is 1e-3


def test_chunks_do_not_move_the_figure_of_a_model_that_never_forgets():
    """Forget gates that stay open: every chunk depends on all the text before it."""
    model = CharLM(tiny_config("lstm", num_layers=1, embedding_size=11), V, seed=1)
    with torch.no_grad():
        model.backbone.layers[0].bias_ih.view(4, -1)[1].fill_(30.0)
        model.head.weight.mul_(20)
    ids = random_ids(1, 9 * WARM_UP)
    exact = scored_one_by_one(model, ids)
    warm_up_alone = scored_one_by_one(model, ids[4 * WARM_UP :])
    assert abs(exact - warm_up_alone) > 0.01  # what comes first does matter here
    for batch_size in (2, 3, 64):
        assert abs(evaluate(model, ids, batch_size=batch_size).nats_per_char - exact) < 1e-3


def test_chunks_do_not_move_the_figure_of_a_model_to_which_a_tiny_state_means_everything():
    """One unit that keeps 0.004 of the first character for ever; the head multiplies it by 1e5."""
    model = CharLM(tiny_config("lstm", num_layers=1, embedding_size=1, hidden_size=1), 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layer = model.backbone.layers[0]
        model.embedding.weight.copy_(torch.tensor([[0.0], [1.0]]))
        layer.weight_ih[0], layer.bias_ih[0] = 60.0, -30.0  # the input gate: open for character 1
        layer.bias_ih[1] = 30.0  # the forget gate: never
        layer.weight_ih[2] = 0.004
        layer.bias_ih[3] = 30.0
        model.head.weight.copy_(torch.tensor([[1e5], [-1e5]]))
    ids = np.array([1, *[0] * (40 * WARM_UP)])
    exact = scored_one_by_one(model, ids)
    assert exact < 1e-6
    assert evaluate(model, ids, batch_size=32).nats_per_char == pytest.approx(exact, abs=1e-6)
    engine = Engine(model.config, model.weights())
    nats = scoring.score(engine, ids[1:], scoring.read(engine, ids[:1]))
    assert nats.mean() == pytest.approx(exact, abs=1e-6)
    assert scoring.read(engine, ids).logits[0] > 100


@pytest.mark.parametrize("count", [2, 3, 2 * WARM_UP, 4 * WARM_UP + 1, 4 * WARM_UP + 2, 7000])
def test_every_character_but_the_first_is_scored_once(count):
    """A model that gives every character its own fixed score: the sum tells which were counted."""
    model = CharLM(tiny_config(), V)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.linspace(-2, 2, V))
    ids = random_ids(count, count)
    expected = -torch.log_softmax(torch.linspace(-2, 2, V).double(), 0)[ids[1:]].mean().item()
    result = evaluate(model, ids, batch_size=5, seq_length=50)
    assert result.characters == count - 1
    assert result.nats_per_char == pytest.approx(expected, abs=1e-6)


def test_units():
    result = evaluate(CharLM(tiny_config(), V), random_ids(1, 50))
    assert result.bits_per_char == pytest.approx(result.nats_per_char / np.log(2))
    assert result.perplexity == pytest.approx(np.exp(result.nats_per_char))
    assert set(result.to_dict()) == {"nats_per_char", "bits_per_char", "perplexity", "characters"}


def test_a_perplexity_too_large_for_a_number():
    result = Evaluation(1000.0, 5)
    assert result.perplexity == math.inf
    assert result.to_dict()["perplexity"] is None


def test_predictions_that_are_not_finite_raise():
    model = CharLM(tiny_config(), V)
    with torch.no_grad():
        model.head.bias[0] = math.inf
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        evaluate(model, random_ids(1, 50))


@pytest.mark.parametrize("count", [0, 1])
def test_a_text_without_a_second_character_has_nothing_to_score(count):
    with pytest.raises(CorpusError, match="has none to score"):
        evaluate(CharLM(tiny_config(), V), random_ids(1, count))


def test_evaluation_leaves_mode_and_generators_alone():
    model = CharLM(tiny_config(dropout=0.5), V).train()
    before = torch.get_rng_state()
    one, two = (evaluate(model, random_ids(1, 3000)) for _ in range(2))
    assert one == two
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
