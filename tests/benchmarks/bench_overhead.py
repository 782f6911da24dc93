"""What a run costs beside its bare steps.

    python tests/benchmarks/bench_overhead.py [--minutes 2] [--text FILE]

A bare step reads a window that is there already, goes forward and back and updates the weights. Two
things come on top, and both are measured in one process:

- within a step: data, random numbers, clipping, checks, the carried state. Steps of a trainer and
  bare steps of a twin take turns; compared are the medians;
- around the steps: evaluations, saving, metrics. In a real run of so many minutes, all time that is
  not spent in ``Trainer.step``.

The last line is one JSON document.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional

from charlm.model.device import autocast, torch_threads
from charlm.model.language_model import CharLM
from charlm.training.optim import make_optimizer
from charlm.training.start import start
from charlm.training.trainer import Trainer

ROOT = Path(__file__).parent.parent.parent


def bare_step(trainer):
    """Return a function that does the arithmetic of a step of ``trainer`` on its own model."""
    model = CharLM(trainer.model.config, trainer.dataset.tokenizer.vocab_size).to(trainer.device)
    optimizer = make_optimizer(model, trainer.config)
    window = trainer.stream.window(1)
    inputs, targets = (
        torch.from_numpy(ids.astype("int64")) for ids in (window.inputs, window.targets)
    )
    state = model.initial_state(len(inputs))

    def step():
        optimizer.zero_grad()
        with autocast(trainer.device, trainer.precision):
            logits, _ = model(inputs, state)
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        optimizer.step()

    return step


def seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--text", default=str(ROOT / "corpora" / "english.txt"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = start([arguments.text], out=Path(folder) / "run", minutes=arguments.minutes)
        spent = []
        step = Trainer.step

        def timed(trainer):
            began = time.perf_counter()
            result = step(trainer)
            spent.append(time.perf_counter() - began)
            return result

        Trainer.step = timed
        before = time.perf_counter()
        for _ in run.progress():
            pass
        whole = time.perf_counter() - before
        Trainer.step = step
        around = whole / sum(spent) - 1
        trainer = run.trainer
        bare = bare_step(trainer)
        with torch_threads(trainer.thread_choice.usual):
            pairs = [(seconds(trainer.step), seconds(bare)) for _ in range(60)][10:]
        within = statistics.median(a / b for a, b in pairs) - 1
    print(f"{len(spent)} steps in {whole:.1f} s: {100 * around:.1f} % around the steps")
    print(f"{100 * within:.1f} % within them, over a bare step")
    result = {"minutes": arguments.minutes, "steps": len(spent), "around": around, "within": within}
    print(json.dumps({"benchmark": "overhead", **{k: round(v, 4) for k, v in result.items()}}))


if __name__ == "__main__":
    main()
