"""Blocks of samples, where texts stop, and which lines are wanted."""

import numpy as np
import pytest
from conftest import BACKBONES, V, probabilities, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import LinesConfig, SampleConfig
from charlm.errors import DivergenceError
from charlm.inference.decoding import Block, Lines, Stops, blocks, failure_table, samples
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.inference.sampling import allowed_mask, surprisal


class Chain:
    """A model whose logits are a row of a table: the character before decides."""

    def __init__(self, table):
        self.table = np.asarray(table, dtype=np.float64)

    weights, surprisal, generator = Engine.weights, Engine.surprisal, Engine.generator

    def stepper(self, state):
        return Chain.Stepper(self.table, state)

    class Stepper:
        def __init__(self, table, state):
            self.table, self.state = table, state

        def step(self, ids):
            self.state = (self.state[0] + 1,)
            return self.table[ids]


def prompt(chain):
    return PromptState(chain.table[0], (np.zeros((1, 1, 1)),))


def block(chain, config, indices=range(1), **options):
    return Block(chain, prompt(chain), config, indices, **options)


def sample(chain, count, config, **options):
    """Return what is drawn in ``count`` steps, (count, B)."""
    drawn = block(chain, config, **options)
    return np.array([drawn.draw() for _ in range(count)])


def test_sampling_frequencies_fit_the_distribution():
    logits = np.log([0.5, 0.25, 0.125, 0.0625, 0.0625])
    count, size = 4_000, 5
    for config in (
        SampleConfig(temperature=1.0, seed=1),
        SampleConfig(temperature=0.7, seed=2),
        SampleConfig(temperature=1.3, top_k=3, top_p=0.95, seed=3),
        SampleConfig(temperature=1.3, min_p=0.2, seed=4),
    ):
        expected = probabilities(logits, config) * count * size
        drawn = sample(Chain([logits] * 5), count, config, indices=range(size))
        counts = np.bincount(drawn.ravel(), minlength=5)
        kept = expected > 0
        assert not counts[~kept].any()
        chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
        assert chi_square < 23.5  # 4 degrees of freedom: false alarms below 1 in 10,000


def random_engine(config, scale):
    """Return an engine with random weights, and a state of it."""
    rng = np.random.default_rng(1)
    tensors = {
        name: rng.normal(0, scale, shape).astype(np.float32)
        for name, shape in config.parameter_shapes(V).items()
    }
    engine = Engine(config, tensors)
    return engine, PromptState(rng.normal(size=V).astype(np.float32), engine.initial_state(1))


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_sample_i_depends_on_the_seed_and_on_i_alone(name, variant):
    """Blocks have fixed places and sizes, so sample i is drawn by the same products."""
    engine, begin = random_engine(tiny_config(name, variant), 0.4)

    def texts(count, seed):
        found = []
        for indices in blocks(count):
            drawn = Block(engine, begin, SampleConfig(seed=seed), indices)
            found += list(np.array([drawn.draw() for _ in range(70)]).T)
        return np.array(found[:count])

    assert [len(texts(n, 7)) for n in (1, 2, 12)] == [1, 2, 12]
    assert np.array_equal(texts(12, 7)[:2], texts(2, 7))
    assert np.array_equal(texts(12, 7)[:1], texts(1, 7))
    assert len({tuple(text) for text in texts(70, 7)}) == 70
    assert not np.array_equal(texts(1, 8), texts(1, 7))


@given(st.integers(1, 400))
def test_blocks_hold_every_sample_once(count):
    found = [index for indices in blocks(count) for index in indices]
    assert found[:count] == list(range(count))
    assert len(next(blocks(count))) == 1


def test_a_block_leaves_its_prompt_alone_and_gives_the_state_after_what_it_drew():
    chain = Chain(np.random.default_rng(0).normal(size=(6, 6)))
    before = prompt(chain)
    drawn = Block(chain, before, SampleConfig(seed=1), range(3))
    for count in range(1, 5):
        ids = drawn.draw()
        after = drawn.prompt_state(2, count)
        assert after.state[0].shape == (1, 1, 1)
        assert after.state[0].item() == count
        assert np.array_equal(after.logits, chain.table[ids[2]])
    assert not before.state[0].any()
    assert np.array_equal(before.logits, chain.table[0])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_nan_or_infinite_raise(wrong, temperature):
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        sample(Chain([[wrong, 1.0]] * 2), 3, SampleConfig(seed=1, temperature=temperature))


@pytest.mark.parametrize(
    ("settings", "unknown_id", "left"),
    [
        ({}, None, "abcd"),
        ({}, 0, "bcd"),
        ({"allow": "bxa"}, None, "ab"),
        ({"forbid": "bx"}, None, "acd"),
        ({"allow": "abc", "forbid": "a"}, 1, "c"),
    ],
)
def test_only_allowed_characters_are_drawn(settings, unknown_id, left):
    config = SampleConfig(seed=1, temperature=3.0, **settings)
    mask = allowed_mask("abcd", config, unknown_id)
    drawn = sample(Chain([[9.0, 1, 1, 1]] * 4), 300, config, mask=mask)
    assert {"abcd"[i] for i in drawn.ravel()} == set(left)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_no_bit_of_a_sample_depends_on_how_many_there_are(name):
    """At the sizes at which products of matrices take other ways for other numbers of rows."""
    engine, begin = random_engine(tiny_config(name, hidden_size=512), 0.1)

    def logits(count):
        found = []
        for indices in blocks(count):
            drawn = Block(engine, begin, SampleConfig(seed=7), indices)
            for _ in range(5):
                drawn.draw()
            found += [row.tobytes() for row in drawn.logits]
        return found[:count]

    whole = logits(12)
    assert [whole[:n] == logits(n) for n in (1, 2, 9, 11)] == [True] * 4


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


def test_a_sample_that_others_have_passed_has_the_state_after_its_own_text():
    config = SampleConfig(seed=1, length=9, num_samples=4, stop=("b",))
    samples = list(drawn(config))
    texts = ["".join(sample) for sample in samples]
    assert len({sample.count for sample in samples}) > 1
    for sample, text in zip(samples, texts, strict=True):
        last = "b" if sample.reason == "stop" else text[-1]
        assert np.array_equal(sample.prompt_state().logits, CHAIN.table[LETTERS.index(last)])


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
