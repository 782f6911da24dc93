"""The verb ``info``."""

import json
from argparse import Namespace
from typing import Any

from charlm.cli.parser import Subparsers, add_json, add_run
from charlm.cli.repeat import repeat_commands
from charlm.cli.terminal import printable


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "info",
        help="print the settings and the progress of a run",
        description="Print the settings, the text and the progress of a run, and the commands "
        "that repeat it.",
    )
    add_run(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Print what a run is and how far it is."""
    from charlm import checkpoint as checkpoints

    path = checkpoints.locate(arguments.run, "latest")
    found = checkpoints.load(path, model_only=True)
    model, source = found.model_config, found.source
    vocab_size = found.tokenizer.vocab_size
    facts: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
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
        "best_step": found.counters.best_step,
        "seconds": round(found.counters.seconds, 1),
        "repeat": repeat_commands(found, arguments.cell_file),
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
            value = (" && " if name == "repeat" else ", ").join(value)
        print(f"{name:20} {printable(str(value))}")
    return 0
