"""The ids of a text, in memory or, if it is large, in a file that is mapped into memory.

A large text is never in memory as a whole. It is read twice, a piece at a time: once to count its
characters, once to write their ids to ``text.npy`` in the run folder. To resume the run, that file
is enough; ``text.json`` tells what it holds, with a checksum.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from charlm.data.text_files import Survey, TextReader
from charlm.data.tokenizer import CharTokenizer, Ids
from charlm.errors import CorpusError, TokenError
from charlm.files import sha256, write_atomically

LARGE = 1 << 26  # characters from which on the ids of a text stay in a file
IDS, FACTS = "text.npy", "text.json"
CHUNK = 1 << 24  # ids in memory at a time


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
        ids = open_ids(folder)
    return ids


def open_ids(folder: Path) -> Ids:
    """Return the ids that :func:`encode` has written to ``folder``, mapped into memory."""
    ids: Ids = np.load(folder / IDS, mmap_mode="r", allow_pickle=False)
    return ids


def load(folder: Path, tokenizer: CharTokenizer, fingerprint: str) -> Ids | None:
    """Return the ids in ``folder`` if they are whole and of this text, else None."""
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        ids = open_ids(folder)
        if facts == _facts(fingerprint, tokenizer) | {"sha256": _checksum(ids)}:
            return ids
    except (OSError, ValueError, EOFError):
        pass
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
