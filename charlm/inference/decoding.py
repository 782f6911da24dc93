"""Decoding: from a prompt to samples and lines.

Samples are drawn side by side in blocks of fixed places and sizes, and sample i draws from a
random number generator seeded with (seed, i). So it depends on the seed and on i alone, whatever
other samples are drawn: not even the last bit of a product, which may depend on how many sequences
are stepped together, differs.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import LinesConfig, SampleConfig
from charlm.errors import ConfigError, argument
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.inference.sampling import Doubles, choose, silent

# Samples of each block; the last number repeats. One sample alone is a product of a vector; above
# that, products are fastest for multiples of 8, and 1 + 8 + 56 are 65 samples.
BLOCK_SIZES = (1, 8, 56, 64)


def blocks(count: int | None) -> Iterator[range]:
    """Yield the samples of each block, until ``count`` are in one; None: without end."""
    start = block = 0
    while count is None or start < count:
        size = BLOCK_SIZES[min(block, len(BLOCK_SIZES) - 1)]
        yield range(start, start + size)
        start, block = start + size, block + 1


class Block:
    """Samples that go on from one prompt, drawn side by side.

    Args:
        engine: the model.
        prompt: its state after the prompt.
        config: how characters are drawn; its seed must be given.
        indices: which samples these are.
        mask: added to all logits (V,), see ``sampling.allowed_mask``.
        with_surprisal: whether to tell the surprisal of what is drawn.
    """

    NUMBERS = 128  # random numbers of a sample that are made at a time

    def __init__(
        self,
        engine: Engine,
        prompt: PromptState,
        config: SampleConfig,
        indices: range,
        mask: Doubles | None = None,
        *,
        with_surprisal: bool = False,
    ):
        assert config.seed is not None
        self.engine = engine
        self.prompt = prompt
        self.indices = indices
        self.with_surprisal = with_surprisal
        self.config = config
        self.mask = mask
        count = len(indices)
        self.stepper = engine.stepper(tuple(s.repeat(count, axis=1) for s in prompt.state))
        self.logits: NDArray[Any] = np.repeat(prompt.logits[None], count, axis=0)
        self.ids = np.zeros(count, np.intp)
        self.unread = False
        self.generator = engine.generator(config.seed, indices)
        self.count = 0
        self.drawn: list[tuple[list[int], list[float] | None]] = []  # ids and nats by step

    def at(self, step: int, place: int) -> tuple[int, float]:
        """Return the id and the nats of a sample at a step, one drawn before or the next one."""
        if step == self.count:
            ids = self.draw().tolist()
            nats = None
            if self.with_surprisal:
                nats = self.engine.surprisal(self.logits, self.ids).tolist()
            if len(self.indices) == 1:
                self.drawn.clear()  # nobody will ask for it: a sample may be without end
            self.drawn.append((ids, nats))
        ids, nats = self.drawn[step - self.count]
        return ids[place], 0.0 if nats is None else nats[place]

    def draw(self) -> NDArray[np.intp]:
        """Return the next character of each sample (B,).

        Raises:
            DivergenceError: if the model's predictions are NaN or infinite.
        """
        place = self.count % self.NUMBERS
        if place == 0:
            self.uniform = self.generator.random(self.NUMBERS)
        self.count += 1
        with silent():
            self._read()
            logits = self.logits if self.mask is None else self.logits + self.mask
            w = self.engine.weights(logits, self.config)
        self.ids = choose(w, self.uniform[:, place])
        self.unread = True
        return self.ids

    def prompt_state(self, place: int, step: int) -> PromptState:
        """Return the state of one of the samples after so many steps."""
        if step == self.count:
            self._read()
            state = tuple(s[:, place : place + 1] for s in self.stepper.state)
            return PromptState(self.logits[place].copy(), state, self.prompt.owner)
        # Others are further on, so what this one has drawn is read again, from the prompt on.
        stepper = self.engine.stepper(self.prompt.state)
        logits = self.prompt.logits
        with silent():
            for ids, _ in self.drawn[:step]:
                logits = stepper.step(np.array([ids[place]]))[0]
        return PromptState(logits.copy(), stepper.state, self.prompt.owner)

    def _read(self) -> None:
        if self.unread:
            self.logits = self.stepper.step(self.ids)
            self.unread = False


class Stops:
    """Watches a text, character by character, for the texts that end it.

    Args:
        stops: those texts, none of them empty, each with its :func:`failure_table`.
    """

    def __init__(self, stops: list[tuple[str, list[int]]]):
        self.stops = stops
        self.matched = [0] * len(stops)  # how much of each stands at the end of the text
        self.held = ""  # what may yet turn out to be the beginning of one of them

    def feed(self, character: str) -> tuple[str, bool]:
        """Return what is now known to belong to the text, and whether the text has ended."""
        held = self.held + character
        for place, (stop, failure) in enumerate(self.stops):
            k = self.matched[place]
            while k and stop[k] != character:
                k = failure[k - 1]
            self.matched[place] = k + (stop[k] == character)
        ends = [k for k, (stop, _) in zip(self.matched, self.stops, strict=True) if k == len(stop)]
        if ends:
            return held[: -max(ends)], True
        self.held = held[len(held) - max(self.matched) :]
        return held[: len(held) - max(self.matched)], False


def failure_table(stop: str) -> list[int]:
    """Return for each beginning of ``stop`` the length of its longest proper prefix at its end.

    Source: Knuth, Morris and Pratt (1977), Fast pattern matching in strings, SIAM J. Comput. 6(2).
    """
    table, k = [0], 0
    for character in stop[1:]:
        while k and stop[k] != character:
            k = table[k - 1]
        k += stop[k] == character
        table.append(k)
    return table


class Text:
    """A text that grows by one character after the other, up to a length or a stop text.

    Attributes:
        index: which of the samples it is.
        count: characters drawn so far, those of the stop text with them.
        seed: what it is drawn with, beside ``index``.
        reason: why it ended, ``"length"`` or ``"stop"``; None while it goes on.
    """

    def __init__(self, index: int, config: SampleConfig):
        stops = [(stop, failure_table(stop)) for stop in dict.fromkeys(config.stop)]
        self.index = index
        self.seed = config.seed
        self.length = config.length
        self.stops = Stops(stops) if stops else None
        self.count = 0
        self.nats = 0.0
        self.reason: str | None = None

    def add(self, character: str, nats: float = 0.0) -> str:
        """Take the next character, and return what is now known to belong to the text."""
        self.count += 1
        self.nats += nats
        piece, ended = (character, False) if self.stops is None else self.stops.feed(character)
        if ended:
            self.reason = "stop"
        elif self.count == self.length:
            self.reason = "length"
            piece += self.held
        return piece

    @property
    def held(self) -> str:
        """What was drawn and is not yet known to belong to it, as a stop text may begin so."""
        return "" if self.stops is None else self.stops.held


class Sample(Text):
    """One text, drawn as it is iterated over, in pieces of one or more characters.

    See :class:`Text` for its attributes.
    """

    def __init__(self, block: Block, place: int, vocabulary: str):
        super().__init__(block.indices[place], block.config)
        self.block = block
        self.place = place
        self.vocabulary = vocabulary

    def __repr__(self) -> str:
        ended = "not at its end" if self.reason is None else f"ended by {self.reason}"
        return f"Sample({self.index}, seed {self.seed}, {self.count} characters, {ended})"

    def __iter__(self) -> Iterator[str]:
        while self.reason is None:
            drawn, nats = self.block.at(self.count, self.place)
            piece = self.add(self.vocabulary[drawn], nats)
            if piece:
                yield piece

    @property
    def bits_per_char(self) -> float | None:
        """Mean surprisal of what was drawn, in bits; None if it was not asked for."""
        return self.nats / max(1, self.count) / math.log(2) if self.block.with_surprisal else None

    def prompt_state(self) -> PromptState:
        """Return the state of the model after all that was drawn, stop texts included."""
        return self.block.prompt_state(self.place, self.count)


def samples(
    make: Callable[[range], Block], vocabulary: str, config: SampleConfig
) -> Iterator[Sample]:
    """Yield ``config.num_samples`` samples; those of a block are drawn when one of them is.

    Args:
        make: returns the block of these samples.
        vocabulary: the characters by id.
        config: how many they are, and where they stop.
    """
    for indices in blocks(config.num_samples):
        block = make(indices)
        for place in range(min(len(indices), config.num_samples - indices.start)):
            yield Sample(block, place, vocabulary)


def likeliest_sample(drawn: Iterable[tuple[Sample, str]]) -> tuple[Sample, str]:
    """Return the sample with the lowest mean surprisal, the first of those that are alike.

    Args:
        drawn: samples at their end, drawn with their surprisal, each with its text.
    """
    return min(drawn, key=lambda pair: pair[0].bits_per_char or 0.0)


def line_sampling(config: LinesConfig, sampling: SampleConfig, vocabulary: str) -> SampleConfig:
    """Return how samples are drawn that are lines.

    Raises:
        ConfigError: if the model writes no lines.
    """
    if "\n" not in vocabulary:
        raise ConfigError("the model knows no end of a line: its text was a single line")
    if "\n" in "".join(sampling.forbid):
        raise ConfigError(
            f"{argument('forbid')} holds the end of a line, without which no line ends"
        )
    room = config.max_length - len(config.starts_with)
    return replace(
        sampling,
        stop=("\n",),
        length=room + 1,  # one more, for the end of the line
        num_samples=config.tries or 100 * max(1, config.lines),
        allow=sampling.allow and (*sampling.allow, "\n"),
    )


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

    def __repr__(self) -> str:
        return f"Lines({self.tried} drawn, {self.left_out.total()} left out)"

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
