"""The verb ``serve``."""

import logging
import os
import webbrowser
from argparse import Namespace
from typing import TYPE_CHECKING

from charlm.cli.parser import Subparsers, add_exact, add_unknown, name, utf8
from charlm.cli.terminal import Stop, printable, say
from charlm.errors import ConfigError, PackageError
from charlm.files import install_command

if TYPE_CHECKING:
    from charlm.server.models import Models

PACKAGES = ("anyio", "starlette", "threadpoolctl", "uvicorn")  # of the extra, those that we import
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "serve",
        help="open a page to write with a model, and an HTTP interface",
        description="Serve models on this machine: a page to write with, and an interface that "
        "clients of OpenAI's completions speak. A run that is being trained is served with its "
        f"best model so far. It needs an extra: {install_command('charlm[serve]')}. Ctrl-C stops "
        "it.",
    )
    parser.add_argument(
        "runs",
        type=name,
        nargs="+",
        metavar="RUN",
        help="run folder, its name under checkpoints/, or a model file",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="port, 0 is any free one (default: 8000)",
    )
    parser.add_argument(
        "--host",
        type=utf8,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; any but this machine's own needs --api-key (default: "
        "%(default)s)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--api-key",
        type=utf8,
        metavar="KEY",
        help="answer only who sends this key; better in the variable CHARLM_API_KEY, which other "
        "users of the machine cannot see",
    )
    parser.add_argument(
        "--allow-origin",
        type=utf8,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin, such as http://localhost:3000, use the interface too; "
        "repeatable",
    )
    add_exact(parser)
    add_unknown(parser)


def run(arguments: Namespace) -> int:
    """Serve until a signal comes."""
    key = arguments.api_key or os.environ.get("CHARLM_API_KEY") or None
    _check(arguments, key)
    try:
        from charlm.server.app import Server, make_app
        from charlm.server.http import HttpServer, listen
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        raise PackageError(
            f"serve needs the package {package}: {install_command('charlm[serve]')}"
        ) from None
    from charlm.server.models import Models

    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what it has to say, we say
    listener = listen(arguments.host, arguments.port)
    with listener:
        models = Models(arguments.runs, unknown=arguments.unknown, exact=arguments.exact)
        hosts = None if key else [arguments.host]
        app = make_app(
            Server(models, key_required=key is not None),
            hosts=hosts,
            key=key,
            origins=arguments.allow_origin,
        )
        address = _address(arguments.host, listener.getsockname()[1])

        def on_start() -> None:
            _print_start(models, address)
            if arguments.open:
                webbrowser.open(address)

        stop = Stop("stopping; what is being written has a second to end, Ctrl-C again stops now")

        def stops() -> bool:
            if stop.signal is not None:
                models.stop()
            return stop.signal is not None

        with stop:
            HttpServer(app, on_start, stops).run(sockets=[listener])
    say("charlm: stopped")
    return 128 + (stop.signal or 0)


def _check(arguments: Namespace, key: str | None) -> None:
    """Refuse settings that are wrong or not safe."""
    if not 0 <= arguments.port <= 65535:
        raise ConfigError(f"--port must be from 0 to 65535 (got {arguments.port})")
    if key is None and arguments.host not in LOOPBACK:
        raise ConfigError(
            f"--host {arguments.host} lets other machines in: choose a key for them with "
            "--api-key, or leave --host out"
        )
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key):
        raise ConfigError("--api-key must be of printable ASCII characters without spaces")
    for origin in arguments.allow_origin:
        scheme, _, rest = origin.partition("://")
        if scheme not in ("http", "https") or not rest or "/" in rest or "*" in rest:
            raise ConfigError(
                f"--allow-origin {origin!r} must be a scheme and a host, maybe with a port, such "
                "as http://localhost:3000"
            )


def _address(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


def _print_start(models: "Models", address: str) -> None:
    for served in models.runs.values():
        if not served.card()["charlm"]["ready"]:
            say(printable(f"{served.name} has no model yet: it is served when one is saved"))
    say(printable(f"serving {', '.join(models.runs)} at {address} (Ctrl-C stops)"))
