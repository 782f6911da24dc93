"""What the parsers of all verbs share: one-line errors, and flags that derive from the settings.

Of the flags of settings, only what was given is in the result of parsing, so that what was not can
follow from the text and the time.
"""

import argparse
import errno
import os
import sys
import types
import typing
from collections.abc import Collection, Iterable, Sequence
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from charlm import __version__
from charlm.cells import CELLS
from charlm.config import ComputeConfig, ModelConfig, TrainConfig, option_names
from charlm.data import unknown
from charlm.errors import ConfigError
from charlm.files import is_regular_file
from charlm.settings import BOUNDS, Settings, field_type
from charlm.suggestions import nearest_flag, nearest_value, nearest_verb

if TYPE_CHECKING:
    from charlm.api import LanguageModel

EXAMPLES = """\
examples:
  charlm train corpora/english.txt
  charlm generate checkpoints/english --prompt "The sea " --length 300
  charlm resume checkpoints/english --steps 2000
  charlm evaluate checkpoints/english another.txt

'charlm help VERB' describes all flags of a verb, which may stand anywhere.

exit status: 0 done, 1 an error that you can mend, 2 wrong usage, 128 + n after
signal n (130 Ctrl-C)"""

ALIASES = {
    "length": ("-l",),
    "temperature": ("-t",),
    "num_samples": ("-n",),
    "learning_rate": ("--lr",),
}

Subparsers = Any  # what argparse's add_subparsers returns; its type has no public name


class Verb(Protocol):
    """A file of this package that is a verb."""

    __name__: str

    def add_parser(self, verbs: Subparsers) -> None:
        """Add the parser of the verb."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do what the verb says; return the exit status."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes no abbreviated flags."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with status 2."""
        message = message if len(message) <= 1000 else f"{message[:1000]} ..."
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is none of the choices, with the nearest one."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += nearest_value(str(value), list(action.choices or ()))
            raise


def load_cells(words: Sequence[str]) -> None:
    """Run the files that ``--cell-file`` names; what they put into ``CELLS`` are backbones then.

    This is done before the flags are parsed, as the options of a cell are flags too.

    Raises:
        ConfigError: if a file cannot be read, or is not Python.
    """
    finder = Parser(prog="charlm", add_help=False)
    _add_cell_file(finder)
    for file in finder.parse_known_args(words)[0].cell_file:
        before = dict(CELLS)
        try:
            _run_file(file)
        except OSError as error:
            raise ConfigError(f"cannot read cell file {file}: {error.strerror}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit() too: nothing would be done, with status 0
            raise ConfigError(f"cell file {file} fails: {type(error).__name__}: {error}") from None
        if before == CELLS:
            raise ConfigError(
                f"cell file {file} adds no cell: let it end with a line like "
                'charlm.cells.CELLS["name"] = MyCell'
            )


def _run_file(file: str) -> None:
    """Run a Python file as a module, as dataclasses need one."""
    if Path(file).exists() and not is_regular_file(file):
        raise OSError(errno.EINVAL, "it is not a regular file")
    module = types.ModuleType(f"charlm_cell_file_{len(sys.modules)}")
    sys.modules[module.__name__] = module
    exec(compile(Path(file).read_bytes(), file, "exec"), vars(module))


def _add_cell_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cell-file",
        type=name,
        action="append",
        default=[],
        metavar="FILE",
        help="Python file of your own that adds a recurrent cell to charlm.cells.CELLS; its code "
        "is run",
    )


def make_parser(verbs: Iterable[Verb]) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of a command line with these verbs, and the parser of each by name."""
    top = Parser(
        prog="charlm",
        description="A character-level recurrent language model: point it at a text, get a model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"charlm {__version__}")
    subparsers = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in verbs:
        verb.add_parser(subparsers)
    for name, parser in subparsers.choices.items():
        _add_cell_file(parser)
        parser.usage = f"charlm {name} {_positionals(parser)} [flags]"  # some have 30 flags
    return top, subparsers.choices


def _positionals(parser: argparse.ArgumentParser) -> str:
    """Return the arguments of a verb that are no flags, as a usage shows them."""
    shapes: dict[Any, str] = {"+": "{0} [{0} ...]", "*": "[{0} ...]", "?": "[{0}]", None: "{0}"}
    return " ".join(
        shapes[action.nargs].format(action.metavar or f"{{{','.join(action.choices or ())}}}")
        for action in parser._get_positional_actions()
    )


def parse(verbs: Collection[Verb], argv: Sequence[str] | None) -> tuple[Verb, argparse.Namespace]:
    """Return the verb of a command line and its arguments; wrong usage exits with status 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] == "help":
        words = [*(word for word in words if word != "help"), "--help"]
    load_cells(words)
    verb = next((verb for verb in verbs if verb.__name__.split(".")[-1] == words[0]), None)
    top, parsers = make_parser([verb] if verb else verbs)  # no time is spent on the others' flags
    if words[0].startswith("-"):
        top.parse_args(words)  # exits: --help, --version, or wrong usage
        raise AssertionError(words)
    if verb is None:
        hint = nearest_verb(words[0], parsers)
        if not hint and Path(words[0]).is_file():
            hint = f"; did you mean charlm train {words[0]}?"
        top.error(f"unknown verb {words[0]!r}{hint}")
    # Intermixed: flags may stand between and behind files.
    arguments, rest = parsers[words[0]].parse_known_intermixed_args(words[1:])
    if rest:
        parsers[words[0]].error(_unknown(rest, parsers[words[0]]))
    arguments.verbs = verbs  # for who writes about all of them
    return verb, arguments


