"""The ids of a text, in memory or, if it is large, in a file that is mapped into memory.

A large text is never in memory as a whole. It is read twice, a piece at a time: once to count its
characters, once to write their ids to ``text.npy`` in the run folder. To resume the run, that file
is enough; ``text.json`` tells what it holds, with a checksum.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from charlm.data.text_files import Survey, TextReader
from charlm.data.tokenizer import CharTokenizer, Ids
from charlm.errors import CorpusError, TokenError
from charlm.files import atomic_file, open_regular, sha256, write_atomically

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
        CorpusError: if the text has changed since.
        CheckpointError: if the file cannot be written.
    """
    if folder is not None:
        return _encode_to(folder, text, found, tokenizer)
    ids: Ids = np.empty(found.characters, tokenizer.dtype)
    end = 0
    for piece in _encoded(text, found, tokenizer):
        start, end = end, end + len(piece)
        ids[start:end] = piece
    return ids


def _encode_to(folder: Path, text: TextReader, found: Survey, tokenizer: CharTokenizer) -> Ids:
    """Write the ids of a text to a file in ``folder``, and return them mapped into memory.

    The file is mapped only when it is whole: to write to a mapped file on a full disk would be
    fatal, and Windows does not rename one.
    """
    header = {
        "descr": np.lib.format.dtype_to_descr(tokenizer.dtype),
        "fortran_order": False,
        "shape": (found.characters,),
    }
    with atomic_file(folder / IDS) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in _encoded(text, found, tokenizer):
            file.write(piece.data)
    ids = open_ids(folder)
    facts = _facts(found.fingerprint, tokenizer) | {"sha256": _checksum(ids)}
    write_atomically(folder / FACTS, json.dumps(facts).encode())
    return ids


def _encoded(text: TextReader, found: Survey, tokenizer: CharTokenizer) -> Iterator[Ids]:
    """Yield the ids of a text in pieces, never more than were found when it was surveyed.

    Raises:
        CorpusError: at its end, if it is another text than then.
    """
    digest = hashlib.sha256()
    end = 0
    for piece in text():
        end += len(piece)
        digest.update(piece.encode("utf-8", "surrogatepass"))
        try:
            ids = tokenizer.encode(piece)
        except TokenError:  # then the digest is another one too
            continue
        if end <= found.characters:
            yield ids
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
