"""The verb ``compress``."""

import importlib
import lzma
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import Subparsers, add_run, name
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import printable, say
from charlm.errors import CorpusError
from charlm.files import PathLike, check_name

if TYPE_CHECKING:
    from charlm.integer.compression import Summary

SUFFIX = ".clm"
WINDOW = 1 << 23  # bytes that xz may look back in the comparison: the 64 MiB of -9 take 700 MB


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "compress",
        help="compress a text with a model, without loss",
        description="Compress a UTF-8 text to a file that 'charlm decompress' opens on any "
        "machine that has the same model. Every byte comes back. The model is computed in whole "
        "numbers. Needs no torch. The size stands beside that of xz and, if the package zstandard "
        "is installed, of zstd.",
    )
    add_run(parser)
    parser.add_argument("file", type=name, metavar="FILE", help="UTF-8 text; it stays as it is")
    parser.add_argument(
        "-o",
        "--out",
        type=name,
        metavar="FILE",
        help=f"file to write (default: FILE{SUFFIX}); it must not be there yet",
    )


def run(arguments: Namespace) -> int:
    """Compress a text."""
    from charlm import api
    from charlm.files import atomic_file
    from charlm.integer.compression import compress, read_blocks
    from charlm.integer.text_coder import TextCoder

    path = Path(arguments.file)
    out = new_file(arguments.out or f"{arguments.file}{SUFFIX}")
    with open_input(path) as source:
        lm = api.load(arguments.run).exact()
        others = _others()
        with ProgressBar(path.stat().st_size, f"compressing {path.name}", "B") as bar:
            blocks = _fed(read_blocks(source, str(path)), others)
            coder = TextCoder(lm.engine, lm.tokenizer)
            with atomic_file(out) as target:
                summary = compress(
                    blocks, target, coder, lm.fingerprint(),
                    name=str(path), on_progress=bar.update,
                )  # fmt: skip
    num_parameters = lm.config.num_parameters(lm.tokenizer.vocab_size)
    _print_sizes(out, summary, others, num_parameters)
    return 0


def open_input(path: Path) -> Any:
    """Return a file that was opened to be read.

    Raises:
        CorpusError: if it cannot be opened.
    """
    check_name(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from None


def new_file(path: PathLike) -> Path:
    """Return the path of a file to write.

    Raises:
        CorpusError: if something is there already.
    """
    path = Path(path)
    check_name(path)
    if path.exists() or path.is_symlink():
        raise CorpusError(f"{path} is there already: remove it, or choose another name with --out")
    return path


class _Size:
    """Counts the bytes that another compressor gives."""

    def __init__(self, compressor: Any):
        self.compressor = compressor
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Compress some more bytes."""
        self.size += len(self.compressor.compress(data))

    def finish(self) -> None:
        """Compress what is left."""
        self.size += len(self.compressor.flush())


def _others() -> dict[str, _Size]:
    """Return the compressors to compare with, by name."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": WINDOW}]
    found = {"xz -9": _Size(lzma.LZMACompressor(filters=filters))}
    try:
        found["zstd -19"] = _Size(importlib.import_module("compression.zstd").ZstdCompressor(19))
    except ImportError:
        try:
            zstandard = importlib.import_module("zstandard")
            found["zstd -19"] = _Size(zstandard.ZstdCompressor(level=19).compressobj())
        except ImportError:
            pass
    return found


def _fed(blocks: Iterable[bytes], others: dict[str, _Size]) -> Iterator[bytes]:
    """Yield the blocks of a text; the other compressors have them too."""
    for block in blocks:
        for other in others.values():
            other.feed(block)
        yield block
    for other in others.values():
        other.finish()


def _print_sizes(
    out: Path, summary: "Summary", others: dict[str, _Size], num_parameters: int
) -> None:
    """Say how large the result is, and how large it would have been otherwise."""
    bits = 8 * summary.compressed / max(1, summary.characters)
    say(
        printable(
            f"{out}: {summary.compressed:,} bytes of {summary.size:,}, "
            f"{bits:.4f} bits per character"
        )
    )
    if summary.by_lzma:
        say(
            f"the model does not fit {summary.by_lzma} of its {summary.blocks} blocks: they are "
            "compressed with LZMA, the method of xz"
        )
    for other, found in others.items():
        look_back = f" that looks back {WINDOW >> 20} MiB" if summary.size > WINDOW else ""
        note = look_back if other.startswith("xz") else ""
        say(f"{other + note:10} {found.size:12,} bytes")
    if "zstd -19" not in others:
        say("zstd -19   not compared: pip install zstandard")
    total = summary.compressed + num_parameters
    say(f"with model {total:12,} bytes: whoever opens the file needs the model too")
