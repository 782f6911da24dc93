"""The verb ``evaluate``."""

import json
import math
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from charlm.cli.parser import (
    Subparsers,
    add_files,
    add_json,
    add_run,
    add_setting,
    add_unknown,
    given,
)
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import say_unknown, text_files
from charlm.config import ComputeConfig

if TYPE_CHECKING:
    from charlm.evaluation.result import Evaluation


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "evaluate",
        help="measure how well a model predicts a text",
        description="Print bits and nats per character and perplexity, of simpler methods, of the "
        "model, and of the model mixed with an n-gram. Every character but the first is scored "
        "once, given all that comes before it.",
    )
    add_run(parser)
    add_files(parser)
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="only the end of the text, as long as what the run's training held out",
    )
    parser.add_argument(
        "--dynamic",
        action="store_true",
        help="also let the model learn from the text as it reads, each piece scored before; the "
        "run is left as it is",
    )
    add_json(parser)
    add_unknown(parser)
    for item in ComputeConfig.settings():
        if item.name == "device":
            add_setting(parser, item)


def run(arguments: Namespace) -> int:
    """Print how well a model predicts a text, and what is reached without one."""
    from charlm.model import require_torch

    require_torch()
    from charlm import api
    from charlm.evaluation.baselines import MIXED, MOST_TEXT
    from charlm.evaluation.texts import evaluate_checkpoint, text_to_score

    lm = api.load(arguments.run, unknown=arguments.unknown)
    files = text_files(arguments.files)
    past, text = text_to_score(lm.checkpoint, files, held_out=arguments.held_out)
    text = lm.readable(text)
    say_unknown(lm.unknown)
    with ProgressBar(len(text) * (2 if arguments.dynamic else 1), "evaluating") as bar:
        result = evaluate_checkpoint(
            lm.checkpoint,
            past,
            text,
            source="the held-out part" if arguments.held_out else "the text",
            dynamic=arguments.dynamic,
            on_progress=bar.update,
            **given(arguments, ["device"]),
        )
    if arguments.json:
        print(json.dumps(result.to_dict()))
        return 0
    print("bits/char  nats/char  perplexity")
    for name, bits in result.baselines.items():
        _print_row(replace(result, nats_per_char=bits * math.log(2)), name)
    for one, name in ((result, "this model"), (result.dynamic, "this model, learning as it reads")):
        if one is None:
            continue
        _print_row(one, name)
        if one.mixed is not None:
            _print_row(one.mixed, f"{name}, mixed with an {MIXED}-gram")
    print(f"{result.characters:,} characters scored")
    if result.items is not None:
        print(f"{result.items:,} items, {result.nats_per_item:.4f} nats each")
    start = "the training text and" if past else "only"
    what = f"n-grams and xz have read {start} what comes before"
    if len(text) > MOST_TEXT:
        what += f", and are measured on the first {MOST_TEXT:,} characters"
    print(what)
    return 0


def _print_row(one: "Evaluation", name: str) -> None:
    print(f"{one.bits_per_char:9.4f} {one.nats_per_char:10.4f} {one.perplexity:11.3f}  {name}")
