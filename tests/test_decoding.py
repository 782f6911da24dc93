"""Where texts stop, and which lines are wanted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sampling import Chain, prompt

from charlm.config import LinesConfig, SampleConfig
from charlm.errors import ConfigError
from charlm.inference.decoding import Block, Lines, Stops, failure_table, samples
from charlm.inference.sampling import surprisal

LETTERS = "abc\n"
CHAIN = Chain(np.random.default_rng(4).normal(size=(4, 4)))


def drawn(config, chain=CHAIN, **options):
    def block(indices):
        return Block(chain, prompt(chain), config, indices, **options)

    return samples(block, LETTERS, config)


@given(
    st.text("ab", max_size=40),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_text_ends_before_the_first_stop(text, stops):
    watch, kept, ended = Stops([(stop, failure_table(stop)) for stop in stops]), "", False
    for character in text:
        piece, ended = watch.feed(character)
        kept += piece
        assert text.startswith(kept)
        if ended:
            break
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert ended == bool(ends)
    if ended:
        whole = text[: min(ends)]
        longest = max((s for s in stops if whole.endswith(s)), key=len)
        assert kept == whole.removesuffix(longest)
    else:
        assert kept + watch.held == text
        assert watch.held == "" or any(s.startswith(watch.held) for s in stops)


@pytest.mark.parametrize("length", [1, 17, 150])
def test_length_counts_new_characters(length):
    for sample in drawn(SampleConfig(seed=1, length=length, num_samples=3)):
        assert len("".join(sample)) == length == sample.count
        assert sample.reason == "length"


def test_a_length_that_ends_within_a_stop_gives_all_characters():
    config = SampleConfig(seed=1, length=30)
    (free,) = drawn(config)
    text = "".join(free)
    (held,) = drawn(SampleConfig(seed=1, length=30, stop=(text[-3:] + "x",)))
    assert "".join(held) == text


def test_stopping_changes_nothing_that_comes_before():
    free = ["".join(s) for s in drawn(SampleConfig(seed=1, length=80, num_samples=12))]
    config = SampleConfig(seed=1, length=80, num_samples=12, stop=("ab", "\n"))
    for text, sample in zip(free, drawn(config), strict=True):
        stopped = "".join(sample)
        assert text.startswith(stopped)
        if sample.reason == "stop":
            assert text[len(stopped) :].startswith(("ab", "\n"))
            assert sample.count == len(stopped) + (1 if text[len(stopped)] == "\n" else 2)


def test_samples_may_be_read_in_any_order():
    config = SampleConfig(seed=1, length=20, num_samples=10)
    one = ["".join(sample) for sample in drawn(config)]
    other = ["".join(sample) for sample in reversed(list(drawn(config)))]
    assert one == other[::-1]


def test_without_end_there_is_always_more():
    (sample,) = drawn(SampleConfig(seed=1, length=0))
    assert len([piece for piece, _ in zip(sample, range(1000), strict=False)]) == 1000
    assert sample.reason is None


def test_surprisal_is_that_of_the_model_whatever_it_is_drawn_with():
    config = SampleConfig(seed=1, length=50, temperature=0.3, top_k=2)
    (sample,) = drawn(config, with_surprisal=True)
    ids = [0, *(LETTERS.index(c) for c in "".join(sample))]
    expected = surprisal(CHAIN.table[ids[:-1]], np.array(ids[1:])).sum()
    assert sample.bits_per_char == pytest.approx(expected / 50 / np.log(2), rel=1e-6)
    (silent,) = drawn(config)
    assert "".join(silent)
    assert silent.bits_per_char is None


def test_a_sample_that_others_have_passed_has_no_state():
    first, second = list(drawn(SampleConfig(seed=1, length=9, num_samples=3)))[1:]
    next(iter(second))
    assert second.prompt_state() is not None
    with pytest.raises(ConfigError, match="drawn alone"):
        first.prompt_state()


def test_a_sample_without_end_keeps_nothing_of_what_it_has_given():
    (sample,) = drawn(SampleConfig(seed=1, length=0))
    stream = iter(sample)
    for _ in range(100):
        next(stream)
    assert len(sample.block.drawn) == 1


def lines(config, known=()):
    sampling = SampleConfig(seed=1, length=config.max_length + 1, stop=("\n",), num_samples=400)
    return Lines(drawn(sampling), config, known)


def test_lines_are_those_of_the_model_that_are_wanted_in_their_order():
    everything = [line for line, _ in lines(LinesConfig(lines=300, min_length=0))]
    assert len(everything) == 300
    config = LinesConfig(lines=20, min_length=2, max_length=5, unique=True)
    wanted = lines(config, known={"ab", "cc"})
    found = [line for line, _ in wanted]
    expected = [
        line
        for line in dict.fromkeys(everything)
        if 2 <= len(line) <= 5 and line not in ("ab", "cc")
    ]
    assert found == expected[:20]
    assert wanted.tried == 20 + wanted.left_out.total()
    assert set(wanted.left_out) == {"too short", "too long", "known", "twice"}


def test_lines_run_out():
    wanted = lines(LinesConfig(lines=20, min_length=1, max_length=1, unique=True))
    assert len(list(wanted)) == 3  # there are no more
    assert wanted.tried == 400


def test_no_lines():
    assert list(lines(LinesConfig(lines=0))) == []
