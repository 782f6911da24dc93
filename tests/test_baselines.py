import math

import numpy as np
import pytest
from conftest import words
from hypothesis import given
from hypothesis import strategies as st

from charlm.evaluation.baselines import baselines, mixture, ngram_chances, ngrams, xz


def ngram(ids, vocab_size, order):
    *_, last = ngrams(np.array(ids), vocab_size, order)
    return last


def bits(past, text):
    return baselines(past, text, ngram_chances(past, text))


def one_by_one(ids, vocab_size, order):
    """The n-gram model as its docstring has it, counting anew at every place."""
    result = []
    for i, character in enumerate(ids):
        p = 1 / vocab_size
        for length in range(min(order, i + 1)):
            context = ids[i - length : i]
            followers = [ids[j] for j in range(length, i) if ids[j - length : j] == context]
            if followers:
                kinds = len(set(followers))
                p = (followers.count(character) + kinds * p) / (len(followers) + kinds)
        result.append(p)
    return result


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 6))
def test_ngram_counts_as_its_docstring_says(ids, order):
    expected = one_by_one(ids, 4, order)
    np.testing.assert_allclose(ngram(ids, 4, order), expected, rtol=1e-12)


@given(st.lists(st.integers(0, 2), max_size=20))
def test_ngram_gives_distributions(ids):
    total = sum(ngram([*ids, character], 3, 4)[-1] for character in range(3))
    assert total == pytest.approx(1)


def test_what_has_been_read_before_helps():
    text = words(3000)
    alone, after = bits("", text[6000:]), bits(text[:6000], text[6000:])
    assert after["5-gram"] < alone["5-gram"]
    assert alone["unigram"] == pytest.approx(after["unigram"], abs=0.1)
    again = bits(text, text)
    assert again["xz"] < 0.1
    assert again["5-gram"] < alone["5-gram"]


def test_even_chances_cost_their_entropy():
    text = "".join(np.random.default_rng(0).choice(list("abcd"), 20_000))
    found = bits("", text)
    assert found["unigram"] == pytest.approx(2, abs=0.01)
    assert 2 < found["5-gram"] < 2.2
    assert 2 < xz("", text) < 2.6


def test_any_characters():
    assert all(math.isfinite(bits) for bits in bits("", "漢\U0001f600").values())


def test_a_mixture_finds_out_who_is_right():
    """Of two predictors the better one gets nearly all the weight, and that changes with the text.

    At first it is worse than the better one by little more than the price of finding out.
    """
    good, bad = np.full(3000, 0.9), np.full(3000, 0.02)
    turned = np.concatenate([good, bad]), np.concatenate([bad, good])
    first, second = np.split(mixture(*turned), 2)
    for mixed in (first, second):
        assert mixed[-1] > 0.8
    assert -np.log(first).mean() < -np.log(0.9) + 0.02
    np.testing.assert_allclose(mixture(*turned[::-1]), mixture(*turned), rtol=1e-9)


def test_a_mixture_of_experts_in_different_things_is_better_than_both():
    """Each knows half of the characters. Weights of a half would cost ln 2 less than 4.6 nats."""
    even = np.arange(5000) % 2 == 0
    p, q = np.where(even, 0.99, 0.01), np.where(even, 0.01, 0.99)
    mixed = mixture(p, q)
    assert mixed[2000:] == pytest.approx(0.5, abs=0.01)
    assert (mixed > 0).all()
    assert -np.log(mixed).mean() < min(-np.log(p).mean(), -np.log(q).mean()) / 3


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1e-9, 1)), min_size=1, max_size=30))
def test_a_mixture_lies_between_its_parts(pairs):
    p, q = np.array(pairs).T
    mixed = mixture(p, q)
    assert (
        (mixed >= np.minimum(p, q) * (1 - 1e-9)) & (mixed <= np.maximum(p, q) * (1 + 1e-9))
    ).all()
    assert (mixed > 0).all()
