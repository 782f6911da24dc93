"""How many threads torch computes a step with: as many as are fastest now.

The threads of a product wait for each other. Where another process takes a core from one of them,
all wait, and one thread alone may be several times as fast. So the number follows the load, as long
as it changes no bit of the result.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from charlm.model.device import torch_threads

CLEARLY = 1.25  # times as long as of late: the load has changed, or the trial has failed
TRIAL = 3  # steps of a trial
PRICE = 150  # seconds between trials for each second that the last one has cost
LEAST_REST = 5.0  # seconds between trials
PROBE = 0.06  # seconds: threads that have slept are preferred by the system for some hundredths
SHORT_PROBE = 0.01  # seconds, for threads that have not
LATE = 0.004  # seconds that operations may be late in all, before a probe is given up


def thread_counts() -> list[int]:
    """Return the numbers of threads that come into question: 0 for all of them, half, one."""
    total = torch.get_num_threads()
    return [0, total // 2, 1] if total >= 4 else [0, 1] if total > 1 else [0]


def cores_are_free(count: int, seconds: float = PROBE) -> bool:
    """Return whether ``count`` threads, 0 for all, get a core each.

    Operations that they share for some ``seconds`` must not take longer than with one thread.
    """
    count = count or torch.get_num_threads()
    if count == 1:
        return True
    numbers = torch.ones(65_536 * count)
    with torch_threads(1):
        alone = statistics.median(_seconds(numbers) for _ in range(20))
    spent = allowed = 0.0
    with torch_threads(count):
        _seconds(numbers)  # threads that are new take longer
        while spent < seconds:
            spent += _seconds(numbers)
            allowed += 1.2 * alone
            if spent > allowed + LATE:
                return False
    return spent < allowed


def _seconds(numbers: torch.Tensor) -> float:
    """Return how long an operation on so many numbers takes."""
    began = time.perf_counter()
    numbers.mul_(1.0)
    return time.perf_counter() - began


class ThreadChoice:
    """Chooses a number of threads for every step, by the time that the steps before took.

    Now and then it is probed whether the cores are free. If so, more threads are tried for a few
    steps, else fewer, and what is faster is taken. A trial that fails is ended at once, and the
    next one waits for the longer the more it cost.

    Args:
        counts: the numbers that may be used, 0 for as many as torch would take. The run begins with
            the first one, and another one is used only where it gives the same bits. With one
            number there is no choice.
        are_free: whether so many threads would get a core each, by a probe of some seconds.

    Attributes:
        count: the number for the next step.
        usual: the fastest one so far.
        first: the number that repeats all that was computed.
    """

    def __init__(self, counts: Sequence[int], are_free: Callable[..., bool] = cores_are_free):
        self.counts = list(counts)
        self.are_free = are_free
        self.first = self.usual = self.count = counts[0]
        self.proven: set[tuple[int, tuple[int, ...]]] = set()
        self.recent: deque[float] = deque(maxlen=TRIAL + 2)  # seconds of the last usual steps
        self.trial: list[float] = []  # seconds of the steps of a trial
        self.rest = 0.0  # until the next trial
        self.since = 0.0  # seconds since the last trial

    def note(self, seconds: float) -> None:
        """Note how long a step with ``count`` threads took, and choose for the next one."""
        if self.count != self.usual:
            self._note_trial(seconds)
        elif len(self.counts) > 1:
            self._note_usual(seconds)

    def is_proven(self, shape: tuple[int, ...]) -> bool:
        """Return whether ``count`` threads are known to give the same bits in such a window."""
        return self.count == self.first or (self.count, shape) in self.proven

    def prove(self, shape: tuple[int, ...], same: bool) -> None:
        """Note whether they do; if not, they are never used again."""
        if same:
            self.proven.add((self.count, shape))
            return
        self.counts.remove(self.count)
        if self.usual == self.count:
            self.usual = self.first
            self.recent.clear()
        self._end_trial(0.0)

    def _note_usual(self, seconds: float) -> None:
        slowed = len(self.recent) >= TRIAL and seconds > CLEARLY * self.mean
        self.recent.append(seconds)
        self.since += seconds
        if self.since < (LEAST_REST / 5 if slowed else self.rest):
            return
        other = next(count for count in self.counts if count != self.usual)
        self.counts.remove(other)
        self.counts.append(other)  # each in its turn
        more = (other or math.inf) > (self.usual or math.inf)
        began = time.monotonic()
        if more:
            promising = self.are_free(other)
        else:
            promising = slowed or not self.are_free(self.usual, SHORT_PROBE)
        if promising:
            self.count = other
        else:
            self._end_trial(time.monotonic() - began)

    def _note_trial(self, seconds: float) -> None:
        self.trial.append(seconds)
        mean = sum(self.trial) / len(self.trial)
        failed = mean > CLEARLY * self.mean
        if not failed and len(self.trial) < TRIAL:
            return
        lost = sum(self.trial) - len(self.trial) * self.mean
        if mean < self.mean:
            self.usual = self.count
            self.recent.clear()
            self.recent.extend(self.trial)
        self._end_trial(lost)

    def _end_trial(self, lost: float) -> None:
        """Go on with the usual number, and wait the longer the more seconds were lost."""
        self.count = self.usual
        self.trial.clear()
        self.since = 0.0
        self.rest = max(LEAST_REST, PRICE * lost)

    @property
    def mean(self) -> float:
        """Seconds of a step with the usual number of threads, of late."""
        return sum(self.recent) / len(self.recent)
