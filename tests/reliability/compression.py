"""Texts go through compression and come back, and damaged files are refused.

    python tests/reliability/compression.py [--rounds 10000] [--seed 1]

In each round a text is compressed and decompressed, byte by byte the same: texts of hypothesis,
pieces of real texts that were mutated, and texts of one script, from all of Unicode; with models of
each backbone, one with an unknown symbol, one of items; in one lane and in several, in one block
and in several. What is not UTF-8 must be refused. Then the file is damaged: cut, flipped, swapped,
zeroed, grown. It must be refused. In every second round its checksum is made right again, as
a stranger could: then it must be refused too, or give the text that it gave before.

The last line is one JSON document.
"""

import argparse
import collections
import hashlib
import io
import json
import random
import sys
import time
from pathlib import Path

import hypothesis
import numpy as np
from hypothesis import strategies

import charlm
from charlm.api import LanguageModel
from charlm.checkpoint import Checkpoint
from charlm.config import ModelConfig
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CharlmError
from charlm.integer import text_coder
from charlm.integer.compression import CHECKSUM_BYTES, check, compress, decompress

ROOT = Path(__file__).parent.parent.parent
TEXTS = [(ROOT / "corpora" / f"{name}.txt").read_bytes() for name in ("english", "chinese")]
PIECES = [
    b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xf0\x9f\x98\x80", b"\xe2\x80\x8d", b"\xcc\x81", b"\xef\xbf\xbd", b" ",
]  # fmt: skip


def models():
    """Return small models in whole numbers: trained ones, and others with random weights."""
    found = [
        charlm.load(ROOT / "tests" / "data" / f"golden-{name}.safetensors").exact()
        for name in ("rnn", "lstm", "gru")
    ]
    rng = np.random.default_rng(1)
    for vocabulary, unknown, items in (("\n abe\ufffd", True, False), ("\nabe", False, True)):
        config = ModelConfig(hidden_size=7, embedding_size=5, num_layers=2, items=items)
        shapes = config.parameter_shapes(len(vocabulary))
        weights = {name: rng.normal(0, 0.7, s).astype(np.float32) for name, s in shapes.items()}
        tokenizer = CharTokenizer(vocabulary, unknown=unknown)
        checkpoint = Checkpoint(model_config=config, tokenizer=tokenizer, weights=weights)
        found.append(LanguageModel(checkpoint).exact())
    return found


def mutated(rng):
    """Return a piece of a real text, changed in some places."""
    text = rng.choice(TEXTS)
    start = rng.randrange(len(text))
    piece = text[start : start + rng.choice([1, 5, 40, 400])]
    data = bytearray(piece.decode("utf-8", "ignore").encode())
    for _ in range(rng.choice([0, 0, 1, 5])):
        place = rng.randrange(len(data) + 1)
        data[place:place] = rng.choice(PIECES)
    if rng.random() < 0.3:
        data = data.replace(b"\n", b"\r\n")
    return bytes(data)


def of_one_script(rng):
    """Return a text of 256 code points that stand together anywhere in Unicode."""
    first = rng.randrange(0, 0x110000, 256)
    points = range(first, first + 256)
    text = "".join(chr(rng.choice(points)) for _ in range(rng.choice([1, 9, 90])))
    return text.encode("utf-8", "replace")


def packed_of(data, lm, block):
    """Return the compressed file of a text that is read in blocks."""
    coder = text_coder.TextCoder(lm.engine, lm.tokenizer)
    target = io.BytesIO()
    blocks = [data[start : start + block] for start in range(0, len(data), block)]
    compress(blocks, target, coder, lm.fingerprint())
    return target.getvalue()


def opened(data, lm):
    """Return the text of a compressed file."""
    source, target = io.BytesIO(data), io.BytesIO()
    check(source, lm.fingerprint(), "it")
    decompress(source, target, text_coder.TextCoder(lm.engine, lm.tokenizer))
    return target.getvalue()


def damaged(data, rng):
    """Return other bytes than those of a compressed file."""
    changed = bytearray(data)
    while changed == data:
        place, other = rng.randrange(len(data)), rng.randrange(len(data))
        how = rng.randrange(5)
        if how == 0:
            del changed[place:]
        elif how == 1:
            changed[place] ^= 1 << rng.randrange(8)
        elif how == 2:
            changed[place], changed[other] = changed[other], changed[place]
        elif how == 3:
            changed[place : place + 9] = bytes(len(changed[place : place + 9]))
        else:
            changed[place:place] = rng.randbytes(rng.choice([1, 4, 100]))
    return bytes(changed)


def whole_round(data, lm, rng, counts):
    """Send one text through, and its damaged file."""
    text_coder.LANE = rng.choice([1, 7, 8192])
    try:
        data.decode()
        is_text = True
    except UnicodeDecodeError:
        is_text = False
    try:
        packed = packed_of(data, lm, rng.choice([1 << 20, 1 << 20, 33, 1]))
    except CharlmError as error:
        assert not is_text, error
        counts["refused, not UTF-8"] += 1
        return
    assert is_text, data
    assert opened(packed, lm) == data, data
    counts["came back"] += 1
    wrong = damaged(packed, rng)
    if rng.random() < 0.5:
        body = wrong[:-CHECKSUM_BYTES]
        wrong = body + hashlib.sha256(body).digest()[:CHECKSUM_BYTES]
    if wrong == packed:
        return
    try:
        assert opened(wrong, lm) == data, (data, wrong)
        assert wrong[-CHECKSUM_BYTES:] != packed[-CHECKSUM_BYTES:]
        counts["signed again, the same text"] += 1
    except CharlmError as error:
        assert "\n" not in str(error)
        counts["damaged, refused"] += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    counts = collections.Counter()
    lms = models()
    began = time.monotonic()
    of_hypothesis = arguments.rounds // 3

    @hypothesis.seed(arguments.seed)
    @hypothesis.settings(
        max_examples=max(1, of_hypothesis),
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategies.text(max_size=80))
    def texts_of_hypothesis(text):
        whole_round(text.encode(), lms[len(text) % len(lms)], rng, counts)

    texts_of_hypothesis()
    for number in range(arguments.rounds - of_hypothesis):
        data = mutated(rng) if number % 2 else of_one_script(rng)
        whole_round(data, rng.choice(lms), rng, counts)
        if sys.stderr.isatty() and number % 100 == 0:
            print(f"\r{number}", end="", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began)
    result = {"program": "compression", "rounds": arguments.rounds, "seconds": seconds}
    print(json.dumps(result | {"counts": dict(counts)}))


if __name__ == "__main__":
    main()
