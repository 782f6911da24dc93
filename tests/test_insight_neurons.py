"""Units that follow a concept are found, others are not, and chance is not taken for more."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import H, L, words
from test_insight_reading import model, reading_of

from charlm.errors import ConfigError
from charlm.insight import neurons
from charlm.insight.concepts import Concept, concepts
from charlm.insight.neurons import FALSE_ALARM, midranks, search, shuffled_sums
from charlm.insight.reading import Unit

TEXT = words(1500, seed=7)


def by_name(text, patterns=()):
    return {concept.name: concept.labels for concept in concepts(text, patterns)}


def marked(text, name, patterns=()):
    """Return the text with the characters where a concept does not hold as dots."""
    labels = by_name(text, patterns)[name]
    return "".join(c if label else "." for c, label in zip(text, labels, strict=True))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("inside quotes", 'a "bc" d', '.."bc...'),
        ("inside quotes", "it's 'so' “x”", ".....'so..“x."),
        ("inside quotes", 'left " open', "..........."),
        ("inside quotes", 'f("a", "b" ) "', '.."a..."b.....'),
        ("inside quotes", '"""a "b" c""" d', '"""a "b" c""...'),
        ("inside quotes", "「春」", "「春."),
        ("inside brackets", "a(b[c]d)e)", ".(b[c]d..."),
        ("inside brackets", "(a [b) (", "(a [b..."),
        ("inside brackets", "a] (b", "....."),
        ("first word of a line", "  ab cd\ne f", "  ab....e.."),
        ("speaker's name", "KING LEAR:\nTo be:\nand so", "KING LEAR:.To be:......."),
        ("capital letter", "aBÇ漢", ".BÇ."),
        ("digit", "a1٢b", ".1٢."),
        ("indentation", "  a b\n\tc", "  ....\t."),
        ("next is a line end", "ab\nc", ".b.."),
        ("next is a space", "ab c ", ".b.c."),
    ],
)
def test_where_a_concept_holds(name, text, expected):
    assert marked(text, name) == expected


def test_places_are_counted_from_the_last_end():
    assert by_name("ab\nc d")["place in the line"].tolist() == [1, 2, 0, 1, 2, 3]
    assert by_name("ab\nc d")["place in the word"].tolist() == [1, 2, 0, 1, 0, 1]


def test_a_pattern_of_the_user_is_a_concept():
    assert marked("the cat, The cap", "matches ca[tp]", ["ca[tp]"]) == "....cat......cap"
    with pytest.raises(ConfigError, match=r"concept=\(a is not a regular expression"):
        concepts("text", ["(a"])


def test_scores_are_those_of_their_definitions():
    random = np.random.default_rng(4)
    values = random.normal(size=(3, 101)).astype(np.float32)
    labels = random.random(101) < 0.3
    values[1] += labels
    levels = neurons._levels(values)
    for row, auc in zip(levels.astype(int), neurons._aucs(levels, labels), strict=True):
        pairs = row[labels][:, None] - row[~labels]
        assert auc == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    number = random.normal(size=101)
    for row, r2 in zip(values, neurons._r2(values, number), strict=True):
        assert r2 == pytest.approx(np.corrcoef(row, number)[0, 1] ** 2, abs=1e-5)
    assert midranks(np.array([3.0, 1, 3, 3, 7])).tolist() == [3, 1, 3, 3, 5]


def persistent(random, shape, stay):
    """Return noise whose neighbours are alike, as states and labels of a text are."""
    noise = random.normal(size=shape)
    for place in range(1, shape[-1]):
        noise[..., place] = stay * noise[..., place - 1] + np.sqrt(1 - stay**2) * noise[..., place]
    return noise


def test_shuffled_labels_tell_chance():
    """A unit unrelated to a label gets a p below 0.05 in about one case in twenty.

    Both keep their values for some 20 characters. Of 300 cases 15 are expected; more than 32 would
    come up by chance in less than one run in 10,000. Labels shuffled one by one fail by far.
    """
    random = np.random.default_rng(11)
    alarms = naive = 0
    for x, y in zip(
        persistent(random, (300, 2000), 0.95), persistent(random, (300, 2000), 0.95), strict=True
    ):
        y = y - y.mean()
        null = np.abs(shuffled_sums(x, y, 199, random))
        alarms += (1 + (null >= abs(x @ y)).sum()) / 200 <= 0.05
        single = np.abs(x @ random.permuted(np.tile(y, (99, 1)), axis=1).T)
        naive += (1 + (single >= abs(x @ y)).sum()) / 100 <= 0.05
    assert alarms <= 32
    assert naive > 60


