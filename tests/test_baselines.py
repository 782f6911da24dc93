import math

import numpy as np
import pytest
from conftest import words
from hypothesis import given
from hypothesis import strategies as st

from charlm.evaluation.baselines import baselines, ngram, xz


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
    np.testing.assert_allclose(ngram(np.array(ids), 4, order), expected, rtol=1e-12)


@given(st.lists(st.integers(0, 2), max_size=20))
def test_ngram_gives_distributions(ids):
    total = sum(ngram(np.array([*ids, character]), 3, 4)[-1] for character in range(3))
    assert total == pytest.approx(1)


def test_what_has_been_read_before_helps():
    text = words(3000)
    alone, after = baselines("", text[6000:]), baselines(text[:6000], text[6000:])
    assert after["5-gram"] < alone["5-gram"]
    assert alone["unigram"] == pytest.approx(after["unigram"], abs=0.1)
    again = baselines(text, text)
    assert again["xz"] < 0.1
    assert again["5-gram"] < alone["5-gram"]


def test_even_chances_cost_their_entropy():
    text = "".join(np.random.default_rng(0).choice(list("abcd"), 20_000))
    found = baselines("", text)
    assert found["unigram"] == pytest.approx(2, abs=0.01)
    assert 2 < found["5-gram"] < 2.2
    assert 2 < xz("", text) < 2.6


def test_any_characters():
    assert all(math.isfinite(bits) for bits in baselines("", "漢\U0001f600").values())
