"""No damaged or hostile checkpoint does harm: each loads as what it was, or is refused.

    python tests/reliability/fuzz_checkpoints.py [--cases 20000] [--seed 1]

Small checkpoints are changed in many ways: cut, flipped, overwritten, grown; tensors swapped,
renamed, of other types and shapes; sizes of a header made huge; JSON nested deeply or with a name
twice; values of the document replaced, and signed anew; weights that are not finite; pickles, zips,
links, pipes and devices in their place. Each must end, within bounded time and memory, in
CheckpointError, or load. What loads without having been signed anew must be what was saved.

The last line is one JSON document.
"""

import argparse
import collections
import hashlib
import io
import json
import math
import os
import pickle
import random
import resource
import struct
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import safetensors.numpy

from charlm import checkpoint as checkpoints
from charlm import tensor_file
from charlm.config import ModelConfig
from charlm.errors import CheckpointError
from charlm.inference import prompt_state

DATA = Path(__file__).parent.parent / "data"
BASES = [path.read_bytes() for path in sorted(DATA.glob("golden-*.safetensors"))]
PEAK = 100  # megabytes of memory that all cases together may take on top
MEMORY = 1 << 30  # bytes of address space that a case may take on top
SECONDS = 5.0  # that a case may take
JUNK = [
    None, True, False, 0, 1, -1, 2, 13, 2**31, 2**63, 10**400, -(10**30), 0.5, 1e308, "", "lstm",
    "\x00", "\ud800", "x" * 10_000, [], [[]], [1, "a"], {}, {"a": {}}, [0] * 1000,
]  # fmt: skip


def split(data):
    """Return the header of a safetensors file, and what comes after it."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header, rest, *, size=None):
    """Return the file of a header, a mapping or text, and what comes after it."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + rest


def signed(header, document):
    """Return the header with another document, and the right checksum of it."""
    text = document if isinstance(document, str) else json.dumps(document)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    metadata = {tensor_file.DOCUMENT: text, tensor_file.CHECKSUM: digest}
    return header | {"__metadata__": metadata}


def truncated(rng, data):
    header_end = 8 + struct.unpack("<Q", data[:8])[0]
    bound = rng.choice([9, header_end, header_end + 64, len(data)])
    return data[: rng.randrange(bound)]


def flipped(rng, data):
    data = bytearray(data)
    header_end = 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(rng.choice([1, 1, 1, 2, 20])):
        data[rng.randrange(rng.choice([8, header_end, len(data)]))] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwritten(rng, data):
    start = rng.randrange(len(data))
    count = rng.choice([1, 8, 100, 5000])
    piece = rng.choice([bytes(count), b"\xff" * count, rng.randbytes(count), data[:count]])
    return data[:start] + piece + data[start + len(piece) :]


def moved(rng, data):
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return rng.choice([data[:a] + data[b:], data + data[a:b], data[:a] + data[a:b] + data[a:]])


