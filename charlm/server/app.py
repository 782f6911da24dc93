"""The application: what each address answers."""

import asyncio
import json
import math
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from charlm import __version__
from charlm.api import LanguageModel
from charlm.errors import CharlmError
from charlm.inference.batching import Token, likeliest_characters
from charlm.inference.prompt_state import PromptState
from charlm.insight.page import render
from charlm.server import completions
from charlm.server.errors import RequestError
from charlm.server.fields import Fields
from charlm.server.guard import Guard
from charlm.server.metrics import Metrics
from charlm.server.models import Models
from charlm.server.worker import Job

T = TypeVar("T")
PAGES = Path(__file__).parent / "pages"
LONGEST_BODY = 2_000_000  # bytes
LONGEST_TEXT = 200_000  # characters that are scored at a time
LONGEST_INSPECTED = 20_000
MOST_READ_AT_A_TIME = 4  # prompts and texts, each in a thread
MOST_INSPECTIONS = 8  # that are kept


class Server:
    """Answers requests for some models.

    Args:
        models: the runs that are served.
        key_required: whether the page has to ask for a key.
    """

    def __init__(self, models: Models, *, key_required: bool = False):
        self.models = models
        self.key_required = key_required
        self.metrics = Metrics(models)
        self.inspections: OrderedDict[str, str] = OrderedDict()
        self._readers = anyio.CapacityLimiter(MOST_READ_AT_A_TIME)
        self._inspectors = anyio.CapacityLimiter(1)  # it takes seconds

    def routes(self) -> list[Route]:
        """Return the addresses and what answers them."""
        return [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/metrics", self.prometheus),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{model:path}", self.show_model),
            Route("/v1/runs/{model:path}", self.show_run),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/next", self.next, methods=["POST"]),
            Route("/v1/score", self.score, methods=["POST"]),
            Route("/v1/inspect", self.inspect, methods=["POST"]),
            Route("/inspections/{token}", self.inspection),
        ]

    async def page(self, request: Request) -> Response:
        """Return the page to write with."""
        cards = [] if self.key_required else await self._read(self.models.cards)
        data = {"models": cards, "key_required": self.key_required, "version": __version__}
        policy = "connect-src 'self'; frame-src 'self'; img-src data:"  # the icon is in the page
        page = render("serve", data, PAGES, more_policy=policy)
        return HTMLResponse(page, headers={"content-security-policy": PAGE_POLICY})

    async def health(self, request: Request) -> Response:
        """Tell that the server is there."""
        return JSONResponse({"status": "ok"})

    async def prometheus(self, request: Request) -> Response:
        """Return what a monitor wants to know."""
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def list_models(self, request: Request) -> Response:
        """Return all models."""
        cards = await self._read(self.models.cards)
        return JSONResponse({"object": "list", "data": cards})

    async def show_model(self, request: Request) -> Response:
        """Return one model."""
        run = self.models.get(request.path_params["model"])
        return JSONResponse(await self._read(run.card))

    async def show_run(self, request: Request) -> Response:
        """Return how a training goes, or went."""
        run = self.models.get(request.path_params["model"])
        return JSONResponse(await self._read(run.progress))

    async def complete(self, request: Request) -> Response:
        """Continue prompts."""
        asked = completions.Request.read(await request.body())
        run = self.models.get(asked.model)
        asked.model = run.name
        lm, worker = await self._read(run.current)
        worker.check_room(asked.best_of * len(asked.prompts))
        states = [await self._read(partial(lm.read, prompt)) for prompt in asked.prompts]
        echoes = [await self._echo(lm, asked, prompt) for prompt in asked.prompts]
        job = Job(asked.streams(lm, states) if asked.max_tokens else [])
        worker.submit(job)
        self.metrics.streams.update({run.name: len(job.streams)})
        if asked.stream:
            return EventResponse(completions.events(asked, echoes, job), job)
        return await _unless_gone(request, completions.whole(asked, echoes, job), job)

    async def _echo(
        self, lm: LanguageModel, asked: completions.Request, prompt: str
    ) -> list[Token]:
        """Return what an answer begins with."""
        if not asked.echo:
            return []
        if asked.logprobs is None:
            return list(map(Token, prompt))
        if len(prompt) > completions.LONGEST_ECHO:
            raise RequestError(
                f"the prompt has {len(prompt):,} characters: with echo and logprobs "
                f"{completions.LONGEST_ECHO:,} are allowed",
                413,
                param="prompt",
            )
        top = asked.logprobs
        return await self._read(lambda: completions.prompt_tokens(lm, prompt, top))

    async def next(self, request: Request) -> Response:
        """Return the distribution of the next character."""
        fields = Fields(await request.body())
        run = self.models.get(fields.text("model", "", longest=1000))
        prompt = fields.text("prompt", "", longest=completions.LONGEST_PROMPT)
        top = fields.whole("top", 0, 1_000_000, default=10)
        fields.finish()
        lm, _ = await self._read(run.current)
        state: PromptState = await self._read(lambda: lm.read(prompt))
        vocabulary = lm.tokenizer.vocabulary
        (found,) = likeliest_characters(
            lm.engine, vocabulary, state.logits[None], top or len(vocabulary)
        )
        characters = [
            {"text": text, "probability": math.exp(nats), "logprob": nats} for text, nats in found
        ]
        return JSONResponse({"object": "next", "model": run.name, "characters": characters})

    async def score(self, request: Request) -> Response:
        """Return how surprising a text is."""
        fields = Fields(await request.body())
        run = self.models.get(fields.text("model", "", longest=1000))
        text = fields.text("text", longest=LONGEST_TEXT)
        fields.finish()
        lm, _ = await self._read(run.current)
        bits = await self._read(lambda: lm.score(text))
        return JSONResponse(
            {
                "object": "score",
                "model": run.name,
                "text": lm.readable(text),
                "bits": bits.tolist(),
                "bits_per_char": bits.mean() if len(bits) else 0.0,
                "total_bits": bits.sum(),
            }
        )

    async def inspect(self, request: Request) -> Response:
        """Make a page that shows how the model reads a text."""
        fields = Fields(await request.body())
        run = self.models.get(fields.text("model", "", longest=1000))
        text = fields.text("text", longest=LONGEST_INSPECTED)
        fields.finish()
        lm, _ = await self._read(run.current)
        name, longest = run.name, LONGEST_INSPECTED
        page = await self._read(
            lambda: lm.inspect(
                text, characters=longest, name=name, source="the page", gradients=False
            ).to_html(),
            self._inspectors,
        )
        token = secrets.token_urlsafe(24)
        self.inspections[token] = page
        while len(self.inspections) > MOST_INSPECTIONS:
            self.inspections.popitem(last=False)
        return JSONResponse({"object": "inspection", "url": f"/inspections/{token}"})

    async def inspection(self, request: Request) -> Response:
        """Return a page that :meth:`inspect` made. It can reach nothing of this server."""
        page = self.inspections.get(request.path_params["token"])
        if page is None:
            raise RequestError("this inspection is not kept any more: make it again", 404)
        return HTMLResponse(page, headers={"content-security-policy": FRAME_POLICY})

    async def _read(self, work: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
        """Do what takes a while in a thread, so that others are served meanwhile.

        Raises:
            RequestError: for what a user has caused.
        """
        try:
            return await anyio.to_thread.run_sync(work, limiter=limiter or self._readers)
        except CharlmError as error:
            raise completions.as_request_error(error) from None


# The page has a policy of its own in its head, which names its script and its style.
PAGE_POLICY = "frame-ancestors 'none'"
FRAME_POLICY = "sandbox allow-scripts; frame-ancestors 'self'"


def make_app(
    server: Server,
    *,
    hosts: Collection[str] | None = (),
    key: str | None = None,
    origins: Collection[str] = (),
) -> Starlette:
    """Return the application of a server; see :class:`charlm.server.guard.Guard` for the rest."""
    guard = Middleware(Guard, hosts=hosts, key=key, origins=origins, longest_body=LONGEST_BODY)
    counted = Middleware(server.metrics.middleware)
    return Starlette(
        routes=server.routes(),
        middleware=[counted, guard],
        exception_handlers={
            RequestError: _answer_error,
            HTTPException: _answer_http_error,
            Exception: _answer_bug,
        },
    )


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:200], request.method
    words = {404: f"there is no address {path}", 405: f"{path} does not take {method}"}
    message = words.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    return await _answer_error(request, RequestError(message, error.status_code, headers=headers))


async def _answer_bug(request: Request, error: Exception) -> Response:
    return JSONResponse(RequestError("the server has an error of its own", 500).body(), 500)


class EventResponse(StreamingResponse):
    """An answer in server-sent events. Its places are free when nobody listens any more."""

    def __init__(self, events: AsyncIterator[dict[str, Any]], job: Job):
        headers = {"x-accel-buffering": "no"}
        super().__init__(_server_sent(events), media_type="text/event-stream", headers=headers)
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.leave()


async def _server_sent(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for event in events:
        yield b"data: " + _json(event) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def _unless_gone(request: Request, work: Any, job: Job) -> Response:
    """Wait for a whole answer, as long as the client does."""
    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return JSONResponse(answer.result())
        return Response(status_code=499)  # which nobody reads
    finally:
        job.leave()
        answer.cancel()
        gone.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
