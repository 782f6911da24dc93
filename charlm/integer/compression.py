r"""Compressed texts: a file that any machine can open that has the model.

A file has

    magic         CLM and a byte, the version of the format
    model         8 bytes, the first of the model's fingerprint
    blocks        of each a byte that names the method, the length of the data, and the data
                  1: the text as :mod:`charlm.integer.text_coder` has it
                  2: how many bytes there are, and they as LZMA2, the method of xz
    end           a byte 0, how many bytes the original has, and 16 bytes of its sha256
    checksum      8 bytes of the sha256 of all before it

with all numbers as in :mod:`charlm.integer.varint`. A block is as much of the original as was read
at once. LZMA2 is taken for a block that the model does not fit, so that no text grows.

Source: Cleary, Witten (1984), Data compression using adaptive coding and partial string matching,
for the principle: a model predicts, and a coder writes what the prediction did not tell.
"""

import codecs
import hashlib
import io
import itertools
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from charlm.errors import CorpusError
from charlm.files import ProgressCallback, no_progress
from charlm.integer.coder import damaged
from charlm.integer.text_coder import TextCoder
from charlm.integer.varint import read_varint, varint

MAGIC, VERSION = b"CLM", 1
MODEL_BYTES, ORIGINAL_BYTES, CHECKSUM_BYTES = 8, 16, 8
HEAD = len(MAGIC) + 1 + MODEL_BYTES
END, BY_MODEL, BY_LZMA = 0, 1, 2
BLOCK = 1 << 21  # bytes of the original in memory at a time
MOST = BLOCK + 4  # bytes of a block: with what was left of the one before
MOST_LENGTH = 1 << 62  # of an original
LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": BLOCK}]


@dataclass
class Summary:
    """What was compressed.

    Attributes:
        size: of the original, in bytes.
        characters: of it.
        compressed: the size of the result, in bytes.
        blocks: how many there are.
        by_lzma: how many of those the model did not fit.
    """

    size: int = 0
    characters: int = 0
    compressed: int = 0
    blocks: int = 0
    by_lzma: int = 0


