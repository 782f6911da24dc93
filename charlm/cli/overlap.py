"""The verb ``overlap``."""

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from charlm.cli.parser import (
    Subparsers,
    add_files,
    add_json,
    add_run,
    add_settings,
    add_unknown,
    flag_of,
    given,
)
from charlm.cli.progress import ProgressBar, folded
from charlm.cli.terminal import say, say_unknown, text_files
from charlm.config import SampleConfig
from charlm.errors import ConfigError

if TYPE_CHECKING:
    from charlm.api import LanguageModel

MOST_SHOWN = 2000  # characters of the longest overlap


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "overlap",
        help="measure how much a model copies its training text",
        description="Generate, and report the longest verbatim overlap with the training text, "
        "and the share of short substrings that are new; of a list, the share of items that are "
        "in it.",
    )
    add_run(parser)
    add_files(parser, "TRAINING_FILE")
    add_json(parser)
    add_unknown(parser)
    add_settings(parser, "sampling", SampleConfig)


def run(arguments: Namespace) -> int:
    """Print how much a model copies its training text."""
    from charlm import api
    from charlm.data.text_files import read_text
    from charlm.evaluation.overlap import find_overlap
    from charlm.inference.sampling import seeded

    text = read_text(text_files(arguments.files))
    if getattr(arguments, "length", None) == 0:
        raise ConfigError("--length 0, without end, does not go with overlap")
    lm = api.load(arguments.run, unknown=arguments.unknown)
    if lm.config.items:
        return _print_copied_items(arguments, lm, text)
    settings = {"num_samples": 65} | given(arguments, SampleConfig.names())
    config = seeded(SampleConfig(**settings))
    say(f"seed {config.seed}")
    with ProgressBar(config.num_samples * config.length, "generating") as bar:
        texts = []
        for sample in lm.samples("", **config.to_dict()):
            texts.append("".join(sample))
            bar.update(len(texts[-1]))
    say_unknown(lm.unknown)
    result = find_overlap(texts, text)
    characters = sum(map(len, texts))
    if arguments.json:
        values = {
            "characters": characters,
            "seed": config.seed,
            "longest": len(result.longest),
            "longest_text": result.longest,
            "place": result.place,
            "new_share": result.new_share,
        }
        print(json.dumps(values, ensure_ascii=False))
        return 0
    print(f"{characters:,} characters generated in {len(texts)} samples")
    print(
        f"longest verbatim overlap with the text: {len(result.longest):,} characters, "
        f"at character {result.place:,}"
    )
    print(_passage(result.longest))
    for length, share in result.new_share.items():
        what = "no sample is as long" if share is None else f"{share:7.2%} are not in the text"
        print(f"substrings of {length:2} characters: {what}")
    return 0


def _print_copied_items(arguments: Namespace, lm: "LanguageModel", text: str) -> int:
    """Print how many items of a list that a model draws are in the list that it has read."""
    from charlm.inference.sampling import seeded

    drawn = given(arguments, SampleConfig.names())
    for name in ("length", "stop"):
        if name in drawn:
            raise ConfigError(f"{flag_of(name)} does not go with a model of items")
    count = drawn.pop("num_samples", 1000)
    known = set(text.split("\n"))
    seed = seeded(SampleConfig(**drawn)).seed
    say(f"seed {seed}")
    lines = [line for line, _ in lm.lines(count, **drawn | {"seed": seed})]
    say_unknown(lm.unknown)
    distinct = set(lines)
    copied, distinct_copied = sum(line in known for line in lines), len(distinct & known)
    if arguments.json:
        values = {
            "items": len(lines),
            "seed": seed,
            "distinct": len(distinct),
            "copied": copied,
            "distinct_copied": distinct_copied,
        }
        print(json.dumps(values))
        return 0
    print(f"{len(lines):,} items generated, {len(distinct):,} of them distinct")
    print(f"{copied / max(1, len(lines)):7.2%} are items of the list")
    print(f"{distinct_copied / max(1, len(distinct)):7.2%} of the distinct ones are")
    return 0


def _passage(text: str) -> str:
    """Return a passage folded and indented, its line ends marked with a backslash and an n."""
    lines = text[:MOST_SHOWN].replace("\n", "\\n\n").removesuffix("\n").split("\n")
    shown = [f"  | {piece}" for line in lines for piece in folded(line, 75)]
    if len(text) > MOST_SHOWN:
        shown.append(f"  ... and {len(text) - MOST_SHOWN:,} characters more")
    return "\n".join(shown)
