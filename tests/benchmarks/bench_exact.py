"""The network in whole numbers beside the one in float32: loss, speed, size, time to convert.

    python tests/benchmarks/bench_exact.py RUN TEXT [RUN TEXT ...] [--rounds 5] [--characters 50000]

Loss is that of `score` over the first characters of the text, of which the model has seen none if
the text is well chosen. Speeds are characters a second of one stream and of 64 side by side; the
two take turns, and the ratio is the median over the rounds. The last line is a JSON document.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import charlm

SAMPLES, SECONDS = 64, 1.0


def speed(lm, samples):
    """Return the characters a second that a model draws."""
    length, started = 200, time.perf_counter()
    drawn = 0
    while time.perf_counter() - started < SECONDS:
        for sample in lm.samples("", num_samples=samples, length=length, seed=1):
            drawn += len("".join(sample))
    return drawn / (time.perf_counter() - started)


def measure(run, text, rounds, characters):
    """Return the row of a run."""
    lm = charlm.load(run, unknown="skip")
    started = time.perf_counter()
    exact = lm.exact()
    row = {"run": run, "convert": time.perf_counter() - started, "bits": exact.engine.bits}
    part = Path(text).read_text("utf-8")[:characters]
    losses = [model.score(part).mean() * math.log(2) for model in (lm, exact)]
    row |= {"float": losses[0], "whole": losses[1], "gap": losses[1] - losses[0]}
    for samples in (1, SAMPLES):
        pairs = [(speed(lm, samples), speed(exact, samples)) for _ in range(rounds)]
        row[f"speed {samples}"] = statistics.median(b for _, b in pairs)
        row[f"ratio {samples}"] = statistics.median(b / a for a, b in pairs)
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("float", lm), ("whole", exact)):
            model.save(f"{folder}/{name}.safetensors")
            row[f"{name} bytes"] = Path(f"{folder}/{name}.safetensors").stat().st_size
    return row


def main():
    """Measure all runs; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", metavar="RUN TEXT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--characters", type=int, default=50_000)
    arguments = parser.parse_args()
    rows = []
    for run, text in zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True):
        rows.append(measure(run, text, arguments.rounds, arguments.characters))
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                        for k, v in rows[-1].items()), flush=True)  # fmt: skip
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
