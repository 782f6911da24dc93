"""The ids of a text, in memory or, if it is large, in a file that is mapped into memory.

A large text is never in memory as a whole. It is read twice, a piece at a time: once to count its
characters, once to write their ids to ``text.npy`` in the run folder. To resume the run, that file
is enough; ``text.json`` tells what it holds, with a checksum.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from charlm.data.text_files import Survey, TextReader
from charlm.data.tokenizer import CharTokenizer, Ids
from charlm.errors import CorpusError, TokenError
from charlm.files import open_regular, sha256, temporary_path, write_atomically

LARGE = 1 << 26  # characters from which on the ids of a text stay in a file
IDS, FACTS = "text.npy", "text.json"
CHUNK = 1 << 24  # ids in memory at a time
MOST_FACTS = 10_000  # bytes


def encode(text: TextReader, found: Survey, tokenizer: CharTokenizer, folder: Path | None) -> Ids:
    """Return the ids of a whole text (N,).

    Args:
        text: reads it.
        found: what was found when it was read before.
        tokenizer: its vocabulary.
        folder: where the ids are kept; None for memory.

    Raises:
        CorpusError: if the text has changed since, or the file cannot be written.
    """
    if folder is not None:
        return _encode_to(folder, text, found, tokenizer)
    ids: Ids = np.empty(found.characters, tokenizer.dtype)
    _fill(ids, text, found, tokenizer)
    return ids


def _encode_to(folder: Path, text: TextReader, found: Survey, tokenizer: CharTokenizer) -> Ids:
    """Write the ids of a text to a file in ``folder``, and return them mapped into memory."""
    temporary = temporary_path(folder / IDS)
    try:
        shape = (found.characters,)
        ids = np.lib.format.open_memmap(temporary, "w+", tokenizer.dtype, shape)
        _reserve(temporary)
        _fill(ids, text, found, tokenizer)
        ids.flush()
        facts = _facts(found.fingerprint, tokenizer) | {"sha256": _checksum(ids)}
        os.replace(temporary, folder / IDS)  # noqa: PTH105
    except OSError as error:
        raise CorpusError(f"cannot write {folder / IDS}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    write_atomically(folder / FACTS, json.dumps(facts).encode())
    return open_ids(folder)


def _reserve(path: Path) -> None:
    """Reserve the space of a file: to write to a mapped file on a full disk would be fatal."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _fill(ids: Ids, text: TextReader, found: Survey, tokenizer: CharTokenizer) -> None:
    """Fill ``ids`` (N,) from a text, which must still be the one that was surveyed."""
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


def is_cache(folder: Path) -> bool:
    """Return whether ``folder`` holds ids that :func:`encode` has written, of whatever text."""
    try:
        with open_regular(folder / FACTS, "rb") as file:
            facts = json.loads(file.read(MOST_FACTS))
        return set(facts) == {"text", "vocabulary", "unknown", "sha256"}
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def open_ids(folder: Path) -> Ids:
    """Return the ids that :func:`encode` has written to ``folder``, mapped into memory."""
    ids: Ids = np.lib.format.open_memmap(folder / IDS, "r")
    return ids


def load(folder: Path, tokenizer: CharTokenizer, fingerprint: str, characters: int) -> Ids | None:
    """Return the ids in ``folder`` if they are whole and of this text, else None.

    The folder may come from a stranger, so type, length and range of the ids are checked too.
    """
    try:
        with open_regular(folder / FACTS, "rb") as file:
            facts = json.loads(file.read(MOST_FACTS))
        open_regular(folder / IDS, "rb").close()
        ids = open_ids(folder)
        if (ids.dtype, ids.shape) != (tokenizer.dtype, (characters,)):
            return None
        if facts != _facts(fingerprint, tokenizer) | {"sha256": _checksum(ids)}:
            return None
        return ids if ids.max() < tokenizer.vocab_size else None
    except (OSError, ValueError, EOFError, RecursionError):
        return None


def _facts(fingerprint: str, tokenizer: CharTokenizer) -> dict[str, Any]:
    vocabulary = tokenizer.vocabulary.encode("utf-8", "surrogatepass")
    return {
        "text": fingerprint,
        "vocabulary": sha256(vocabulary),
        "unknown": tokenizer.unknown,
    }


def _checksum(ids: Ids) -> str:
    starts = range(0, len(ids), CHUNK)
    chunks = (np.ascontiguousarray(ids[start : start + CHUNK]).data for start in starts)
    return sha256(f"{ids.dtype} {ids.shape}".encode(), *chunks)
