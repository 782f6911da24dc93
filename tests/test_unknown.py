import unicodedata

import pytest
from conftest import DATA
from hypothesis import example, given
from hypothesis import strategies as st

import charlm
from charlm.data.tokenizer import CharTokenizer
from charlm.data.unknown import UnknownCharacters, nearest

LSTM = DATA / "golden-lstm.safetensors"
KNOWN = frozenset("abcdefghijklmnopqrstuvwxyzAEHO '\"-,.\n12/")


@pytest.mark.parametrize(
    ("unknown", "known"),
    [
        *zip("ÉéÅñ“”„«‘’—–−", "EeAn\"\"\"\"''---", strict=True),
        *zip("Ａ２Ｋ，。\u00a0\u2009\t\u2028", "A2k,.   \n", strict=True),
        ("ﬁ", "fi"), ("½", "1/2"), ("…", "..."), ("ß", "ss"), ("æ", "ae"), ("Œ", "OE"), ("Z", "z"),
        ("漢", ""), ("\u0301", ""), ("\udcff", ""), ("\U0001f600", ""),
    ],
)  # fmt: skip
def test_the_nearest_character(unknown, known):
    assert nearest(unknown, KNOWN) == known


def test_plain_characters_are_read_as_typographic_ones_by_a_model_that_knows_only_those():
    assert nearest("'", frozenset("a’")) == "’"
    assert nearest('"', frozenset("“a”")) == "”"
    assert nearest("É", frozenset("E\u0301")) == "E\u0301"  # written with two code points


@given(st.text(), st.text(min_size=1))
@example("É\u00a0“ﬁ”", "Efi \"'")
def test_what_is_read_is_known_and_known_characters_stay(text, other):
    vocabulary = "".join(set(other))
    kept = "".join(c for c in text if c in vocabulary)
    for how in ("skip", "nearest"):
        unknown = UnknownCharacters(vocabulary, how)
        read = unknown.replace(text)
        assert set(read) <= set(vocabulary)
        assert unknown.replace(read) == read
        assert sum(unknown.changes.values()) == len(text) - len(kept)
        assert len(read) == len(kept) + sum(n * len(to) for (_, to), n in unknown.changes.items())
        assert unknown.summary().isprintable()
        if how == "skip":
            assert read == kept
    assert UnknownCharacters(vocabulary).replace(text) == text


def test_the_summary_names_the_most_frequent():
    unknown = UnknownCharacters("E ", "nearest")
    unknown.replace("ÉÉ漢語語")
    unknown.replace("\u00a0É")
    assert unknown.summary() == (
        "unknown characters: 4 read as others: É to E (3), no-break space to space (1); "
        "3 left out: 語 (2), 漢 (1)"
    )
    unknown.replace("".join(map(chr, range(0x4E00, 0x4E80))))
    assert unknown.summary().endswith("131 left out: 語 (2), 一 (1), 丁 (1), 丂 (1), 七 (1), ...")


def test_an_unknown_symbol_is_read_where_nothing_is_near():
    vocabulary = CharTokenizer.from_text("EEaa", min_count=2).vocabulary
    assert UnknownCharacters(vocabulary, "nearest", has_symbol=True).replace("É漢a") == "E漢a"
    assert UnknownCharacters(vocabulary, "skip", has_symbol=True).replace("É漢a") == "a"


def test_a_model_reads_every_text_in_the_way_that_it_was_loaded_for():
    lm = charlm.load(LSTM)
    near, skip = (charlm.load(LSTM, unknown=how) for how in ("nearest", "skip"))
    with pytest.raises(charlm.TokenError, match="unknown=nearest reads it as 'e'"):
        lm.score("café")
    with pytest.raises(charlm.TokenError, match="unknown=skip leaves it out"):
        lm.score("漢")
    assert near.score("“café” 漢").tolist() == lm.score('"cafe" ').tolist()
    assert skip.score("“café” 漢").tolist() == lm.score("caf ").tolist()
    # A text that can never be drawn stops nothing, and does not become a shorter one.
    assert skip.generate("h", length=30, seed=1, stop=("e漢",)) == lm.generate(
        "h", length=30, seed=1
    )
    settings = {"length": 200, "seed": 1}
    text = near.generate("Café", stop=("é",), allow=("ábcdé ",), **settings)
    assert text == lm.generate("Cafe", stop=("e",), allow=("abcde ",), **settings)
    lines = near.lines(2, starts_with="É", seed=1)
    assert all(line.startswith("E") for line, _ in lines)
    assert near.fingerprint() == lm.fingerprint()
    with pytest.raises(charlm.ConfigError, match="unknown must be one of error, skip, nearest"):
        charlm.load(LSTM, unknown="drop")


def test_decomposition_is_that_of_unicode():
    """Every letter with an accent is read as its letter."""
    for character in map(chr, range(0xC0, 0x180)):
        base = unicodedata.normalize("NFD", character)[0]
        if base.isascii() and base != character:
            assert nearest(character, frozenset(base)) == base
