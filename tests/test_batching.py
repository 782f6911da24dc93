"""Continuous batching: what a text is does not depend on who is drawn beside it."""

import math

import numpy as np
import pytest
from conftest import DATA, GOLDEN

import charlm
from charlm.config import SampleConfig
from charlm.errors import DivergenceError
from charlm.inference.batching import Batch, Stream, likeliest_characters

SETTINGS = [
    {},
    {"temperature": 0.7, "top_k": 11},
    {"temperature": 1.3, "top_p": 0.9},
    {"min_p": 0.05, "stop": ("e ", "the")},
    {"temperature": 0.0},
    {"forbid": ("aeiou",)},
]


@pytest.fixture(scope="module", params=GOLDEN)
def lm(request):
    return charlm.load(DATA / f"golden-{request.param}.safetensors")


def stream_of(lm, prompt="The ", index=0, length=70, seed=3, **settings):
    options = {name: settings.pop(name) for name in ("with_surprisal", "top") if name in settings}
    config, mask = lm.prepared(SampleConfig(length=length, seed=seed, **settings))
    return Stream(lm.read(prompt), config, index, mask, **options)


def drawn(lm, streams):
    """Draw streams together; return their texts."""
    batch = Batch(lm.engine, lm.tokenizer.vocabulary)
    for stream in streams:
        batch.join(stream)
    while batch.streams:
        batch.step()
    return [stream.take()[0] for stream in streams]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_text_alone_is_that_of_generate(lm, settings):
    stream = stream_of(lm, with_surprisal=True, **settings)
    (text,) = drawn(lm, [stream])
    (sample,) = lm.samples("The ", length=70, seed=3, with_surprisal=True, **settings)
    assert text == "".join(sample)
    assert (stream.reason, stream.count, stream.nats) == (sample.reason, sample.count, sample.nats)


def random_party(lm, seed, steps=90):
    """Draw streams that join and leave at random steps; yield each with its settings and text."""
    rng = np.random.default_rng(seed)
    batch = Batch(lm.engine, lm.tokenizer.vocabulary)
    texts = {}
    for step in range(steps):
        if rng.random() < 0.4 or not texts:
            settings = SETTINGS[rng.integers(len(SETTINGS))]
            given = {
                "prompt": ["", "The ", "a", "Once upon"][rng.integers(4)],
                "index": int(rng.integers(5)),
                "length": int(rng.integers(1, 60)),
                "seed": int(rng.integers(7)),
            } | settings
            stream = stream_of(lm, **given)
            texts[stream] = [given, ""]
            batch.join(stream)
        if rng.random() < 0.1 and batch.streams:
            batch.streams[rng.integers(len(batch.streams))].leave()
        batch.step()
        for stream, found in texts.items():
            if step % 3 == 0 or stream.reason is not None:
                found[1] += stream.take()[0]
    for stream, (given, text) in texts.items():
        yield stream, given, text + stream.take()[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_in_whole_numbers_a_text_depends_on_its_own_settings_alone(lm, seed):
    exact = lm.exact()
    count = left = 0
    for stream, given, text in random_party(exact, seed):
        settings = {k: v for k, v in given.items() if k != "index"}
        *_, sample = exact.samples(**settings, num_samples=given["index"] + 1)
        whole = "".join(sample)
        if stream.reason in ("length", "stop"):
            assert (text, stream.reason) == (whole, sample.reason)
        else:
            assert whole.startswith(text)
            left += 1
        count += 1
    assert count > 20
    assert left > 2


def test_in_float32_the_surprisal_of_what_was_drawn_beside_others_is_that_of_scoring(lm):
    party = [stream_of(lm, seed=seed, with_surprisal=True, length=20 + seed) for seed in range(13)]
    texts = drawn(lm, party)
    for stream, text in zip(party, texts, strict=True):
        bits = lm.score(text, state=lm.read("The "))
        assert stream.nats / math.log(2) == pytest.approx(bits.sum(), abs=1e-3)


def test_characters_come_with_the_likeliest_ones_in_their_place(lm):
    party = [stream_of(lm, seed=seed, top=5, length=11) for seed in range(3)]
    batch = Batch(lm.engine, lm.tokenizer.vocabulary)
    for stream in party:
        batch.join(stream)
    while batch.streams:
        batch.step()
    for stream in party:
        text, tokens = stream.take()
        assert text == "".join(token.character for token in tokens)
        for place, token in enumerate(tokens):
            state = lm.read(f"The {text[:place]}")
            log_p = state.logits.astype(np.float64)
            log_p -= np.log(np.exp(log_p).sum())
            expected = np.sort(log_p)[::-1][:5]
            assert [value for _, value in token.top] == pytest.approx(expected.tolist(), abs=1e-4)
            found = lm.tokenizer.vocabulary.index(token.character)
            assert -token.nats == pytest.approx(log_p[found], abs=1e-4)


def test_likeliest_tells_at_most_the_vocabulary_and_survives_what_is_impossible(lm):
    vocabulary = lm.tokenizer.vocabulary
    logits = np.full((1, len(vocabulary)), -1e30, dtype=np.float32)
    logits[0, 3] = 5.0
    (found,) = likeliest_characters(lm.engine, vocabulary, logits, 1000)
    assert len(found) == len(vocabulary)
    assert found[0] == (vocabulary[3], pytest.approx(0.0, abs=1e-12))
    assert all(math.isfinite(value) for _, value in found)


def test_one_that_leaves_frees_its_row_and_draws_no_more(lm):
    stays, leaves = stream_of(lm, seed=1), stream_of(lm, seed=2)
    batch = Batch(lm.engine, lm.tokenizer.vocabulary)
    batch.join(stays)
    batch.join(leaves)
    for _ in range(9):
        batch.step()
    leaves.leave()
    batch.step()
    assert batch.streams == [stays]
    assert (leaves.reason, leaves.count) == ("left", 9)
    assert len(leaves.take()[0]) == 9
    while batch.streams:
        batch.step()
    assert (stays.reason, stays.count, leaves.count) == ("length", 70, 9)


def test_one_that_has_left_before_it_was_drawn_is_not_drawn(lm):
    batch = Batch(lm.engine, lm.tokenizer.vocabulary)
    stream = stream_of(lm)
    batch.join(stream)
    stream.leave()
    batch.step()
    assert (batch.streams, stream.count) == ([], 0)


@pytest.mark.parametrize("others", [0, 3])
def test_predictions_that_are_no_numbers_end_their_own_text_only(lm, others):
    import dataclasses

    party = [stream_of(lm, seed=seed) for seed in range(others + 1)]
    broken = party[0]
    broken.prompt = dataclasses.replace(broken.prompt, logits=broken.prompt.logits * np.nan)
    texts = drawn(lm, party)
    assert (broken.reason, broken.count, texts[0]) == ("error", 0, "")
    assert isinstance(broken.error, DivergenceError)
    assert [stream.reason for stream in party[1:]] == ["length"] * others
    assert [len(text) for text in texts[1:]] == [70] * others
