"""What the presets are worth on texts of any kind: validation losses of two versions of them.

    git show REVISION:charlm/training/presets.py > /tmp/old.py
    python tests/benchmarks/bench_texts.py FOLDER --old /tmp/old.py --seconds 30 70

FOLDER holds the texts, as files named ``*.txt``. Each is trained twice for each time: with what the
old presets choose, and with what those of this tree choose. ``--set`` changes the new choice, to
try a setting before it goes into the presets.

The times are of two cores, but nothing here depends on how busy the machine is: they stand for so
many seconds of processor time of one thread (see ``ONE_THREAD``), and those for a number of steps.
Evaluations are not counted. What was measured is kept in FOLDER/measured.jsonl, and is not measured
again. The losses are exact, in nats per character, on the last tenth of the text, of the best of a
few evaluations. The last line is one JSON document.
"""

import argparse
import ast
import importlib.util
import inspect
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from charlm.data.dataset import Dataset
from charlm.data.text_files import fingerprint, read_text
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import DivergenceError
from charlm.model.device import keep_memory, torch_threads
from charlm.model.language_model import CharLM
from charlm.training import presets
from charlm.training.trainer import Trainer

ONE_THREAD = 0.6  # of the speed of two cores
EVALUATIONS = (0.6, 0.8, 1.0)  # after these shares of the steps; only the last in few epochs
FEW_EPOCHS = 3
TIMED_STEPS = 8


class Measured:
    """What was measured before, by name: a file of one JSON object a line."""

    def __init__(self, path):
        self.path = path

    def get(self, function, *name):
        """Return the value of ``name``, which is ``function()`` if it is not there."""
        key = json.dumps(name, sort_keys=True)
        for line in self.path.read_text("utf-8").splitlines() if self.path.exists() else ():
            entry = json.loads(line)
            if entry["name"] == key:
                return entry["value"]
        value = function()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": key, "value": value}) + "\n")
        return value


class Text:
    """A text, its tokenizer and its ids."""

    def __init__(self, path):
        text = read_text([path])
        self.name = path.stem
        self.fingerprint = fingerprint(text)
        self.tokenizer = CharTokenizer.from_text(text)
        self.ids = self.tokenizer.encode(text)

    def dataset(self, validation_fraction, least=0):
        """Return the dataset, the text repeated until it has ``least`` characters."""
        ids = np.resize(self.ids, max(len(self.ids), least))
        return Dataset.from_ids(ids, self.tokenizer, self.fingerprint, validation_fraction)


