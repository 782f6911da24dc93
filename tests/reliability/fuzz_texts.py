"""No bytes that are taken for a text do harm: each is trained on, or refused with one line.

    python tests/reliability/fuzz_texts.py [--cases 10000] [--seed 1]

Random bytes, and UTF-8 texts that were cut, flipped and mixed, go the whole way: read, tokenized,
cut into lanes, trained on for a step, evaluated, saved; then generated from, with a piece of them
as the prompt. Each must end in an error of charlm, and leave nothing behind, or in a run.

The last line is one JSON document.
"""

import argparse
import collections
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import torch

import charlm
from charlm.errors import CharlmError
from charlm.training.start import start

ROOT = Path(__file__).parent.parent.parent
TEXTS = [(ROOT / "corpora" / f"{name}.txt").read_bytes() for name in ("english", "chinese")]
PIECES = [
    b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xf0\x9f\x98\x80", b"\xe2\x80\x8d", b"\xcc\x81", b"\xef\xbf\xbd",
    b"\x1b[31m", b"\x7f", b" ",
]  # fmt: skip
SETTINGS = {
    "steps": 1, "hidden_size": 4, "embedding_size": 3, "num_layers": 1, "precision": "float32",
    "device": "cpu", "threads": 1,
}  # fmt: skip


def some_bytes(rng):
    """Return random bytes, or a damaged text."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.choice([0, 1, 2, 3, 10, 100, 3000]))
    if rng.random() < 0.1:
        return rng.choice(PIECES) * rng.choice([1, 2, 3, 50, 2000])
    text = rng.choice(TEXTS)
    start = rng.randrange(len(text))
    data = bytearray(text[start : start + rng.choice([1, 5, 40, 300, 5000])])
    for _ in range(rng.choice([0, 0, 0, 1, 5])):
        place = rng.randrange(len(data) + 1)
        data[place:place] = rng.choice(PIECES)
    if rng.random() < 0.2:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def whole_way(data, rng):
    """Send ``data`` the whole way; return how it ended."""
    text = Path("text.txt")
    text.write_bytes(data)
    more = {"min_count": 2} if rng.random() < 0.2 else {}
    try:
        run = start([text], out="run", **SETTINGS, **more)
    except CharlmError as error:
        assert "\n" not in str(error)
        assert not Path("run").exists(), "nothing is left behind"
        return "refused"
    for _ in run.progress():
        pass
    lm = charlm.load("run")
    decoded = data.decode("utf-8-sig")
    prompt = decoded[: rng.choice([0, 1, 5])].replace("\r\n", "\n").replace("\r", "\n")
    assert len(lm.generate(prompt, length=3, seed=1)) == 3
    shutil.rmtree("run")
    return "trained on"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    counts = collections.Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for _ in range(arguments.cases):
            counts[whole_way(some_bytes(rng), rng)] += 1
        os.chdir("/")
    seconds = round(time.monotonic() - began)
    result = {"program": "fuzz_texts", "cases": arguments.cases, "seconds": seconds}
    print(json.dumps(result | {"counts": dict(counts)}))


if __name__ == "__main__":
    main()
