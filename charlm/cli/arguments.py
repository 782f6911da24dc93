"""The words of the command line: verbs, flags and their help.

The flags of the settings derive from the configs. Of these, only what was given is in the result of
parsing, so that what was not can follow from the text.
"""

import argparse
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from typing import Any, NoReturn

from charlm import __version__
from charlm.config import (
    PRECISIONS,
    LinesConfig,
    ModelConfig,
    SampleConfig,
    Settings,
    TrainConfig,
    field_type,
)

EXAMPLES = """\
examples:
  charlm train corpora/english.txt
  charlm generate checkpoints/english --prompt "The sea " --length 300
  charlm resume checkpoints/english --steps 2000
  charlm evaluate checkpoints/english another.txt

'charlm VERB --help' tells all about a verb."""

RUN_HELP = "run folder, its name under checkpoints/, or a checkpoint file"
FILES_HELP = "UTF-8 text files, joined in this order"
ALIASES = {
    "length": ("-l",),
    "temperature": ("-t",),
    "num_samples": ("-n",),
    "learning_rate": ("--lr",),
}


AddParser = Callable[..., argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes no abbreviated flags."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and leave with 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def make_parser() -> Parser:
    """Return the parser of all verbs; the name of the verb is in ``verb``."""
    top = Parser(
        prog="charlm",
        description="A character-level recurrent language model: point it at a text, get a model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"charlm {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (_train, _resume, _generate, _score, _evaluate, _memorized, _info, _corpus):
        add(verbs.add_parser)
    return top


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line; wrong usage leaves with 2."""
    top = make_parser()
    arguments, unknown = top.parse_known_args(argv)
    if unknown:
        verb = Parser(prog=f"{top.prog} {arguments.verb}")
        verb.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _train(add_parser: AddParser) -> None:
    train = add_parser(
        "train",
        help="train a new model on text files",
        description="Train a new model on UTF-8 text files. Ctrl-C saves, and says how to go on.",
        epilog="What is not given follows from the text and the time, and is printed.",
    )
    train.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
    train.add_argument(
        "-o", "--out", metavar="RUN", help="new run folder (default: checkpoints/<name of FILE>)"
    )
    train.add_argument(
        "--init-from",
        metavar="RUN",
        help="begin with the weights of this run; a fresh training, unlike resume",
    )
    _add_hows(train, precision="what is faster here", threads="what is faster here")
    _add_settings(train, "model", ModelConfig)
    _add_settings(train, "training", TrainConfig)


def _resume(add_parser: AddParser) -> None:
    resume = add_parser(
        "resume",
        help="go on with a stopped run, exactly",
        description="Go on with a stopped run from its latest checkpoint. On the same CPU, with "
        "the same torch, the result is bit for bit that of a run which was never stopped.",
    )
    resume.add_argument("run", metavar="RUN", help=RUN_HELP)
    resume.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="new total of steps, also of a finished run; the schedule is laid out anew over this "
        "total, so the learning rate jumps to that of a run which had it from the beginning",
    )
    resume.add_argument(
        "--minutes", type=float, metavar="X", help="new total of minutes, in place of steps"
    )
    resume.add_argument(
        "--learning-rate", "--lr", type=float, metavar="X", help="new peak of the learning rate"
    )
    resume.add_argument(
        "--text",
        action="append",
        metavar="FILE",
        help="where the text is now, if it was moved; once for each file",
    )
    _add_hows(resume, precision="as the run did so far", threads="as many as so far")


def _generate(add_parser: AddParser) -> None:
    generate = add_parser(
        "generate",
        help="write text with a trained model",
        description="Write the prompt and what follows it to stdout, as it is drawn.",
    )
    generate.add_argument("run", metavar="RUN", help=RUN_HELP)
    prompt = generate.add_mutually_exclusive_group()
    prompt.add_argument(
        "-p",
        "--prompt",
        type=utf8,
        default="",
        metavar="TEXT",
        help="text to go on from (default: none)",
    )
    prompt.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="file with the text to go on from, - for stdin; the end of its last line counts too",
    )
    generate.add_argument("--json", action="store_true", help="print one JSON object per sample")
    generate.add_argument(
        "--save-state", metavar="FILE", help="save what the model has read, with what it wrote"
    )
    generate.add_argument("--load-state", metavar="FILE", help="go on from what --save-state saved")
    _add_settings(generate, "sampling", SampleConfig)
    _add_settings(generate, "a text of one item per line", LinesConfig)
    generate.add_argument(
        "--novel", metavar="FILE", help="no line of this text, such as the one trained on"
    )


def _score(add_parser: AddParser) -> None:
    score = add_parser(
        "score",
        help="show how surprising a text is to a model",
        description="Show the surprise at each character, given all before it: in a terminal as "
        "the coloured text, and in figures. Needs no torch. Of several texts the least surprising "
        "comes first.",
    )
    score.add_argument("run", metavar="RUN", help=RUN_HELP)
    score.add_argument("files", nargs="*", metavar="FILE", help="UTF-8 texts (default: stdin)")
    how = score.add_mutually_exclusive_group()
    how.add_argument("--lines", action="store_true", help="a figure for each line of the text")
    how.add_argument(
        "--rank",
        action="store_true",
        help="take each line for a text of its own, the least surprising first",
    )
    score.add_argument(
        "--json", action="store_true", help="print JSON: an object per text, or per line"
    )
    score.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="show the text, coloured by surprise (default: auto, in a terminal)",
    )


def _evaluate(add_parser: AddParser) -> None:
    evaluate = add_parser(
        "evaluate",
        help="measure how well a model predicts a text",
        description="Print nats and bits per character and perplexity. Every character but the "
        "first is scored once, given all that comes before it.",
    )
    evaluate.add_argument("run", metavar="RUN", help=RUN_HELP)
    evaluate.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
    evaluate.add_argument(
        "--held-out",
        action="store_true",
        help="only the end of the text, as long as what the run's training held out",
    )
    evaluate.add_argument(
        "--dynamic",
        action="store_true",
        help="also let the model learn from the text as it reads, each piece scored before; the "
        "run is left as it is",
    )
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    _add_device(evaluate)


def _memorized(add_parser: AddParser) -> None:
    memorized = add_parser(
        "memorized",
        help="tell how much a model copies its training text",
        description="Generate, and report the longest run that stands word for word in the "
        "training text, and the share of short runs that do not.",
    )
    memorized.add_argument("run", metavar="RUN", help=RUN_HELP)
    memorized.add_argument("files", nargs="+", metavar="TRAINING_FILE", help=FILES_HELP)
    memorized.add_argument("--json", action="store_true", help="print one JSON object")
    _add_settings(memorized, "sampling", SampleConfig)


def _info(add_parser: AddParser) -> None:
    info = add_parser(
        "info",
        help="tell what a run is and how far it is",
        description="Print the settings, the text and the progress of a run.",
    )
    info.add_argument("run", metavar="RUN", help=RUN_HELP)
    info.add_argument("--json", action="store_true", help="print one JSON object")


def _corpus(add_parser: AddParser) -> None:
    corpus = add_parser(
        "corpus",
        help="get a text to train on",
        description="python: the standard library of this Python, from this machine. "
        "shakespeare: Tiny Shakespeare, downloaded (1.1 MB).",
    )
    corpus.add_argument("name", choices=("python", "shakespeare"))
    corpus.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="text file to write (default: corpora/python.txt or corpora/tiny-shakespeare.txt)",
    )


def utf8(argument: str) -> str:
    """Return a word of the command line read as UTF-8, whatever the locale took it for."""
    return os.fsencode(argument).decode("utf-8", "surrogateescape")


def given(arguments: argparse.Namespace, *configs: type[Settings]) -> dict[str, Any]:
    """Return those settings of ``configs`` that the user gave."""
    values = vars(arguments)
    return {name: values[name] for config in configs for name in config.names() if name in values}


def as_flags(*configs: Settings) -> list[str]:
    """Return the words of the command line that make ``configs``; a default needs none."""
    words = []
    for config in configs:
        for item in fields(config):
            value = getattr(config, item.name)
            flag = f"--{item.name.replace('_', '-')}"
            if value is False:
                flag = f"--no-{flag[2:]}"
            needed = value != item.default and not (item.name == "minutes" and "--steps" in words)
            if needed:
                words += [flag] if isinstance(value, bool) else [flag, str(value)]
    return words


def _add_hows(parser: argparse.ArgumentParser, *, precision: str, threads: str) -> None:
    _add_device(parser)
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help=f"arithmetic of training (default: auto, {precision})",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help=f"threads of torch, 0 = as many as it takes (default: {threads})",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where to compute (default: auto, a GPU if there is one)",
    )


def _add_settings(parser: argparse.ArgumentParser, title: str, config: type[Settings]) -> None:
    """Add a group with one flag for each setting of ``config``."""
    group = parser.add_argument_group(title)
    for item in fields(config):
        flags = [*ALIASES.get(item.name, ()), f"--{item.name.replace('_', '-')}"]
        group.add_argument(*flags, dest=item.name, default=argparse.SUPPRESS, **_options(item))


def _options(item: "Field[Any]") -> dict[str, Any]:
    kind = field_type(item)
    default = f" (default: {_shown(item.default)})" if item.default not in (None, "", ()) else ""
    text = item.metadata["help"].replace("%", "%%") + default
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, "help": text}
    if item.metadata["choices"]:
        return {"choices": item.metadata["choices"], "help": text}
    if typing.get_origin(kind) is tuple:
        return {"type": utf8, "action": "append", "metavar": "TEXT", "help": text}
    if kind is str:
        return {"type": utf8, "metavar": "TEXT", "help": text}
    return {"type": kind, "metavar": "N" if kind is int else "X", "help": text}


def _shown(default: object) -> str:
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else str(default)
