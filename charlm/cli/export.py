"""The verb ``export``."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.parser import Subparsers, add_run, flag_of, name, utf8
from charlm.cli.terminal import printable, say
from charlm.errors import ConfigError
from charlm.files import as_path, install_command

if TYPE_CHECKING:
    from charlm.checkpoint import Checkpoint


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "export",
        help="write a model to a file for other programs",
        description="Write the best model of a run to one file. The end of its name says which "
        "kind: .safetensors is the model in whole numbers, a byte for a weight, which all verbs "
        "but resume open, and which computes the same bits on any machine; .html is a page that "
        "writes with the model in any browser, without Python and without a network, the same text "
        "as generate --exact; .onnx is one step of the network for any program that runs ONNX "
        f"models, and needs the package onnx: {install_command('charlm[onnx]')}. A file of the "
        "same kind that charlm wrote is replaced, any other is left alone.",
    )
    add_run(parser)
    parser.add_argument(
        "file", type=name, metavar="FILE", help=f"what to write: a name that ends in {_kinds()}"
    )
    page = parser.add_argument_group("a page")
    page.add_argument("--title", type=utf8, metavar="TEXT", help="title (default: the name of RUN)")
    page.add_argument(
        "--prompt", type=utf8, metavar="TEXT", help="what stands in its prompt at first"
    )
    page.add_argument("--description", type=utf8, metavar="TEXT", help="paragraph below the title")


def run(arguments: Namespace) -> int:
    """Write the file."""
    from charlm import checkpoint as checkpoints

    file = Path(arguments.file)
    write = WRITERS.get(file.suffix.lower())
    if write is None:
        raise ConfigError(f"the name {file} must end in {_kinds()}, which says what to write")
    words = [flag for flag in WORDS if getattr(arguments, flag) is not None]
    if words and write is not _html:
        raise ConfigError(f"{flag_of(words[0])} goes with a page, a name that ends in .html")
    found = checkpoints.load(checkpoints.locate(arguments.run), model_only=True)
    write(found, file, arguments)
    say(printable(f"wrote {as_path(file)} ({file.stat().st_size:,} bytes)"))
    return 0


def _onnx(model: "Checkpoint", file: Path, arguments: Namespace) -> None:
    from charlm.export import onnx

    onnx.save(model, file)


def _safetensors(model: "Checkpoint", file: Path, arguments: Namespace) -> None:
    from charlm import checkpoint as checkpoints

    checkpoints.save_model(checkpoints.in_whole_numbers(model), file)


def _html(model: "Checkpoint", file: Path, arguments: Namespace) -> None:
    from charlm.export import html

    words = {flag: getattr(arguments, flag) or "" for flag in WORDS}
    html.save(model, file, run=arguments.run, **words)


WORDS = ("title", "prompt", "description")  # flags that a page has
# By the end of the name: what writes a model to a file.
WRITERS: dict[str, Callable[["Checkpoint", Path, Namespace], None]] = {
    ".safetensors": _safetensors,
    ".html": _html,
    ".onnx": _onnx,
}


def _kinds() -> str:
    return " or ".join(WRITERS)
