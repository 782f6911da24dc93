"""The thread that draws for one model: all its streams in one batch, a step at a time."""

import asyncio
import itertools
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from charlm.api import LanguageModel
from charlm.inference.batching import Batch, Stream, Token
from charlm.server.blas_threads import BlasThreads
from charlm.server.errors import RequestError

MOST_STREAMS = 64  # that are drawn side by side
MOST_WAITING = 192  # that wait for a place
# Characters are sent in groups, as single ones would cost more than drawing them: those of some
# time, and of more if so many streams run that more events a second would come of it.
GROUP_SECONDS = 0.03
MOST_EVENTS = 1000
LONGEST_SECONDS = 600.0  # that a request may draw
STOP_SECONDS = 1.0  # that it gets when the server stops


@dataclass(frozen=True)
class Piece:
    """A piece of one of the texts of a request.

    Attributes:
        place: which of its texts.
        text, tokens: what is new.
        reason: why it ended, if it has.
        error: why it could not go on, if so.
    """

    place: int
    text: str
    tokens: list[Token]
    reason: str | None = None
    error: RequestError | None = None


@dataclass(eq=False)
class Job:
    """The streams of one request.

    Attributes:
        streams: its texts.
        loop, pieces: where the pieces go.
    """

    streams: list[Stream]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    pieces: "asyncio.Queue[list[Piece]]" = field(default_factory=asyncio.Queue)
    ends: float = field(default_factory=lambda: time.monotonic() + LONGEST_SECONDS)
    began: float | None = None  # when its first characters were handed over

    def leave(self) -> None:
        """Give its places back, as nobody waits for it any more."""
        for stream in self.streams:
            stream.leave()

    @property
    def goes_on(self) -> bool:
        """Whether one of its texts is not at its end."""
        return any(stream.reason is None for stream in self.streams)


class Worker:
    """Draws the streams of all requests for one model in a thread of its own.

    Attributes:
        drawn: characters drawn so far.
    """

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.drawn = 0
        self._waiting: deque[tuple[Job, int]] = deque()
        self._running: list[tuple[Job, int]] = []
        self._wakeup = threading.Condition()
        self._closed = False
        self._stops = False
        self._thread = threading.Thread(target=self._run, name="charlm-worker", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still draws, or waits for something to draw."""
        return self._thread.is_alive()

    @property
    def num_running(self) -> int:
        """Streams that are drawn now."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Streams that wait for a place."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Let the streams of a request be drawn as soon as there are places.

        Raises:
            RequestError: if too many wait already.
        """
        with self._wakeup:
            if self._closed:
                raise RequestError("the server is stopping", 503)
            self.check_room(len(job.streams))
            self._waiting.extend((job, place) for place in range(len(job.streams)))
            self._wakeup.notify()

    def check_room(self, count: int) -> None:
        """Raise RequestError if so many streams more would be too many."""
        there = len(self._waiting) + len(self._running)
        if there and there + count > MOST_STREAMS + MOST_WAITING:
            raise RequestError(
                f"{there} texts are being written or wait: try again soon",
                429,
                headers={"Retry-After": "2"},
            )

    def close(self) -> None:
        """End when all that was submitted is done."""
        with self._wakeup:
            self._closed = True
            self._wakeup.notify()

    def stop(self) -> None:
        """End soon: texts that are not at their end in a moment are answered with an error."""
        with self._wakeup:
            self._closed = self._stops = True
            for job, _ in [*self._running, *self._waiting]:
                job.ends = min(job.ends, time.monotonic() + STOP_SECONDS)
            self._wakeup.notify()

    def _run(self) -> None:
        threads = BlasThreads()
        while not self._closed or self._running or self._waiting:
            try:
                self._draw(threads)
            except Exception:  # such as too little memory: nobody may wait for ever
                self._fail()

    def _draw(self, threads: BlasThreads) -> None:
        """Draw until the end."""
        batch = Batch(self.lm.engine, self.lm.tokenizer.vocabulary)
        sent = 0.0
        while self._admit(batch):
            self.drawn += len(batch.streams)
            began = time.monotonic()
            batch.step()
            now = time.monotonic()
            threads.note(batch.num_rows, now - began, now)
            group = max(GROUP_SECONDS, len(self._running) / MOST_EVENTS)
            if now - sent > group or any(self._is_urgent(*one) for one in self._running):
                sent = now
                self._send(now)

    def _fail(self) -> None:
        """Answer all that runs with an error."""
        error = RequestError("the server has an error of its own", 500)
        for job, place in self._running:
            job.leave()
            _call(job, [Piece(place, "", [], "error", error)])
        with self._wakeup:
            self._running = []

    def _admit(self, batch: Batch) -> bool:
        """Let streams that wait join; wait for one if there is none; return False at the end."""
        with self._wakeup:
            while not (self._waiting or self._running):
                if self._closed:
                    return False
                self._wakeup.wait()
            while self._waiting and len(self._running) < MOST_STREAMS:
                job, place = self._waiting.popleft()
                self._running.append((job, place))
                if job.streams[place].reason is None:
                    batch.join(job.streams[place])
        return True

    @staticmethod
    def _is_urgent(job: Job, place: int) -> bool:
        """Return whether somebody waits for a first character, or for the end."""
        return job.began is None or job.streams[place].reason is not None

    def _send(self, now: float) -> None:
        """Hand over what is new to the event loops, all pieces of a job at once."""
        for job, places in itertools.groupby(self._running, key=lambda one: one[0]):
            pieces = []
            for _, place in places:
                stream = job.streams[place]
                late = now > job.ends and stream.reason is None
                if late:
                    stream.reason = "length"
                text, tokens = stream.take()
                if text or stream.reason is not None:
                    error = self._error_of(stream, late)
                    pieces.append(Piece(place, text, tokens, stream.reason, error))
            if pieces:
                job.began = job.began or now
                _call(job, pieces)
        with self._wakeup:
            self._running = [
                (job, place) for job, place in self._running if job.streams[place].reason is None
            ]

    def _error_of(self, stream: Stream, late: bool) -> RequestError | None:
        """Return why a text could not go on, if so. What took too long is as long as it is."""
        if stream.error is not None:
            return RequestError(str(stream.error), 500)
        return RequestError("the server is stopping", 503) if late and self._stops else None


def _call(job: Job, pieces: list[Piece]) -> None:
    try:
        job.loop.call_soon_threadsafe(job.pieces.put_nowait, pieces)
    except RuntimeError:  # its loop has ended: the server stops
        job.leave()
