"""Completions as OpenAI's clients ask for them: what is asked for, and what is answered."""

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from charlm.api import LanguageModel
from charlm.config import SampleConfig
from charlm.data.tokenizer import Ids
from charlm.errors import CharlmError, ConfigError
from charlm.inference import scoring
from charlm.inference.batching import Stream, Token, likeliest_characters
from charlm.inference.prompt_state import PromptState
from charlm.server.errors import RequestError
from charlm.server.fields import LONGEST_STOP, MOST_STOPS, Fields
from charlm.server.worker import Job, Piece

LONGEST_PROMPT = 200_000  # characters
LONGEST_ECHO = 20_000  # of a prompt whose log-probabilities are told
MOST_TOKENS = 100_000  # that a text may have
MOST_CHOICES = 64  # of one request, all prompts together
MOST_LOGPROBS = 20
# Fields of OpenAI's that are taken as long as they ask for nothing.
UNSUPPORTED = ("suffix", "logit_bias", "presence_penalty", "frequency_penalty")


@dataclass
class Request:
    """A request for completions.

    Attributes:
        model: the name of the model; "" for the only one.
        prompts: what to continue.
        config: how characters are drawn, with a seed.
        n, best_of: texts for each prompt, of so many that are drawn.
        logprobs: how many of the likeliest characters to tell at each place; None for no
            log-probabilities at all.
        echo: whether the prompt belongs to the answer.
        max_tokens: characters to draw.
        stream, usage: whether to answer in events, and to count at their end.
        id, created: of the answer.
    """

    model: str
    prompts: list[str]
    config: SampleConfig
    n: int
    best_of: int
    logprobs: int | None
    echo: bool
    max_tokens: int
    stream: bool
    usage: bool
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def read(cls, body: bytes) -> "Request":
        """Return what the body of a request asks for.

        Raises:
            RequestError: naming the field that is wrong.
        """
        fields = Fields(body)
        prompts = fields.texts("prompt", longest=LONGEST_PROMPT) or [""]
        max_tokens = fields.whole("max_tokens", 0, MOST_TOKENS, default=SampleConfig().length)
        n = fields.whole("n", 1, MOST_CHOICES, default=1)
        best_of = fields.whole("best_of", 1, MOST_CHOICES, default=n)
        request = cls(
            model=fields.text("model", "", longest=1000),
            prompts=prompts,
            config=_sampling(fields, max_tokens),
            n=n,
            best_of=best_of,
            logprobs=fields.whole("logprobs", 0, MOST_LOGPROBS) if "logprobs" in fields else None,
            echo=fields.flag("echo"),
            max_tokens=max_tokens,
            stream=fields.flag("stream"),
            usage=_wants_usage(fields.get("stream_options", {})),
        )
        fields.get("user", "")  # who asks makes no difference here
        fields.finish(UNSUPPORTED)
        request._check()
        return request

    def _check(self) -> None:
        if self.best_of < self.n:
            raise RequestError(f"best_of {self.best_of} is less than n {self.n}", param="best_of")
        if self.stream and self.best_of > self.n:
            raise RequestError("best_of above n does not go with stream", param="best_of")
        count = self.best_of * len(self.prompts)
        if count > MOST_CHOICES:
            raise RequestError(
                f"{count} texts are too many for a request: {MOST_CHOICES} are allowed", param="n"
            )
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens 0 goes with echo only", param="max_tokens")

    def streams(self, lm: LanguageModel, states: list[PromptState]) -> list[Stream]:
        """Return the texts to draw, those of the first prompt first.

        Raises:
            RequestError: for a character of ``stop`` or ``allow`` that the model does not know.
        """
        try:
            config, mask = lm.prepared(self.config)
        except CharlmError as error:
            raise as_request_error(error) from None
        ranked = self.best_of > self.n
        return [
            Stream(
                state,
                config,
                index,
                mask,
                with_surprisal=ranked or self.logprobs is not None,
                top=self.logprobs or 0,
            )
            for state in states
            for index in range(self.best_of)
        ]

    def answer(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return a body in the shape of OpenAI's."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "seed": self.config.seed,
        } | more

    def counts(self, drawn: int) -> dict[str, int]:
        """Return how many characters there were."""
        prompt = sum(map(len, self.prompts))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": drawn,
            "total_tokens": prompt + drawn,
        }


def _sampling(fields: Fields, max_tokens: int) -> SampleConfig:
    names = ("temperature", "top_k", "top_p", "min_p", "seed")
    given = {name: fields.get(name, None) for name in names}
    settings: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if isinstance(settings.get("seed"), int):  # a client of OpenAI may send any whole number
        settings["seed"] %= 2**32
    for name in ("temperature", "top_p", "min_p"):
        if isinstance(settings.get(name), int) and not isinstance(settings[name], bool):
            settings[name] = float(settings[name])
    stop = tuple(fields.texts("stop", longest=LONGEST_STOP, most=MOST_STOPS))
    for name in ("allow", "forbid"):
        settings[name] = tuple(fields.texts(name, longest=LONGEST_PROMPT))
    settings.setdefault("seed", secrets.randbelow(2**32))
    try:
        return SampleConfig(length=max(1, max_tokens), stop=stop, **settings)
    except ConfigError as error:
        raise as_request_error(error) from None


