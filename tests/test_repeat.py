"""A printed command is true: what ``repeat:`` prints trains the same model, bit for bit."""

import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from conftest import QUICK, QUICK_FLAGS, assert_same_run, words

from charlm.files import as_path, shell_command
from charlm.training import presets
from charlm.training.start import start


def drawn_flags(rng):
    """Return some settings, many of them equal to a default, and others left to the presets."""
    choices = {
        "--backbone": ["rnn", "lstm", "gru"],
        "--embedding-size": [5, 11],
        "--hidden-size": [11, 13],
        "--num-layers": [1, 2, 3],
        "--dropout": [0, 0.5, 0.3],
        "--weight-drop": [0, 0.0, 0.25],
        "--batch-size": [16, 3, 5],
        "--seq-length": [128, 7, 19],
        "--optimizer": ["adamw", "soap", "sgd"],
        "--learning-rate": [0.005, 0.01],
        "--warmup-steps": [0, 3],
        "--decay-steps": [0, 2],
        "--beta1": [0.6, 0.9],
        "--weight-decay": [0.1, 0],
        "--logit-growth": [0.015, 0.25],
        "--grad-clip": [1, 0],
        "--validation-fraction": [0.1, 0.25],
        "--min-count": [1, 40],
        "--eval-every": [0, 3],
        "--seed": [1, 2],
    }
    flags = []
    for flag, values in choices.items():
        if flag in ("--hidden-size", "--embedding-size") or rng.random() < 0.5:
            flags += [flag, rng.choice(values)]
    flags += rng.choice([[], ["--no-residual"], ["--residual"]])
    flags += rng.choice([[], ["--threads", 1]])
    return [*flags, "--precision", rng.choice(["float32", "bfloat16"])]


def printed(err):
    """Return the commands that were printed, each as the words that a shell makes of it."""
    lines = re.findall(r"^repeat: +(.*)$", err, re.MULTILINE)
    outputs = [subprocess.check_output(["bash", "-c", f"printf '%s\\0' {line}"]) for line in lines]
    return [[os.fsdecode(word) for word in output.split(b"\0")[:-1]] for output in outputs]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_printed_trains_the_same_model(run, monkeypatch, seed):
    rng = random.Random(seed)
    name = rng.choice(["text.txt", "a text.txt", "-x.txt", "naïve\n.txt"])
    Path(name).write_text(words(rng.choice([300, 600]), seed))
    if seed % 4 == 3:
        monkeypatch.setattr(presets, "MAX_EPOCHS", ())  # or so short a text is not read for as long
        length = ["--minutes", 0.01]
    else:
        length = ["--steps", rng.randint(4, 12)]
    status, _, err = run("train", as_path(name), *length, *drawn_flags(rng), "--out", "first")
    assert status == 0, err
    commands = printed(err)
    if seed % 4 == 2:
        status, _, err = run("resume", "first", "--steps", 15, "--learning-rate", 0.002)
        assert status == 0, err
        commands = printed(err)
        assert len(commands) == 2
    for program, *rest in commands:
        assert program == "charlm"
        rest += [] if len(commands) > 1 else ["--out", "again"]
        status, _, err = run(*rest)
        assert status == 0, err
    again = "again" if len(commands) == 1 else "checkpoints/again"
    assert_same_run("first", again)


def test_a_fall_that_is_given_again_is_printed_again(run):
    run("train", "text.txt", *QUICK_FLAGS, "--decay-steps", 4, "--out", "first")
    err = run("resume", "first", "--steps", 11, "--decay-steps", 4)[2]
    for _, *rest in printed(err):
        assert run(*rest)[0] == 0
    assert_same_run("first", "checkpoints/again")


def test_a_run_that_was_changed_before_its_end_says_that_no_command_repeats_it(run):
    stopped = start(["text.txt"], out="run", **QUICK)
    for progress in stopped.progress():
        if progress.step == 3:
            stopped.save("latest")
            break
    del stopped, progress
    status, _, err = run("resume", "run", "--steps", 8)
    assert status == 0
    expected = "no command repeats this run: resume changed it at step 3, before its end"
    assert f"repeat:   {expected}" in err.splitlines()
    assert expected in run("info", "run", "--all")[1]


def test_a_run_whose_length_is_not_known_yet_says_so(run, monkeypatch):
    monkeypatch.setattr(presets, "MAX_EPOCHS", ())
    settings = {name: value for name, value in QUICK.items() if name != "steps"}
    start(["text.txt"], out="run", minutes=9.0, **settings)
    assert "no command repeats this run yet" in run("info", "run", "--all")[1]


@pytest.mark.parametrize("word", ["a b", "it's", "-x", "a\nb", "$HOME", "naïve", "\udcff", "\\'\t"])
def test_a_shell_reads_back_what_is_printed(word):
    line = shell_command(["printf", "%s", word])
    assert line.isprintable()
    found = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert found == os.fsencode(word)
