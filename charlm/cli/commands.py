"""What each verb does: one function a verb, from parsed arguments to the exit status.

Rooms that need torch are imported inside the functions that need them.
"""

import json
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from charlm.cli.arguments import given
from charlm.config import ModelConfig, SampleConfig, TrainConfig

if TYPE_CHECKING:
    from charlm.runs import Run


def train(arguments: Namespace) -> int:
    """Begin a new run and train it to its end."""
    from charlm import runs

    run = runs.start(
        arguments.files,
        out=arguments.out,
        init_from=arguments.init_from,
        device=arguments.device,
        precision=arguments.precision,
        **given(arguments, ModelConfig, TrainConfig),
    )
    return _fill(run)


def resume(arguments: Namespace) -> int:
    """Go on with a run to its end."""
    from charlm import runs

    run = runs.resume(
        arguments.run,
        text=arguments.text,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        device=arguments.device,
        precision=arguments.precision,
    )
    return _fill(run)


def _fill(run: "Run") -> int:
    """Train, showing how it goes, until the end or until a signal asks to stop."""
    from charlm import api
    from charlm.cli import display

    display.head(run)
    with _Stop() as stop, display.Bar(run) as bar:
        for progress in run.progress():
            bar.show(progress)
            if stop.signal is not None:
                run.save("latest")
                break
    if stop.signal is not None:
        folder = shlex.quote(str(run.folder))
        display.say(f"saved at step {run.trainer.counters.step}; go on: charlm resume {folder}")
        return 128 + stop.signal
    display.end(run, api.load(run.folder))
    return 0


class _Stop:
    """While in use, SIGINT and SIGTERM are noted, to be acted on between two steps.

    A second signal does not wait for that.
    """

    signal: int | None = None

    def __enter__(self) -> "_Stop":
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this step ...", file=sys.stderr, flush=True)


def generate(arguments: Namespace) -> int:
    """Write the prompt and what follows it."""
    from charlm import api, generation

    config = generation.seeded(SampleConfig(**given(arguments, SampleConfig)))
    samples = api.load(arguments.run).samples(arguments.prompt, config)
    print(f"seed {config.seed}", file=sys.stderr, flush=True)
    for index, sample in enumerate(samples):
        if config.num_samples > 1:
            print(f"--- sample {index + 1} ---")
        print(arguments.prompt, end="", flush=True)
        for character in sample:
            print(character, end="", flush=True)
        print()
    return 0


def evaluate(arguments: Namespace) -> int:
    """Print how well a model predicts a text."""
    from charlm import checkpoint as checkpoints
    from charlm import runs
    from charlm.corpus import read_text

    found = checkpoints.load(checkpoints.locate(arguments.run), model_only=True)
    text = read_text(arguments.files)
    result = runs.score(found, text, held_out=arguments.held_out, device=arguments.device)
    if arguments.json:
        print(json.dumps(result.to_dict()))
    else:
        print(f"{result.nats_per_char:.4f} nats per character")
        print(f"{result.bits_per_char:.4f} bits per character")
        print(f"{result.perplexity:.3f} perplexity")
        print(f"{result.characters:,} characters scored")
    return 0


def info(arguments: Namespace) -> int:
    """Print what a run is and how far it is."""
    from charlm import checkpoint as checkpoints

    path = checkpoints.locate(arguments.run)
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
        "model": model.to_dict(),
        "train": found.train_config.to_dict(),
    }
    if arguments.json:
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    facts |= facts.pop("model") | facts.pop("train")
    for name, value in facts.items():
        if name == "vocabulary":
            value = repr(value) if len(value) <= 200 else f"{value[:60]!r} ..."
        print(f"{name:20} {', '.join(value) if isinstance(value, list) else value}")
    return 0


def corpus(arguments: Namespace) -> int:
    """Write a text to train on."""
    from charlm import checkpoint as checkpoints
    from charlm.sources import SOURCES

    fetch, file_name = SOURCES[arguments.name]
    path = Path(arguments.out or Path("corpora") / file_name)
    text = fetch()
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomically(path, text.encode())
    print(f"{path}: {len(text):,} characters, {len(set(text))} symbols", file=sys.stderr)
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "train": train,
    "resume": resume,
    "generate": generate,
    "evaluate": evaluate,
    "info": info,
    "corpus": corpus,
}
