import numpy as np
import pytest
import torch
from conftest import BACKBONES, DATA, GOLDEN, ROOT, V, random_ids, tiny_config

import charlm
from charlm.data.text_files import read_text
from charlm.evaluation.loss import evaluate
from charlm.inference import scoring
from charlm.inference.engine import Engine
from charlm.model.language_model import CharLM


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_the_surprisal_is_that_of_the_torch_model(name, variant):
    model = CharLM(tiny_config(name, variant), V, seed=1)
    engine = Engine(model.config, model.weights())
    ids = random_ids(1, 301)
    begin = scoring.read(engine, ids[:1])
    nats = scoring.score(engine, ids[1:], begin)
    with torch.no_grad():
        logits, _ = model.eval()(torch.from_numpy(ids[None, :-1]), model.initial_state(1))
    expected = -torch.log_softmax(logits[0].double(), -1)[np.arange(300), ids[1:]].numpy()
    np.testing.assert_allclose(nats, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_long_text_scores_as_evaluate_has_it(name):
    lm = charlm.load(DATA / f"golden-{name}.safetensors")
    text = read_text([ROOT / "corpora" / "english.txt"])[-9000:]
    seen = []
    bits = lm.score(text[1:], state=lm.read(text[0]), on_progress=seen.append)
    model = CharLM(lm.config, lm.tokenizer.vocab_size)
    model.load_weights(lm.checkpoint.weights)
    expected = evaluate(model, lm.tokenizer.encode(text)).bits_per_char
    assert bits.shape == (8999,)
    assert bits.mean() == pytest.approx(expected, abs=1e-5)
    assert sum(seen) >= 8999  # warm-ups are read too


def test_reading_on_is_reading_all_at_once():
    lm = charlm.load(DATA / "golden-lstm.safetensors")
    text = read_text([ROOT / "corpora" / "english.txt"])[:5000]
    whole = lm.read(text)
    parts = lm.read(text[4321:], state=lm.read(text[1234:4321], state=lm.read(text[:1234])))
    np.testing.assert_allclose(whole.logits, parts.logits, rtol=0, atol=1e-4)
    for one, other in zip(whole.state, parts.state, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    bits = lm.score(text[1000:1100], state=lm.read(text[:1000]))
    np.testing.assert_allclose(
        bits, lm.score(text[1:1100], state=lm.read(text[0]))[999:], rtol=0, atol=1e-3
    )


def test_an_empty_text():
    assert charlm.load(DATA / "golden-lstm.safetensors").score("").shape == (0,)