def header_changed(rng, data):
    """Swap, rename, retype and reshape tensors; make sizes huge, and names double."""
    header, rest = split(data)
    names = [name for name in header if name != "__metadata__"]
    one, other = rng.sample(names, 2)
    kind = rng.randrange(9)
    if kind == 0:
        header[one], header[other] = header[other], header[one]
    elif kind == 1:
        header[f"{one}x"] = header.pop(one)
    elif kind == 2:
        header[one]["dtype"] = rng.choice(
            ["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "?"]
        )
    elif kind == 3:
        header[one]["shape"] = rng.choice(
            [[], [1], [2**62, 4], [2**64], [-1], [0], header[other]["shape"]]
        )
    elif kind == 4:
        begin, end = header[one]["data_offsets"]
        places = [
            [0, 2**63],
            [end, begin],
            [begin, end + 4],
            [-4, end],
            [2**64 - 4, 2**64],
            [begin],
        ]
        header[one]["data_offsets"] = rng.choice(places)
    elif kind == 5:
        header[one] = rng.choice(JUNK)
    elif kind == 6:
        del header[one]
    elif kind == 7:
        size = rng.choice([0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1])
        return joined(header, rest, size=size)
    else:
        text = json.dumps(header)
        again = json.dumps({one: header[other]})[1:-1]
        return joined("{" + again + "," + text[1:], rest)
    return joined(header, rest)


def document_changed(rng, data):
    """Replace a value of the document, at any depth, and sign it anew; the claim is then true."""
    header, rest = split(data)
    document = json.loads(header["__metadata__"][tensor_file.DOCUMENT])
    place = document
    while True:
        key = rng.choice(list(place)) if place else None
        inner = place.get(key)
        if not isinstance(inner, dict) or rng.random() < 0.2:
            break
        place = inner
    if rng.random() < 0.1:
        place.pop(key, None)
    elif rng.random() < 0.1:
        place["more"] = rng.choice(JUNK)
    else:
        place[key] = rng.choice(JUNK)
    return joined(signed(header, document), rest)


def document_odd(rng, data):
    """Put something else in place of the document, signed."""
    header, rest = split(data)
    depth = rng.choice([10, 1000, 100_000])
    texts = ["", "null", "[]", "{}", "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]
    texts += [
        "NaN",
        "1e999",
        "9" * 5000,
        '{"format":2,"format":1}',
        "{" + '"x":0,' * depth + '"y":1}',
    ]
    return joined(signed(header, rng.choice(texts)), rest)


def numbers_wrong(rng, data):
    """Put in weights that are NaN, infinite or huge, with right checksums."""
    header, _ = split(data)
    document = json.loads(header["__metadata__"][tensor_file.DOCUMENT])
    tensors = {name: tensor.copy() for name, tensor in safetensors.numpy.load(data).items()}
    name = rng.choice(list(tensors))
    value = rng.choice([np.nan, np.inf, -np.inf, 1e38, 1e-45])
    tensors[name].flat[rng.randrange(max(1, tensors[name].size))] = value
    document["sha256"][name] = tensor_file.checksum(tensors[name])
    metadata = signed({}, document)["__metadata__"]
    return safetensors.numpy.save(tensors, metadata=metadata)


class Trap:
    """Something that, if it were ever unpickled, would tell on us."""

    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


def foreign(rng, data):
    kind = rng.randrange(6)
    if kind == 0:
        return pickle.dumps(Trap(), protocol=rng.choice([2, 4, 5]))
    if kind == 1:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
        return buffer.getvalue()
    if kind == 2:
        return rng.randbytes(rng.choice([0, 1, 7, 8, 9, 100, 10_000]))
    if kind == 3:
        return safetensors.numpy.save({"x": np.zeros(3, np.float32)})
    if kind == 4:
        return json.dumps({"format": 2}).encode()
    return b"\x00" * rng.choice([8, 16, 4096])


SIGNED = {"document_changed", "document_odd", "numbers_wrong"}
WAYS = [
    truncated, flipped, flipped, overwritten, moved, header_changed, header_changed,
    document_changed, document_changed, document_odd, numbers_wrong, foreign,
]  # fmt: skip


def same(found, original):
    """Return whether a checkpoint that was found is the original, as far as it was read."""
    ours, theirs = found.tensors(), original.tensors()
    names = [name for name in theirs if found.optimizer or name.startswith("model.")]
    return (
        sorted(ours) == sorted(names)
        and all(np.array_equal(ours[name], theirs[name]) for name in names)
        and found.model_config == original.model_config
        and found.tokenizer == original.tokenizer
    )


def try_to_load(path, load=checkpoints.load):
    """Return what is at a path, or None if it is refused, as it must be, in bounds."""
    began = time.monotonic()
    try:
        found = load(path)
    except CheckpointError as error:
        assert str(error)
        found = None
    assert time.monotonic() - began < SECONDS, "within bounded time"
    return found


def huge_claim(rng, path, data):
    """Write a sparse file whose header, document and size agree, for a model of gigabytes."""
    header, _ = split(data)
    document = json.loads(header["__metadata__"][tensor_file.DOCUMENT])
    sizes = {"hidden_size": rng.choice([2048, 4096]), "num_layers": rng.choice([2, 64])}
    document["model"] |= sizes | {"embedding_size": rng.choice([64, 16_384])}
    document["train"]["batch_size"] = rng.choice([16, 2**20])
    path.write_bytes(data)
    counters = checkpoints.load(path).counters  # of a run that was trained: with an optimizer
    model = ModelConfig.from_dict(document["model"])
    shapes = model.parameter_shapes(len(document["vocabulary"]))
    names = {f"model.{name}": shape for name, shape in shapes.items()}
    if counters.step:
        for name, shape in shapes.items():
            names |= {f"optimizer.{name}.{key}": shape for key in ("exp_avg", "exp_avg_sq")}
            names[f"optimizer.{name}.step"] = ()
    states = model.state_shapes(document["train"]["batch_size"])
    names |= {f"state.{name}": shape for name, shape in states.items()}
    document["sha256"] = dict.fromkeys(names, "0" * 64)
    entries, end = {}, 0
    for name, shape in names.items():
        start, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = joined(signed(entries, document), b"")
    path.write_bytes(text)
    try:
        os.truncate(path, len(text) + end)
    except OSError:  # more than this file system takes
        return False
    return True


def no_files(folder):
    """Try what is not a regular file in the place of a checkpoint; return how many cases."""
    path = folder / "c.safetensors"
    targets = [path, folder, "/dev/null", "/dev/zero", "/dev/random", folder / "none"]
    for target in targets:
        path.symlink_to(target)
        assert try_to_load(path) is None, target
        path.unlink()
    os.mkfifo(path)
    assert try_to_load(path) is None
    path.unlink()
    path.mkdir()
    assert try_to_load(path) is None
    path.rmdir()
    return len(targets) + 2


def fuzz(folder, cases, seed):
    """Try ``cases`` changed files; return how often each way ended how."""
    rng = random.Random(seed)
    path = folder / "c.safetensors"
    counts = collections.Counter()
    counts["not a regular file: refused"] = no_files(folder)
    originals = []
    for data in BASES:
        path.write_bytes(data)
        originals.append(checkpoints.load(path))
    for _ in range(cases):
        base = rng.randrange(len(BASES))
        way = rng.choice(WAYS)
        path.write_bytes(way(rng, BASES[base]))
        model_only = rng.random() < 0.2
        found = try_to_load(path, lambda path: checkpoints.load(path, model_only=model_only))  # noqa: B023
        if found is not None and way.__name__ not in SIGNED:
            assert same(found, originals[base]), way.__name__
        counts[f"{way.__name__}: {'loads' if found else 'refused'}"] += 1
    return counts


def fuzz_claims(path, cases, rng):
    """Try files that claim to be huge; return how many."""
    tried = 0
    for _ in range(cases):
        if huge_claim(rng, path, rng.choice(BASES)):
            assert try_to_load(path) is None
            tried += 1
        path.unlink()
    return tried


def fuzz_states(folder, cases, rng):
    """Try ``cases`` changed files of saved states; return how often each way ended how."""
    path = folder / "s"
    counts = collections.Counter()
    config = ModelConfig(hidden_size=11, embedding_size=5)
    shapes = [(13,), *config.state_shapes(1).values()]
    logits, *state = (np.full(shape, 0.5, np.float32) for shape in shapes)
    original = prompt_state.PromptState(logits, tuple(state))
    prompt_state.save(original, path, config, "model")
    data = path.read_bytes()
    for _ in range(cases):
        way = rng.choice([way for way in WAYS if way is not document_changed])
        path.write_bytes(way(rng, data))
        found = try_to_load(path, lambda path: prompt_state.load(path, config, 13, "model"))
        if found is not None and way.__name__ not in SIGNED:
            pairs = zip((found.logits, *found.state), (logits, *state), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs), way.__name__
        counts[f"state, {way.__name__}: {'loads' if found else 'refused'}"] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=20_000, help="and half as many saved states")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        counts = fuzz(Path(folder), arguments.cases, arguments.seed)
        rng = random.Random(arguments.seed)
        counts += fuzz_states(Path(folder), arguments.cases // 2, rng)
        claims = fuzz_claims(Path(folder) / "c.safetensors", max(3, arguments.cases // 400), rng)
        counts["claims to be huge: refused"] = claims
        assert not Path("unpickled").exists()
        os.chdir("/")
    seconds = round(time.monotonic() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before
    assert peak < PEAK, f"{peak} MB on top"
    result = {"program": "fuzz_checkpoints", "cases": counts.total(), "seconds": seconds}
    print(json.dumps(result | {"peak_megabytes": peak, "counts": dict(sorted(counts.items()))}))


if __name__ == "__main__":
    main()
