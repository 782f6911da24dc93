"""The verb ``decompress``."""

from argparse import Namespace
from pathlib import Path

from charlm.cli.compress import SUFFIX, new_file, open_input
from charlm.cli.parser import Subparsers, name
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import printable, say
from charlm.errors import CorpusError


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "decompress",
        help="open a text that 'charlm compress' wrote",
        description="Write the text that 'charlm compress' compressed, byte by byte, with the "
        "model that compressed it. Needs no torch.",
    )
    parser.add_argument("file", type=name, metavar="FILE", help="compressed text")
    parser.add_argument(
        "--model",
        dest="run",
        type=name,
        required=True,
        metavar="RUN",
        help="the run or model file that compressed it, or a copy of that",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=name,
        metavar="FILE",
        help=f"file to write (default: FILE without {SUFFIX}); it must not be there yet",
    )


def run(arguments: Namespace) -> int:
    """Decompress a text."""
    from charlm import api
    from charlm.files import atomic_file
    from charlm.integer.compression import check, decompress
    from charlm.integer.text_coder import TextCoder

    path = Path(arguments.file)
    if not arguments.out and (path.suffix != SUFFIX or path.name == SUFFIX):
        raise CorpusError(f"{path} does not end in {SUFFIX}: name the file to write with --out")
    out = new_file(arguments.out or path.with_suffix(""))
    with open_input(path) as source:
        lm = api.load(arguments.run).exact()
        check(source, lm.fingerprint(), str(path))
        coder = TextCoder(lm.engine, lm.tokenizer)
        with (
            ProgressBar(path.stat().st_size, f"decompressing {path.name}", "B") as bar,
            atomic_file(out) as target,
        ):
            size = decompress(source, target, coder, name=str(path), on_progress=bar.update)
    say(printable(f"{out}: {size:,} bytes"))
    return 0
