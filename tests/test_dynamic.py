import numpy as np
import pytest
import torch
from conftest import BACKBONES, DATA, ROOT, V, random_ids, tiny_config

from charlm import checkpoint as checkpoints
from charlm.data.text_files import read_text
from charlm.errors import CorpusError, DivergenceError
from charlm.evaluation.dynamic import evaluate_dynamic
from charlm.evaluation.loss import evaluate
from charlm.model.language_model import CharLM


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_without_learning_it_is_the_static_figure(name, variant):
    model = CharLM(tiny_config(name, variant, dropout=0.5), V, seed=1)
    ids = random_ids(1, 301)
    static = evaluate(model, ids)
    for seq_length in (1, 32, 1000):
        found = evaluate_dynamic(model, ids, learning_rate=0.0, seq_length=seq_length)
        assert found.characters == static.characters == 300
        assert found.nats_per_char == pytest.approx(static.nats_per_char, abs=1e-5)


def test_a_piece_is_scored_before_it_is_learned_from():
    """What comes at the end cannot move the figure of what comes before it."""
    ids = random_ids(1, 129)
    model, other = (CharLM(tiny_config(), V, seed=1) for _ in range(2))
    nats = [
        evaluate_dynamic(m, text).nats_per_char * (len(text) - 1)
        for m, text in ((model, ids), (other, ids[:97]))
    ]
    last = CharLM(tiny_config(), V, seed=1)
    evaluate_dynamic(last, ids[:97])  # now it has learned what the others had before the last piece
    with torch.no_grad():
        state = last.initial_state(1)
        _, state = last.eval()(torch.from_numpy(ids[None, :96]), state)
        logits, _ = last(torch.from_numpy(ids[None, 96:128]), state)
    expected = torch.nn.functional.cross_entropy(
        logits[0], torch.from_numpy(ids[97:]), reduction="sum"
    )
    assert nats[0] - nats[1] == pytest.approx(
        expected.item(), abs=0.05
    )  # their states differ a bit


def test_a_text_of_another_kind_is_learned():
    found = checkpoints.load(DATA / "golden-lstm.safetensors")
    text = read_text([ROOT / "corpora" / "english.txt"])[:4000].swapcase()
    ids = found.tokenizer.encode("".join(c for c in text if c in found.tokenizer.vocabulary))
    model = CharLM(found.model_config, found.tokenizer.vocab_size)
    model.load_weights(found.weights)
    static = evaluate(model, ids)
    seen = []
    dynamic = evaluate_dynamic(model, ids, on_progress=seen.append)
    assert dynamic.nats_per_char < static.nats_per_char - 0.2
    assert sum(seen) == dynamic.characters == static.characters


def test_what_cannot_be_scored():
    with pytest.raises(CorpusError, match="has none to score"):
        evaluate_dynamic(CharLM(tiny_config(), V), random_ids(1, 1))
    model = CharLM(tiny_config(), V)
    with torch.no_grad():
        model.head.bias[0] = np.inf
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        evaluate_dynamic(model, random_ids(1, 50))
