"""What each verb does: one function a verb, from parsed arguments to the exit status.

Rooms that need torch are imported inside the functions that need them.
"""

import contextlib
import json
import os
import shlex
import signal
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from charlm.cli.arguments import as_flags, given
from charlm.cli.terminal import printable, say
from charlm.config import ModelConfig, SampleConfig, TrainConfig
from charlm.errors import CorpusError

if TYPE_CHECKING:
    from charlm.checkpoint import Checkpoint
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
        threads=arguments.threads,
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
        minutes=arguments.minutes,
        learning_rate=arguments.learning_rate,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    return _fill(run)


def _fill(run: "Run") -> int:
    """Train, showing how it goes, until the end or until a signal asks to stop."""
    from charlm import api
    from charlm.cli import display

    again = f"go on: charlm resume {shlex.quote(str(run.folder))}"
    display.head(run)
    with _Stop(again) as stop, display.Bar(run) as bar:
        for progress in run.progress():
            if stop.signal is not None:
                run.save("latest")  # before anything is shown: the terminal may be gone
                break
            bar.show(progress)
    if stop.signal is not None and not run.trainer.finished:
        say(f"saved at step {run.trainer.counters.step}; {again}")
        return 128 + stop.signal
    display.end(run, api.load(run.folder))
    say(f"repeat:   {printable(repeat(run.trainer.checkpoint()))}")
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


class _Stop:
    """While in use, requests to stop are noted, to be acted on between two steps.

    They are SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed), but for those that are
    ignored, as under nohup. A second one does not wait.
    """

    def __init__(self, again: str):
        self.again = again
        self.signal: int | None = None

    def __enter__(self) -> "_Stop":
        numbers = [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)]
        wanted = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        at_once = self.signal is not None
        self.signal = number
        with contextlib.suppress(OSError):
            if at_once:
                say(f"\nstopped at once, at the last save; {self.again}")
            else:
                say("\nstopping after this step; once more to stop at once")
        if at_once:
            os._exit(128 + number)  # what is half written is a temporary file, as after a kill


def generate(arguments: Namespace) -> int:
    """Write the prompt and what follows it."""
    from charlm import api, generation

    config = generation.seeded(SampleConfig(**given(arguments, SampleConfig)))
    samples = api.load(arguments.run).samples(arguments.prompt, config)
    say(f"seed {config.seed}")
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
    say(f"{path}: {len(text):,} characters, {len(set(text))} symbols")
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "train": train,
    "resume": resume,
    "generate": generate,
    "evaluate": evaluate,
    "info": info,
    "corpus": corpus,
}