def load_presets(path):
    """Return the presets of a file as a module."""
    spec = importlib.util.spec_from_file_location("old_presets", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def new_trainer(text, model_config, config, precision, least=0):
    dataset = text.dataset(config.validation_fraction, least)
    model = CharLM(model_config, text.tokenizer.vocab_size, seed=config.seed)
    return Trainer(model, dataset, config, precision=precision, threads=1)


def seconds_per_step(text, model_config, config, precision):
    """Return the processor time of a step: the fastest of a few, the first one not counted."""
    window = config.batch_size * config.seq_length
    config = replace(config, steps=1000)
    trainer = new_trainer(text, model_config, config, precision, least=2 * window)
    seconds = []
    for _ in range(TIMED_STEPS):
        began = time.process_time()
        trainer.step()
        seconds.append(time.process_time() - began)
    return min(seconds[1:])


def timed(measured, text, model_config, config, precision):
    """Return what :func:`seconds_per_step` measured once for these sizes."""
    sizes = [model_config.to_dict() | {"dropout": model_config.dropout > 0}]
    sizes += [text.tokenizer.vocab_size, config.batch_size, config.seq_length, precision]
    return measured.get(lambda: seconds_per_step(text, model_config, config, precision), *sizes)


def call(function, *values, **words):
    """Return the value of a function of presets; older ones know fewer of the words."""
    known = inspect.signature(function).parameters
    return function(*values, **{name: words[name] for name in words if name in known})


def plan(measured, text, module, given, seconds, precision):
    """Return what these presets choose to do in so many seconds, the steps included."""
    size = {"vocab_size": text.tokenizer.vocab_size}
    model_config, config = module.REFERENCE
    window = config.batch_size * config.seq_length
    readable = seconds * window / timed(measured, text, model_config, config, precision)
    model_config, config, _ = call(
        module.choose_configs, len(text.ids), given, readable=readable, **size
    )
    steps = seconds / timed(measured, text, model_config, config, precision)
    epochs = call(module.max_epochs, len(text.ids), **size)
    stream = new_trainer(text, model_config, config, precision).stream
    steps = min(steps, epochs * stream.windows_per_epoch)
    return model_config, replace(config, steps=max(1, int(steps)))


def train(text, model_config, config, precision):
    """Return the best validation loss of a run, or infinity if it diverged."""
    trainer = new_trainer(text, model_config, config, precision)
    epochs = config.steps / trainer.stream.windows_per_epoch
    shares = EVALUATIONS if epochs > FEW_EPOCHS else EVALUATIONS[-1:]
    due = {max(1, round(share * config.steps)) for share in shares}
    try:
        for step in range(1, config.steps + 1):
            trainer.step()
            if step in due:
                trainer.evaluate()
    except DivergenceError:
        return float("inf")
    return trainer.counters.best_loss


def losses(measured, text, configs, precision, seeds):
    """Return the validation loss with each of these seeds."""
    model_config, config = configs
    found = []
    for seed in seeds:
        seeded = replace(config, seed=seed)
        name = [text.fingerprint, model_config.to_dict(), seeded.to_dict(), precision]
        found.append(measured.get(lambda c=seeded: train(text, model_config, c, precision), *name))
    return found


def differences(old, new):
    """Return the settings that are not the same, new values only."""
    new = new[0].to_dict() | new[1].to_dict()
    old = old[0].to_dict() | old[1].to_dict()
    return ", ".join(f"{name} {value}" for name, value in new.items() if value != old[name])


def setting(word):
    """Return ``NAME=VALUE`` as a name and a number."""
    name, _, value = word.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form NAME=NUMBER") from None


def rows(arguments):
    """Measure, and print a row of the table for every text and time; return their figures."""
    measured = Measured(arguments.folder / "measured.jsonl")
    old, new = load_presets(arguments.old), load_presets(arguments.new)
    given, precision = dict(arguments.set), arguments.precision
    for path in sorted(arguments.folder.glob("*.txt")):
        if arguments.only not in path.name:
            continue
        text = Text(path)
        size = len(text.ids), text.tokenizer.vocab_size
        for seconds in arguments.seconds:
            one = seconds / ONE_THREAD
            before = plan(measured, text, old, {}, one, precision)
            after = plan(measured, text, new, given, one, precision)
            a, b = (
                statistics.mean(losses(measured, text, configs, precision, arguments.seeds))
                for configs in (before, after)
            )
            print(
                f"| {text.name} | {size[0]:,} | {size[1]:,} | {seconds:g} | {a:.4f} | {b:.4f} "
                f"| {b - a:+.4f} | {differences(before, after)} |",
                flush=True,
            )
            yield [text.name, *size, seconds, round(a, 4), round(b, 4), round(b - a, 4)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--old", default=presets.__file__, help="presets to compare with, a file")
    parser.add_argument("--new", default=presets.__file__, help="presets, default those of charlm")
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, 70.0])
    parser.add_argument("--set", type=setting, nargs="+", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", default="", help="texts with this in their names")
    parser.add_argument("--precision", default="bfloat16")
    arguments = parser.parse_args(argv)
    keep_memory()
    print("| text | characters | vocabulary | seconds | old | new | difference | new settings |")
    print("|---|---|---|---|---|---|---|---|")
    with torch_threads(1):
        found = list(rows(arguments))
    mean = round(statistics.mean(row[-1] for row in found), 4) if found else None
    print(json.dumps({"benchmark": "texts", "rows": found, "mean_difference": mean}))


if __name__ == "__main__":
    main()
