import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.data.tokenizer import CHUNK, UNKNOWN, CharTokenizer
from charlm.errors import ConfigError, TokenError

TEXTS = st.text(min_size=1)


@given(TEXTS)
@example("e\u0301 \U0001f600\ufffd\n\t\x7f")
@example("\udcff lone surrogates come from a shell's bytes")
def test_decode_undoes_encode(text):
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(TEXTS)
def test_the_vocabulary_is_the_sorted_set_of_characters(text):
    assert CharTokenizer.from_text(text).vocabulary == "".join(sorted(set(text)))


@given(TEXTS, st.integers(2, 4))
def test_rare_characters_become_the_unknown_symbol_and_nothing_else_does(text, min_count):
    if max(map(text.count, text)) < min_count:
        return
    tokenizer = CharTokenizer.from_text(text, min_count=min_count)
    expected = [c if text.count(c) >= min_count else UNKNOWN for c in text]
    assert tokenizer.decode(tokenizer.encode(text)) == "".join(expected)
    assert tokenizer.decode(tokenizer.encode("\U0010ffff")) == UNKNOWN


def test_an_unknown_character_is_named_with_its_position():
    tokenizer = CharTokenizer.from_text("nave")
    with pytest.raises(TokenError) as caught:
        tokenizer.encode("naïve", source="the prompt")
    assert str(caught.value).startswith(
        "character 'ï' (U+00EF) at position 2 of the prompt is not in the vocabulary (4 characters)"
    )


def test_the_position_counts_through_all_chunks():
    tokenizer = CharTokenizer.from_text("ab")
    with pytest.raises(TokenError, match=f"position {CHUNK + 5} "):
        tokenizer.encode("a" * (CHUNK + 5) + "c" + "b" * 9)


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65_537, "uint32")]
)
def test_ids_take_the_smallest_type(size, dtype):
    vocabulary = "".join(map(chr, range(0x20000, 0x20000 + size)))
    ids = CharTokenizer(vocabulary).encode(vocabulary)
    assert ids.dtype == np.dtype(dtype)
    assert np.array_equal(ids, np.arange(size))


def test_the_union_knows_both():
    one, other = CharTokenizer.from_text("bad"), CharTokenizer.from_text("caab", min_count=2)
    both = one.union(other)
    assert both.vocabulary == "abd" + UNKNOWN
    assert both.unknown


def test_a_min_count_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"occurs 9 times: lower min_count"):
        CharTokenizer.from_text("abcabc", min_count=9)


@pytest.mark.parametrize("vocabulary", ["", "aa"])
def test_a_vocabulary_holds_each_character_once(vocabulary):
    with pytest.raises(ConfigError, match="at least one character and each only once"):
        CharTokenizer(vocabulary)


def test_an_unknown_symbol_must_stand_in_the_vocabulary():
    with pytest.raises(ConfigError, match="must hold it"):
        CharTokenizer("ab", unknown=True)
