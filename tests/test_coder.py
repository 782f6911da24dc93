"""The entropy coder, without a model."""

import io

import numpy as np
import pytest

from charlm.errors import CorpusError
from charlm.integer.coder import TOTAL, Decoder, encode, frequencies
from charlm.integer.varint import read_varint, varint


def drawn(count, vocab_size, seed=1):
    """Return symbols (N,) drawn from random frequencies, and those with their ends (N, V)."""
    rng = np.random.default_rng(seed)
    w = np.floor(rng.random((count, vocab_size)) ** 9 * 2**30)
    w[:, 0] += 1
    f = frequencies(w, TOTAL)
    ends = f.cumsum(axis=1)
    symbols = (ends <= rng.integers(0, TOTAL, count)[:, None]).sum(axis=1)
    return symbols, f, ends


def coded(count, vocab_size, lanes):
    """Return drawn symbols with their intervals, ends, and bytes."""
    symbols, f, ends = drawn(count, vocab_size)
    rows = np.arange(count)
    sizes = f[rows, symbols].astype(np.uint32)
    starts = ends[rows, symbols].astype(np.uint32) - sizes
    return symbols, starts, sizes, ends, encode(starts, sizes, lanes)


def decoded(data, lanes, starts, sizes, ends):
    """Return the symbols that bytes hold."""
    decoder, found = Decoder(data, lanes), []
    for begin in range(0, len(ends), lanes):
        rows = slice(begin, begin + lanes)
        slots = decoder.slots()[: len(ends[rows])]
        found += (ends[rows] <= slots[:, None]).sum(axis=1).tolist()
        decoder.move(starts[rows], sizes[rows])
    decoder.finish()
    return found


@pytest.mark.parametrize("lanes", [1, 3, 64])
@pytest.mark.parametrize("vocab_size", [1, 2, 67])
def test_symbols_come_back_and_take_what_their_frequencies_say(lanes, vocab_size):
    symbols, starts, sizes, ends, data = coded(1001, vocab_size, lanes)
    assert decoded(data, lanes, starts, sizes, ends) == symbols.tolist()
    entropy = np.log2(TOTAL / sizes).sum()
    assert entropy <= 8 * len(data) <= 1.001 * entropy + 64 * lanes


def test_no_symbols_at_all():
    nothing = np.empty(0, np.uint32)
    Decoder(encode(nothing, nothing, 3), 3).finish()


@pytest.mark.parametrize("vocab_size", [1, 5, 300])
@pytest.mark.parametrize("total", [300, TOTAL])
def test_frequencies_have_their_sum_and_are_in_proportion(vocab_size, total):
    rng = np.random.default_rng(2)
    w = np.floor(rng.random((17, vocab_size)) ** 30 * 2**30)
    w[:, -1] += 1
    f = frequencies(w, total)
    assert (f == np.floor(f)).all()
    assert (f >= 1).all()
    assert (f.sum(axis=1) == total).all()
    exact = 1 + w / w.sum(axis=1, keepdims=True) * (total - vocab_size)
    others = np.arange(vocab_size) != w.argmax(axis=1)[:, None]
    assert (np.abs(f - exact)[others] <= 1).all()
    assert (np.abs(f - exact) <= vocab_size).all()


def test_bytes_that_are_missing_or_too_many_are_found():
    _, starts, sizes, ends, data = coded(200, 67, 3)
    for wrong in (data[:-4], data[:-1], data + b"\0\0\0\0", data[:20], b"", bytes(len(data))):
        with pytest.raises(CorpusError, match="damaged"):
            decoded(wrong, 3, starts, sizes, ends)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**62])
def test_a_number_comes_back_from_its_bytes(value):
    data = varint(value)
    stream = io.BytesIO(data + b"x")
    assert read_varint(stream, value) == value
    assert stream.read() == b"x"
    for wrong, most in ((data, value - 1), (data[:-1], value), (b"\x80" * 11, 2**80)):
        with pytest.raises(CorpusError, match="damaged"):
            read_varint(io.BytesIO(wrong), most)
