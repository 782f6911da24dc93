"""Playing with a model from Python: several texts, the best of them, what may follow, embeddings.

Also: several threads at once, a running event loop, and what a notebook shows.
"""

import asyncio
import copy
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import DATA, GOLDEN

import charlm
from charlm.api import notebook
from charlm.data.unknown import UnknownCharacters

LSTM = DATA / "golden-lstm.safetensors"


def golden(name, **options):
    return charlm.load(DATA / f"golden-{name}.safetensors", **options)


def test_generate_returns_a_list_when_it_is_told_how_many():
    lm = golden("lstm")
    settings = {"length": 30, "seed": 3}
    texts = lm.generate("The ", num_samples=4, **settings)
    assert texts == ["".join(sample) for sample in lm.samples("The ", num_samples=4, **settings)]
    assert len(set(texts)) == 4
    assert lm.generate("The ", num_samples=1, **settings) == texts[:1]
    assert lm.generate("The ", **settings) == texts[0]


@pytest.mark.parametrize("stop", [(), ("e",)])
def test_the_best_is_the_one_with_the_lowest_mean_surprisal(stop):
    """Scored from outside: with the text that stopped it, as that was drawn too."""
    lm = golden("gru")
    settings = {"length": 17, "seed": 5, "temperature": 1.5, "stop": stop}
    samples = list(lm.samples("The ", num_samples=6, **settings))
    texts = ["".join(sample) for sample in samples]
    state = lm.read("The ")
    drawn = [
        text + "e" * (sample.reason == "stop") for sample, text in zip(samples, texts, strict=True)
    ]
    means = [lm.score(text, state=state).mean() for text in drawn]
    assert len(set(means)) > 1
    assert lm.best_of("The ", 6, **settings) == texts[int(np.argmin(means))]
    assert lm.best_of("", 6, state=state, **settings) == texts[int(np.argmin(means))]
    assert lm.best_of("The ", 1, **settings) == texts[0]


def test_of_texts_that_are_as_likely_the_first_is_the_best(monkeypatch):
    lm = golden("rnn")
    monkeypatch.setattr("charlm.inference.decoding.Sample.bits_per_char", 2.0)
    assert lm.best_of("a", 3, length=9, seed=1) == lm.generate("a", length=9, seed=1)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("exact", [False, True])
def test_what_may_follow_has_the_probabilities_that_score_tells(name, exact):
    lm = golden(name).exact() if exact else golden(name)
    following = lm.next("The se", top=0)
    assert len(following) == lm.tokenizer.vocab_size
    assert sorted(c for c, _ in following) == sorted(lm.tokenizer.vocabulary)
    probabilities = [p for _, p in following]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    state = lm.read("The se")
    for character, p in following[:5]:
        assert p == pytest.approx(2 ** -lm.score(character, state=state)[0], rel=1e-3)
    assert lm.next(state=state, top=3) == following[:3]
    after = dict(lm.next("se", state=lm.read("The "), top=0))
    assert after == pytest.approx(dict(following), rel=1e-4)
    assert len(lm.next("The se")) == 10
    assert lm.next("The se", top=10**6) == following


@pytest.mark.parametrize(("name", "arrays"), [("rnn", 1), ("lstm", 2), ("gru", 1)])
def test_an_embedding_is_the_state_layer_by_layer(name, arrays):
    lm = golden(name)
    vector = lm.embed("The sea")
    layers, size = lm.config.num_layers, lm.config.hidden_size
    assert vector.shape == (arrays * layers * size,)
    assert vector.dtype == np.float32
    state = lm.read("The sea").state
    for k, array in enumerate(state):
        for layer in range(layers):
            start = (k * layers + layer) * size
            assert np.array_equal(vector[start : start + size], array[layer, 0])
    assert np.allclose(vector, lm.embed("sea", state=lm.read("The ")), atol=1e-4)
    assert not np.allclose(vector, lm.embed("The sea "), atol=1e-2)
    state = lm.read("The sea")
    lm.embed("", state=state)[:] = 0  # a copy: the state is as it was
    assert state.state[0].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.generate("a", num_samples=0), "num_samples must be at least 1"),
        (lambda lm: lm.generate("a", num_samples=2, length=0), "length 0, without end, is for str"),
        (lambda lm: lm.stream("a", num_samples=2), r"num_samples above 1 is for generate\(\)"),
        (lambda lm: lm.best_of("a", 0), r"n must be at least 1 \(got 0\)"),
        (lambda lm: lm.best_of("a", True), r"n must be of type int \(got True\)"),
        (lambda lm: lm.best_of("a", "3"), r"n must be of type int \(got '3'\)"),
        (lambda lm: lm.best_of("a", 2, length=0), "length 0, without end"),
        (lambda lm: lm.best_of("a", 2, temprature=1), "unknown setting 'temprature'; did you mean"),
        (lambda lm: lm.best_of("ï", 2), "character 'ï'"),
        (lambda lm: lm.next("a", top=-1), r"top must be at least 0 \(got -1\)"),
        (lambda lm: lm.next("a", top=2.5), r"top must be of type int \(got 2.5\)"),
        (lambda lm: lm.next(3), "the prompt must be a text"),
        (lambda lm: lm.next("a", state="b"), "the state must be a PromptState"),
        (lambda lm: lm.embed("ï"), "character 'ï'"),
        (lambda lm: lm.embed(None), "the prompt must be a text"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(charlm.CharlmError, match=message) as caught:
        call(charlm.load(LSTM))
    assert "\n" not in str(caught.value)


def everything(lm, seed):
    """Use a model in every way that reads it."""
    prompt = f"The sea{'ï' * seed} “was” "
    return (
        lm.generate(prompt, length=40, seed=seed),
        lm.generate(prompt, length=11, seed=seed, num_samples=9, stop="e"),
        lm.best_of(prompt, 3, length=12, seed=seed),
        lm.score(prompt * 20).tolist(),
        lm.embed(prompt * 3).tolist(),
        lm.next(prompt, top=5),
        [line for line, _ in lm.lines(2, max_length=300, seed=seed)],
    )


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("exact", [False, True])
def test_threads_get_what_one_thread_gets(name, exact):
    def fresh():
        lm = golden(name, unknown="nearest")
        return lm.exact() if exact else lm

    alone, shared = fresh(), fresh()
    expected = [everything(alone, seed) for seed in range(1, 6)]
    start = threading.Barrier(5)

    def together(seed):
        start.wait()
        return everything(shared, seed)

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(together, range(1, 6))) == expected
    assert shared.unknown.changes == alone.unknown.changes
    assert shared.unknown.summary() == alone.unknown.summary()


