"""Generate and score in whole numbers under many conditions, and compare every bit.

    python tests/reliability/same_bits.py [--characters 1000000] [--numpy 1.26.4 --numpy 2.4.6]
    python tests/reliability/same_bits.py --command "qemu-aarch64-static -L / python3-arm64"

The models are an RNN, an LSTM and a GRU of 65 symbols with weights from charlm's own random
numbers, so nothing is read from a file. Each model writes characters in 64 samples, and scores what
it wrote as one text; the digest is that of all texts and of every bit of the scores. Conditions:

    1 and 2 threads; 1, 8 and 64 samples side by side
    every core type that OpenBLAS can be told to be
    the vector instructions of numpy, switched off one by one
    other versions of numpy (each in an environment of its own, which pip fills)
    other interpreters, such as one of another architecture under emulation

A condition that is not there, such as a core type that this processor is too old for, is named and
left out. Exit status 1 if two digests differ. The last line of the output is a JSON object.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SAMPLES = 64
SIZES = {"rnn": 131, "lstm": 96, "gru": 117}  # backbone: units
OPENBLAS_CORES = """Prescott Core2 Penryn Dunnington Nehalem Sandybridge Haswell SkylakeX Cooperlake
    SapphireRapids Atom Barcelona Bobcat Bulldozer Piledriver Steamroller Excavator Zen"""


def model(backbone, hidden_size):
    """Return a model with random weights, the same on any machine."""
    import numpy as np

    from charlm.api import LanguageModel
    from charlm.checkpoint import Checkpoint, in_whole_numbers
    from charlm.config import ModelConfig
    from charlm.data.tokenizer import CharTokenizer
    from charlm.integer.random import uniform

    config = ModelConfig(
        backbone=backbone, hidden_size=hidden_size, embedding_size=31, num_layers=2, dropout=0.0
    )
    tokenizer = CharTokenizer("\n" + "".join(map(chr, range(32, 96))))
    weights = {}
    for number, (name, shape) in enumerate(config.parameter_shapes(65).items()):
        size = int(np.prod(shape))
        scale = 2.0 if len(shape) > 1 else 1.0
        numbers = (uniform(1, [number], 0, size)[0] - 0.5) * scale * (0.2 if size > 4000 else 2)
        weights[name] = numbers.reshape(shape).astype(np.float32)
    found = Checkpoint(model_config=config, tokenizer=tokenizer, weights=weights)
    return LanguageModel(in_whole_numbers(found))


def work(characters, lanes):
    """Print the digest of what all models write and score."""
    import numpy as np

    from charlm.config import SampleConfig
    from charlm.inference.decoding import Block

    digest = hashlib.sha256()
    length = max(1, characters // len(SIZES) // SAMPLES)
    for backbone, hidden_size in SIZES.items():
        lm = model(backbone, hidden_size)
        texts = [""] * SAMPLES
        for start in range(0, SAMPLES, lanes):
            block = Block(
                lm.engine, lm.read("THE"), SampleConfig(seed=7), range(start, start + lanes)
            )
            drawn = np.stack([block.draw().copy() for _ in range(length)], axis=1)
            for place, ids in enumerate(drawn):
                texts[start + place] = lm.tokenizer.decode(ids)
        text = "".join(texts)
        digest.update(text.encode())
        digest.update(lm.score(text).astype("<f8").tobytes())
    import platform

    print(json.dumps([digest.hexdigest(), platform.machine(), np.__version__]))


def features():
    """Return the vector instructions that this numpy uses beyond those it always needs."""
    import numpy as np

    core = getattr(np, "_core", None) or np.core
    found = core._multiarray_umath
    return [name for name in found.__cpu_dispatch__ if found.__cpu_features__.get(name)]


def conditions(arguments, folder):
    """Yield the name of each condition, the interpreter, variables, and samples side by side."""
    here = [sys.executable]
    for threads in (1, 2):
        variables = {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        for lanes in (1, 8, 64):
            yield f"{threads} threads, {lanes} samples at a time", here, variables, lanes
    if arguments.quick:
        yield "core Prescott", here, {"OPENBLAS_CORETYPE": "Prescott"}, 64
        return
    for core in OPENBLAS_CORES.split():
        yield f"core {core}", here, {"OPENBLAS_CORETYPE": core}, 64
    for feature in features():
        yield f"numpy without {feature}", here, {"NPY_DISABLE_CPU_FEATURES": feature}, 64
    yield "numpy without any", here, {"NPY_DISABLE_CPU_FEATURES": ",".join(features())}, 64
    for version in arguments.numpy:
        place = folder / version
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        packages = [f"numpy=={version}", "safetensors"]
        subprocess.run([place / "bin" / "pip", "install", "-q", *packages], check=True)
        yield f"numpy {version}", [str(place / "bin" / "python")], {}, 64
    for command in arguments.command:
        yield command, shlex.split(command), {}, 64


def main():
    """Run all conditions; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--characters", type=int, default=1_000_000)
    parser.add_argument("--numpy", action="append", default=[], metavar="VERSION")
    parser.add_argument("--command", action="append", default=[], metavar="PYTHON")
    parser.add_argument("--quick", action="store_true", help="the first conditions only")
    parser.add_argument("--work", type=int, metavar="SAMPLES", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.characters, arguments.work)
        return 0
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, python, variables, lanes in conditions(arguments, Path(folder)):
            words = [__file__, "--work", str(lanes), "--characters", str(arguments.characters)]
            environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
            start = time.monotonic()
            done = subprocess.run(
                [*python, *words], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
                print(f"left out        {name}: {reason[:150]}", flush=True)
                continue
            digest, machine, version = json.loads(done.stdout.splitlines()[-1])
            digests[name] = digest
            seconds = time.monotonic() - start
            print(
                f"{digest[:16]}  {name} ({machine}, numpy {version}, {seconds:.0f} s)", flush=True
            )
    same = len(set(digests.values())) == 1
    print(f"{len(digests)} conditions: {'one digest' if same else 'DIGESTS DIFFER'}")
    print(json.dumps({"characters": arguments.characters, "digests": digests}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
