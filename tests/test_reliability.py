"""Quick forms of the programs in tests/reliability, and what a night brings besides kills."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, QUICK_FLAGS, ROOT, one_line, tiny_config

from charlm import checkpoint as checkpoints
from charlm.api import LanguageModel, load
from charlm.checkpoint import Checkpoint
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CheckpointError, DivergenceError
from charlm.training.start import start

PROGRAMS = ROOT / "tests" / "reliability"


def last_line(program, *words):
    command = [sys.executable, str(PROGRAMS / program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_runs_that_are_killed_lose_nothing():
    found = last_line("soak.py", "--kills", 2, "--attacks", 2, "--steps", 40, "--seed", 4)
    assert found["lost"] == 0
    assert found["counts"]["SIGKILL"] >= 2
    assert found["counts"]["attacks"] == 2


def test_damaged_checkpoints_do_no_harm():
    found = last_line("fuzz_checkpoints.py", "--cases", 400)
    assert found["cases"] >= 400
    assert sum("loads" in way for way in found["counts"]) >= 2  # not all is refused


def test_no_bytes_taken_for_a_text_do_harm(tmp_path, monkeypatch, capsys):
    """In this process, as torch is there already."""
    monkeypatch.syspath_prepend(PROGRAMS)
    import fuzz_texts

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fuzz_texts.py", "--cases", "40"])
    fuzz_texts.main()
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])["counts"]
    assert min(counts["refused"], counts["trained on"]) >= 5


def test_compressed_texts_come_back_and_damaged_ones_are_refused():
    counts = last_line("compression.py", "--rounds", 150)["counts"]
    assert min(counts["came back"], counts["damaged, refused"]) >= 100


def test_the_wheel_works_elsewhere_with_and_without_torch():
    found = last_line("install.py", "--quick")
    assert len(found["without_torch"]) == 1


def snapshot(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_full_disk_leaves_the_last_save_whole(run):
    """A bound on the size of files stands for the disk: writes fail in the middle of a file."""
    assert run("train", "text.txt", *QUICK_FLAGS, "--out", "run")[0] == 0
    before = snapshot("run")
    bound, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["latest.safetensors"]) // 2, most))
    try:
        status, _, err = run("resume", "run", "--steps", "9")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bound, most))
    assert status == 1
    error = err.splitlines()[-1]
    assert re.fullmatch(r"charlm: error: cannot write run/(best|latest)\S+: File too large", error)
    after = snapshot("run")
    assert after["latest.safetensors"] == before["latest.safetensors"]
    assert after["best.safetensors"] == before["best.safetensors"]
    assert after.keys() == before.keys()


def test_a_run_can_be_read_while_it_is_trained(workplace):
    """Saving replaces whole files, so whoever reads finds the old one or the new one."""
    run = start(["text.txt"], out="run", **QUICK | {"save_every": 1, "steps": 20})
    stop, texts = threading.Event(), []

    def read():
        while not stop.is_set():
            texts.append(load("run").generate(length=40, seed=1))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in run.progress():
        pass
    stop.set()
    reader.join()
    assert len(set(texts)) >= 2


def test_a_folder_that_is_deleted_ends_the_run_with_one_line(workplace):
    run = start(["text.txt"], out="run", **QUICK | {"save_every": 1})
    progress = run.progress()
    next(progress)
    shutil.rmtree("run")
    with pytest.raises(
        CheckpointError, match="cannot write to run folder run: it was moved or removed"
    ):
        list(progress)


def test_a_folder_that_cannot_be_written_is_one_line(run):
    if os.geteuid() == 0:  # whom no permission stops; another place that takes no folders will do
        target = "/proc/run"
    else:
        Path("closed").mkdir(mode=0o500)
        target = "closed/run"
    one_line(*run("train", "text.txt", *QUICK_FLAGS, "--out", target), expected=1)


def test_a_damaged_latest_says_that_best_is_there_and_how_to_go_on_from_it(run):
    run("train", "text.txt", *QUICK_FLAGS, "--out", "run")
    latest = Path("run/latest.safetensors")
    latest.write_bytes(latest.read_bytes()[:-1])
    status, out, err = run("resume", "run", "--steps", 9)
    one_line(status, out, err, expected=1)
    advice = "run/best.safetensors beside it may be whole: remove latest.safetensors to use it"
    assert advice in err
    latest.unlink()
    assert run("resume", "run", "--steps", 9)[0] == 0
    assert checkpoints.load(latest).counters.step == 9


def test_a_clock_that_jumps_is_looked_at_only_to_show_an_age():
    clock = re.compile(r"\btime\.time\(|\b(now|today)\(")
    for path in (ROOT / "charlm").rglob("*.py"):
        text = path.read_text("utf-8")
        for shown in ("return time.time() - file.stat().st_mtime", "created: int = field("):
            text = "".join(line for line in text.splitlines() if shown not in line)
        assert not clock.search(text), path


def test_a_model_that_has_diverged_is_an_error_not_a_warning():
    config = tiny_config("rnn", "relu")
    rng = np.random.default_rng(1)
    shapes = config.parameter_shapes(3)
    weights = {n: rng.normal(0, 9, s).astype(np.float32) for n, s in shapes.items()}
    lm = LanguageModel(
        Checkpoint(model_config=config, tokenizer=CharTokenizer("\nab"), weights=weights)
    )
    for use in (lm.generate, lm.score, lm.read):
        with pytest.raises(DivergenceError, match="NaN or infinite"):
            use("ab" * 2000)
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        lm.generate("a", length=5000, seed=1, temperature=0)