def test_unknown_characters_of_several_threads_are_all_counted(monkeypatch):
    unknown = UnknownCharacters("abc", "skip")

    class Interrupted(type(unknown.changes)):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            switch.wait(0.005)  # let others read the same number, if they can
            return found

    switch = threading.Event()
    unknown.changes = Interrupted()
    threads = [threading.Thread(target=unknown.replace, args=("aXb",)) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(unknown.changes) == {("X", ""): 7}


def test_a_model_can_be_sent_to_another_process():
    lm = charlm.load(LSTM, unknown="skip")
    again = pickle.loads(pickle.dumps(lm))
    assert again.generate("The ï", length=9, seed=1) == lm.generate("The ", length=9, seed=1)


def test_a_model_in_whole_numbers_is_copied_and_sent_too():
    lm = golden("lstm").exact()
    for again in (pickle.loads(pickle.dumps(lm)), copy.deepcopy(lm)):
        assert again.generate("The ", length=9, seed=1) == lm.generate("The ", length=9, seed=1)


def test_all_works_within_a_running_event_loop():
    lm = golden("lstm", unknown="nearest")

    async def within():
        return everything(lm, 2), "".join(lm.stream("The ", length=5, seed=1))

    assert asyncio.run(within())[0] == everything(lm, 2)


class Strict(HTMLParser):
    """Collects the tags and the text of HTML whose tags must nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts = [], set(), []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        assert all(name == "style" for name, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


HARMLESS = {"table", "caption", "tr", "th", "td", "code", "div"}


def test_what_a_notebook_shows_is_escaped_and_has_no_colour_of_its_own_for_text():
    evil = "<script>alert('&')</script>"
    for html in (notebook.facts_table(evil, {evil: evil}), notebook.bar_table([(evil, 1.0)], evil)):
        page = Strict(html)
        assert page.tags <= HARMLESS
        assert "".join(page.texts).count(evil) >= 2
        assert "color:" not in html.replace("color:inherit", "")


def test_a_notebook_shows_the_facts_of_a_model_and_what_may_follow(monkeypatch):
    lm = golden("lstm")
    page = Strict(lm._repr_html_())
    assert page.tags <= HARMLESS
    shown = " ".join(page.texts)
    assert f"{lm.tokenizer.vocab_size:,}" in page.texts
    assert f"lstm, {lm.config.num_layers} x {lm.config.hidden_size} units" in shown
    assert "whole numbers" not in shown
    assert "whole numbers" in lm.exact()._repr_html_()
    following = lm.next("The ", top=0)
    page = Strict(following._repr_html_())
    assert repr(following[0].character) in page.texts
    assert f"{100 * following[0].probability:.1f} %" in page.texts
    left = len(following) - 40
    assert left > 0
    assert f"and {left} more" in page.texts
    assert "more" not in lm.next("The ", top=3)._repr_html_()


def test_what_follows_prints_in_a_line():
    lm = golden("lstm")
    shown = repr(lm.next("The "))
    assert shown.startswith("NextCharacters('")
    assert shown.endswith(", ...)")
    assert len(shown) < 90
    assert "..." not in repr(lm.next("The ", top=5))
    assert math.isclose(sum(dict(lm.next("The ", top=0)).values()), 1)
