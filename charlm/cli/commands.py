"""What each verb does: one function a verb, from parsed arguments to the exit status.

This file has the verbs of training; those that write are in ``generating``, those that measure in
``measuring``.

Rooms that need torch are imported inside the functions that need them.
"""

import json
import os
import shlex
import signal
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli import generating, measuring
from charlm.cli.arguments import as_flags, given
from charlm.cli.terminal import Bar, Stop, printable, say
from charlm.config import ModelConfig, TrainConfig
from charlm.errors import CorpusError

if TYPE_CHECKING:
    from charlm.checkpoint import Checkpoint
    from charlm.runs import Run


def train(arguments: Namespace) -> int:
    """Begin a new run and train it to its end."""
    began = time.monotonic()  # importing torch is part of the minutes
    from charlm import runs

    with _reading(arguments.files) as bar:
        run = runs.start(
            arguments.files,
            out=arguments.out,
            init_from=arguments.init_from,
            device=arguments.device,
            precision=arguments.precision,
            threads=arguments.threads,
            on_read=bar.update,
            began=began,
            **given(arguments, ModelConfig, TrainConfig),
        )
    return _fill(run)


def resume(arguments: Namespace) -> int:
    """Go on with a run to its end."""
    from charlm import runs

    with _reading(arguments.text or []) as bar:
        run = runs.resume(
            arguments.run,
            text=arguments.text,
            steps=arguments.steps,
            minutes=arguments.minutes,
            learning_rate=arguments.learning_rate,
            device=arguments.device,
            precision=arguments.precision,
            threads=arguments.threads,
            on_read=bar.update,
        )
    return _fill(run)


def _reading(files: list[str]) -> Bar:
    """Return a bar for texts that are read twice."""
    sizes = [os.path.getsize(file) for file in files if os.path.isfile(file)]  # noqa: PTH202, PTH113
    return Bar(2 * sum(sizes), "reading", "B")


def _fill(run: "Run") -> int:
    """Train, showing how it goes, until the end or until a signal asks to stop."""
    from charlm import api
    from charlm import checkpoint as checkpoints
    from charlm.cli import display

    again = f"go on: charlm resume {shlex.quote(str(run.folder))}"
    display.head(run)
    stopping = Stop(
        "stopping after this step; once more to stop at once",
        f"stopped at once, at the last save; {again}",
    )
    with stopping as stop, display.Bar(run) as bar:
        for progress in run.progress(lambda: stop.signal is not None):
            bar.show(progress)
    if not run.trainer.finished:
        say(f"saved at step {run.trainer.counters.step}; {again}")
        return 128 + (stop.signal or signal.SIGTERM)  # of several processes, maybe another one's
    display.end(run, api.load(run.folder))
    latest = checkpoints.load(run.folder / "latest.safetensors", model_only=True)
    say(f"repeat:   {printable(repeat(latest))}")
    return 0


def repeat(checkpoint: "Checkpoint") -> str:
    """Return the command that trains the same model again, once the number of steps is known."""
    words = as_flags(checkpoint.train_config)
    words += ["--precision", checkpoint.precision]
    if checkpoint.init_from:
        words += ["--init-from", checkpoint.init_from]
    else:
        words += as_flags(checkpoint.model_config)
    if checkpoint.threads:
        words += ["--threads", str(checkpoint.threads)]
    return shlex.join(["charlm", "train", *checkpoint.files, *words])


def info(arguments: Namespace) -> int:
    """Print what a run is and how far it is."""
    from charlm import checkpoint as checkpoints

    path = checkpoints.locate(arguments.run, "latest")
    found = checkpoints.load(path)
    model, vocab_size = found.model_config, found.tokenizer.vocab_size
    facts: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "parameters": model.num_parameters(vocab_size),
        "symbols": vocab_size,
        "unknown_symbol": found.tokenizer.unknown,
        "vocabulary": found.tokenizer.vocabulary,
        "text": list(found.files),
        "text_characters": found.characters,
        "text_sha256": found.fingerprint,
        "precision": found.precision,
        "step": found.counters.step,
        "best_loss": found.counters.best_loss,
        "best_step": found.counters.best_step,
        "seconds": round(found.counters.seconds, 1),
        "repeat": repeat(found),
        "model": model.to_dict(),
        "train": found.train_config.to_dict(),
    }
    if arguments.json:
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    facts |= facts.pop("model") | facts.pop("train")
    for name, value in facts.items():
        if name == "vocabulary":
            value = value if len(value) <= 200 else f"{value[:60]} ..."
        if isinstance(value, list):
            value = ", ".join(value)
        print(f"{name:20} {printable(str(value))}")
    return 0


def corpus(arguments: Namespace) -> int:
    """Write a text to train on."""
    from charlm import checkpoint as checkpoints
    from charlm.sources import SOURCES

    fetch, file_name = SOURCES[arguments.name]
    path = Path(arguments.out or Path("corpora") / file_name)
    if path.exists():
        raise CorpusError(f"{path} is there already: remove it, or choose another name with --out")
    text = fetch()
    checkpoints.make_folder(path.parent)
    checkpoints.write_atomically(path, text.encode())
    say(f"{path}: {len(text):,} characters, {len(set(text)):,} symbols")
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "train": train,
    "resume": resume,
    "generate": generating.generate,
    "score": measuring.score,
    "evaluate": measuring.evaluate,
    "memorized": measuring.memorized,
    "info": info,
    "corpus": corpus,
}
