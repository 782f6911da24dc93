"""Continuous batching: texts that are drawn side by side, and join and leave at any step.

Each step of the engine moves all of them by a character. What a text is drawn with is its own:
prompt, settings, seed and place in its random numbers.

With the engine in whole numbers a text does not depend on the others. With float32 the last bit of
a product may depend on how many texts are stepped together. So a text that is alone from its first
character to its last is that of :mod:`charlm.inference.decoding`, bit for bit; beside others a
character may differ, and then all after it.

Source: Yu et al. (2022), Orca: a distributed serving system for Transformer-based generative
models, OSDI.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.cells.base import State
from charlm.config import SampleConfig
from charlm.errors import DivergenceError
from charlm.inference.decoding import Block, Text
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.inference.sampling import Doubles, choose, silent

MULTIPLE = 8  # of the texts that are stepped: products are fastest for multiples of it
PLAIN = SampleConfig(temperature=1)  # the distribution of the model itself


class Token(NamedTuple):
    """A character that was drawn.

    Attributes:
        character: what was drawn.
        nats: its surprisal, if that was asked for.
        top: the likeliest characters in its place with their log-probabilities in nats, the
            likeliest first, as many as were asked for.
    """

    character: str
    nats: float = 0.0
    top: tuple[tuple[str, float], ...] = ()


class Stream(Text):
    """A text of a :class:`Batch`.

    Args:
        prompt: the state of the model after the prompt.
        config: how characters are drawn; its seed must be given.
        index: which of the samples with this seed it is.
        mask: added to all logits (V,), see ``sampling.allowed_mask``.
        with_surprisal: whether to tell the surprisal of what is drawn.
        top: how many of the likeliest characters to tell at each place.

    Attributes:
        error: why it could not go on, if so.
    """

    def __init__(
        self,
        prompt: PromptState,
        config: SampleConfig,
        index: int = 0,
        mask: Doubles | None = None,
        *,
        with_surprisal: bool = False,
        top: int = 0,
    ):
        super().__init__(index, config)
        self.prompt = prompt
        self.mask = mask
        self.with_surprisal = with_surprisal or top > 0
        self.top = top
        self.error: DivergenceError | None = None
        # Texts that share it are drawn in one call, whatever their seeds, lengths and stops are.
        self.sampling = replace(config, seed=0, length=1, stop=(), num_samples=1)
        self._tokens: deque[Token] = deque()
        self._ready = ""
        self._numbers: Iterator[float] = iter(())

    def leave(self) -> None:
        """End it as it is."""
        self.reason = self.reason or "left"

    def take(self) -> tuple[str, list[Token]]:
        """Return the piece of text that is new since the last call, and its characters."""
        piece, self._ready = self._ready, ""
        return piece, [self._tokens.popleft() for _ in piece]

    def next_number(self, engine: Engine) -> float:
        """Return the next random number from [0, 1)."""
        assert self.seed is not None
        if self.count % Block.NUMBERS == 0:
            if self.count == 0:
                self._generator = engine.generator(self.seed, [self.index])
            self._numbers = iter(self._generator.random(Block.NUMBERS)[0].tolist())
        return next(self._numbers)

    def drawn(self, token: Token) -> None:
        """Take the next character."""
        self._tokens.append(token)
        self._ready += self.add(token.character, token.nats)


class Batch:
    """The texts that are drawn side by side.

        >>> batch = Batch(lm.engine, lm.tokenizer.vocabulary)
        >>> stream = Stream(lm.read("The "), SampleConfig(length=3, seed=1))
        >>> batch.join(stream)
        >>> while batch.streams:
        ...     batch.step()
        >>> len(stream.take()[0])
        3

    Args:
        engine: the model.
        vocabulary: its characters by id.

    Attributes:
        streams: the texts that go on.
    """

    def __init__(self, engine: Engine, vocabulary: str):
        self.engine = engine
        self.vocabulary = vocabulary
        self._tokens_alone = list(map(Token, vocabulary))  # without their surprisal
        self.streams: list[Stream] = []
        self._joining: list[Stream] = []
        self._rows: list[Stream] = []  # those that the stepper moves, one a row
        self._stepper = engine.stepper(engine.initial_state(1))
        self._groups: list[list[int]] = []
        self._ids = np.zeros(0, np.intp)  # what each row has drawn and the engine not yet read

    @property
    def num_rows(self) -> int:
        """How many texts the engine moved in the last step, those that pad it with them."""
        return len(self._ids)

    def join(self, stream: Stream) -> None:
        """Let a text be drawn from the next step on."""
        self.streams.append(stream)
        self._joining.append(stream)

    def step(self) -> None:
        """Draw one character of each text. Those that end leave."""
        with silent():
            self._arrange()
            for rows in self._groups:
                self._draw(rows)
        if any(stream.reason is not None for stream in self.streams):
            self.streams = [stream for stream in self.streams if stream.reason is None]

    def _arrange(self) -> None:
        """Read what was drawn, and give the rows of those that left to those that join."""
        if not self._joining and all(stream.reason is None for stream in self._rows):
            self._logits = self._stepper.step(self._ids)
            return
        staying = [row for row, stream in enumerate(self._rows) if stream.reason is None]
        self.streams = [stream for stream in self.streams if stream.reason is None]
        joining = [stream for stream in self._joining if stream.reason is None]
        self._joining = []
        states: list[State] = [stream.prompt.state for stream in joining]
        logits = [stream.prompt.logits[None] for stream in joining]
        if staying:
            read = self._stepper.step(self._ids)
            states.insert(0, tuple(s[:, staying] for s in self._stepper.state))
            logits.insert(0, read[staying])
        self._rows = [*(self._rows[row] for row in staying), *joining]
        self._groups = self._by_sampling()
        if not self._rows:
            return
        spare = -len(self._rows) % MULTIPLE if len(self._rows) > 1 else 0
        states += [self.engine.initial_state(spare)] if spare else []
        self._logits = np.concatenate(logits)
        self._stepper = self.engine.stepper(
            tuple(np.concatenate(arrays, axis=1) for arrays in zip(*states, strict=True))
        )
        self._ids = np.zeros(len(self._rows) + spare, np.intp)

    def _by_sampling(self) -> list[list[int]]:
        """Return the rows of texts that are drawn alike, group by group."""
        groups: dict[Any, list[int]] = {}
        for row, stream in enumerate(self._rows):
            alike = (stream.sampling, stream.with_surprisal, stream.top)
            groups.setdefault(alike, []).append(row)
        return list(groups.values())

    def _draw(self, rows: list[int]) -> None:
        """Draw the next character of texts that are drawn alike."""
        streams = [self._rows[row] for row in rows]
        first = streams[0]
        whole = len(rows) == len(self._rows)
        logits = self._logits[: len(rows)] if whole else self._logits[rows]
        try:
            w = self.engine.weights(
                logits if first.mask is None else logits + first.mask, first.sampling
            )
        except DivergenceError as error:
            if len(rows) == 1:
                first.error = error
                first.reason = "error"
            else:  # those whose predictions are finite go on
                for row in rows:
                    self._draw([row])
            return
        ids = choose(w, np.array([stream.next_number(self.engine) for stream in streams]))
        self._ids[slice(len(rows)) if whole else rows] = ids
        for stream, token in zip(streams, self._tokens(logits, ids, first), strict=True):
            stream.drawn(token)

    def _tokens(self, logits: NDArray[Any], ids: NDArray[np.intp], like: Stream) -> list[Token]:
        if not like.with_surprisal:
            return [self._tokens_alone[i] for i in ids.tolist()]
        characters = [self.vocabulary[i] for i in ids.tolist()]
        nats = self.engine.surprisal(logits, ids).tolist()
        if not like.top:
            return [Token(*both) for both in zip(characters, nats, strict=True)]
        tops = likeliest_characters(self.engine, self.vocabulary, logits, like.top)
        return [Token(*three) for three in zip(characters, nats, tops, strict=True)]


def likeliest_characters(
    engine: Engine, vocabulary: str, logits: NDArray[Any], count: int
) -> list[tuple[tuple[str, float], ...]]:
    """Return the likeliest characters with their log-probabilities in nats, the likeliest first.

    Args:
        engine: the model.
        vocabulary: its characters by id.
        logits: at some places (B, V).
        count: how many characters.
    """
    w = engine.weights(logits, PLAIN)
    order = np.argsort(-w, axis=1, kind="stable")[:, :count]
    tiny = np.finfo(np.float64).tiny  # where a weight is too small for a number
    log_p = np.log(np.maximum(np.take_along_axis(w, order, axis=1), tiny))
    log_p -= np.log(w.sum(axis=1, keepdims=True))
    return [
        tuple((vocabulary[i], value) for i, value in zip(*row, strict=True))
        for row in zip(order.tolist(), log_p.tolist(), strict=True)
    ]
