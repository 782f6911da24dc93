"""The verbs ``list`` and ``info``: what a person sees of runs."""

import json
import os
import shlex
import shutil
import time
from pathlib import Path

import pytest
from conftest import DATA, QUICK_FLAGS, one_line

from charlm import checkpoint as checkpoints
from charlm.cli.terminal import ago


@pytest.fixture
def runs(run):
    """Three runs, the last one broken and the oldest."""
    for age, name in enumerate(("gru", "lstm", "rnn")):
        Path("checkpoints", name).mkdir(parents=True)
        file = Path("checkpoints", name, "latest.safetensors")
        shutil.copy(DATA / f"golden-{name}.safetensors", file)
        if name == "rnn":
            file.write_bytes(file.read_bytes()[:-1])
        then = time.time() - 7300 * age
        os.utime(file, (then, then))
    return run


def test_runs_are_listed_newest_first_with_what_they_are(runs):
    status, out, err = runs("list")
    assert (status, err) == (0, "")
    head, gru, lstm, rnn = out.splitlines()
    found = checkpoints.load(Path("checkpoints/lstm/latest.safetensors"))
    assert lstm.startswith(f"lstm  {found.counters.best_loss:.4f}  ")
    assert f"{found.model_config.num_parameters(found.tokenizer.vocab_size):,}" in lstm
    assert lstm.endswith("lstm 2 x 24  500/500  2 hours ago")
    assert gru.endswith("just now")
    assert rnn.startswith("rnn   broken: checkpoint checkpoints/rnn/latest.safetensors is damaged")
    assert head.index("saved") == gru.index("just now") == lstm.index("2 hours")
    facts = [json.loads(line) for line in runs("list", "--json")[1].splitlines()]
    assert [one["run"] for one in facts] == ["gru", "lstm", "rnn"]
    assert facts[1]["nats_per_char"] == found.counters.best_loss
    assert [one["error"] is None for one in facts] == [True, True, False]
    elsewhere = runs("list", Path("checkpoints").absolute(), "--json")[1].splitlines()
    names = [json.loads(line)["run"] for line in elsewhere]
    assert names == [str(Path("checkpoints", one["run"]).absolute()) for one in facts]


def test_without_runs_a_line_says_what_to_do(run):
    assert run("list") == (0, "", "there are no runs in checkpoints: charlm train FILE makes one\n")
    one_line(*run("list", "nowhere"), expected=1)


def test_an_age_is_told_in_the_largest_unit_that_fits():
    ages = {-5: "just now", 59: "just now", 60: "1 minute ago", 7199: "1 hour ago"}
    ages |= {7200: "2 hours ago", 86_400: "1 day ago", 400 * 86_400: "400 days ago"}
    assert {seconds: ago(seconds) for seconds in ages} == ages


def test_the_head_of_a_checkpoint_is_all_but_its_tensors():
    path = DATA / "golden-lstm.safetensors"
    head, whole = checkpoints.load_head(path), checkpoints.load(path)
    assert (head.model_config, head.train_config) == (whole.model_config, whole.train_config)
    assert (head.source, head.counters) == (whole.source, whole.counters)
    assert head.tensors() == {}


def test_info_is_a_screen_with_commands_that_run(run):
    run("train", "text.txt", *QUICK_FLAGS)
    status, out, _ = run("info", "text")
    assert status == 0
    facts = {line[:9].strip(): line[10:] for line in out.splitlines()}
    assert list(facts) == ["model", "file", "text", "loss", "training", "generate", "resume"]
    assert facts["model"].startswith("lstm, 2 x 11 units, ")
    assert facts["text"].startswith("text.txt: ")
    assert facts["training"].endswith("for 6 of 6 steps, seed 1")
    for verb in ("generate", "resume"):
        program, *words = shlex.split(facts[verb])
        assert program == "charlm"
        assert run(*words)[0] == 0, words
    assert json.loads(run("info", "text", "--json")[1])["step"] == 12
    assert len(run("info", "text", "--all")[1].splitlines()) > 30
