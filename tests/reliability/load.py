"""Long work in flat memory: many steps, a large text, a long generation.

    python tests/reliability/load.py steps [--count 1000000]
    python tests/reliability/load.py text [--megabytes 1000]
    python tests/reliability/load.py generate [--count 10000000]

``steps`` trains a tiny model and looks at the memory of the process on the way. ``text`` trains on
a large text, then goes on with it after the text is gone, and compares the peaks with that of a
small text. ``generate`` writes many characters, and compares the peak with that of a few.

The last line is one JSON document.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ENGLISH = ROOT / "corpora" / "english.txt"


def command(*words):
    """Run a charlm command; return its seconds and its peak megabytes."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "charlm", *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    err = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"charlm {words[0]} failed: {err}")
    return round(time.monotonic() - began, 1), usage.ru_maxrss // 1024


def megabytes():
    """Return the memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def steps(folder, count):
    """Train for ``count`` small steps, and tell the memory after each tenth of them."""
    from charlm.training.start import start

    settings = {"hidden_size": 8, "embedding_size": 4, "num_layers": 1, "batch_size": 2}
    how = {"precision": "float32", "threads": 1, "device": "cpu"}
    run = start(
        [ENGLISH], out=folder / "run", steps=count, seq_length=4, eval_every=max(1, count // 20),
        **settings, **how,
    )  # fmt: skip
    began, seen = time.monotonic(), []
    for progress in run.progress():
        if progress.step % max(1, count // 10) == 0:
            seen.append(round(megabytes(), 1))
            print(f"step {progress.step:,}: {seen[-1]} MB", file=sys.stderr)
    seconds = round(time.monotonic() - began)
    return {"steps": count, "seconds": seconds, "megabytes": seen, "growth": seen[-1] - seen[0]}


def text(folder, size):
    """Train on a text of ``size`` megabytes for a few steps, remove it, and go on."""
    english = ENGLISH.read_bytes()
    small, large = folder / "small.txt", folder / "large.txt"
    small.write_bytes(english)
    with large.open("wb") as file:
        while file.tell() < size * 1e6:
            file.write(english)
    sizes = ["--hidden-size", 64, "--batch-size", 16, "--seq-length", 64, "--threads", 1]
    words = [*sizes, "--steps", 20, "--precision", "float32", "--validation-fraction"]
    seconds_small, peak_small = command("train", small, *words, 0.1, "--out", folder / "small")
    seconds, peak = command("train", large, *words, 0.0001, "--out", folder / "large")
    large.unlink()
    again, peak_again = command("resume", folder / "large", "--steps", 40)
    return {
        "megabytes": size,
        "seconds": seconds,
        "megabytes_per_second": round(size / max(0.1, seconds - seconds_small), 1),
        "peak_megabytes": peak,
        "peak_megabytes_of_a_small_text": peak_small,
        "seconds_to_resume_without_the_text": again,
        "peak_megabytes_to_resume": peak_again,
    }


def generate(folder, count):
    """Generate ``count`` characters with a small model."""
    sizes = ["--hidden-size", 128, "--num-layers", 1, "--steps", 50, "--precision", "float32"]
    command("train", ENGLISH, "--out", folder / "run", *sizes)
    _, few = command("generate", folder / "run", "--length", 1000)
    seconds, peak = command("generate", folder / "run", "--length", count)
    return {
        "characters": count,
        "seconds": seconds,
        "peak_megabytes": peak,
        "peak_megabytes_of_1000_characters": few,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    verbs = parser.add_subparsers(dest="what", required=True)
    verbs.add_parser("steps").add_argument("--count", type=int, default=1_000_000)
    verbs.add_parser("text").add_argument("--megabytes", type=int, default=1000)
    verbs.add_parser("generate").add_argument("--count", type=int, default=10_000_000)
    arguments = parser.parse_args()
    work = {"steps": steps, "text": text, "generate": generate}[arguments.what]
    amount = arguments.megabytes if arguments.what == "text" else arguments.count
    with tempfile.TemporaryDirectory() as folder:
        result = work(Path(folder), amount)
    print(json.dumps({"program": "load", "what": arguments.what} | result))


if __name__ == "__main__":
    main()
