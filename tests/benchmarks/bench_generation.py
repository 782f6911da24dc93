"""Generation speed: charlm against the loop that a user of torch would write.

    python tests/benchmarks/bench_generation.py [--rounds 7] [--only lstm-512 ...] [--seconds 1]

The other loop is nn.LSTM / nn.GRU / nn.RNN with num_layers, stepped one character at a time in
inference mode, with softmax and torch.multinomial; it runs with one thread and with two, and the
better one counts. Both sides have the same weights, which are trained first, for a moment. They
take turns in one run, each in a process of its own, which waits while the other works. What is
timed is text: characters drawn, decoded and handed to the caller, of one sample and of 64 side by
side.

Beside the speed stands the share of the limit set by reading every weight once per character, at
the bandwidth that a product of a vector with another one reaches on as many bytes, in the same run.

Then the start of the command: wall time and peak memory until the first character of the last
model is there, beside those of importing torch.

The last line is one JSON document.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_training import case_name

ROOT = Path(__file__).parent.parent.parent
TEXT = ROOT / "corpora" / "english.txt"
SIZES = (128, 256, 512)
CASES = [f"{backbone}-{hidden}" for hidden in SIZES for backbone in ("rnn", "gru", "lstm")]
LAYERS, SAMPLES, TEMPERATURE = 2, 64, 0.8


def train(cases, folder):
    """Train a model of the size of each case for a moment."""
    import charlm

    for case in cases:
        backbone, _, hidden = case.partition("-")
        sizes = {"backbone": backbone, "hidden_size": int(hidden), "num_layers": LAYERS}
        quickly = {"steps": 40, "residual": False, "precision": "float32", "threads": 0}
        charlm.train(TEXT, out=f"{folder}/{case}", **sizes, **quickly)


def stock_stream(run, samples, threads):
    """Yield texts of one character per sample, without end, as a user of torch would."""
    import torch
    from torch import nn

    from charlm import checkpoint as checkpoints

    found = checkpoints.load(checkpoints.locate(run))
    config, weights, vocabulary = found.model_config, found.weights, found.tokenizer.vocabulary
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[config.backbone]
    embedding = nn.Embedding(len(vocabulary), config.embedding_size)
    recurrent = kind(config.embedding_size, config.hidden_size, config.num_layers, batch_first=True)
    head = nn.Linear(config.hidden_size, len(vocabulary))
    places = {
        "embedding.weight": embedding.weight,
        "head.weight": head.weight,
        "head.bias": head.bias,
    }
    for name, parameter in recurrent.named_parameters():
        word, layer = name.rsplit("_l", 1)
        places[f"backbone.layers.{layer}.{word}"] = parameter
    torch.set_num_threads(threads)
    with torch.inference_mode():
        for name, parameter in places.items():
            parameter.copy_(torch.from_numpy(weights[name]))
        ids = torch.full((samples, 1), vocabulary.index("\n"))
        state = None
        while True:
            y, state = recurrent(embedding(ids), state)
            logits = head(y[:, -1])
            ids = torch.multinomial(torch.softmax(logits / TEMPERATURE, -1), 1)
            yield [vocabulary[i] for i in ids[:, 0].tolist()]


def stock_speed(run, samples, threads, seconds):
    """Return characters a second of the plain loop."""
    stream = stock_stream(run, samples, threads)
    for _ in range(3):
        next(stream)
    start = time.perf_counter()
    for steps in itertools.count(1):
        next(stream)
        elapsed = time.perf_counter() - start
        if elapsed > seconds:
            return steps * samples / elapsed
    raise AssertionError


def charlm_speed(run, samples, seconds):
    """Return characters a second of charlm."""
    import charlm

    lm = charlm.load(run)
    length = 20
    while True:
        start = time.perf_counter()
        drawn = lm.samples(length=length, num_samples=samples, temperature=TEMPERATURE, seed=1)
        characters = sum(len("".join(sample)) for sample in drawn)
        elapsed = time.perf_counter() - start
        assert characters == samples * length
        if elapsed > seconds:
            return characters / elapsed
        length = int(length * min(10, 1 + 1.1 * seconds / elapsed))


def limit(run):
    """Return how often a second the weights of a character can be read."""
    import numpy as np

    from charlm import checkpoint as checkpoints

    found = checkpoints.load(checkpoints.locate(run), model_only=True)
    size = sum(
        tensor.size
        for name, tensor in found.weights.items()  # the input of layer 0 is a table
        if tensor.ndim == 2 and name not in ("embedding.weight", "backbone.layers.0.weight_ih")
    )
    a = np.ones(size // 2, np.float32)
    b = a.copy()
    times = []
    for _ in range(30):
        start = time.perf_counter()
        np.dot(a, b)
        times.append(time.perf_counter() - start)
    return 1 / statistics.median(times)


def work(pipe):
    """Do what is asked for, until nothing more is."""
    functions = {"train": train, "stock": stock_speed, "charlm": charlm_speed, "limit": limit}
    while (asked := pipe.recv()) is not None:
        name, *values = asked
        pipe.send(functions[name](*values))


def start_of(*words):
    """Return the seconds and the peak megabytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def compared(speeds, rival, count):
    """Return the figures of charlm and of a rival, which has the better of one thread and two.

    Args:
        speeds: of all rounds, of ``charlm``, ``<rival>-1`` and ``<rival>-2``.
        rival: its name.
        count: sequences side by side, which the names of the figures end with.
    """
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    best = max((f"{rival}-1", f"{rival}-2"), key=medians.__getitem__)
    ratios = [a / b for a, b in zip(speeds["charlm"], speeds[best], strict=True)]
    return {
        f"{rival}_{count}": round(medians[best]),
        f"charlm_{count}": round(medians["charlm"]),
        f"ratio_{count}": round(statistics.median(ratios), 2),
        f"{rival}_threads_{count}": int(best[-1]),
    }


