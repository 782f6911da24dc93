import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, assert_same_run, metrics, words

from charlm import checkpoint as checkpoints
from charlm.api import load
from charlm.data.dataset import Dataset
from charlm.data.text_files import fingerprint
from charlm.errors import CharlmError, CheckpointError, ConfigError, CorpusError, DivergenceError
from charlm.training import schedule
from charlm.training.resume import resume
from charlm.training.start import start
from charlm.training.trainer import Trainer


def trained(run):
    for _ in run.progress():
        pass
    return run


def stopped_after(run, steps):
    for progress in run.progress():
        if progress.step == steps:
            run.save("latest")
            return


def latest(folder):
    return checkpoints.load(checkpoints.locate(folder, "latest"))


@pytest.mark.parametrize("backbone", ["rnn", "lstm", "gru"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(workplace, backbone):
    settings = QUICK | {"backbone": backbone, "dropout": 0.3, "weight_drop": 0.25}
    trained(start(["text.txt"], out="straight", **settings))
    stopped_after(start(["text.txt"], out="stopped", **settings), 3)
    stopped_after(resume("stopped"), 4)
    trained(resume("stopped"))
    assert_same_run("straight", "stopped")


def test_what_came_after_the_checkpoint_is_cut_from_the_metrics(workplace):
    trained(start(["text.txt"], out="straight", **QUICK))
    stopped_after(start(["text.txt"], out="killed", **QUICK), 2)
    with Path("killed/metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "validation_loss": 9}\n{"step": 6, "vali')
    trained(resume("killed"))
    assert_same_run("straight", "killed")


def test_a_folder_holds_best_latest_and_metrics(workplace):
    run = trained(start(["text.txt"], **QUICK))
    assert run.folder == Path("checkpoints/text")
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"best.safetensors", "latest.safetensors", "metrics.jsonl"}
    assert [line["step"] for line in metrics(run.folder)] == [2, 4, 6]
    best = checkpoints.load(run.folder / "best.safetensors")
    assert best.counters.best_loss == min(line["validation_loss"] for line in metrics(run.folder))


def test_a_new_run_never_touches_an_old_one(workplace):
    folders = [start(["text.txt"], **QUICK).folder for _ in range(3)]
    assert folders == [Path("checkpoints") / name for name in ("text", "text-2", "text-3")]
    with pytest.raises(ConfigError, match="is there already and not empty: choose another"):
        start(["text.txt"], out=folders[0], **QUICK)


def test_a_run_can_be_resumed_from_its_first_moment_on(workplace):
    trained(start(["text.txt"], out="straight", **QUICK))
    start(["text.txt"], out="killed at once", **QUICK)
    trained(resume("killed at once"))
    assert_same_run("straight", "killed at once")


def test_the_windows_of_a_text_are_made_once(workplace, monkeypatch):
    """Of a list of millions of lines that takes a second."""
    made, original = [], Dataset.stream
    monkeypatch.setattr(Dataset, "stream", lambda *args: made.append(args) or original(*args))
    trained(start(["text.txt"], out="run", **QUICK))
    assert len(made) == 1
    trained(resume("run", steps=7))
    assert len(made) == 2


def test_save_every_saves_between_evaluations(workplace):
    run = start(["text.txt"], out="run", **(QUICK | {"eval_every": 6, "save_every": 2}))
    for progress in run.progress():
        assert latest("run").counters.step == progress.step // 2 * 2


def test_a_changed_text_is_refused_with_both_fingerprints(workplace):
    start(["text.txt"], out="run", **QUICK)
    before = latest("run").source.fingerprint
    Path("text.txt").rename("moved.txt")
    with pytest.raises(CorpusError, match="is not there: name it with text"):
        resume("run")
    trained(resume("run", text=["moved.txt"]))
    Path("text.txt").write_text(words(600, seed=1))
    with pytest.raises(CorpusError) as caught:
        resume("run", text=["text.txt"], steps=9)
    assert before[:16] in str(caught.value)
    assert fingerprint(Path("text.txt").read_text())[:16] in str(caught.value)


@pytest.mark.parametrize("name", ["/dev/zero", "a\0b", "\ud800", "pipe"])
def test_a_strangers_checkpoint_makes_us_read_files_only(workplace, name):
    os.mkfifo("pipe")
    start(["text.txt"], out="run", **QUICK)
    found = latest("run")
    foreign = replace(found, source=replace(found.source, files=(name,)))
    checkpoints.save(foreign, Path("run/latest.safetensors"))
    with pytest.raises(CorpusError, match="is not there: name it with text"):
        resume("run")


def test_a_folder_has_one_trainer_at_a_time(workplace):
    run = start(["text.txt"], out="run", **QUICK)
    progress = run.progress()
    next(progress)
    with pytest.raises(ConfigError, match="another process is training in run folder run"):
        start(["text.txt"], out="run", **QUICK)
    before = sorted((path.name, path.read_bytes()) for path in Path("run").iterdir())
    with pytest.raises(CheckpointError, match="another process is training in run folder run"):
        resume("run", steps=9)
    assert sorted((path.name, path.read_bytes()) for path in Path("run").iterdir()) == before
    assert load("run").generate(length=3, seed=1)  # whoever only reads may
    del run, progress  # a trainer that is gone holds nothing
    for _ in resume("run", steps=9).progress():
        pass


def test_steps_extend_a_finished_run(workplace):
    trained(start(["text.txt"], out="run", **QUICK))
    with pytest.raises(ConfigError, match="is finished: it has done 6 steps, and 6 are asked"):
        resume("run")
    trained(resume("run", steps=9))
    assert latest("run").counters.step == 9
    assert latest("run").train_config.steps == 9
    assert [line["step"] for line in metrics("run")] == [2, 4, 6, 8, 9]


def test_a_longer_run_compares_losses_of_as_many_characters(workplace, monkeypatch):
    """Its evaluations read more, so the best so far is measured on more too."""
    monkeypatch.setattr(schedule, "EVALUATION_SHARE", 2)
    monkeypatch.setattr(schedule, "LEAST_EVALUATED", 10)
    settings = QUICK | {"eval_every": 0, "validation_fraction": 0.5}
    length = trained(start(["text.txt"], out="run", **settings)).trainer.evaluated_length
    before = latest("run").counters.best_loss
    trainer = resume("run", steps=200).trainer
    assert trainer.evaluated_length > length
    best = checkpoints.load(Path("run/best.safetensors")).weights
    expected = trainer.validation_loss(best, trainer.evaluated_length)
    assert trainer.counters.best_loss == expected != before
    del trainer
    assert resume("run", steps=7).trainer.counters.best_loss == before
    Path("run/best.safetensors").unlink()
    assert resume("run", steps=200).trainer.counters.best_loss is None


def test_a_longer_run_begins_afresh_where_it_reads_from_another_place_on(workplace):
    for out, steps in (("run", 6), ("stopped", 4)):
        stopped_after(start(["text.txt"], out=out, **QUICK), steps)
    assert all(s.any() for s in resume("stopped").trainer.state)
    assert not any(s.any() for s in resume("run", steps=9).trainer.state)


def test_a_run_in_steps_that_goes_on_in_minutes_keeps_its_warm_up(workplace):
    stopped_after(start(["text.txt"], out="run", **QUICK | {"steps": 300}), 4)
    config = resume("run", minutes=0.1).trainer.config
    assert (config.warmup, config.total_steps) == (15, None)


def test_one_end_is_given_for_the_fall(workplace):
    trained(start(["text.txt"], out="run", **QUICK))
    with pytest.raises(ConfigError, match="decay_steps and decay_plan cannot both be given"):
        resume("run", steps=9, decay_steps=2, decay_plan="7:9")


def test_a_run_keeps_a_number_of_threads_that_is_not_tried_here(workplace, monkeypatch):
    monkeypatch.setattr("charlm.training.run.thread_counts", lambda: [0, 1])
    trained(start(["text.txt"], out="run", **QUICK | {"threads": None}))
    monkeypatch.setattr("charlm.training.run.thread_counts", lambda: [2])
    assert resume("run", steps=9).trainer.thread_choice.counts == [0, 2]


def test_init_from_begins_with_the_weights_row_by_row(workplace):
    trained(start(["text.txt"], out="old", **QUICK))
    Path("other.txt").write_text("xyz \n" + words(300).replace("a", "é"))
    settings = {k: v for k, v in QUICK.items() if k not in ("hidden_size", "embedding_size")}
    settings.pop("num_layers")
    start(["other.txt"], out="new", init_from="old", **settings)
    old, new = checkpoints.load(checkpoints.locate("old")), latest("new")
    assert new.counters.step == 0
    assert set(old.tokenizer.vocabulary) | set("xyzé") == set(new.tokenizer.vocabulary)
    for name, ours in old.weights.items():
        theirs = new.weights[name]
        if name.startswith("backbone"):
            assert np.array_equal(ours, theirs)
            continue
        for character in old.tokenizer.vocabulary:
            row = old.tokenizer.vocabulary.index(character)
            assert np.array_equal(ours[row], theirs[new.tokenizer.vocabulary.index(character)])
    assert new.model_config == old.model_config
    with pytest.raises(ConfigError, match="hidden_size cannot be given with init_from"):
        start(["other.txt"], out="x", init_from="old", hidden_size=4)


def test_weights_that_an_update_has_spoilt_are_never_saved(workplace):
    run = start(["text.txt"], out="run", **(QUICK | {"learning_rate": 1e39, "save_every": 1}))
    with pytest.raises(DivergenceError, match="charlm resume run --learning-rate RATE"):
        trained(run)
    assert latest("run").counters.step == 0
    assert not Path("run/best.safetensors").exists()


def test_a_checkpoint_alone_is_not_resumed(workplace):
    start(["text.txt"], out="run", **QUICK)
    Path("run/latest.safetensors").rename("alone.safetensors")
    with pytest.raises(CheckpointError, match="is a checkpoint without its run"):
        resume("alone.safetensors")


def test_a_run_is_resumed_from_best_only_where_latest_is_missing(workplace):
    run = trained(start(["text.txt"], out="run", **QUICK))
    assert run.trainer.counters.step == 6
    with pytest.raises(CheckpointError, match="is not where its run is: resume run, or remove"):
        resume("run/best.safetensors", steps=9)
    Path("run/latest.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"run/best.safetensors beside it may be whole"):
        resume("run", steps=9)
    Path("run/latest.safetensors").unlink()
    again = resume("run", steps=9)
    assert again.notices == ["resumes from run/best.safetensors, as there is no latest.safetensors"]
    trained(again)


def test_divergence_leaves_the_last_checkpoint_and_says_how_to_continue(workplace):
    bad = {"learning_rate": 1e6, "grad_clip": 0, "optimizer": "sgd", "backbone": "rnn"}
    run = start(["text.txt"], out="run", **(QUICK | bad | {"nonlinearity": "relu"}))
    with pytest.raises(
        DivergenceError, match="charlm resume run --learning-rate RATE continues from it"
    ):
        trained(run)
    trained(resume("run", learning_rate=1e-3))
    assert latest("run").counters.step == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_sise": 3}, "unknown setting 'hidden_sise'; did you mean 'hidden_size'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"validation_fraction": 0}, "validation_fraction must be above 0"),
        ({"validation_fraction": 1e-9}, "the validation part of a text of .* holds"),
        (
            {"batch_size": 999, "seq_length": 999, "hidden_size": 3},
            "lower batch_size",
        ),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, mps"),
        ({"precision": "float8"}, "precision must be one of auto"),
        ({"init_from": "nothing"}, "no run or checkpoint 'nothing'"),
        ({"nonlinearity": "relu"}, "does not go with backbone 'lstm'"),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_written(workplace, settings, message):
    with pytest.raises(CharlmError, match=message):
        start(["text.txt"], **{"steps": 5, "precision": "float32", "threads": 1} | settings)
    assert [path.name for path in workplace.iterdir()] == ["text.txt"]


def test_a_tiny_text_is_trained_with_smaller_sizes_and_told(workplace):
    Path("tiny.txt").write_text("to be or not to be, that is the question\n" * 2)
    run = start(["tiny.txt"], steps=3, precision="float32", device="cpu")
    config = run.trainer.config
    assert config.batch_size * config.seq_length <= 72
    assert "batch_size" in run.notices[0]
    assert config.eval_every == 0
    trained(run)


@pytest.mark.parametrize("length", [{"steps": 2}, {"epochs": 2}, {"minutes": 0.01}])
def test_the_vocabulary_counts_however_the_length_of_a_run_is_given(workplace, length):
    few, many = (
        "".join(map(chr, range(0x4E00, 0x4E00 + symbols))) * (60_000 // symbols)
        for symbols in (20, 2000)
    )
    dropouts = []
    for name, text in (("few", few), ("many", many)):
        Path(f"{name}.txt").write_text(text, encoding="utf-8")
        run = start([f"{name}.txt"], hidden_size=4, embedding_size=3, threads=1, **length)
        dropouts.append(run.trainer.model.config.dropout)
    assert dropouts[0] < dropouts[1]


def test_a_folder_that_cannot_be_made_is_an_error(workplace):
    with pytest.raises(CheckpointError, match="cannot make folder"):
        start(["text.txt"], out="text.txt/run", **QUICK)


def test_loss_of_the_held_out_part_is_the_validation_loss(run):
    trained(start(["text.txt"], out="run", **QUICK))
    command = ("evaluate", "run", "text.txt", "--device", "cpu", "--json")
    status, out, err = run(*command, "--held-out")
    assert (status, err) == (0, "")
    held_out = json.loads(out)
    assert held_out["nats_per_char"] == metrics("run")[-1]["validation_loss"]
    length = len(Path("text.txt").read_text())
    assert held_out["characters"] == length - int(0.9 * length) - 1
    assert json.loads(run(*command)[1])["characters"] == length - 1


@pytest.mark.parametrize("late", [-1e9, 1e9])
def test_the_last_evaluation_of_a_run_in_minutes_is_given_up_where_there_is_no_time(
    workplace, monkeypatch, late
):
    monkeypatch.setattr("charlm.training.run.LATE_SECONDS", late)
    monkeypatch.setattr(Trainer, "evaluated_length", 70)
    settings = {name: value for name, value in QUICK.items() if name != "steps"}
    run = trained(start(["text.txt"], out="run", minutes=0.003, **settings))
    counters = run.trainer.counters
    assert run.is_cut_short == (late < 0)
    assert (counters.whole_loss is None) == (late < 0)
    assert counters.loss is not None
    assert latest("run").counters.whole_loss == counters.whole_loss
    by_steps = trained(start(["text.txt"], out="steps", **QUICK)).trainer.counters
    assert by_steps.whole_loss is not None  # which takes the time that it takes
