"""Nothing is lost: trainings that are killed at random moments end as if they had not been.

    python tests/reliability/soak.py [--kills 200] [--attacks 200] [--seed 1] [--quiet]

Real ``charlm train`` processes are stopped again and again, and taken up with ``charlm resume``.
Most are killed (SIGKILL); others get SIGTERM or SIGINT, once or twice in a row. The moment is
random, from the start of the interpreter to the end of the run, and every step saves, so many kills
land inside a write. Between the stops the runs are attacked: links lie in wait for what is
written, a second training wants the folder, the folder is moved, the disk is full, streams are
closed. After each stop ``latest`` and ``best`` must open. In the end weights, optimizer, carried
state and metrics must equal, bit for bit, those of a run that was never stopped.

The last line is one JSON document.
"""

import argparse
import collections
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from charlm import checkpoint as checkpoints
from charlm.files import TEMPORARY

ROOT = Path(__file__).parent.parent.parent
TEXT = ROOT / "corpora" / "english.txt"
SETTINGS = [
    "--save-every",
    "1",
    "--eval-every",
    "7",
    "--batch-size",
    "3",
    "--seq-length",
    "20",
    "--hidden-size",
    "24",
    "--embedding-size",
    "9",
    "--dropout",
    "0.3",
    "--weight-drop",
    "0.2",
    "--precision",
    "float32",
    "--threads",
    "1",
]
# What is sent, and how often: a signal, or one after the other.
WAYS = [(signal.SIGKILL,)] * 6 + [(s,) * n for s in (signal.SIGTERM, signal.SIGINT) for n in (1, 2)]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LONGEST = 120  # seconds that a process may take to end


class LostError(Exception):
    """Something was lost, or was not as it should be."""


def start(*words, disk=None, closed=()):
    """Start a charlm command, maybe with a bound on the size of files and with closed streams."""

    def prepare():
        # A shell lets jobs in the background ignore Ctrl-C, and charlm respects that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if disk is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
        for number in closed:
            os.close(number)

    return subprocess.Popen(
        [sys.executable, "-m", "charlm", *map(str, words)],
        env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=prepare,
    )  # fmt: skip


def expect(process, status, words):
    """Raise unless a process ends with one line that says ``words``."""
    found, err = finish(process)
    lines = [line for line in err.splitlines() if "error:" in line]
    if found != status or len(lines) != 1 or words not in lines[0] or "Traceback" in err:
        raise LostError(f"status {found}, not {status} with {words!r}: {err[-2000:]}")


def step_of(run):
    """Return the step that a run was last saved at, -1 before the first save."""
    latest = run / "latest.safetensors"
    return checkpoints.load_head(latest).counters.step if latest.exists() else -1


def let_train(process, run, step):
    """Wait until a run is saved at a step, or its process has ended, on a machine of any load."""
    while process.poll() is None and step_of(run) < step:
        time.sleep(0.01)


def attack_with_links(run, rng):
    """Links lie in wait for what a resume writes; what they lead to must stay as it is."""
    precious = run.parent / "precious"
    precious.write_text("precious")
    names = [".latest.safetensors.tmp", ".metrics.jsonl.tmp", TEMPORARY.replace("*", "0" * 16)]
    for name in names:
        (run / name).symlink_to(precious)
    process, step = start("resume", run), step_of(run)
    let_train(process, run, step + rng.choice([1, 2, 9]))
    stop(process, (signal.SIGTERM,), 0)
    for name in names:
        (run / name).unlink(missing_ok=True)
    if precious.read_text() != "precious":
        raise LostError("a write has followed a link")


def attack_with_a_second_training(run, rng):
    """While a run is trained, another one wants its folder."""
    process = start("resume", run)
    while not held(run):
        if process.poll() is not None:
            return finish(process)  # it was through
        time.sleep(0.02)
    for words in (("resume", run), ("train", TEXT, "--out", run, *SETTINGS, "--steps", 5)):
        second = start(*words)
        _, err = finish(second)
        # The first one may have come to the end of its training, and be about to say so.
        refusals = ("another process is training", "is finished", "not empty")
        if process.poll() is None and not any(words in err for words in refusals):
            raise LostError(f"two trainings in one folder: {err[-2000:]}")
    return stop(process, (signal.SIGTERM,), 0)


def held(run):
    """Return whether a process holds a run folder."""
    descriptor = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def attack_by_a_move(run, rng):
    """The folder is moved while a run is trained, and another one takes its place."""
    process = start("resume", run)
    while not held(run):
        if process.poll() is not None:
            return finish(process)
        time.sleep(0.02)
    aside = run.with_name("aside")
    run.rename(aside)
    run.mkdir()
    status, err = finish(process)
    # Moved before the checkpoint was read, it is missed; later, the next write is refused.
    is_said = any(
        words in err for words in ("moved or removed", "latest.safetensors does not exist")
    )
    if list(run.iterdir()) or (status, is_said) not in [(1, True), (0, False)]:
        raise LostError(f"written to a folder in the place of one that was moved: {err[-2000:]}")
    run.rmdir()
    aside.rename(run)
    return None


