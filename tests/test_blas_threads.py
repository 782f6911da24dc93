"""How many threads the server draws with: as many as are fastest now."""

import pytest

pytest.importorskip("threadpoolctl", reason="the extra serve is not installed")

from charlm.server import blas_threads
from charlm.server.blas_threads import HOLD_SECONDS, LONGEST_HOLD, BlasThreads

MOST = 6


class Library:
    num_threads = MOST

    def set_num_threads(self, count):
        self.num_threads = count


@pytest.fixture
def threads(monkeypatch):
    found = BlasThreads()
    monkeypatch.setattr(found, "_libraries", [Library(), Library()])
    found.most = found.count = MOST
    return found


def draw(threads, seconds, cost, rows=8, start=100.0):
    """Draw for some seconds of a made-up clock; return the seconds with each count."""
    now, spent = start, {1: 0.0, MOST: 0.0}
    while now < start + seconds:
        assert {library.num_threads for library in threads._libraries} == {threads.count}
        step = cost[threads.count]
        spent[threads.count] += step
        now += step
        threads.note(rows, step, now)
    return spent


@pytest.mark.parametrize("first", [1, MOST])
@pytest.mark.parametrize("factor", [1.2, 30.0])
def test_the_faster_count_is_taken_and_the_other_one_is_tried_now_and_then(threads, first, factor):
    if first == 1:
        threads._switch()
    for number, (fast, slow) in enumerate([(1, MOST), (MOST, 1), (1, MOST)]):
        cost = {fast: 0.0002, slow: 0.0002 * factor}
        spent = draw(threads, 60, cost, start=100.0 + 70 * number)
        # At the beginning the slow one may go on until the next trial.
        assert 0 < spent[slow] < LONGEST_HOLD + 0.07 * 60


def test_another_number_of_texts_is_tried_at_once(threads):
    draw(threads, 9, {1: 0.0001, MOST: 0.0009})
    assert threads.count == 1
    draw(threads, 0.5 * HOLD_SECONDS, {1: 0.004, MOST: 0.001}, rows=64, start=200.0)
    assert threads.count == MOST


def test_one_thread_is_all_there_is_on_one_core(threads):
    threads.most = threads.count = 1
    for library in threads._libraries:
        library.set_num_threads(1)
    draw(threads, 9, {1: 0.001, MOST: 0.001})
    assert threads._times == []


def test_numpy_is_found_and_left_as_it_is_until_something_is_drawn():
    found = BlasThreads()
    before = [library.num_threads for library in found._libraries]
    assert found.most == max(before, default=1)
    assert found.count == found.most
    assert blas_threads.BlasThreads().most == found.most
