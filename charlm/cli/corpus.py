"""The verb ``corpus``."""

from argparse import Namespace
from pathlib import Path

from charlm.cli.parser import Subparsers, name
from charlm.cli.terminal import say
from charlm.data.downloads import SAMPLE_TEXTS
from charlm.errors import ConfigError, CorpusError


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "corpus",
        help="get a sample text to train on",
        description="Write a sample text to a file. "
        + " ".join(f"{text}: {sample.description}." for text, sample in SAMPLE_TEXTS.items()),
    )
    parser.add_argument(
        "text", nargs="?", choices=tuple(SAMPLE_TEXTS), help="which one (default: list them)"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=name,
        metavar="FILE",
        help="text file to write (default: as the list says)",
    )


def run(arguments: Namespace) -> int:
    """Write a text to train on, or list what there is."""
    from charlm.files import make_folder, write_atomically

    if arguments.text is None:
        if arguments.out:
            raise ConfigError(f"--out goes with a text: one of {', '.join(SAMPLE_TEXTS)}")
        _print_list()
        return 0
    sample = SAMPLE_TEXTS[arguments.text]
    path = Path(arguments.out or Path("corpora") / sample.file_name)
    if path.exists():
        raise CorpusError(f"{path} is there already: remove it, or choose another name with --out")
    text = sample.fetch()
    make_folder(path.parent)
    write_atomically(path, text.encode())
    say(f"{path}: {len(text):,} characters, {len(set(text)):,} symbols")
    return 0


def _print_list() -> None:
    """Print a line for each text: its name, the file that it becomes, and what it is."""
    files = {key: str(Path("corpora") / text.file_name) for key, text in SAMPLE_TEXTS.items()}
    width, file_width = max(map(len, files)), max(map(len, files.values()))
    for text, file in files.items():
        print(f"{text:{width}}  {file:{file_width}}  {SAMPLE_TEXTS[text].description}")
