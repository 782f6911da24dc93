"""Attacks on the server: each is refused, and afterwards the server answers as before."""

import gzip
import json
import re
import socket
import time

import pytest
from conftest import DATA
from serving import JSON, head, rest_of, serving, wait_until

import charlm
from charlm.server import guard, http
from charlm.server.app import LONGEST_BODY
from charlm.server.http import LARGEST_HEAD

GOLDEN = DATA / "golden-lstm.safetensors"
BODY = b'{"prompt":"a","max_tokens":2}'
POST = "/v1/completions"
KEY = "correct-horse"
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def server():
    with serving(GOLDEN, origins=["https://friend.example"]) as client:
        yield client


@pytest.fixture(scope="module")
def locked():
    with serving(GOLDEN, key=KEY) as client:
        yield client


@pytest.fixture
def client(server):
    """The server, which answers as before after every attack, and has nothing left to do."""
    yield server
    expected = charlm.load(GOLDEN).generate("a", length=19, seed=1)
    assert server.text(prompt="a", max_tokens=19, seed=1) == expected
    server.until_idle()


def refused(status, answer, expected):
    assert status in expected
    error = json.loads(answer)["error"]
    assert error["message"]
    assert "Traceback" not in error["message"]


def status_of(answer):
    found = re.match(rb"HTTP/1\.1 (\d+) ", answer)
    return int(found[1]) if found else None


# Pages of other sites, in the browser of the user.

POSTED = JSON | {"Host": "127.0.0.1"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "evil.example"}, 421),  # a name that was bound to 127.0.0.1 anew
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "localhost.evil.example:8000"}, 421),
        ({"Host": "evil.example#127.0.0.1"}, 421),
        ({"Host": "127.0.0.1@evil.example"}, 421),
        ({"Host": "user@127.0.0.1"}, 421),
        ({"Host": "127.0.0.1:99999"}, 421),
        ({"Host": "127.0.0.1:x"}, 421),
        ({"Host": "0.0.0.0"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": EVIL}, 403),
        ({"Origin": "null"}, 403),  # a sandboxed frame, a file
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"Origin": f"{EVIL}, https://friend.example"}, 403),
        ({"Origin": "https://friend.example.evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Content-Type": "text/plain"}, 415),  # a form needs no leave of the browser
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
def test_a_page_of_another_site_gets_nothing(client, headers, expected):
    status, found, answer = client.ask("POST", POST, BODY, POSTED | headers)
    refused(status, answer, [expected])
    assert "access-control-allow-origin" not in found


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/runs/golden-lstm", "/health"])
def test_a_page_of_another_site_reads_nothing_either(client, path):
    for headers in ({"Host": "evil.example"}, {"Origin": EVIL}, {"Sec-Fetch-Site": "cross-site"}):
        status, found, answer = client.ask("GET", path, headers=headers)
        refused(status, answer, [403, 421])
        assert b"golden" not in answer
        assert "access-control-allow-origin" not in found


def test_another_site_may_link_to_the_page_but_not_frame_it(client):
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    status, headers, _ = client.ask("GET", "/", headers=visit)
    assert status == 200
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    status, _, _ = client.ask("GET", "/", headers=visit | {"Sec-Fetch-Mode": "no-cors"})
    assert status == 403


def test_leave_is_given_to_origins_that_were_named_only(client):
    asked = {"Access-Control-Request-Method": "POST"}
    status, headers, _ = client.ask("OPTIONS", POST, headers=asked | {"Origin": EVIL})
    assert status == 403
    assert "access-control-allow-origin" not in headers
    friend = {"Origin": "https://friend.example"}
    status, headers, _ = client.ask("OPTIONS", POST, headers=asked | friend)
    assert (status, headers["access-control-allow-origin"]) == (204, "https://friend.example")
    status, headers, _ = client.ask("POST", POST, BODY, POSTED | friend)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://friend.example")
    assert "Origin" in headers["vary"]
    assert "access-control-allow-credentials" not in headers


def test_two_hosts_or_none(client):
    for hosts in (b"Host: 127.0.0.1\r\nHost: evil.example\r\n", b""):
        answer = client.raw(b"GET /v1/models HTTP/1.1\r\n" + hosts + b"\r\n")
        assert status_of(answer) in (400, 421)
        assert b"golden" not in answer
    answer = client.raw(b"GET /v1/models HTTP/1.0\r\n\r\n")
    assert status_of(answer) == 421


# Files of the machine.


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../../../etc/passwd",
        "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/runs//etc/passwd",
        f"/v1/runs/{GOLDEN}",
        "/inspections/../../pages/serve.js",
        "/pages/serve.js",
        "/%00",
        "/v1/models/golden-lstm%00.txt",
        "//evil.example/%0d%0aSet-Cookie:x=y",
    ],
)
def test_no_path_leads_to_a_file(client, path):
    status, headers, answer = client.ask("GET", path)
    refused(status, answer, [404])
    assert "set-cookie" not in headers
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("model", [str(GOLDEN), "../golden-lstm", "golden-lstm/", "\0", "x" * 999])
def test_a_model_is_a_name_not_a_path(client, model):
    assert client.post(POST, model=model, prompt="a")[0] == 404


def test_an_answer_names_no_folder(client):
    for path in ("/v1/models", "/v1/runs/golden-lstm", "/metrics", "/"):
        _, _, answer = client.ask("GET", path)
        assert str(DATA).encode() not in answer


# Bodies.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"\xff\xfe{}",
        b'{"prompt":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"prompt":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"prompt":"a","seed":' + b"9" * 5000 + b"}",
        b'{"prompt":"a","temperature":NaN}',
        b'{"prompt":"a","temperature":Infinity}',
        b'{"prompt":"a","temperature":1e999}',
        b'{"prompt":"a","top_k":-1e300}',
        b'{"prompt":"a","max_tokens":1e300}',
        b'{"prompt":"\\ud800"}',
        b'{"prompt":"a","stop":["\\udfff"]}',
        b'{"prompt":"a","__class__":"x"}',
        b'{"prompt":{"__proto__":1}}',
        json.dumps({"prompt": "a", "stop": ["x" * 1001]}).encode(),
        json.dumps({"prompt": "a", "stop": ["x"] * 17}).encode(),
        json.dumps({"prompt": "a" * 200_001}).encode(),
        json.dumps({"prompt": "a" * 30_000, "echo": True, "logprobs": 20}).encode(),
        json.dumps({"prompt": ["a"] * 33, "n": 2, "best_of": 2}).encode(),
        json.dumps({"prompt": "a", "x" * 100_000: 1}).encode(),
        gzip.compress(b" " * 1_000_000),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(client, body):
    status, _, answer = client.ask("POST", POST, body, JSON)
    refused(status, answer, [400, 413])
    assert len(answer) < 2000


def test_a_body_that_is_too_large(client):
    claimed = client.raw(head("POST", POST, 10**15))  # which is not waited for
    assert status_of(claimed) == 413
    # The answer to what is still being sent may be lost as the connection is closed.
    sent = client.raw(head("POST", POST, LONGEST_BODY + 1) + b" " * (LONGEST_BODY + 1))
    assert status_of(sent) in (413, None)
    chunks = b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(40))
    start = head("POST", POST, 0, Transfer_Encoding="chunked")
    chunked = client.raw(start.replace(b"Content-Length: 0\r\n", b"") + chunks)
    assert status_of(chunked) in (413, None)


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"0x10", b"5, 6", b"9" * 30, "٣".encode()])
def test_a_length_that_is_no_length(client, length):
    start = head("POST", POST, 77).replace(b"Length: 77", b"Length: " + length)
    assert status_of(client.raw(start + BODY)) in (400, 413)


def test_a_request_in_a_request_is_not_smuggled(client):
    inner = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    both = head("POST", POST, len(inner), Transfer_Encoding="chunked")
    answer = client.raw(both + b"0\r\n\r\n" + inner)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"golden" not in answer


# Methods and other protocols.


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "GET", "BREW"])
def test_a_method_that_is_not_taken(client, method):
    status, _, answer = client.ask(method, POST)
    refused(status, answer, [404, 405, 400])


def test_other_protocols(client):
    answer = client.raw(
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Origin: https://evil.example\r\n\r\n"
    )
    assert status_of(answer) in (400, 403, 426)
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET /\r\n",
        b"\0" * 999,
        b"\r\n" * 99,
    ):
        answer = client.raw(garbage)
        assert status_of(answer) in (400, None)
        assert b"golden" not in answer


# Clients that are slow, large or many.


def test_a_head_that_is_too_large(client):
    large = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: " + b"y" * (2 * LARGEST_HEAD)
    many = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * LARGEST_HEAD
    address = b"GET /" + b"y" * (5 * LARGEST_HEAD) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for start in (large, many, address):
        assert status_of(client.raw(start)) in (400, 404, 414, 431, None)


def test_a_head_that_comes_slowly_is_cut_off(client, monkeypatch):
    monkeypatch.setattr(http, "HEADER_SECONDS", 0.3)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        assert rest_of(connection) == b""
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        assert rest_of(connection) == b""  # who says nothing at all
    # Who has been answered and begins anew has as long.
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        received = connection.recv(65536)
        connection.sendall(b"GET /health HT")
        assert (received + rest_of(connection)).count(b"HTTP/1.1 200") == 1
    assert time.monotonic() - began < 9


def test_a_body_that_comes_slowly_is_cut_off(client, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(head("POST", POST, 50) + b'{"prompt":')
        assert status_of(rest_of(connection)) == 408


def test_a_client_that_reads_nothing_is_given_up(client, monkeypatch):
    monkeypatch.setattr(http, "WRITE_SECONDS", 0.3)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", client.port))
        body = json.dumps(
            {"prompt": "a", "max_tokens": 100_000, "logprobs": 20, "n": 9, "stream": True}
        ).encode()
        connection.sendall(head("POST", POST, len(body)) + body)
        wait_until(lambda: client.running() == 9)
        client.until_idle()


def test_connections_that_are_opened_and_left(client):
    held = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(200)]
    assert client.get("/health") == (200, {"status": "ok"})
    for connection in held:
        connection.close()


def test_requests_that_are_abandoned_at_every_point(client):
    whole = head("POST", POST, len(BODY)) + BODY
    for length in range(0, len(whole), 7):
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(whole[:length])


# Texts.


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "\r\n\r\nHTTP/1.1 200", "\0"]
)
def test_what_is_sent_comes_back_as_json_only(client, text):
    for path, fields in (
        (POST, {"prompt": text}),
        ("/v1/score", {"text": text}),
        (POST, {text: 1}),
    ):
        status, headers, answer = client.ask("POST", path, json.dumps(fields), JSON)
        assert status in (200, 400)
        assert headers["content-type"] == "application/json"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        json.loads(answer)


def test_an_inspection_runs_nothing_of_its_text(client):
    text = "</script><img src=x onerror=alert(1)> <script>alert(1)</script>"
    nearest = "".join(c for c in text if c in charlm.load(GOLDEN).tokenizer.vocabulary)
    status, answer = client.post("/v1/inspect", text=nearest * 3)
    assert status == 200
    _, headers, page = client.ask("GET", answer["url"])
    assert b"<img src=x" not in page
    assert "sandbox allow-scripts;" in headers["content-security-policy"]
    assert "allow-same-origin" not in headers["content-security-policy"]


# Keys.


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": "Bearer \xff\xfe"},
        {"X-Api-Key": KEY},
        {"Cookie": f"key={KEY}"},
    ],
)
def test_without_the_key_nothing_is_told(locked, headers):
    for method, path in (("GET", "/v1/models"), ("POST", POST), ("GET", f"/metrics?key={KEY}")):
        body = BODY if method == "POST" else None
        status, found, answer = locked.ask(method, path, body, JSON | headers)
        refused(status, answer, [401])
        assert found["www-authenticate"] == "Bearer"
        assert b"golden" not in answer
        assert KEY.encode() not in answer
    status, _, page = locked.ask("GET", "/", headers=headers)
    assert status == 200
    assert b"golden" not in page


def test_with_the_key_another_name_of_the_machine_may_be_used(locked):
    headers = JSON | {"Authorization": f"Bearer {KEY}", "Host": "my-laptop.local:8000"}
    assert locked.ask("POST", POST, BODY, headers)[0] == 200
    # But no page of another site, even if it knows the key.
    assert locked.ask("POST", POST, BODY, headers | {"Origin": EVIL})[0] == 403
