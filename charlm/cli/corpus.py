"""The verb ``corpus``."""

from argparse import Namespace
from pathlib import Path

from charlm.cli.parser import Subparsers, name
from charlm.cli.terminal import say
from charlm.errors import CorpusError


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "corpus",
        help="get a sample text to train on",
        description="python: the standard library of this Python, from this machine. "
        "shakespeare: Tiny Shakespeare, downloaded (1.1 MB).",
    )
    parser.add_argument("text", choices=("python", "shakespeare"))
    parser.add_argument(
        "-o",
        "--out",
        type=name,
        metavar="FILE",
        help="text file to write (default: corpora/python.txt or corpora/tiny-shakespeare.txt)",
    )


def run(arguments: Namespace) -> int:
    """Write a text to train on."""
    from charlm.data.downloads import SAMPLE_TEXTS
    from charlm.files import make_folder, write_atomically

    fetch, file_name = SAMPLE_TEXTS[arguments.text]
    path = Path(arguments.out or Path("corpora") / file_name)
    if path.exists():
        raise CorpusError(f"{path} is there already: remove it, or choose another name with --out")
    text = fetch()
    make_folder(path.parent)
    write_atomically(path, text.encode())
    say(f"{path}: {len(text):,} characters, {len(set(text)):,} symbols")
    return 0
