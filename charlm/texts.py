"""The text of a run: found, checked, and as ids in memory or, if it is large, in a file.

A large text is never in memory as a whole. It is read twice, a piece at a time: once to count its
characters, once to write their ids into ``text.npy`` beside the run, which is then mapped into
memory. To go on with the run, that file is enough; ``text.json`` tells what it holds, with a
checksum.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from charlm.checkpoint import Checkpoint, write_atomically
from charlm.corpus import (
    Corpus,
    PathLike,
    Survey,
    fingerprint,
    pieces,
    read_text,
    survey,
    training_length,
)
from charlm.errors import CorpusError, TokenError
from charlm.scan import OnRead, nothing
from charlm.tokenizer import CharTokenizer, Ids

LARGE = 1 << 26  # characters from which on the ids of a text stay in a file
IDS, FACTS = "text.npy", "text.json"
CHUNK = 1 << 24  # ids in memory at a time

Source = Callable[[], Iterator[str]]  # reads a text, from its beginning at every call


def source(paths: Iterable[PathLike], on_read: OnRead = nothing) -> Source:
    """Return what reads a text; what is no regular file, such as a pipe, is read here, at once.

    Args:
        paths: UTF-8 files, joined in this order.
        on_read: called now and then with the number of bytes that were read since.
    """
    files = [Path(path) for path in paths]
    if all(map(_is_file, files)):
        return lambda: pieces(files, on_read)
    text = read_text(files)
    return lambda: iter([text])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a folder that may not be entered
        return False


def encode(text: Source, found: Survey, tokenizer: CharTokenizer, folder: Path | None) -> Ids:
    """Return the ids of a whole text (N,).

    Args:
        text: reads it.
        found: what was found when it was read before.
        tokenizer: its vocabulary.
        folder: where the ids are kept; None for memory.

    Raises:
        CorpusError: if the text has changed since, or the file cannot be written.
    """
    ids: Ids
    if folder is None:
        ids = np.empty(found.characters, tokenizer.dtype)
    else:
        try:
            shape = (found.characters,)
            ids = np.lib.format.open_memmap(folder / IDS, "w+", tokenizer.dtype, shape)
        except OSError as error:
            raise CorpusError(f"cannot write {folder / IDS}: {error.strerror}") from None
    digest = hashlib.sha256()
    end = 0
    for piece in text():
        start, end = end, end + len(piece)
        digest.update(piece.encode("utf-8", "surrogatepass"))
        if end <= len(ids):
            with contextlib.suppress(TokenError):  # then the digest is another one too
                ids[start:end] = tokenizer.encode(piece)
    if digest.hexdigest() != found.fingerprint:
        raise CorpusError("the text has changed while it was read: begin again")
    if folder is not None:
        facts = _facts(found.fingerprint, tokenizer) | {"sha256": _checksum(ids)}
        write_atomically(folder / FACTS, json.dumps(facts).encode())
        ids = mapped(folder)
    return ids


def mapped(folder: Path) -> Ids:
    """Return the ids that :func:`encode` has put into ``folder``."""
    ids: Ids = np.load(folder / IDS, mmap_mode="r", allow_pickle=False)
    return ids


def _encoded(folder: Path, found: Checkpoint) -> Ids | None:
    """Return the ids of the text of a run that :func:`encode` put into its folder, if whole."""
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        ids = mapped(folder)
        if facts == _facts(found.fingerprint, found.tokenizer) | {"sha256": _checksum(ids)}:
            return ids
    except (OSError, ValueError, EOFError):
        pass
    return None


def _facts(text: str, tokenizer: CharTokenizer) -> dict[str, Any]:
    vocabulary = tokenizer.vocabulary.encode("utf-8", "surrogatepass")
    return {
        "text": text,
        "vocabulary": hashlib.sha256(vocabulary).hexdigest(),
        "unknown": tokenizer.unknown,
    }


def _checksum(ids: Ids) -> str:
    digest = hashlib.sha256(f"{ids.dtype} {ids.shape}".encode())
    for start in range(0, len(ids), CHUNK):
        digest.update(np.ascontiguousarray(ids[start : start + CHUNK]).data)
    return digest.hexdigest()


def same_corpus(
    found: Checkpoint, folder: Path, text: Iterable[PathLike] | None, on_read: OnRead = nothing
) -> Corpus:
    """Return the corpus of a run, refusing a text that is not the one that it began with.

    Args:
        found: the run.
        folder: where it is, and maybe the ids of its text.
        text: where the text is now, if not where it was.
        on_read: called now and then with the number of bytes that were read since.
    """
    files = found.files if text is None else tuple(map(str, text))
    ids = _encoded(folder, found) if text is None else None
    if ids is None:
        if text is None:
            _regular(files)
        read = source(files, on_read)
        now = survey(read())
        if now.fingerprint != found.fingerprint:
            raise CorpusError(
                f"the text of {', '.join(files)} is not the one of this run: its fingerprint is "
                f"{now.fingerprint[:16]}, the run's is {found.fingerprint[:16]}; name the right "
                "text with --text, or begin a new run from these weights with charlm train "
                "--init-from"
            )
        ids = encode(read, now, found.tokenizer, folder if now.characters >= LARGE else None)
    fraction = found.train_config.validation_fraction
    return Corpus.from_ids(ids, found.tokenizer, found.fingerprint, fraction, files)


def training_text(found: Checkpoint) -> str:
    """Return what the model of ``found`` was trained on, if it is still there, or else nothing."""
    try:
        _regular(found.files)
        size = sum(Path(file).stat().st_size for file in found.files)
        if size > 4 * found.characters + 3 * len(found.files):
            return ""  # longer than any text of so many characters
        text = read_text(found.files)
    except (CorpusError, OSError):
        return ""
    if fingerprint(text) != found.fingerprint:
        return ""
    return text[: training_length(len(text), found.train_config.validation_fraction)]


def _regular(files: tuple[str, ...]) -> None:
    """Refuse texts of a run that are no files: a stranger may have named a pipe or a device."""
    for file in files:
        if not _is_file(Path(file)):
            raise CorpusError(f"the run's text {file} is not there: name it with --text")
