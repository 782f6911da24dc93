"""A text read in chunks gives what one chunk gives, also with a model that never forgets."""

import numpy as np
import pytest

from charlm.inference.chunked import STATE_TOLERANCE, WARM_UP, OutOfTimeError, read_chunked


class Decaying:
    """Its state is a sum of what was read, each character counting ``memory`` times the last."""

    def __init__(self, count, memory):
        self.values = np.random.default_rng(count).normal(size=count)
        self.memory = memory
        self.most = self.characters = 0

    def initial_state(self, batch_size):
        return (np.zeros((2, batch_size, 3)),)

    def read(self, starts, length, state):
        self.most = max(self.most, len(starts))
        self.characters += len(starts) * length
        assert state[0].flags.c_contiguous  # cuDNN refuses others
        now, values = state[0][0, :, 0].copy(), np.empty((len(starts), length), np.float32)
        for t in range(length):
            now = self.memory * now + self.values[starts + t]
            values[:, t] = now
        return values, (np.ascontiguousarray(np.broadcast_to(now[:, None], (2, len(now), 3))),)


@pytest.mark.parametrize("memory", [0.0, 0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2 * WARM_UP, 4 * WARM_UP, 4 * WARM_UP + 1, 7003])
def test_chunks_give_what_one_chunk_gives(count, memory):
    reader = Decaying(count, memory)
    begin = (np.full((2, 1, 3), 3.0),)
    alone, end = read_chunked(reader, count, begin, batch_size=1)
    assert reader.most <= 1
    values, after = read_chunked(reader, count, begin, batch_size=5)
    assert reader.most == max(1, min(5, count // (2 * WARM_UP)))
    assert values.shape == (count,)
    # A chunk may start STATE_TOLERANCE off, as may the one before it, and so on.
    np.testing.assert_allclose(values, alone, rtol=0, atol=5 * STATE_TOLERANCE)
    np.testing.assert_allclose(after[0], end[0], rtol=0, atol=5 * STATE_TOLERANCE)
    assert (begin[0] == 3.0).all()


@pytest.mark.parametrize("memory", [0.0, 0.9, 0.99, 0.999, 1.0])
def test_chunks_give_the_bits_of_one_chunk_where_they_are_promised(memory):
    reader, begin = Decaying(7003, memory), (np.full((2, 1, 3), 3.0),)
    alone, end = read_chunked(reader, 7003, begin, batch_size=1)
    values, after = read_chunked(reader, 7003, begin, batch_size=5, to_the_bit=True)
    np.testing.assert_array_equal(values, alone)
    np.testing.assert_array_equal(after[0], end[0])


def test_a_chunk_is_read_again_only_until_it_meets_what_was_read():
    reader = Decaying(40_003, 0.99)  # after the warm-up 0.006 of what was before is left
    begin = (np.full((2, 1, 3), 3.0),)
    alone, _ = read_chunked(Decaying(40_003, 0.99), 40_003, begin, batch_size=1)
    values, _ = read_chunked(reader, 40_003, begin, batch_size=5)
    np.testing.assert_allclose(values, alone, rtol=0, atol=5 * STATE_TOLERANCE)
    assert 40_003 + 4 * WARM_UP < reader.characters <= 40_003 + 10 * WARM_UP


def test_nan_is_not_read_again():
    reader = Decaying(40_003, 0.99)
    reader.values[20_000] = np.nan
    values, _ = read_chunked(reader, 40_003, reader.initial_state(1), batch_size=5)
    assert np.isnan(values).any()
    assert reader.characters <= 40_003 + 4 * WARM_UP


def test_reading_again_may_be_cut_short_once_all_is_read():
    """What is known by then counts; before that there is nothing that could."""

    class Hurried(Decaying):
        def read(self, starts, length, state):
            if self.characters > self.bound:
                self.bound = np.inf
                raise OutOfTimeError
            return super().read(starts, length, state)

    count, begin = 40_003, (np.full((2, 1, 3), 3.0),)
    whole = Decaying(count, 1.0)
    exact, _ = read_chunked(whole, count, begin, batch_size=5)
    cut = 0
    for bound in range(0, whole.characters, 9_000):
        reader = Hurried(count, 1.0)
        reader.bound = bound
        try:
            found, _ = read_chunked(reader, count, begin, batch_size=5)
        except OutOfTimeError:
            assert reader.characters < count
            continue
        np.testing.assert_array_equal(found[:8000], exact[:8000])  # the first chunk
        cut += not np.array_equal(found, exact)
    assert cut >= 2
