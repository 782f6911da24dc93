"""A list, learned as items and as one text, in equal time.

    python tests/benchmarks/bench_items.py [LIST] [--minutes 1] [--items 2000]

``LIST`` has one item per line; without it, it is what ``charlm corpus words`` writes. A tenth of
the items are put aside; two runs learn the others, sorted as they are: one as items, which is what
charlm does with such a text, and one with ``--no-items``. Both are measured on the items put aside,
in random order, and by the first letters of what they write.

The last line is one JSON document.
"""

import argparse
import collections
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import charlm
from charlm.data.downloads import words


def train(text, out, minutes, *flags):
    command = [sys.executable, "-m", "charlm", "train", str(text), "--minutes", str(minutes)]
    subprocess.run([*command, "--out", str(out), *flags], check=True, capture_output=True)
    return charlm.load(out)


def first_letters(items):
    """Return the share of each first letter."""
    counts = collections.Counter(item[0] for item in items if item)
    return {letter: count / counts.total() for letter, count in counts.items()}


def distance(one, other):
    """Return the total variation between two distributions: 0 the same, 1 nothing in common."""
    return sum(abs(one.get(x, 0) - other.get(x, 0)) for x in {*one, *other}) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("list", nargs="?")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--items", type=int, default=2000)
    arguments = parser.parse_args()
    text = words()
    if arguments.list:
        text = Path(arguments.list).read_text(encoding="utf-8")
    items = list(dict.fromkeys(item for item in text.split("\n") if item))
    rng = random.Random(0)
    aside = set(rng.sample(items, len(items) // 10))
    held_out = rng.sample(sorted(aside), len(aside))
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        learned, measured = Path(folder) / "learned.txt", Path(folder) / "measured.txt"
        kept = [item for item in items if item not in aside]
        learned.write_text("\n".join(kept) + "\n", encoding="utf-8")
        measured.write_text("\n".join(held_out) + "\n", encoding="utf-8")
        expected = first_letters(kept)
        print(f"{len(items):,} items, {len(held_out):,} of them put aside")
        print("nats/item   nats/char   distance of first letters")
        for name, flags in (("items", []), ("one text", ["--no-items"])):
            lm = train(learned, Path(folder) / name, arguments.minutes, *flags)
            nats = charlm.evaluate(lm, measured).nats_per_char
            per_item = nats * measured.stat().st_size / len(held_out)
            written = [line for line, _ in lm.lines(arguments.items, seed=1, temperature=1.0)]
            gap = distance(first_letters(written), expected)
            rows[name] = {"nats_per_item": per_item, "nats_per_char": nats, "distance": gap}
            print(f"{per_item:9.3f}{nats:12.4f}{gap:12.3f}   {name}", flush=True)
    by_chance = distance(first_letters(rng.choices(kept, k=arguments.items)), expected)
    print(f"{by_chance:33.3f}   as many items of the list itself")
    print(json.dumps({"benchmark": "items", "minutes": arguments.minutes, "rows": rows}))


if __name__ == "__main__":
    main()
