"""The verb ``completion``."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from charlm.cli.parser import Subparsers, make_parser
from charlm.errors import PackageError
from charlm.files import install_command

SHELLS = ("bash", "zsh", "fish")
LIST_RUNS = "command ls checkpoints 2>/dev/null"
# How each shell completes a run: its name under checkpoints/, or any path. The name of the function
# for bash ends in what tells shtab that its words may be names of files.
RUNS = {
    "bash": "_charlm_run_or_file",
    "zsh": "_charlm_run_or_file",
    "fish": f"({LIST_RUNS}; __fish_complete_path (commandline -ct))",
    "preamble": {
        "bash": f"""\
_charlm_run_or_file() {{
  local IFS=$'\\n'
  compgen -W "$({LIST_RUNS})" -- "$1"
  compgen -f -- "$1"
}}""",
        "zsh": f"""\
_charlm_run_or_file() {{
  local -a runs=(${{(f)"$({LIST_RUNS})"}})
  compadd -a runs
  _files
}}""",
    },
}


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "completion",
        help="print what completes verbs, flags and runs in a shell",
        description="Print a script for the shell, which then completes verbs, flags, their "
        "choices, files, and the runs under checkpoints/ at the tab key. It starts no Python. It "
        f"needs a package: {install_command('charlm[completion]')}. For bash: charlm completion "
        "bash > ~/.local/share/bash-completion/completions/charlm; for zsh into the file _charlm "
        "in a folder of $fpath; for fish: ~/.config/fish/completions/charlm.fish.",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(arguments: Namespace) -> int:
    """Print a script."""
    try:
        import shtab
    except ImportError:
        raise PackageError(
            f"completion needs the package shtab: {install_command('charlm[completion]')}"
        ) from None
    completers: dict[Any, Any] = {"RUN": RUNS, "FOLDER": shtab.DIRECTORY}
    completers |= dict.fromkeys(("FILE", "PAGE", "TRAINING_FILE"), shtab.FILE)
    top, _ = make_parser(arguments.verbs)
    for action in _actions(top):
        if action.metavar in completers:
            vars(action)["complete"] = completers[action.metavar]
    print(shtab.complete(top, arguments.shell))
    return 0


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    """Yield the arguments of all verbs; each verb is described by its short help, as in a list."""
    verbs: Any = next(a for a in parser._actions if isinstance(a.choices, dict))
    for verb in verbs._get_subactions():
        verbs.choices[verb.dest].description = verb.help
        yield from verbs.choices[verb.dest]._actions