def read_blocks(source: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield what a file holds, a block at a time.

    Args:
        source: the file.
        name: what to call it in an error.

    Raises:
        CorpusError: if it cannot be read.
    """
    try:
        while block := source.read(BLOCK):
            yield block
    except OSError as error:
        raise CorpusError(f"cannot read {name}: {error.strerror}") from None


def compress(
    blocks: Iterable[bytes],
    target: IO[bytes],
    coder: TextCoder,
    fingerprint: str,
    *,
    name: str = "the text",
    on_progress: ProgressCallback = no_progress,
) -> Summary:
    """Compress a UTF-8 text.

    Args:
        blocks: the text, as :func:`read_blocks` yields it.
        target: where the compressed text is written to.
        coder: of the model.
        fingerprint: of the model.
        name: what to call the text in an error.
        on_progress: progress callback, told the number of bytes.

    Raises:
        CorpusError: if it is not UTF-8 text.
        DivergenceError: if the model's predictions are NaN or infinite.
    """
    summary = Summary()
    original, checksum = hashlib.sha256(), hashlib.sha256()

    def write(data: bytes) -> None:
        target.write(data)
        checksum.update(data)
        summary.compressed += len(data)

    write(MAGIC + bytes([VERSION]) + bytes.fromhex(fingerprint)[:MODEL_BYTES])
    for data, text in _decoded(blocks, name):
        original.update(data)
        method, packed = BY_MODEL, coder.encode(text, on_progress)
        other = varint(len(data)) + lzma.compress(data, lzma.FORMAT_RAW, filters=LZMA)
        if len(other) < len(packed):
            method, packed = BY_LZMA, other
            summary.by_lzma += 1
        write(bytes([method]) + varint(len(packed)))
        write(packed)
        summary.blocks += 1
        summary.size += len(data)
        summary.characters += len(text)
    write(bytes([END]) + varint(summary.size) + original.digest()[:ORIGINAL_BYTES])
    write(checksum.digest()[:CHECKSUM_BYTES])
    return summary


def _decoded(blocks: Iterable[bytes], name: str) -> Iterator[tuple[bytes, str]]:
    r"""Yield the bytes and the text of each block; none ends inside a character or a \r\n."""
    held, offset = b"", 0
    for block in itertools.chain(blocks, [b""]):
        data = held + block
        try:
            text, used = codecs.utf_8_decode(data, "strict", not block)
        except UnicodeDecodeError as error:
            byte = data[error.start]
            raise CorpusError(
                f"{name} is not UTF-8 text: byte 0x{byte:02x} at offset {offset + error.start}: "
                "a model of texts cannot compress it, but xz can"
            ) from None
        if block and text.endswith("\r"):
            text, used = text[:-1], used - 1
        if text:
            yield data[:used], text
        held, offset = data[used:], offset + used


def check(source: IO[bytes], fingerprint: str, name: str) -> None:
    """Read a compressed text whole, and go back to the begin of its blocks.

    Args:
        source: the file.
        fingerprint: of the model that is to open it.
        name: what to call it in an error.

    Raises:
        CorpusError: if it is none, damaged, of another version or of another model.
    """
    head = source.read(HEAD)
    if not head.startswith(MAGIC):
        raise CorpusError(f"{name} is not a compressed text: charlm compress writes such files")
    if len(head) == HEAD and head[len(MAGIC)] > VERSION:
        raise CorpusError(f"{name} was written by a newer charlm: update charlm to open it")
    digest, last = hashlib.sha256(head), b""
    while piece := source.read(1 << 20):
        last += piece
        digest.update(last[:-CHECKSUM_BYTES])
        last = last[-CHECKSUM_BYTES:]
    if len(head) < HEAD or last != digest.digest()[:CHECKSUM_BYTES] or head[3] != VERSION:
        raise CorpusError(f"{name} is damaged: its checksum is wrong")
    if head[-MODEL_BYTES:] != bytes.fromhex(fingerprint)[:MODEL_BYTES]:
        raise CorpusError(
            f"{name} was compressed with another model, whose fingerprint begins with "
            f"{head[-MODEL_BYTES:].hex()}: this one has {fingerprint[: 2 * MODEL_BYTES]}"
        )
    source.seek(HEAD)


def decompress(
    source: IO[bytes],
    target: IO[bytes],
    coder: TextCoder,
    *,
    name: str = "the file",
    on_progress: ProgressCallback = no_progress,
) -> int:
    """Decompress what :func:`compress` wrote, and return how many bytes that are.

    What is written is right only if this returns.

    Args:
        source: the file, as :func:`check` leaves it.
        target: where the text is written to.
        coder: of the model.
        name: what to call the file in an error.
        on_progress: progress callback, told the number of bytes of the file.

    Raises:
        CorpusError: if it is damaged.
    """
    original, size = hashlib.sha256(), 0
    try:
        for data in _blocks_of(source, coder, on_progress):
            original.update(data)
            size += len(data)
            target.write(data)
        end = read_varint(source, MOST_LENGTH), source.read(ORIGINAL_BYTES)
        if end != (size, original.digest()[:ORIGINAL_BYTES]):
            raise damaged()
        if len(source.read(CHECKSUM_BYTES + 1)) != CHECKSUM_BYTES:
            raise damaged()
    except CorpusError as error:
        raise CorpusError(f"{name}: {error}") from None
    return size


def _blocks_of(
    source: IO[bytes], coder: TextCoder, on_progress: ProgressCallback
) -> Iterator[bytes]:
    """Yield the bytes of each block, up to the end, which is read."""
    while (method := source.read(1)) != bytes([END]):
        length = read_varint(source, 4 * MOST)
        packed = source.read(length)
        if len(packed) != length:
            raise damaged()
        if method == bytes([BY_MODEL]):
            yield coder.decode(packed, MOST, on_progress).encode()
        elif method == bytes([BY_LZMA]):
            yield _of_lzma(packed)
            on_progress(length)
        else:
            raise damaged()


def _of_lzma(packed: bytes) -> bytes:
    stream = io.BytesIO(packed)
    size = read_varint(stream, MOST)
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA)
    try:
        data = decoder.decompress(stream.read(), max_length=size + 1)
    except lzma.LZMAError:
        raise damaged() from None
    if len(data) != size or not decoder.eof or decoder.unused_data:
        raise damaged()
    return data