def _unknown(words: list[str], parser: argparse.ArgumentParser) -> str:
    """Return what to say of words that a verb does not take, the first flag of them if any."""
    flag = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    known = [flag for action in parser._actions for flag in action.option_strings]
    if flag is not None:
        return f"unknown flag {flag}{nearest_flag(flag, known)}"
    hints = {"--prompt": "a text to continue", "--text": "the text of the run"}
    hint = next((f"; {what} goes behind {f}" for f, what in hints.items() if f in known), "")
    return f"unexpected argument {words[0]!r}{hint}"


def utf8(argument: str) -> str:
    """Return a word of the command line read as UTF-8, whatever the locale took it for."""
    return os.fsencode(argument).decode("utf-8", "surrogateescape")


def name(argument: str) -> str:
    """Return the name of a file or a run, which must not be empty."""
    if not argument:
        raise argparse.ArgumentTypeError("expected a name, got an empty text")
    return argument


def given(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return those of the named settings that the user gave."""
    values = vars(arguments)
    return {name: values[name] for name in names if name in values}


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument RUN."""
    help = "run folder, its name under checkpoints/, or a checkpoint file"
    parser.add_argument("run", type=name, metavar="RUN", help=help)


def add_files(parser: argparse.ArgumentParser, metavar: str = "FILE") -> None:
    """Add the positional arguments FILE..."""
    help = "UTF-8 text files, joined in this order; of a folder its .txt and .md files"
    parser.add_argument("files", type=name, nargs="+", metavar=metavar, help=help)


def add_json(parser: argparse.ArgumentParser, help: str = "print one JSON object") -> None:
    """Add the flag ``--json``."""
    parser.add_argument("--json", action="store_true", help=help)


def add_unknown(parser: argparse.ArgumentParser) -> None:
    """Add the flag ``--unknown``."""
    parser.add_argument(
        "--unknown",
        choices=unknown.CHOICES,
        default="error",
        help="what to do with a character that the model does not know: end with an error, skip "
        "it, or read the nearest one, such as E for É (default: error)",
    )


def add_exact(parser: argparse.ArgumentParser) -> None:
    """Add the flag ``--exact``; see :func:`load_model`."""
    parser.add_argument(
        "--exact",
        action="store_true",
        help="compute the model in whole numbers: the same bits on any machine",
    )


def load_model(arguments: argparse.Namespace) -> "LanguageModel":
    """Return the model that the run, ``--unknown`` and ``--exact`` of a verb ask for."""
    from charlm import api

    lm = api.load(arguments.run, unknown=arguments.unknown)
    return lm.exact() if arguments.exact else lm


def add_settings(
    parser: argparse.ArgumentParser,
    title: str,
    config: type[Settings],
    leave_out: Collection[str] = (),
) -> None:
    """Add a group with one flag for each setting of ``config``; of a model also its cells'."""
    group = parser.add_argument_group(title)
    for item in config.settings():
        if item.name not in leave_out:
            add_setting(group, item)
    if config is ModelConfig:
        for item, backbones in _cell_options():
            add_setting(group, item, f"backbone {', '.join(backbones)}: {help_of(item)}")


def add_setting(group: Any, item: "Field[Any]", help: str = "") -> None:
    """Add the flag of one setting, with its own help or another, to a parser or a group of it."""
    flags = [*ALIASES.get(item.name, ()), flag_of(item.name)]
    options: dict[str, Any] = {
        "dest": item.name,
        "default": argparse.SUPPRESS,
        "help": (help or help_of(item)).replace("%", "%%"),
    }
    kind = field_type(item)
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif item.metadata["choices"]:
        options["choices"] = tuple(item.metadata["choices"])
    elif typing.get_origin(kind) is tuple:
        options |= {"type": utf8, "action": "append", "metavar": "TEXT"}
    elif kind is str:
        options |= {"type": utf8, "metavar": "TEXT"}
    else:
        options |= {"type": kind, "metavar": "N" if kind is int else "X"}
    group.add_argument(*flags, **options)


def _cell_options() -> list[tuple["Field[Any]", list[str]]]:
    """Return the options of all cells, each with the backbones that have it."""
    option_names()  # refuses what would clash with another flag
    found: dict[str, tuple[Field[Any], list[str]]] = {}
    for backbone, cell in CELLS.items():
        for item in cell.settings():
            found.setdefault(item.name, (item, []))[1].append(backbone)
    return list(found.values())


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return f"--{name.replace('_', '-')}"


def as_flag(name: str, value: str | None = None) -> str:
    """Return the flag of a setting, with a value behind it if one is given."""
    if value in ("True", "False"):
        return as_flags({name: value == "True"})[0]
    return flag_of(name) if value is None else f"{flag_of(name)} {value}"


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Return the words of the command line that give these settings; None is not given."""
    words = []
    for name, value in settings.items():
        if value is True or value is False:
            words.append(flag_of(name) if value else f"--no-{flag_of(name)[2:]}")
        elif value is not None:
            words += [flag_of(name), str(value)]
    return words


def start_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a new run that the user gave."""
    options = [item.name for item, _ in _cell_options()]
    configs = (ModelConfig, TrainConfig, ComputeConfig)
    return given(arguments, [name for config in configs for name in config.names()] + options)


def help_of(item: "Field[Any]") -> str:
    """Return the help of a setting, with its default and the bounds that are worth a word."""
    rules = item.metadata
    help: str = rules["help"]
    notes: list[str] = []
    for rule, (words, _) in BOUNDS.items():
        bound = rules[rule]
        if bound and (rule, bound) != ("minimum", 1) and bound < 1_000_000:
            notes.append(f"{words} {bound:g}")
    if item.default not in (None, "", ()):
        shown = {"True": "yes", "False": "no"}.get(str(item.default), str(item.default))
        notes.append(f"default: {shown}")
    return f"{help} ({', '.join(notes)})" if notes else help