def noise_reading(seed=2):
    """Return a reading whose states are noise."""
    reading = reading_of(model("lstm"), TEXT)
    random = np.random.default_rng(seed)
    for name in reading.states:
        noise = persistent(random, (L, H, len(TEXT)), 0.9)
        reading.states[name] = np.moveaxis(noise, 2, 0).astype(np.float32)
    return reading


def test_a_unit_that_follows_a_concept_is_found_and_noise_is_not():
    reading = noise_reading()
    wanted = concepts(TEXT)
    names = [concept.name for concept in wanted]
    assert not any(finding.found for finding in search(reading, wanted, clamped=False).findings)
    line_end = wanted[names.index("next is a line end")].labels
    place = wanted[names.index("place in the line")].labels
    reading.states["c"][:, 1, 4] -= 5 * line_end
    reading.states["h"][:, 0, 9] += place / 10
    result = search(reading, wanted, clamped=False)
    found = {f.concept.name: f.found[0] for f in result.findings if f.found}
    assert found["next is a line end"].unit == Unit(2, "c", 4)
    assert found["next is a line end"].sign == -1
    assert found["next is a line end"].score > 0.99
    assert found["place in the line"].unit == Unit(1, "h", 9)
    assert all(one.p <= FALSE_ALARM / result.tests for one in found.values())


def test_a_unit_that_fails_on_the_second_half_is_not_found():
    reading = noise_reading()
    labels = np.arange(len(TEXT)) % 97 < 40
    half = len(TEXT) // 2
    reading.states["h"][:half, 1, 3] += 5 * labels[:half]
    (finding,) = search(reading, [Concept("made up", labels)], clamped=False).findings
    assert finding.found == ()
    assert "no unit reaches AUC 0.80 on the second half" in finding.why
    assert finding.best is not None


def test_lines_of_equal_length_do_not_hide_a_unit():
    """The label repeats with the line, so labels moved by whole lines would all fit as well."""
    reading = noise_reading()
    labels = np.arange(len(TEXT)) % 50 < 5
    reading.states["h"][:, 1, 3] += 5 * labels
    (finding,) = search(reading, [Concept("made up", labels)], clamped=False).findings
    assert finding.found[0].unit == Unit(2, "h", 3)


def test_what_holds_nowhere_is_not_looked_for():
    reading = noise_reading()
    (finding,) = search(reading, [Concept("x", np.zeros(len(TEXT), bool))]).findings
    assert (finding.found, finding.best) == ((), None)
    assert finding.why == "holds nowhere in this text"


def test_clamping_tells_what_a_unit_is_for():
    """A unit that fires at an "a" and makes a "b" likely: where that holds, it is needed."""
    text = TEXT.replace("b", "c").replace("a", "ab")
    lm = model("rnn", scale=0.3, text=text)
    weights = lm.checkpoint.weights
    a, b, d = map(lm.tokenizer.vocabulary.index, "abd")
    weights["embedding.weight"][a] = weights["embedding.weight"][d]  # but for what follows
    weights["embedding.weight"][:, 0] = -1
    weights["embedding.weight"][a, 0] = 1
    for layer, source in ((0, 0), (1, 2)):  # "a" -> unit 2 of layer 1 -> unit 2 of layer 2 alone
        for name, column in (("weight_ih", source), ("weight_hh", 2)):
            weights[f"backbone.layers.{layer}.{name}"][2] = 0
            weights[f"backbone.layers.{layer}.{name}"][:, column] = 0
        weights[f"backbone.layers.{layer}.weight_ih"][2, source] = 3
    weights["head.weight"][:, 2] = 0
    weights["head.weight"][b, 2] = 4
    reading = reading_of(type(lm)(replace(lm.checkpoint, weights=weights)), text)
    labels = np.append(reading.ids[1:] == b, False)
    (finding,) = search(reading, [Concept("next is b", labels)]).findings
    best = finding.found[0]
    assert best.unit.index == 2
    assert best.score > 0.99
    assert best.where > 1  # bits
    assert abs(best.elsewhere) < 0.5 * best.where
