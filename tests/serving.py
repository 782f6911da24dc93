"""A server in this process, and clients that say exactly what a test wants to be said."""

import contextlib
import http.client
import json
import re
import socket
import threading
import time

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("starlette", reason="the extra serve is not installed")

from charlm.server.app import Server, make_app
from charlm.server.http import HttpServer, listen
from charlm.server.models import Models

JSON = {"Content-Type": "application/json"}


@contextlib.contextmanager
def serving(*runs, key=None, origins=(), port=0, **options):
    """Serve runs on a port of 127.0.0.1, any free one by default; yield a client."""
    listener = listen("127.0.0.1", port)
    models = Models(map(str, runs), **options)
    server = Server(models, key_required=key is not None)
    app = make_app(server, hosts=None if key else ["127.0.0.1"], key=key, origins=origins)
    started, ended = threading.Event(), threading.Event()

    def stops():
        if ended.is_set():
            models.stop()
        return ended.is_set()

    http_server = HttpServer(app, started.set, stops)
    thread = threading.Thread(target=http_server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert started.wait(10)
    try:
        yield Client(listener.getsockname()[1], models)
    finally:
        ended.set()
        thread.join()
        listener.close()


class Client:
    """Asks a server on 127.0.0.1."""

    def __init__(self, port, models=None):
        self.port = port
        self.models = models
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, method, path, body=None, headers=None):
        """Return status, headers and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def get(self, path, **headers):
        status, _, body = self.ask("GET", path, headers=headers)
        return status, json.loads(body)

    def post(self, path, **fields):
        status, _, body = self.ask("POST", path, json.dumps(fields), JSON)
        return status, json.loads(body)

    def complete(self, **fields):
        """Return the choices of an answer."""
        status, answer = self.post("/v1/completions", **fields)
        assert status == 200, answer
        return answer["choices"]

    def text(self, **fields):
        (choice,) = self.complete(**fields)
        return choice["text"]

    def events(self, **fields):
        """Return what is streamed, with the last line."""
        body = json.dumps(fields | {"stream": True})
        status, headers, body = self.ask("POST", "/v1/completions", body, JSON)
        assert status == 200, body
        assert headers["content-type"].startswith("text/event-stream")
        *events, end = body.decode().split("\n\n")
        assert end == ""
        assert all(event.startswith("data: ") for event in events)
        *events, done = (event.removeprefix("data: ") for event in events)
        assert done == "[DONE]"
        return [json.loads(event) for event in events]

    def begin(self, **fields):
        """Send a request for a stream; return the open connection, of which nothing is read."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        body = json.dumps(fields | {"stream": True}).encode()
        connection.sendall(head("POST", "/v1/completions", len(body)) + body)
        return connection

    def raw(self, data, seconds=10):
        """Send bytes and return all that comes until the server closes or says no more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            with contextlib.suppress(OSError):  # it may answer before it has read all
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            return rest_of(connection)

    def running(self):
        """Return how many streams run and wait, as the metrics say."""
        _, _, text = self.ask("GET", "/metrics")
        found = re.findall(r"charlm_streams_(running|waiting)\{.*\} (\d+)", text.decode())
        return sum(int(count) for _, count in found)

    def until_idle(self, seconds=10):
        wait_until(lambda: self.running() == 0, seconds)


def head(method, path, length, **headers):
    """Return the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def rest_of(connection):
    """Return all that comes from a socket."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


def wait_until(condition, seconds=10):
    """Wait for something; fail if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
