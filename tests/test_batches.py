import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.batches import LaneStream
from charlm.errors import CorpusError


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 400))
def test_the_windows_rebuild_the_lanes(batch_size, seq_length, count):
    ids = np.random.default_rng(count).integers(0, 250, count, dtype=np.uint8)
    try:
        stream = LaneStream(ids, batch_size=batch_size, seq_length=seq_length)
    except CorpusError:
        assert (count - 1) // batch_size < seq_length
        return
    windows = [stream.window(step) for step in range(2 * stream.windows_per_epoch)]
    first, second = windows[: len(windows) // 2], windows[len(windows) // 2 :]
    for epoch in (first, second):
        assert [w.restart for w in epoch] == [True] + [False] * (len(epoch) - 1)
        lanes = np.concatenate([w.inputs for w in epoch], axis=1)
        shifted = np.concatenate([w.targets for w in epoch], axis=1)
        # Lanes end to end are the text; the targets are the same text one character on.
        assert np.array_equal(lanes.ravel(), ids[: lanes.size])
        assert np.array_equal(shifted.ravel(), ids[1 : lanes.size + 1])
        assert len(ids) - 1 - lanes.size < batch_size  # the documented tail
    lengths = {w.inputs.shape[1] for w in windows}
    assert max(lengths) <= seq_length
    assert max(lengths) - min(lengths) <= 1
    assert stream.epoch(stream.windows_per_epoch) == 1


@given(st.integers(3, 60), st.integers(0, 200), st.integers(0, 200))
def test_the_last_steps_of_a_run_read_the_lanes_to_their_end(count, before, during):
    """From where the rate falls on, whatever was read before, unless there is time for all."""
    stream = LaneStream(np.arange(count, dtype=np.uint8), batch_size=2, seq_length=1)
    start, end = before, before + during
    windows = [stream.window(step, (start, end)) for step in range(end)]
    places = [int(window.inputs[0, 0]) for window in windows]
    every = stream.windows_per_epoch
    assert places[:start] == [step % every for step in range(start)]
    shift = end if during < every else 0
    assert places[start:] == [(step - shift) % every for step in range(start, end)]
    for step in range(1, end):  # the state is carried where a lane goes on, and nowhere else
        assert windows[step].restart == (places[step] != places[step - 1] + 1)
    beyond = stream.window(end, (start, end))  # a run that goes on a little longer
    assert int(beyond.inputs[0, 0]) == (end - shift) % every


def test_a_text_shorter_than_a_window_of_all_lanes_names_the_flags():
    with pytest.raises(CorpusError, match="7 characters in each of 3 lanes: lower batch_size"):
        LaneStream(np.zeros(21, np.uint8), batch_size=3, seq_length=7)
