"""Samples as texts: where they stop, and which lines are wanted of them."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charlm.config import LinesConfig, SampleConfig
from charlm.errors import ConfigError
from charlm.generation import Block, blocks
from charlm.readings import Reading


class Stops:
    """Watches a text, character by character, for the texts that end it.

    Args:
        stops: those texts, none of them empty.
    """

    def __init__(self, stops: Collection[str]):
        self.stops = sorted(stops, key=len, reverse=True)
        self.beginnings = {stop[:k] for stop in stops for k in range(1, len(stop))}
        self.longest = max(map(len, stops), default=0)
        self.held = ""  # what may yet turn out to be the beginning of one of them

    def feed(self, character: str) -> tuple[str, bool]:
        """Return what is now known to belong to the text, and whether the text has ended."""
        held = self.held + character
        for stop in self.stops:
            if held.endswith(stop):
                return held[: -len(stop)], True
        ends = range(min(self.longest, len(held)), 0, -1)
        keep = next((k for k in ends if held[-k:] in self.beginnings), 0)
        self.held = held[len(held) - keep :]
        return held[: len(held) - keep], False


class Sample:
    """One text, drawn as it is iterated over, in pieces of one or more characters.

    Attributes:
        index: which of the samples it is.
        count: characters drawn so far, those of the stop text with them.
        seed: what it is drawn with, beside ``index``.
        reason: why it ended, ``"length"`` or ``"stop"``; None while it goes on.
    """

    def __init__(self, group: "Group", lane: int, index: int, config: SampleConfig):
        self.group = group
        self.lane = lane
        self.index = index
        self.length = config.length
        self.stops = Stops(config.stop) if config.stop else None
        self.seed = config.seed
        self.count = 0
        self._nats = 0.0
        self.reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        while self.reason is None:
            piece, nats = self.group.drawn(self.count, self.lane)
            self.count += 1
            self._nats += nats
            ended = False
            if self.stops is not None:
                piece, ended = self.stops.feed(piece)
            if ended:
                self.reason = "stop"
            elif self.count == self.length:
                self.reason = "length"
                piece += self.held
            if piece:
                yield piece

    @property
    def held(self) -> str:
        """What was drawn and not yielded yet, as a stop text may begin with it."""
        return "" if self.stops is None else self.stops.held

    @property
    def bits_per_char(self) -> float | None:
        """The model's mean surprise at what was drawn, in bits; None if it was not asked for."""
        return self._nats / max(1, self.count) / math.log(2) if self.group.surprise else None

    def reading(self) -> Reading:
        """Return what the model has when it has read all that was drawn, stop texts included.

        Raises:
            ConfigError: if others are drawn beside this sample, and are further on.
        """
        if self.count != self.group.count:
            raise ConfigError("only a sample that is drawn alone has a state: set num_samples to 1")
        return self.group.block.reading(self.lane)


class Group:
    """The samples of one block, which are drawn together.

    Args:
        block: draws them.
        vocabulary: the characters by id.
        config: how long they are, and where they stop.
        indices: which samples these are.
        surprise: whether they tell the surprise at what is drawn.
    """

    def __init__(
        self,
        block: Block,
        vocabulary: str,
        config: SampleConfig,
        indices: Collection[int],
        *,
        surprise: bool,
    ):
        self.block = block
        self.vocabulary = vocabulary
        self.surprise = surprise
        self.samples = [Sample(self, *place, config) for place in enumerate(indices)]
        self.steps: list[tuple[NDArray[np.int32], NDArray[np.float32] | None]] = []
        self.count = 0

    def drawn(self, step: int, lane: int) -> tuple[str, float]:
        """Return the character and the nats of a lane at a step: an old one or the next."""
        if step == self.count:
            ids = self.block.draw().astype(np.int32)
            nats = self.block.nats().astype(np.float32) if self.surprise else None
            if len(self.samples) == 1:
                self.steps.clear()  # nobody will ask for it: a sample may be without end
            self.steps.append((ids, nats))
            self.count += 1
        ids, nats = self.steps[step - self.count]
        return self.vocabulary[ids[lane]], 0.0 if nats is None else float(nats[lane])


def samples(
    make: Callable[[range], Block],
    vocabulary: str,
    config: SampleConfig,
    *,
    surprise: bool = False,
) -> Iterator[Sample]:
    """Yield ``config.num_samples`` samples; those of a block are drawn when one of them is.

    Args:
        make: returns the block of these samples.
        vocabulary: the characters by id.
        config: how long they are, and where they stop.
        surprise: whether to sum up the surprise at what is drawn.
    """
    for indices in blocks(config.num_samples):
        wanted = [index for index in indices if index < config.num_samples]
        yield from Group(make(indices), vocabulary, config, wanted, surprise=surprise).samples


class Lines:
    """The lines that are wanted, of lines as a model writes them. Iterate over it once.

    Those that are not wanted are drawn and left out, so what is left follows the distribution of
    the model, given that it is wanted.

    Args:
        drawn: samples that stop at the end of a line; none of them has been read yet.
        config: which of them are wanted.
        known: lines that are not wanted.

    Attributes:
        tried: lines drawn so far.
        left_out: how many of them were not wanted, by reason.
    """

    def __init__(self, drawn: Iterable[Sample], config: LinesConfig, known: Collection[str] = ()):
        self.drawn = drawn
        self.config = config
        self.known = known
        self.seen: set[str] = set()
        self.tried = 0
        self.left_out: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        found = 0
        for sample in self.drawn if self.config.lines else ():
            self.tried += 1
            line = self.config.starts_with + "".join(sample)
            reason = self._unwanted(line, sample)
            if reason:
                self.left_out[reason] += 1
                continue
            yield line, sample
            if self.config.unique:
                self.seen.add(line)
            found += 1
            if found == self.config.lines:
                return

    def _unwanted(self, line: str, sample: Sample) -> str | None:
        if sample.reason == "length":
            return "too long"
        if len(line) < self.config.min_length:
            return "too short"
        if line in self.known:
            return "known"
        if line in self.seen:
            return "twice"
        return None
