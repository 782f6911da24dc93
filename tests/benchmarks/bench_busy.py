"""How a training gets on beside other busy processes.

    python tests/benchmarks/bench_busy.py [--busy 0 1 2 4] [--rounds 3] [--seconds 15]
        [--minutes 0.5]

For each number of other processes, which do nothing but count:

- speed: trainings with one thread, with all threads and with as many as charlm chooses take turns,
  each in a process of its own. Given are the medians of the characters a second, and the ratio of
  the third to the better one of the first two, by round;
- time: how long a training that was asked for in minutes takes. In the last runs the processes come
  when half of the time is over, or go then; one has a large vocabulary.

The last line is one JSON document.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ENGLISH, CHINESE = ROOT / "corpora" / "english.txt", ROOT / "corpora" / "chinese.txt"
WAYS = {"one": 1, "all": 0, "chosen": None}  # threads
SIZES = {"hidden_size": 384, "num_layers": 2, "batch_size": 16, "seq_length": 128}


@contextlib.contextmanager
def busy(count, after=0.0, until=None):
    """Let so many processes count, from ``after`` to ``until`` seconds from now on."""
    end = time.time() + (10**9 if until is None else until)
    code = f"import time; time.sleep({after})\nwhile time.time() < {end}: pass"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(way, seconds):
    """Train for some seconds; print the characters a second."""
    from charlm.training.start import start

    with tempfile.TemporaryDirectory() as folder:
        settings = SIZES | {"steps": 10**6, "eval_every": 10**6, "precision": "bfloat16"}
        run = start([ENGLISH], out=Path(folder) / "run", threads=WAYS[way], **settings)
        window = SIZES["batch_size"] * SIZES["seq_length"]
        with contextlib.closing(run.trainer.run()) as steps:
            for progress in steps:
                if progress.chars_per_second * seconds < progress.step * window:
                    break
    print(progress.chars_per_second)


def speed(way, seconds):
    command = [sys.executable, __file__, "--measure", way, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def time_taken(text, minutes, folder):
    """Return how long a whole command takes, and how many evaluations it did."""
    command = [sys.executable, "-m", "charlm", "train", str(text), "--minutes", str(minutes)]
    began = time.monotonic()
    subprocess.run([*command, "--out", str(folder)], capture_output=True, check=True)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return time.monotonic() - began, len(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.seconds)
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    speeds, times = {}, []
    print("others   one thread   all threads   chosen   chosen / better of both, by round")
    for count in arguments.busy:
        rounds = []
        with busy(count):
            for _ in range(arguments.rounds):
                rounds.append({way: speed(way, arguments.seconds) for way in WAYS})
        medians = {way: statistics.median(one[way] for one in rounds) for way in WAYS}
        ratios = [one["chosen"] / max(one["one"], one["all"]) for one in rounds]
        speeds[count] = medians | {"ratio": statistics.median(ratios)}
        figures = "".join(f"{medians[way]:13,.0f}" for way in WAYS)
        print(f"{count:6}{figures}   {' '.join(f'{ratio:.2f}' for ratio in ratios)}", flush=True)
    seconds = 60 * arguments.minutes
    cases = [(f"{count} others", ENGLISH, count, 0.0, None) for count in arguments.busy]
    most = max(arguments.busy)
    cases += [
        (f"{most} others in the second half", ENGLISH, most, seconds / 2, None),
        (f"{most} others in the first half", ENGLISH, most, 0.0, seconds / 2),
        ("a vocabulary of 1,733, no others", CHINESE, 0, 0.0, None),
        (
            f"the same, {min(most, 1)} other in the second half",
            CHINESE,
            min(most, 1),
            seconds / 2,
            None,
        ),
    ]
    print("\ntaken / asked   seconds   evaluations")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, text, count, after, until) in enumerate(cases):
            with busy(count, after, until):
                taken, evaluations = time_taken(text, arguments.minutes, Path(folder) / str(number))
            times.append((name, round(taken, 1), evaluations))
            print(f"{taken / seconds:13.2f}{taken:10.1f}{evaluations:14}   {name}", flush=True)
    print(
        json.dumps(
            {"benchmark": "busy", "minutes": arguments.minutes, "speeds": speeds, "times": times}
        )
    )


if __name__ == "__main__":
    main()
