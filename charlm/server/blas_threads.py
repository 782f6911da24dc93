"""How many threads numpy's products take, by measurement.

On a quiet machine two threads draw faster than one. Where other programs run, or many clients are
served, they draw ten times more slowly: a thread that has done its part waits for the other in a
loop. So both are tried now and then, and the faster one is taken. The texts do not change by it.
"""

import statistics

from threadpoolctl import ThreadpoolController

STEPS = 8  # of each of the two, in a trial, at least
TRIAL_SECONDS = 0.02  # that they take at least: a thread that has slept is slow at first
HOLD_SECONDS = 1.0  # from one trial to the next
LONGEST_HOLD = 8.0  # as long as one thread is faster: to try more costs time on a busy machine


class BlasThreads:
    """Chooses between one thread and all threads of numpy's products.

    Attributes:
        count: threads now.
        most: threads that numpy would take by itself.
    """

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self.most = max((library.num_threads for library in self._libraries), default=1)
        self.count = self.most
        self._rows = 0
        self._hold = HOLD_SECONDS
        self._until = 0.0  # when the next trial begins
        self._times: list[float] = []  # of the steps of the trial
        self._before: float | None = None  # seconds of a step with the count before

    def note(self, rows: int, seconds: float, now: float) -> None:
        """Take note of a step, and change the number of threads if the other one may be faster.

        Args:
            rows: texts that it moved.
            seconds: how long it took.
            now: the time, in seconds of any clock.
        """
        if self.most == 1:
            return
        if rows != self._rows:
            self._rows, self._hold = rows, HOLD_SECONDS
            self._begin(now)
        if now < self._until:
            return
        self._times.append(seconds)
        spent = sum(self._times)
        enough = len(self._times) >= STEPS and spent >= TRIAL_SECONDS
        if self._before is None:
            if enough:
                self._before, self._times = statistics.median(self._times), []
                self._switch()
        elif enough or spent > 2 * max(TRIAL_SECONDS, STEPS * self._before):
            if statistics.median(self._times) >= self._before:
                self._switch()
            self._hold = min(LONGEST_HOLD, 2 * self._hold) if self.count == 1 else HOLD_SECONDS
            self._begin(now + self._hold)

    def _begin(self, until: float) -> None:
        """Let the next trial begin at a time."""
        self._until, self._times, self._before = until, [], None

    def _switch(self) -> None:
        self.count = self.most if self.count == 1 else 1
        for library in self._libraries:
            library.set_num_threads(self.count)
