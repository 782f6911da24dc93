"""The verb ``compress``."""

import contextlib
import importlib
import lzma
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from charlm.cli.parser import Subparsers, add_run, name
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import printable, say
from charlm.errors import CorpusError
from charlm.files import PathLike, check_name, is_regular_file

if TYPE_CHECKING:
    from charlm.api import LanguageModel
    from charlm.integer.compression import Summary

SUFFIX = ".clm"
WINDOW = 1 << 23  # bytes that xz may look back in the comparison: the 64 MiB of -9 take 700 MB
PIECE = 1 << 20  # bytes that are compared at a time


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
        with ProgressBar(path.stat().st_size, f"compressing {path.name}", "B") as bar:
            blocks = read_blocks(source, str(path))
            coder = TextCoder(lm.engine, lm.tokenizer)
            with atomic_file(out) as target:
                summary = compress(
                    blocks, target, coder, lm.fingerprint(),
                    name=str(path), on_progress=bar.update,
                )  # fmt: skip
    _print_sizes(out, summary, model_size(lm))
    _print_comparison(sizes_of_others(path), summary.size)
    return 0


def model_size(lm: "LanguageModel") -> int:
    """Return how many bytes the model takes as a file in whole numbers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        lm.save(file)
        return file.stat().st_size


def open_input(path: Path) -> IO[bytes]:
    """Return a file that was opened to be read, and that can be read more than once.

    Raises:
        CorpusError: if it cannot be opened, or is a pipe or a device.
    """
    check_name(path)
    try:
        if path.exists() and not path.is_dir() and not is_regular_file(path):
            raise CorpusError(f"{path} is not a regular file: write it to one first")
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


def _compressors() -> dict[str, Any]:
    """Return the compressors to compare with, by name."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": WINDOW}]
    found: dict[str, Any] = {"xz -9": lzma.LZMACompressor(filters=filters)}
    with contextlib.suppress(ImportError):
        found["zstd -19"] = importlib.import_module("zstandard").ZstdCompressor(19).compressobj()
        return found
    with contextlib.suppress(ImportError):  # Python 3.14 has its own
        found["zstd -19"] = importlib.import_module("compression.zstd").ZstdCompressor(19)
    return found


def sizes_of_others(path: Path) -> dict[str, int]:
    """Return the sizes in bytes that other compressors give, by their names."""
    sizes = {}
    for other, compressor in _compressors().items():
        with ProgressBar(path.stat().st_size, f"comparing with {other}", "B") as bar:
            sizes[other] = 0
            with open_input(path) as source:
                while data := source.read(PIECE):
                    sizes[other] += len(compressor.compress(data))
                    bar.update(len(data))
            sizes[other] += len(compressor.flush())
    return sizes


def _print_sizes(out: Path, summary: "Summary", model: int) -> None:
    """Say how large the result is, alone and with the model."""
    line = f"{out}: {summary.compressed:,} bytes of {summary.size:,}"
    if summary.characters:
        line += f", {8 * summary.compressed / summary.characters:.4f} bits per character"
    say(printable(line))
    if summary.by_lzma:
        say(
            f"the model does not fit {summary.by_lzma} of its {summary.blocks} blocks: they are "
            "compressed with LZMA, the method of xz"
        )
    total = summary.compressed + model
    say(f"with model {total:12,} bytes: whoever opens the file needs the model too")


def _print_comparison(sizes: dict[str, int], original: int) -> None:
    """Say how large other compressors make the text."""
    for other, size in sizes.items():
        is_bounded = other.startswith("xz") and original > WINDOW
        note = f", with a window of {WINDOW >> 20} MiB" if is_bounded else ""
        say(f"{other:10} {size:12,} bytes{note}")
    if len(sizes) == 1:
        say("zstd -19   not compared: pip install zstandard")