def attack_by_a_full_disk(run, rng):
    """A file cannot grow beyond a half of a checkpoint."""
    size = (run / "latest.safetensors").stat().st_size
    expect(start("resume", run, disk=size // rng.choice([2, 5, 100])), 1, "File too large")


def attack_by_closed_streams(run, rng):
    """Some of the standard streams are closed."""
    closed = rng.choice([(0,), (1,), (2,), (0, 1, 2)])
    process, step = start("resume", run, closed=closed), step_of(run)
    let_train(process, run, step + rng.choice([1, 2, 9]))
    stop(process, (signal.SIGTERM,), 0)


ATTACKS = [
    attack_with_links, attack_with_a_second_training, attack_by_a_move, attack_by_a_full_disk,
    attack_by_closed_streams,
]  # fmt: skip


def finish(process):
    """Let a process run to its end; return its status and what it wrote to stderr."""
    try:
        _, err = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        raise LostError(f"a process did not end within {LONGEST} seconds") from None
    return process.returncode, err


def contents(folder):
    """Return all that a run holds but times: tensors, counters and metrics."""
    result = {}
    for name in ("best", "latest"):
        found = checkpoints.load(folder / f"{name}.safetensors")
        counters = found.counters.to_dict()
        del counters["seconds"]
        result |= {f"{name}/{key}": tensor for key, tensor in found.tensors().items()}
        result[f"{name}/counters"] = counters
    for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        values = json.loads(line)
        del values["seconds"], values["chars_per_second"]
        result[f"metrics/{values['step']}"] = values
    return result


def check_same(one, other):
    """Raise unless two runs hold the same, bit for bit."""
    if one.keys() != other.keys():
        raise LostError(f"the runs hold different things: {sorted(one.keys() ^ other.keys())[:5]}")
    for key, value in one.items():
        equal = np.array_equal if isinstance(value, np.ndarray) else lambda a, b: a == b
        if not equal(value, other[key]):
            raise LostError(f"{key} differs")


def check_opens(folder):
    """Raise unless what is on disk after a stop can be opened; return the step it is at."""
    if not (folder / "latest.safetensors").exists():
        return 0  # stopped before the first save: nothing was promised yet
    latest = checkpoints.load(folder / "latest.safetensors")
    best = folder / "best.safetensors"
    if best.exists():
        checkpoints.load(best)
    elif latest.counters.best_loss is not None:
        raise LostError("best is gone")
    return latest.counters.step


def stop(process, way, delay):
    """Send the signals of ``way`` after ``delay`` seconds; return the status."""
    time.sleep(delay)
    for number in way:
        if process.poll() is None:
            process.send_signal(number)
            time.sleep(random.random() * 0.02 if len(way) > 1 else 0)
    status, err = finish(process)
    expected = {-way[0], 128 + way[0], 0}
    # Python itself was still starting, and ends with 1.
    too_early = any(words in err for words in ("init_import_site", "Could not import runpy"))
    if status not in expected and not (too_early and status == 1):
        raise LostError(f"status {status} after {way}: {err[-2000:]}")
    if "Traceback" in err and "KeyboardInterrupt" not in err:
        raise LostError(f"a traceback: {err[-2000:]}")
    return status


def soak(folder, kills, attacks, steps, rng, say):
    """Stop and attack runs until there were so many kills and attacks; return the figures."""
    settings = [*SETTINGS, "--steps", steps]
    counts = collections.Counter()
    straight = folder / "straight"
    began = time.monotonic()
    process = start("train", TEXT, "--out", straight, *settings)
    while not (straight / "best.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    first = time.monotonic() - began  # from the start of the interpreter to the first evaluation
    status, err = finish(process)
    if status != 0:
        raise LostError(f"the run that is not stopped ended with {status}: {err}")
    expected = contents(straight)
    while counts["SIGKILL"] < kills or counts["attacks"] < attacks:
        run = folder / f"run-{counts['runs']}"
        counts["runs"] += 1
        step = 0
        while True:
            begun = (run / "latest.safetensors").exists()
            if not begun and run.exists():
                shutil.rmtree(run)  # a folder without a checkpoint holds nothing to go on from
            words = ("resume", run) if begun else ("train", TEXT, "--out", run, *settings)
            process = start(*words)
            if counts["SIGKILL"] >= kills and counts["attacks"] >= attacks:
                status, err = finish(process)
                if status != 0:
                    raise LostError(f"a resumed run ended with {status}: {err}")
                break
            way = rng.choice(WAYS)
            if rng.random() < 0.2:  # before anything was trained in this sitting
                delay = rng.uniform(0, first)
            else:
                let_train(process, run, rng.randint(step, steps))
                delay = rng.uniform(0, 0.02)  # a few steps, which all are saved
            if stop(process, way, delay) == 0:
                break  # it was through
            counts["stops"] += 1
            counts["+".join(number.name for number in way)] += 1
            counts["inside a write"] += any(run.glob(TEMPORARY))
            after = check_opens(run)
            if after < step:
                raise LostError(f"step {step} was saved, and {after} is there")
            step = after
            if step and step < steps and counts["attacks"] < attacks and rng.random() < 0.6:
                attack = rng.choice(ATTACKS)
                attack(run, rng)
                counts["attacks"] += 1
                counts[attack.__name__] += 1
                after = check_opens(run)
                if after < step:
                    raise LostError(f"{attack.__name__}: step {step} was saved, {after} is there")
                step = after
            if step == steps:
                break  # it was through, but for its last words
            say(f"{counts['stops']} stops, run {counts['runs']} at step {step}")
        check_same(contents(run), expected)
        shutil.rmtree(run)
    return dict(counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=200, help="the other stops come on top")
    parser.add_argument("--attacks", type=int, default=200, help="between the stops")
    parser.add_argument("--steps", type=int, default=400, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    began = time.monotonic()

    def say(line):
        if not arguments.quiet:
            print(line, file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        counts = soak(
            Path(folder),
            arguments.kills,
            arguments.attacks,
            arguments.steps,
            random.Random(arguments.seed),
            say,
        )
    seconds = round(time.monotonic() - began)
    print(json.dumps({"program": "soak", "lost": 0, "seconds": seconds, "counts": counts}))


if __name__ == "__main__":
    main()
