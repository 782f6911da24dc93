"""Listening: sockets, limits of connections, start and stop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from charlm import files
from charlm.errors import ConfigError, argument

HEADER_SECONDS = 10.0  # in which the head of a request must be there
WRITE_SECONDS = 30.0  # in which a client must read on, when so much waits that we stopped writing
LARGEST_HEAD = 16_384  # bytes
MOST_CONNECTIONS = 512
STOP_SECONDS = 3  # until connections are cut: more than a worker gives its texts


class Protocol(H11Protocol):
    """HTTP whose clients must send the head of a request in time, and read what they asked for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._cut_off)
        self._reading: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request; what begins a further one has as long."""
        waited = self.cycle is None or self.cycle.response_complete
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._deadline.cancel()
        elif waited and self._deadline.cancelled():
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._cut_off)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._deadline.cancel()
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Write no more, and give the client up if it does not read on."""
        super().pause_writing()
        self._reading = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Write again."""
        self._stop_waiting()
        super().resume_writing()

    def _stop_waiting(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _cut_off(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Raises:
        ConfigError: if the port is taken, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"there is no address {argument('host', host)}") from None
    listener = socket.socket(family, kind, protocol)
    _own_port(listener)
    try:
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with "
            f"{argument('port')}"
        ) from None
    listener.setblocking(False)
    return listener


def _own_port(listener: socket.socket) -> None:
    """Let a socket take a port that a server had until a moment ago, but none that one has.

    On Windows SO_REUSEADDR would take a port from a server that listens.
    """
    if not files.WINDOWS:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    elif hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)


class HttpServer(uvicorn.Server):
    """Uvicorn that tells when it listens, and leaves signals to who runs it.

    Args:
        app: the application.
        on_start: called when it listens.
        stops: asked ten times a second whether it is time to stop.
    """

    def __init__(self, app: Starlette, on_start: Callable[[], object], stops: Callable[[], bool]):
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=LARGEST_HEAD,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self.on_start = on_start
        self.stops = stops

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and tell it."""
        await super().startup(sockets)
        self.on_start()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop."""
        return await super().on_tick(counter) or self.stops()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield
