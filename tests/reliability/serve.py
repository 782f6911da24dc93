"""A server under load: streams without pause beside requests, a fifth of them hostile or abandoned.

    python tests/reliability/serve.py RUN --minutes 10 --requests 10000

Starts ``charlm serve RUN --exact``. In whole numbers a text depends on its prompt, its settings and
its seed alone, so every answer is held against what ``generate --exact`` writes. At the end nothing
may run or wait, no thread or file descriptor may be left, and memory must not have grown.
"""

import argparse
import contextlib
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import charlm

HOSTILE = [
    b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 100_000,
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999999\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\0" * 5000,
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 2\r\n\r\n{}",
]
WRONG = [
    {"prompt": 5},
    {"prompt": "a", "temperature": -1},
    {"prompt": "a", "max_tokens": 10**9},
    {"prompt": "\ud800"},
    {"prompt": "a", "nonsense": [[[[]]]]},
    {"prompt": ["a"] * 65},
    {"model": "../../etc/passwd", "prompt": "a"},
]
SHORT, LONG = 60, 1500  # characters of a request, of a stream
SEEDS = 40
READERS = 4  # threads that the server keeps at most, to read prompts in


class Load:
    """A server, what it must answer, and what it has answered.

    Attributes:
        found: how many answers there were, by kind.
        wrong: those that were not as they must be.
    """

    def __init__(self, run: str, streams: int, seconds: float, requests: int):
        self.streams, self.seconds, self.requests = streams, seconds, requests
        lm = charlm.load(run)
        lm = lm if lm.checkpoint.exact else lm.exact()
        settings = [{"temperature": 0.7}, {"top_k": 9}, {"min_p": 0.02}, {"stop": "."}]
        self.short = []
        for k in range(SEEDS):
            given = {"prompt": "The "[: k % 5], "seed": k} | settings[k % 4]
            text = lm.generate(length=SHORT, **given)
            self.short.append((given | {"max_tokens": SHORT}, text))
        self.long = [lm.generate("The ", length=LONG, seed=100 + k) for k in range(streams)]
        self.found: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.lock = threading.Lock()
        self.characters = 0
        command = [sys.executable, "-m", "charlm", "serve", run, "--port", "0"]
        command += [] if charlm.load(run).checkpoint.exact else ["--exact"]
        self.server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.server.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:(\d+)", self.server.stderr.readline())
        assert address, "the server did not start"
        self.port = int(address[1])

    def note(self, kind: str, right: bool, what: object = "") -> None:
        """Count an answer."""
        with self.lock:
            self.found[kind] += 1
            if not right:
                self.wrong.append(f"{kind}: {what!r:.300}")

    def ask(self, fields: dict[str, object], stream: bool) -> tuple[int, str]:
        """Return the status and the text of a completion."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            body = json.dumps(fields | {"stream": stream})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", body, headers)
            response = connection.getresponse()
            received = response.read().decode()
        if response.status != 200:
            return response.status, received
        if not stream:
            return 200, json.loads(received)["choices"][0]["text"]
        events = [line[6:] for line in received.splitlines() if line.startswith("data: {")]
        return 200, "".join(json.loads(event)["choices"][0]["text"] for event in events)

    def keep_streaming(self, number: int, end: float) -> None:
        """Ask for one text after the other."""
        while time.monotonic() < end and not self.wrong:
            fields = {"prompt": "The ", "max_tokens": LONG, "seed": 100 + number}
            answer = self.ask(fields, stream=True)
            self.note("streams", answer == (200, self.long[number]), answer)
            with self.lock:
                self.characters += LONG

    def keep_asking(self, number: int, count: int, pause: float) -> None:
        """Ask good and bad things."""
        dice = random.Random(f"{number}")
        for _ in range(count):
            if self.wrong:
                return
            time.sleep(dice.random() * 2 * pause)
            kind = dice.random()
            if kind < 0.8:
                fields, text = dice.choice(self.short)
                answer = self.ask(fields, stream=dice.random() < 0.5)
                self.note("good", answer == (200, text), (fields, answer, text))
            elif kind < 0.85:
                status, _ = self.ask(dice.choice(WRONG), stream=False)
                self.note("hostile", 400 <= status < 500, status)
            elif kind < 0.9:
                self.send(dice.choice(HOSTILE))
            else:
                self.abandon(dice)

    def send(self, data: bytes) -> None:
        """Send bytes that are no good; the answer may be a refusal or nothing."""
        received = b""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection,
            contextlib.suppress(ConnectionError),
        ):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        refused = received == b"" or re.match(rb"HTTP/1\.1 4\d\d ", received)
        self.note("hostile", bool(refused), received)

    def abandon(self, dice: random.Random) -> None:
        """Ask for a long text, and go away before it is there."""
        body = json.dumps({"prompt": "The ", "max_tokens": 50_000, "stream": True}).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(request[: dice.randrange(2 * len(request))])
            time.sleep(dice.random() * 0.1)
        self.note("abandoned", True)

    def figures(self) -> dict[str, int]:
        """Return the memory in kB, threads and open files of the server."""
        process = Path(f"/proc/{self.server.pid}")
        status = (process / "status").read_text()
        found = {
            name: int(re.search(rf"^{field}:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
            for name, field in (("memory", "VmRSS"), ("threads", "Threads"))
        }
        return found | {"files": len(list((process / "fd").iterdir()))}

    def until_idle(self) -> bool:
        """Wait until nothing runs or waits any more."""
        for _ in range(300):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            with contextlib.closing(connection):
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
            counts = re.findall(r"charlm_streams_(?:running|waiting)\{.*\} (\d+)", text)
            if not any(map(int, counts)):
                time.sleep(0.2)  # for the last connections to close
                return True
            time.sleep(0.1)
        return False

    def run(self) -> bool:
        """Put the load on; print what was seen; return whether all was well."""
        askers = 6
        self.keep_asking(99, 40, 0.0)  # so that whatever is made once is there
        self.until_idle()
        before, began = self.figures(), time.monotonic()
        self.found.clear()
        end = began + self.seconds
        threads = [
            threading.Thread(target=self.keep_streaming, args=(k, end)) for k in range(self.streams)
        ]
        share = self.requests // askers
        pause = 0.8 * self.seconds / max(1, share)
        threads += [
            threading.Thread(target=self.keep_asking, args=(k, share, pause)) for k in range(askers)
        ]
        for thread in threads:
            thread.start()
        sizes = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(5.0, self.seconds / 20))
            sizes.append(self.figures()["memory"])
        seconds = time.monotonic() - began
        idle = self.until_idle()
        after = self.figures()
        early = max(sizes[: 1 + len(sizes) // 5])
        print(f"{seconds:.0f} s: {dict(self.found)}, {len(self.wrong)} wrong")
        print(f"{self.characters / seconds:,.0f} characters/s in {self.streams} streams")
        print(f"memory {early / 1024:.1f} MB after a fifth, {max(sizes) / 1024:.1f} MB at most")
        print(f"before {before}, after {after}, idle: {idle}")
        print("\n".join(self.wrong[:10]))
        self.server.terminate()
        assert self.server.stderr is not None
        status, last = self.server.wait(20), self.server.stderr.read().splitlines()
        grown = max(sizes) - early
        return (
            not self.wrong
            and idle
            and after["threads"] <= before["threads"] + READERS
            and after["files"] <= before["files"]
            and grown < 20_000 + early // 10
            and (status, last[-1:]) == (143, ["charlm: stopped"])
        )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=64)
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    load = Load(arguments.run, arguments.streams, seconds, arguments.requests)
    try:
        return 0 if load.run() else 1
    finally:
        load.server.kill()


if __name__ == "__main__":
    sys.exit(main())
