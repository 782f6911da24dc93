import copy

import numpy as np
import pytest
import torch
from conftest import BACKBONES, DATA, ROOT, V, random_ids, tiny_config

from charlm import checkpoint as checkpoints
from charlm.data.text_files import read_text
from charlm.errors import CorpusError, DivergenceError
from charlm.evaluation import dynamic
from charlm.evaluation.dynamic import evaluate_dynamic
from charlm.evaluation.loss import evaluate
from charlm.model.language_model import CharLM


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_without_learning_it_is_the_static_figure(name, variant):
    model = CharLM(tiny_config(name, variant, dropout=0.5), V, seed=1)
    ids = random_ids(1, 62)
    static = evaluate(model, ids)
    for seq_length in (1, 32, 1000):
        found = evaluate_dynamic(model, ids, learning_rate=0.0, seq_length=seq_length)
        assert found.characters == static.characters == 61
        assert found.nats_per_char == pytest.approx(static.nats_per_char, abs=1e-5)


def by_the_book(model, ids, *, learning_rate, pull, seq_length, batch_size):
    """Return the nats of a text whose windows are all read and learned from one by one."""
    text = torch.from_numpy(ids)[None]
    trained = copy.deepcopy(model.eval())
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.0, 0.999))
    nats, losses, state = 0.0, [], trained.initial_state(1)
    for first in range(0, len(ids) - 1, seq_length):
        window = text[:, first : min(first + seq_length, len(ids) - 1)]
        logits, _ = model(window, state)
        with torch.no_grad():
            _, state = trained(window, state)
        targets = text[0, first + 1 : first + 1 + window.shape[1]]
        losses.append(torch.nn.functional.cross_entropy(logits[0], targets))
        nats += losses[-1].item() * len(targets)
        if len(losses) == batch_size:
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
            with torch.no_grad():
                for parameter, before in zip(model.parameters(), trained.parameters(), strict=True):
                    parameter += pull * (before - parameter)
            losses = []
    return nats


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
@pytest.mark.parametrize(("length", "batch_size"), [(211, 3), (211, 1), (181, 3), (20, 3)])
def test_windows_side_by_side_are_learned_from_as_one_by_one(
    monkeypatch, name, variant, length, batch_size
):
    """The last piece may end within a window, and at the end of one."""
    monkeypatch.setattr("charlm.config.model.MOST_NUMBERS", 500)  # of the states of a few windows
    ids = random_ids(1, length)
    settings = {"learning_rate": 5e-3, "pull": 0.1, "seq_length": 20, "batch_size": batch_size}
    one, other = (CharLM(tiny_config(name, variant), V, seed=1) for _ in range(2))
    seen = []
    found = evaluate_dynamic(one, ids, on_progress=seen.append, **settings)
    assert sum(seen) == found.characters == length - 1
    assert found.nats_per_char * (length - 1) == pytest.approx(
        by_the_book(other, ids, **settings), rel=1e-4
    )


@pytest.mark.parametrize("count", [1, 79, 160, 161, 250])
def test_states_of_windows_side_by_side_are_those_of_one_reader(monkeypatch, count):
    monkeypatch.setattr(dynamic, "WARM_UP", 200)
    monkeypatch.setattr(dynamic, "LANES", 3)
    model = CharLM(tiny_config(), V, seed=1).eval()
    windows = torch.from_numpy(random_ids(1, count, 5))
    before = state = tuple(torch.randn_like(s) for s in model.initial_state(1))
    expected = []
    with torch.no_grad():
        for window in windows:
            expected.append(state)
            _, state = model(window[None], state)
    found, after = dynamic._states(model, windows, before)
    together = tuple(torch.cat(s, dim=1) for s in zip(*expected, strict=True))
    for one, other in zip((*found, *after), (*together, *state), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_a_text_of_another_kind_is_learned():
    found = checkpoints.load(DATA / "golden-lstm.safetensors")
    text = read_text([ROOT / "corpora" / "english.txt"])[:9000].swapcase()
    ids = found.tokenizer.encode("".join(c for c in text if c in found.tokenizer.vocabulary))
    model = CharLM(found.model_config, found.tokenizer.vocab_size)
    model.load_weights(found.weights)
    static = evaluate(model, ids)
    seen = []
    found = evaluate_dynamic(model, ids, on_progress=seen.append)
    assert found.nats_per_char < static.nats_per_char - 0.15
    assert sum(seen) == found.characters == static.characters


def test_what_cannot_be_scored():
    with pytest.raises(CorpusError, match="has none to score"):
        evaluate_dynamic(CharLM(tiny_config(), V), random_ids(1, 1))
    model = CharLM(tiny_config(), V)
    with torch.no_grad():
        model.head.bias[0] = np.inf
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        evaluate_dynamic(model, random_ids(1, 50))