def measure(ask, run, rounds, seconds):
    """Return the figures of a case."""
    row = {}
    for samples in (1, SAMPLES):
        speeds = {"stock-1": [], "stock-2": [], "charlm": []}
        shares = []
        for _ in range(rounds):
            for threads in (1, 2):
                speed = ask("stock", "stock", run, samples, threads, seconds)
                speeds[f"stock-{threads}"].append(speed)
            speeds["charlm"].append(ask("charlm", "charlm", run, samples, seconds))
            shares.append(speeds["charlm"][-1] / ask("charlm", "limit", run))
        row |= compared(speeds, "stock", samples)
        if samples == 1:
            row["share_of_limit"] = round(statistics.median(shares), 2)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--only", nargs="+", default=CASES, type=case_name, metavar="CASE")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for side in ("train", "stock", "charlm"):
        pipes[side], theirs = context.Pipe()
        context.Process(target=work, args=(theirs,), daemon=True).start()

    def ask(side, *what):
        pipes[side].send(what)
        return pipes[side].recv()

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        ask("train", "train", arguments.only, folder)
        pipes["train"].send(None)
        print("              one sample, characters a second        64 samples, in all")
        print("case          stock    charlm   ratio  of limit     stock    charlm   ratio")
        for case in arguments.only:
            row = measure(ask, f"{folder}/{case}", arguments.rounds, arguments.seconds)
            results[case] = row
            print(
                f"{case:9} {row['stock_1']:9,} {row['charlm_1']:9,} {row['ratio_1']:7.2f} "
                f"{row['share_of_limit']:9.2f} {row[f'stock_{SAMPLES}']:9,} "
                f"{row[f'charlm_{SAMPLES}']:9,} {row[f'ratio_{SAMPLES}']:7.2f}",
                flush=True,
            )
        words = ["-m", "charlm", "generate", f"{folder}/{arguments.only[-1]}", "-l", "1"]
        starts = {"first character": [], "import torch": []}
        for _ in range(arguments.rounds):
            starts["first character"].append(start_of(*words))
            starts["import torch"].append(start_of("-c", "import torch"))
    for pipe in (pipes["stock"], pipes["charlm"]):
        pipe.send(None)
    for name, found in starts.items():
        wall, megabytes = (statistics.median(values) for values in zip(*found, strict=True))
        results[name] = {"seconds": round(wall, 3), "megabytes": round(megabytes)}
        print(f"{name:16} {wall:6.3f} s  {megabytes:5.0f} MB")
    print(json.dumps({"benchmark": "generation", "rounds": arguments.rounds, "results": results}))


if __name__ == "__main__":
    main()
