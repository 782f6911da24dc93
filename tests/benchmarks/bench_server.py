"""How fast the server is beside ``generate``: many texts at once, one alone, first characters.

    python tests/benchmarks/bench_server.py RUN [--exact]

Starts ``charlm serve`` and talks to it over sockets. Each figure is the median of some rounds, in
which server and engine take turns. The last line is one JSON document.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time

LENGTH = 3000


def start(run, exact):
    """Start a server; return it and its port."""
    command = [sys.executable, "-m", "charlm", "serve", run, "--port", "0"]
    server = subprocess.Popen(command + ["--exact"] * exact, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        found = re.search(r"http://127.0.0.1:(\d+)", line)
        if found:
            return server, int(found[1])
    raise SystemExit("the server did not start")


def complete(port, seed, times=None, **fields):
    """Stream one text; note when its first and its last character came."""
    body = {"prompt": "The ", "max_tokens": LENGTH, "seed": seed, "stream": True} | fields
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began = time.perf_counter()
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    assert response.status == 200, response.read()
    first = None
    while line := response.readline():
        if first is None and line.startswith(b"data"):
            first = time.perf_counter() - began
    connection.close()
    if times is not None:
        times.append((first, time.perf_counter() - began))
    return first


def together(port, count, **fields):
    """Return the seconds that so many texts take that are asked for at once, each by itself."""
    threads = [
        threading.Thread(target=complete, args=(port, seed), kwargs=fields) for seed in range(count)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def alone(lm, count):
    """Return the seconds that ``generate`` takes for so many texts."""
    began = time.perf_counter()
    for sample in lm.samples("The ", num_samples=count, length=LENGTH, seed=1):
        "".join(sample)
    return time.perf_counter() - began


def first_characters(port, others, rounds):
    """Return the seconds until the first character while ``others`` are being written."""
    stop = threading.Event()

    def keep_busy(seed):
        while not stop.is_set():
            complete(port, seed, max_tokens=400)

    threads = [threading.Thread(target=keep_busy, args=(seed,)) for seed in range(others)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    found = [complete(port, 99 + k, max_tokens=1) for k in range(rounds)]
    stop.set()
    for thread in threads:
        thread.join()
    return found


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import charlm

    lm = charlm.load(arguments.run)
    lm = lm.exact() if arguments.exact else lm
    found = {}
    server, port = start(arguments.run, arguments.exact)
    try:
        together(port, 2)
        for count in (1, 8, 64):
            ratios, speeds = [], []
            for _ in range(arguments.rounds):
                theirs, ours = alone(lm, count), together(port, count)
                ratios.append(theirs / ours)
                speeds.append(count * LENGTH / ours)
            found[f"ratio_{count}"] = statistics.median(ratios)
            median, low, high = statistics.median(ratios), min(ratios), max(ratios)
            print(
                f"{count:3} texts: {statistics.median(speeds):9,.0f} characters/s, "
                f"{median:.2f} of generate ({low:.2f} to {high:.2f})"
            )
        for others in (0, 32):
            seconds = first_characters(port, others, 10 * arguments.rounds)
            times = sorted(round(1000 * one, 1) for one in seconds)
            found[f"milliseconds_beside_{others}"] = times
            print(
                f"first character beside {others:2} others: {statistics.median(times):.0f} ms in "
                f"the median, 95 % within {times[int(0.95 * len(times))]:.0f} ms, all within "
                f"{times[-1]:.0f} ms"
            )
    finally:
        server.terminate()
        server.communicate()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
