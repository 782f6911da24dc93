"""Whole numbers as bytes: seven bits in each, the lowest first; the eighth says that more follow.

>>> varint(300)
b'\\xac\\x02'
"""

from typing import IO

from charlm.integer.coder import damaged


def varint(value: int) -> bytes:
    """Return a whole number, 0 at least, as bytes."""
    result = []
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def read_varint(stream: IO[bytes], most: int) -> int:
    """Return the next number of a stream.

    Args:
        stream: where :func:`varint` was written to.
        most: the largest number that it may be.

    Raises:
        CorpusError: if the number is larger, or cut off.
    """
    value = 0
    for shift in range(0, 64, 7):
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            if value > most:
                break
            return value
    raise damaged()
