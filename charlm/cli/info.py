"""The verb ``info``."""

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import Subparsers, add_json, add_run
from charlm.cli.progress import clock
from charlm.cli.repeat import cell_flags, repeat_commands
from charlm.cli.terminal import ago, printable
from charlm.files import age_of, as_path, shell_command

if TYPE_CHECKING:
    from charlm.checkpoint import Checkpoint
    from charlm.config import Counters


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "info",
        help="print what a run is and how far it is",
        description="Print the model, the text and the progress of a run, and how to go on.",
    )
    add_run(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="print every setting, and the commands that repeat the run",
    )
    add_json(parser, "print all as one JSON object")


def run(arguments: Namespace) -> int:
    """Print what a run is and how far it is."""
    from charlm import checkpoint as checkpoints

    path = checkpoints.locate(arguments.run, "latest")
    found = checkpoints.load(path, model_only=True)
    if arguments.json or arguments.all:
        facts = _all_facts(path, found, arguments.cell_file)
        if arguments.json:
            print(json.dumps(facts, ensure_ascii=False))
        else:
            _print_all(facts)
        return 0
    for label, text in _summary(path, found, arguments.cell_file).items():
        print(f"{label:9} {printable(text)}")
    return 0


def _summary(path: Path, found: "Checkpoint", cell_files: list[str]) -> dict[str, str]:
    """Return what a person asks of a run, a line each."""
    model, source, train = found.model_config, found.source, found.train_config
    counters = found.counters
    total = (
        f"{train.minutes:g} minutes"
        if train.total_steps is None
        else f"{train.total_steps:,} steps"
    )
    summary = {
        "model": f"{model.description}, "
        f"{model.num_parameters(found.tokenizer.vocab_size):,} parameters"
        + ", in whole numbers"
        * found.exact,
        "file": f"{path}, {path.stat().st_size / 1e6:.1f} MB, saved {ago(age_of(path))}",
        "text": f"{_named(source.files)}: {source.characters:,} characters, "
        f"{found.tokenizer.vocab_size:,} symbols" + ", a list of items" * bool(model.items),
        "loss": _loss(counters),
        "training": f"{clock(counters.seconds)} for {counters.step:,} of {total}, "
        f"seed {train.seed}",
    }
    is_run = path.stem in ("latest", "best")
    commands = {"generate": [as_path(path.parent if is_run else path)]}
    if is_run:
        done = train.total_steps is not None and counters.step >= train.total_steps
        commands["resume"] = [*commands["generate"], *["--steps", str(2 * counters.step)] * done]
    for verb, words in commands.items():
        summary[verb] = shell_command(["charlm", verb, *words, *cell_flags(cell_files)])
    return summary


def _named(files: tuple[str, ...]) -> str:
    """Return the names of some files, of many the first ones."""
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(files[:3]) + more or "unknown"


def _loss(counters: "Counters") -> str:
    if counters.loss is None:
        return "not measured yet"
    nats, bits = counters.loss, counters.loss / math.log(2)
    return f"{nats:.4f} nats ({bits:.4f} bits) per character at step {counters.best_step:,}"


def _all_facts(path: Path, found: "Checkpoint", cell_files: list[str]) -> dict[str, Any]:
    """Return all that is known of a run, by name."""
    model, source = found.model_config, found.source
    vocab_size = found.tokenizer.vocab_size
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "exact": found.exact,
        "parameters": model.num_parameters(vocab_size),
        "symbols": vocab_size,
        "unknown_symbol": found.tokenizer.unknown,
        "vocabulary": found.tokenizer.vocabulary,
        "text": list(source.files),
        "text_characters": source.characters,
        "text_sha256": source.fingerprint,
        "precision": source.precision,
        "step": found.counters.step,
        "best_loss": found.counters.best_loss,
        "whole_loss": found.counters.whole_loss,
        "best_step": found.counters.best_step,
        "seconds": round(found.counters.seconds, 1),
        "repeat": repeat_commands(found, cell_files),
        "model": model.to_dict(),
        "train": found.train_config.to_dict(),
    }


def _print_all(facts: dict[str, Any]) -> None:
    facts |= facts.pop("model") | facts.pop("train")
    for name, value in facts.items():
        if name == "vocabulary":
            value = value if len(value) <= 200 else f"{value[:60]} ..."
        if isinstance(value, list):
            value = (" && " if name == "repeat" else ", ").join(value)
        print(f"{name:20} {printable(str(value))}")
