"""Speed of a step: the numpy engine of charlm against onnxruntime on what ``charlm export`` writes.

    python tests/benchmarks/bench_onnx.py [--rounds 7] [--only lstm-512 ...] [--seconds 1]

It needs onnx and onnxruntime. Both sides read a character of each stream and return the logits of
the next one, of one stream and of 64 side by side, from the same weights, which are not trained.
Nothing is drawn. onnxruntime runs with one thread and with two, and the better one counts. The two
take turns.

The last line is one JSON document.
"""

import argparse
import itertools
import json
import time

import numpy as np
from bench_generation import compared
from bench_training import case_name

SIZES = (128, 256, 512)
CASES = [f"{backbone}-{hidden}" for hidden in SIZES for backbone in ("rnn", "gru", "lstm")]
LAYERS, STREAMS = 2, 64
VOCABULARY = "\n" + "".join(map(chr, range(32, 96)))


def model_of(case):
    """Return a checkpoint with a fresh model of the size of a case."""
    from charlm.checkpoint import Checkpoint
    from charlm.config import ModelConfig
    from charlm.data.tokenizer import CharTokenizer
    from charlm.model.language_model import CharLM

    backbone, _, hidden = case.partition("-")
    config = ModelConfig(backbone=backbone, hidden_size=int(hidden), num_layers=LAYERS)
    return Checkpoint(
        model_config=config,
        tokenizer=CharTokenizer(VOCABULARY),
        weights=CharLM(config, len(VOCABULARY), seed=1).weights(),
    )


def steps_of_charlm(model, count):
    """Return a function that reads a character of each of ``count`` streams."""
    from charlm.inference.engine import Engine

    engine = Engine(model.model_config, model.weights)
    return engine.stepper(engine.initial_state(count)).step


def steps_of_onnxruntime(data, count, threads):
    """Return the same for an ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    layers, _, hidden = session.get_inputs()[1].shape
    names = [i.name for i in session.get_inputs()[1:]]
    state = {name: np.zeros((layers, count, hidden), np.float32) for name in names}

    def step(ids):
        logits, *after = session.run(None, {"ids": ids, **state})
        state.update(zip(names, after, strict=True))
        return logits

    return step


def speed(step, count, seconds):
    """Return characters a second."""
    ids = np.random.default_rng(1).integers(0, len(VOCABULARY), (50, count))
    for row in ids[:5]:
        step(row)
    start = time.perf_counter()
    for rounds in itertools.count(1):
        for row in ids:
            step(row)
        elapsed = time.perf_counter() - start
        if elapsed > seconds:
            return rounds * ids.size / elapsed
    raise AssertionError


def measure(case, rounds, seconds):
    """Return the figures of a case."""
    from charlm.export import onnx

    model = model_of(case)
    data = onnx.to_bytes(model)
    row = {"megabytes": round(len(data) / 1e6, 2)}
    for count in (1, STREAMS):
        sides = {"charlm": steps_of_charlm(model, count)}
        for threads in (1, 2):
            sides[f"onnxruntime-{threads}"] = steps_of_onnxruntime(data, count, threads)
        speeds = {side: [] for side in sides}
        for _ in range(rounds):
            for side, step in sides.items():
                speeds[side].append(speed(step, count, seconds))
        row |= compared(speeds, "onnxruntime", count)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--only", nargs="+", default=CASES, type=case_name, metavar="CASE")
    arguments = parser.parse_args()
    results = {}
    print("            one stream, characters a second      64 streams, in all")
    print("case      onnxruntime    charlm   ratio    onnxruntime    charlm   ratio")
    for case in arguments.only:
        row = results[case] = measure(case, arguments.rounds, arguments.seconds)
        print(
            f"{case:9} {row['onnxruntime_1']:11,} {row['charlm_1']:9,} {row['ratio_1']:7.2f} "
            f"{row[f'onnxruntime_{STREAMS}']:14,} {row[f'charlm_{STREAMS}']:9,} "
            f"{row[f'ratio_{STREAMS}']:7.2f}",
            flush=True,
        )
    print(json.dumps({"benchmark": "onnx", "rounds": arguments.rounds, "results": results}))


if __name__ == "__main__":
    main()