def _wants_usage(options: Any) -> bool:
    if not isinstance(options, dict):
        raise RequestError("stream_options must be an object", param="stream_options")
    return options.get("include_usage") is True


def as_request_error(error: CharlmError) -> RequestError:
    """Return an error of a setting or a text as the answer to a request."""
    return RequestError(str(error), param=error.arguments[0] if error.arguments else None)


def log_probabilities(tokens: list[Token], logprobs: int, start: int) -> dict[str, list[Any]]:
    """Return the log-probabilities of some characters in the shape of OpenAI's.

    Args:
        tokens: the characters.
        logprobs: how many of the likeliest are told of each.
        start: the place of the first one in its text.
    """
    tops = [dict(token.top) | {token.character: -token.nats} for token in tokens]
    return {
        "tokens": [token.character for token in tokens],
        "token_logprobs": [-token.nats for token in tokens],
        "top_logprobs": [top if logprobs else None for top in tops],
        "text_offset": list(range(start, start + len(tokens))),
    }


def prompt_tokens(lm: LanguageModel, prompt: str, top: int) -> list[Token]:
    """Return the characters of a prompt with their surprisal and what was likeliest there."""
    text = lm.readable(prompt)
    ids = lm.tokenizer.encode(text, source="the prompt")
    if not len(ids):
        return []
    before = lm.read()
    nats = scoring.score(lm.engine, ids, before).tolist()
    tops = _tops(lm, ids, before, top) if top else [()] * len(ids)
    return [Token(*three) for three in zip(text, nats, tops, strict=True)]


def _tops(
    lm: LanguageModel, ids: Ids, before: PromptState, top: int
) -> list[tuple[tuple[str, float], ...]]:
    stepper = lm.engine.stepper(before.state)
    logits = np.stack(
        [before.logits, *(stepper.step(ids[k : k + 1])[0].copy() for k in range(len(ids) - 1))]
    )
    return likeliest_characters(lm.engine, lm.tokenizer.vocabulary, logits, top)


@dataclass
class Choice:
    """One of the texts of an answer, as far as it has come."""

    start: int  # where in its text the next piece begins
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    nats: float = 0.0
    reason: str | None = None

    def add(self, piece: Piece) -> None:
        """Take a piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.nats += sum(token.nats for token in piece.tokens)
        self.reason = piece.reason

    @property
    def rank(self) -> float:
        """Its mean surprisal: the lower the better."""
        return self.nats / max(1, len(self.tokens))


async def events(
    request: Request, echoes: list[list[Token]], job: Job
) -> AsyncIterator[dict[str, Any]]:
    """Yield the answer in pieces, in the order in which they are drawn.

    Args:
        request: what was asked for.
        echoes: of each prompt what the answer begins with.
        job: its streams.
    """
    starts = []
    for place, echo in enumerate(echoes):
        for k in range(request.n):
            starts.append(len(echo))
            if echo:
                piece = Piece(place * request.n + k, "".join(t.character for t in echo), echo)
                yield _event(request, piece, 0)
    drawn = 0
    async for pieces in pieces_of(job):
        for piece in pieces:
            drawn += len(piece.tokens)
            yield _event(request, piece, starts[piece.place])
            if piece.error is not None:
                yield piece.error.body()
                return
            starts[piece.place] += len(piece.tokens)
    if request.usage:
        yield request.answer([], usage=request.counts(drawn))


def _event(request: Request, piece: Piece, start: int) -> dict[str, Any]:
    return request.answer(
        [_choice(request, piece.place, piece.text, piece.tokens, piece.reason, start)]
    )


def _choice(
    request: Request, index: int, text: str, tokens: list[Token], reason: str | None, start: int
) -> dict[str, Any]:
    logprobs = request.logprobs
    return {
        "index": index,
        "text": text,
        "logprobs": None if logprobs is None else log_probabilities(tokens, logprobs, start),
        "finish_reason": reason,
    }


async def pieces_of(job: Job) -> AsyncIterator[list[Piece]]:
    """Yield what is drawn for a request until all of its texts are at their end."""
    going = len(job.streams)
    while going:
        pieces = await job.pieces.get()
        going -= sum(piece.reason is not None for piece in pieces)
        yield pieces


async def whole(request: Request, echoes: list[list[Token]], job: Job) -> dict[str, Any]:
    """Return the whole answer.

    Raises:
        RequestError: if the predictions of the model are no numbers, or the server stops.
    """
    choices = [Choice(0) for _ in job.streams]
    async for pieces in pieces_of(job):
        for piece in pieces:
            if piece.error is not None:
                raise piece.error
            choices[piece.place].add(piece)
    drawn = sum(stream.count for stream in job.streams)
    kept = []
    for k, echo in enumerate(echoes):
        of_prompt = (
            choices[k * request.best_of : (k + 1) * request.best_of]
            or [Choice(0, reason="length")] * request.n
        )
        if request.best_of > request.n:
            of_prompt = sorted(of_prompt, key=lambda choice: choice.rank)[: request.n]
        kept += [(echo, choice) for choice in of_prompt]
    return request.answer(
        [
            _choice(
                request,
                index,
                "".join(token.character for token in echo) + choice.text,
                echo + choice.tokens,
                choice.reason,
                0,
            )
            for index, (echo, choice) in enumerate(kept)
        ],
        usage=request.counts(drawn),
    )
