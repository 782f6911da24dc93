"""What every request passes first: who asks, from which page, and how much.

A server on 127.0.0.1 can be reached by every page that its user opens. So a request counts only if
it names this machine (``Host``), which a page that has rebound its own name to 127.0.0.1 cannot do,
and if no page of another origin has sent it (``Origin``, ``Sec-Fetch-Site``).

Source: CVE-2024-28224 (Ollama) and CVE-2025-66414 (MCP SDK) on DNS rebinding; Fetch metadata,
https://www.w3.org/TR/fetch-metadata/.
"""

import asyncio
import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charlm.errors import argument
from charlm.server.errors import RequestError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
BODY_SECONDS = 10.0  # in which a body must be there
CORS_HEADERS = {
    "access-control-allow-methods": "GET, POST, OPTIONS",
    "access-control-allow-headers": "authorization, content-type",
    "access-control-max-age": "600",
}
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
POLICY = "default-src 'none'; frame-ancestors 'none'"
OPEN_PATHS = ("/", "/health")  # for which no key is asked: they tell nothing
TICKETS = "/inspections/"  # below it a path is a secret of its own


class Guard:
    """Lets a request through to ``app``, or answers it.

    Args:
        app: the application.
        hosts: names that ``Host`` may have besides those of this machine; None is any, for a
            server that asks for a key.
        key: what requests must bring along; None for nothing.
        origins: pages of other origins that may ask too.
        longest_body: bytes.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] | None,
        key: str | None,
        origins: Collection[str],
        longest_body: int,
    ):
        self.app = app
        self.hosts = None if hosts is None else LOOPBACK | set(hosts)
        self.key = key
        self.origins = frozenset(origins)
        self.longest_body = longest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no web sockets here
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = origin if origin in self.origins else None
        send = _with_headers(send, allowed)
        try:
            self._check(scope, headers, allowed)
            if scope["method"] == "OPTIONS" and allowed:
                await Response(status_code=204, headers=CORS_HEADERS)(scope, receive, send)
                return
            body = await self._body(headers, receive)
        except RequestError as error:
            answer = JSONResponse(error.body(), error.status, error.headers)
            await answer(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replayed(body, receive), send)

    def _check(self, scope: Scope, headers: Headers, allowed: str | None) -> None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._knows(host):
            raise RequestError(f"this server is not called {host[:100]!r}", 421)
        origin, method, path = headers.get("origin"), scope["method"], scope["path"]
        if origin is not None and not allowed and origin != f"{scope['scheme']}://{host}":
            raise RequestError(
                f"pages of {origin[:100]} may not use this server (see {argument('allow_origin')})",
                403,
            )
        site = headers.get("sec-fetch-site", "none")
        is_visit = path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not allowed and not is_visit:
            raise RequestError("pages of other sites may not use this server", 403)
        if method == "OPTIONS" and allowed:
            return
        is_open = path in OPEN_PATHS or path.startswith(TICKETS)
        if self.key is not None and not is_open and not self._has_key(headers):
            raise RequestError(
                "the key is missing or wrong: send it as 'Authorization: Bearer KEY'",
                401,
                headers={"WWW-Authenticate": "Bearer"},
            )
        if method == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise RequestError(
                    "the body must be JSON: send it with 'Content-Type: application/json'", 415
                )

    def _knows(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            parts.port  # noqa: B018 (it raises for one that is no number)
        except ValueError:
            return False
        if not parts.hostname or parts.netloc != host or parts.username is not None:
            return False
        return self.hosts is None or parts.hostname in self.hosts

    def _has_key(self, headers: Headers) -> bool:
        assert self.key is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self.key.encode())
        return kind.lower() == "bearer" and right

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the whole body; None if the client has gone."""
        if "transfer-encoding" in headers and "content-length" in headers:
            # RFC 9112, section 6.1: they may hide a second request, so the connection must end.
            raise RequestError("the length is told in two ways", headers={"Connection": "close"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.longest_body:
            self._refuse_body()
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self.longest_body:
                        self._refuse_body()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise RequestError(
                "the body did not come in time", 408, headers={"Connection": "close"}
            ) from None

    def _refuse_body(self) -> None:
        raise RequestError(
            f"the body is too large: {self.longest_body:,} bytes are allowed",
            413,
            headers={"Connection": "close"},
        )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body that was read already."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_headers(send: Send, origin: str | None) -> Send:
    """Return a ``send`` that adds what every answer says, to a page of ``origin`` what it may."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SAFE_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("content-security-policy", POLICY)
            headers.add_vary_header("Origin")
            if origin is not None:
                headers["access-control-allow-origin"] = origin
                headers["cross-origin-resource-policy"] = "cross-origin"
        await send(message)

    return send_with
