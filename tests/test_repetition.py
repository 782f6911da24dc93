"""How much of a text is said to repeat what stood before."""

import numpy as np
import pytest
from conftest import ROOT, words

from charlm.data.repetition import DISTANCE, LENGTH, SAMPLE, SAMPLES, repetition
from charlm.data.text_files import survey


def random_text(count, seed=1):
    return "".join(map(chr, np.random.default_rng(seed).integers(97, 123, count)))


def by_hand(text):
    """Return the share, place by place."""
    places = max(0, len(text) - LENGTH + 1)
    found = 0
    for place in range(places):
        before = text[max(0, place - DISTANCE) : place + LENGTH - 1]
        found += text[place : place + LENGTH] in before
    return found / max(1, places)


@pytest.mark.parametrize("text", ["", "short", "x" * 100, words(600, seed=3) * 2, "ab" * 300])
def test_it_is_what_a_search_finds(text):
    assert repetition(text) == pytest.approx(by_hand(text))


@pytest.mark.parametrize(("gap", "expected"), [(0, 1), (-1, 1), (1, 0)])
def test_what_stood_further_back_does_not_count(gap, expected):
    said = random_text(100)
    text = said + random_text(DISTANCE - 100 + gap, seed=2) + said
    assert repetition(text) == pytest.approx(expected * (101 - LENGTH) / (len(text) - LENGTH + 1))


def test_of_a_long_text_samples_are_looked_at():
    line = random_text(300)
    text = random_text(SAMPLE * SAMPLES) + line * 2000
    share = repetition(text)
    whole = 600_000 / len(text)
    assert share == pytest.approx(whole, abs=0.1)


def test_a_survey_tells_the_mean_of_its_pieces():
    repeated, other = "the same again. " * 1000, random_text(20_000)
    share = (16_000 * repetition(repeated) + 20_000 * repetition(other)) / 36_000
    assert 0.4 < share < 0.5
    assert survey([repeated, other]).repetition == pytest.approx(share)
    assert survey([repeated, "", "\n", other, ""]).repetition == pytest.approx(share, rel=1e-3)
    assert survey([]).repetition == survey([""]).repetition == 0
    english = (ROOT / "corpora" / "english.txt").read_text("utf-8")
    assert repetition(english) < 0.02
