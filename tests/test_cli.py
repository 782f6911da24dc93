"""The command line as a person meets it: real processes, signals and pipes, and every bad input."""

import io
import itertools
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DATA, QUICK, QUICK_FLAGS, ROOT, assert_same_run, one_line

from charlm import __main__, suggestions
from charlm import checkpoint as checkpoints
from charlm.cli import VERBS, progress
from charlm.cli.parser import make_parser
from charlm.config import TrainConfig
from charlm.data.downloads import SAMPLE_TEXTS
from charlm.files import TEMPORARY
from charlm.training import presets
from charlm.training.progress import Progress
from charlm.training.run import Run
from charlm.training.trainer import Trainer

LSTM = str(DATA / "golden-lstm.safetensors")
CHARLM = [sys.executable, "-m", "charlm"]
AT_ONCE = ["--steps", "5", "--precision", "float32", "--threads", "1"]  # nothing to measure


def quick(*more):
    return ["train", "text.txt", *QUICK_FLAGS, *more]


def test_train_resume_generate_evaluate_info(run):
    status, out, err = run(*quick())
    assert (status, out) == (0, "")
    assert "done     in " in err
    assert re.search(r"step 6  epoch [\d.]+  train [\d.]+/[\d.]+  val [\d.]+/[\d.]+", err)
    more = re.search(r"^more: +charlm (generate .*)$", err, re.M)
    status, out, err = run(*more[1].split(), "--seed", 4)
    assert status == 0
    assert len(out) == 1000 + 1
    assert err == "seed 4\n"
    assert run("resume", "text", "--steps", 8)[0] == 0
    status, out, _ = run("evaluate", "text", "text.txt", "--json")
    assert status == 0
    result = json.loads(out)
    units = {"nats_per_char", "bits_per_char", "perplexity", "characters"}
    assert set(result) == {*units, "baselines", "mixed"}
    assert set(result["mixed"]) == units
    assert "nats/char" in run("evaluate", "text", "text.txt", "--held-out")[1]
    assert json.loads(run("info", "text", "--json")[1])["step"] == 8
    assert "hidden_size          11" in run("info", "text", "--all")[1]


def test_the_seed_that_is_printed_repeats_the_text(run):
    _, text, err = run("generate", LSTM, "-p", "The ", "-l", 40)
    seed = err.removeprefix("seed ").strip()
    assert run("generate", LSTM, "-p", "The ", "-l", 40, "--seed", seed)[1] == text
    assert text.startswith("The ")


def test_samples_are_the_same_whatever_their_number(run):
    samples = run("generate", LSTM, "-n", 3, "--seed", 1, "-l", 30)[1]
    assert samples.startswith(run("generate", LSTM, "-n", 2, "--seed", 1, "-l", 30)[1])
    assert samples.count("--- sample") == 3


def test_corpus_python(run):
    status, _, err = run("corpus", "python")
    assert status == 0
    assert Path("corpora/python.txt").stat().st_size > 3_000_000
    assert "characters" in err


def test_corpus_writes_the_shipped_texts_and_lists_all(run):
    status, out, _ = run("corpus")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(SAMPLE_TEXTS)
    for name in ("english", "chinese"):
        assert run("corpus", name)[0] == 0
        expected = (ROOT / "corpora" / f"{name}.txt").read_bytes()
        assert Path(f"corpora/{name}.txt").read_bytes() == expected
        one_line(*run("corpus", name), expected=1)  # it is there already


def test_a_folder_trains_and_resumes_like_its_files(run):
    """Which are recorded, so that a file that comes later changes nothing."""
    Path("notes.old/sub").mkdir(parents=True)
    text = Path("text.txt").read_text()
    Path("notes.old/b.txt").write_text(text)
    Path("notes.old/sub/c.md").write_text(text)
    Path("notes.old/a.txt").touch()
    status, _, err = run("train", "notes.old", *QUICK_FLAGS)
    assert status == 0
    assert "empty and left out: notes.old/a.txt" in err
    assert "notes.old/b.txt, notes.old/sub/c.md: " in err
    (command,) = re.findall("^repeat: +charlm (.*)", err, re.MULTILINE)
    Path("notes.old/0.txt").write_text("new")
    assert run("resume", "checkpoints/notes.old", "--steps", 8)[0] == 0
    assert run(*command.split(), "--out", "again")[0] == 0
    assert run("resume", "again", "--steps", 8)[0] == 0
    assert_same_run("checkpoints/notes.old", "again")
    one_line(*run("resume", "again", "--steps", 9, "--text", "notes.old"), expected=1)
    Path("notes.old/0.txt").unlink()
    assert run("resume", "again", "--steps", 9, "--text", "notes.old")[0] == 0


def write_bad_inputs():
    Path("run").mkdir()
    shutil.copy(LSTM, "run/latest.safetensors")
    Path("empty.txt").touch()
    Path("folder").mkdir()
    Path("binary.txt").write_bytes(b"\x7fELF\0\0")
    Path("latin1.txt").write_bytes("naïve".encode("latin-1"))
    Path("utf16.txt").write_bytes("naïve".encode("utf-16"))
    Path("short.txt").write_text("to be, or not to be: that is the question")
    Path("one.txt").write_text("a")
    data = Path(LSTM).read_bytes()
    Path("truncated.safetensors").write_bytes(data[:-100])
    weight = 8 + int.from_bytes(data[:8], "little") + 1000  # in the first of the model's tensors
    Path("flipped.safetensors").write_bytes(
        data[:weight] + bytes([data[weight] ^ 1]) + data[weight + 1 :]
    )
    Path("pickle.safetensors").write_bytes(pickle.dumps({"model": 1}))


BAD = [
    (["train", "empty.txt"], "text file empty.txt is empty"),
    (["train", "none.txt"], "text file none.txt does not exist"),
    (["train", "folder"], "folder folder has no .txt or .md files: name the text files"),
    (["train", "binary.txt"], "binary file"),
    (["train", "latin1.txt"], "byte 0xef at offset 2: convert it"),
    (["train", "text.txt", "latin1.txt"], "latin1.txt is not UTF-8"),
    (["train", "english.txt"], "charlm corpus english --out english.txt writes it"),
    (["train", "corpora/english.txt"], "does not exist: charlm corpus english writes it"),
    (["corpus", "--out", "new.txt"], "--out goes with a text"),
    (["train", "utf16.txt"], "iconv -f utf-16 -t utf-8"),
    (["train", "one.txt", *AT_ONCE], "needs at least 2"),
    (["train", "short.txt", *AT_ONCE, "--batch-size", "40"], "lower --batch-size or --seq-length"),
    (["train", "text.txt", "--validation-fraction", "0"], "--validation-fraction must be above 0"),
    (["train", "text.txt", *AT_ONCE, "--validation-fraction", "1e-9"], "the validation part"),
    (["train", "text.txt", "--nonlinearity", "relu"], "does not go with backbone 'lstm'"),
    (
        ["train", "text.txt", "--tie-weights", "--hidden-size", "64"],
        "--tie-weights needs --embedding-size",
    ),
    (["train", "text.txt", "--out", "text.txt"], "text.txt is a file, not a run folder"),
    (["train", "text.txt", "--out", "run"], "run folder run is there already and not empty"),
    (["corpus", "python", "-o", "text.txt"], "text.txt is there already"),
    (["generate", "x" * 300], "File name too long"),
    (["train", "text.txt", *AT_ONCE, "--batch-size", str(10**15)], "lower --batch-size"),
    (
        ["train", "text.txt", "--init-from", LSTM, "--hidden-size", "3"],
        "--hidden-size cannot be given with --init-from",
    ),
    (["train", "text.txt", "--learning-rate", "nan"], "--learning-rate must be a finite number"),
    (["train", "text.txt", "--device", "cuda"], "is not there on this machine"),
    (["generate", LSTM, "--prompt", "naïve"], "character 'ï' (U+00EF) at position 2 of the prompt"),
    (["generate", LSTM, "--temperature", "-1"], "--temperature must be at least 0"),
    (["generate", LSTM, "--temperature", "nan"], "--temperature must be a finite number"),
    (["generate", LSTM, "--top-p", "0"], "--top-p must be above 0"),
    (["generate", LSTM, "--length", "-1"], "--length must be at least 0"),
    (["generate", "nothing"], "there is no run or checkpoint 'nothing'"),
    (["generate", "folder"], "holds no checkpoint"),
    (
        ["generate", "truncated.safetensors"],
        "checkpoint truncated.safetensors is damaged: it should have",
    ),
    (["generate", "flipped.safetensors"], "is damaged: the checksum of model."),
    (["generate", "pickle.safetensors"], "is a pickle"),
    (["evaluate", LSTM, "one.txt"], "has none to score"),
    (["evaluate", LSTM, "empty.txt"], "is empty"),
    (["info", "text.txt"], "text.txt is a text, not a run: charlm train text.txt makes a model"),
    (["resume", LSTM], "is a checkpoint without its run"),
    (["resume", "run", "--steps", "-4"], "--steps must be at least 1"),
    (["resume", "run"], "is finished"),
    (["train", "text.txt", "--min-count", "99999"], "lower --min-count"),
    (["train", "text.txt", "--hidden-size", "10000000"], "--hidden-size must be at most 16384"),
    (["corpus", "python", "-o", "text.txt/python.txt"], "cannot make folder text.txt"),
]


@pytest.mark.parametrize(("command", "message"), BAD, ids=str)
def test_bad_input_is_one_line_and_nothing_is_written(run, command, message):
    write_bad_inputs()
    before = sorted(Path().rglob("*"))
    status, out, err = run(*command)
    one_line(status, out, err, expected=1)
    assert message in err
    assert sorted(Path().rglob("*")) == before


TAKING_RUNS = ["generate", "score", "evaluate", "info", "inspect", "overlap", "resume"]


@pytest.mark.parametrize("verb", TAKING_RUNS)
def test_a_text_in_the_place_of_a_run_is_named_as_what_it_is(run, verb):
    Path("texts").mkdir()
    shutil.copy("text.txt", "texts")
    files = [] if verb in ("generate", "info", "resume") else ["text.txt"]
    for place in ("text.txt", "texts"):
        status, out, err = run(verb, place, *files)
        one_line(status, out, err, expected=1)
        assert f": charlm train {place} makes a model of " in err


def test_a_run_that_was_killed_before_its_first_save_is_begun_again(run):
    Path("killed").mkdir()
    for leftover in ("", TEMPORARY.replace("*", "0123")):
        if leftover:
            Path("killed", leftover).write_bytes(b"half")
        status, out, err = run("resume", "killed")
        one_line(status, out, err, expected=1)
        assert "killed before its first save leaves none; begin it again with the same" in err
    assert run(*quick("--out", "killed"))[0] == 0
    assert run("resume", "killed", "--steps", 7)[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        ["trian", "text.txt"],
        ["train"],
        ["train", "text.txt", "--hidden", "3"],
        ["train", "text.txt", "--steps", "many"],
        ["train", "text.txt", "--backbone", "lstn"],
        ["generate"],
        ["corpus", "bible"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(run, command):
    one_line(*run(*command), expected=2)


@pytest.mark.parametrize(
    ("command", "suggestion"),
    [
        ("genrate x", "generate"), ("sample x", "generate"), ("eval x", "evaluate"),
        ("memorized x", "overlap"), ("text.txt", "charlm train text.txt"),
        ("train text.txt --cell gru", "--backbone"), ("train text.txt --layers=3", "--num-layers"),
        ("train text.txt --n-layers 3", "--num-layers"),
        ("train text.txt --rnn_size 9", "--hidden-size"), ("train text.txt --gpu", "--device"),
        ("train text.txt --lr-decay 3", "--decay-steps"),
        ("train text.txt --batch 3", "--batch-size"),
        ("train text.txt --seq-len 3", "--seq-length"), ("train text.txt --clip 3", "--grad-clip"),
        ("train text.txt --output x", "--out"), ("train text.txt --hiden-size 3", "--hidden-size"),
        ("generate x --temp 1", "--temperature"), ("generate x --n 2", "--num-samples"),
        ("score x --lines", "--by-line"), ("help genrate", "generate"),
        ("corpus englsh", "'english'"), ("train text.txt --backbone lstn", "'lstm'"),
        ("train text.txt --device gpu", "'cuda'"), ("train x --precision bf16", "'bfloat16'"),
    ],
)  # fmt: skip
def test_an_unknown_word_brings_the_one_that_was_meant(run, command, suggestion):
    status, out, err = run(*command.split())
    one_line(status, out, err, expected=2)
    assert f"did you mean {suggestion}?" in err


def test_every_suggestion_is_a_flag_or_a_verb():
    parsers = make_parser(VERBS)[1]
    flags = {f for parser in parsers.values() for a in parser._actions for f in a.option_strings}
    assert set(suggestions.FLAGS) <= flags
    assert set(suggestions.VERBS) <= set(parsers)
    for verb, words in suggestions.VERBS.items():
        assert all(f" {verb}?" in suggestions.nearest_verb(w, parsers) for w in words.split())


def test_an_argument_too_many_is_named(run):
    err = run("generate", LSTM, "The sea")[2]
    assert "unexpected argument 'The sea'; a text to continue goes behind --prompt" in err


def test_help_alone_and_of_a_verb(run):
    assert run() == run("help") == run("help", "help") == run("--help")
    assert run("help", "train") == run("help", "help", "train") == run("train", "--help")
    one_line(*run("help", "nothing"), expected=2)


@pytest.mark.parametrize("verb", ["", *make_parser(VERBS)[1]])
def test_help(run, verb):
    status, out, _ = run(*verb.split(), "--help")
    assert status == 0
    assert out.startswith("usage: charlm")
    assert all(len(line) <= 80 for line in out.splitlines())


ODD = [
    "nan", "inf", "-inf", "-1", "0", "-0.0", "1.5", "1e307", "1e400", str(10**30), "x", "", "1_0",
    "１",
]  # fmt: skip
ODD_FOR = {  # a valid command of each verb; it must end soon whatever the number
    "train": ["text.txt", "--out", "new", *QUICK_FLAGS],
    "resume": ["run"],
    "generate": [LSTM, "-l", "3", "--seed", "1", "--stop", "e", "--stop", " "],
    "overlap": [LSTM, "text.txt", "-l", "3", "--seed", "1"],
}


def numeric_flags(verb):
    parser = make_parser(VERBS)[1][verb]
    return [action.option_strings[-1] for action in parser._actions if action.type in (int, float)]


@pytest.mark.parametrize("verb", ODD_FOR)
def test_any_number_is_taken_or_refused_with_one_line(run, monkeypatch, verb):
    """Every numeric flag of the command line, with what nobody would give it."""
    run(*quick("--out", "run"))
    monkeypatch.setattr(Run, "progress", lambda *_: iter(()))
    flags = numeric_flags(verb)
    assert len(flags) >= 4
    refused = 0
    for flag, word in itertools.product(flags, ODD):
        status, out, err = run(verb, *ODD_FOR[verb], f"{flag}={word}")
        if status in (1, 2):
            refused += 1
            one_line(status, out, err, expected=status)
            assert not Path("new").exists()
        else:
            assert status in (0, 143)
            shutil.rmtree("new", ignore_errors=True)
    assert refused > len(flags) * len(ODD) / 2


def signal_at(monkeypatch, number, step, method="step"):
    """Let this process be sent a signal while its trainer is within a method at a certain step."""
    original, sent = getattr(Trainer, method), []

    def signalled(trainer):
        result = original(trainer)
        if trainer.counters.step == step and not sent:  # a second one would not wait
            sent.append(number)
            os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(Trainer, method, signalled)


@pytest.mark.parametrize(
    ("number", "status", "step", "method"),
    [
        (signal.SIGINT, 130, 1, "step"),  # the first one
        (signal.SIGTERM, 143, 5, "step"),
        (signal.SIGHUP, 129, 2, "evaluate"),
        (signal.SIGINT, 130, 4, "checkpoint"),  # within a save
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(run, monkeypatch, number, status, step, method):
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signal_at(patch, number, step, method)
        found, _, err = run(*quick("--out", "stopped"))
    assert found == status
    assert signal.getsignal(number) == handler
    assert f"saved at step {step}; continue with: charlm resume stopped" in err.splitlines()
    assert run("resume", "stopped")[0] == run(*quick("--out", "straight"))[0] == 0
    assert_same_run("straight", "stopped")


class Terminal(io.StringIO):
    """A terminal of 80 columns that shows what is written to it."""

    def isatty(self):
        return True

    def screen(self):
        lines, column = [""], 0
        for piece in re.findall(r"\x1b\[K|.", self.getvalue(), re.DOTALL):
            if piece == "\r":
                column = 0
            elif piece == "\x1b[K":
                lines[-1] = lines[-1][:column]
            else:
                if piece == "\n" or column == 80:
                    lines.append("")
                    column = 0
                if piece != "\n":
                    lines[-1] = lines[-1][:column] + piece + lines[-1][column + 1 :]
                    column += 1
        return [line.rstrip() for line in lines]


def test_ctrl_c_leaves_one_bar_on_the_screen(run, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (80, 24))
    monkeypatch.setattr(os, "kill", lambda *_: (terminal.write("^C"), signal.raise_signal(2)))
    signal_at(monkeypatch, signal.SIGINT, 4)
    assert run(*quick("--out", "run"))[0] == 130
    lines = terminal.screen()
    place = lines.index("stopping after this step; once more to stop at once")
    assert lines[place + 1].startswith("|")
    assert lines[place + 2 :] == ["saved at step 4; continue with: charlm resume run", ""]
    assert [line for line in lines if line.startswith(("|", "C", "^C"))] == [lines[place + 1]]


def test_a_signal_in_the_last_step_lets_the_run_end(run, monkeypatch):
    signal_at(monkeypatch, signal.SIGINT, QUICK["steps"])
    status, _, err = run(*quick())
    assert status == 0
    assert "done     in " in err


def test_a_second_signal_does_not_wait(workplace):
    command = quick("--out", "run", "--steps", "10000000", "--save-every", "10")
    process = subprocess.Popen(
        [*CHARLM, *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    latest = Path("run/latest.safetensors")
    while not latest.exists() or checkpoints.load(latest).counters.step < 10:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    for _ in range(200):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert checkpoints.load(latest).counters.step >= 10


def test_the_bar_fits_a_terminal_of_80_columns():
    worst = Progress(
        step=100_000, steps=100_000, epoch=123.4, train_loss=1.23456, validation_loss=1.3,
        best_loss=1.2, is_best=True, grad_norm=0.1234, learning_rate=1e-3,
        chars_per_second=17_123.4, seconds=1e5, seconds_left=40_953.0, best_step=1,
        decay_reason=None,
    )  # fmt: skip
    assert len(f"||{progress.bar_text(worst, 1.23456)}") <= 80
    assert [progress.clock(n) for n in (0.6, 65, 3599.7, 40_953)] == [
        "0:01", "1:05", "1:00:00", "11:22:33",
    ]  # fmt: skip
    assert [progress.thousands(n) for n in (950, 17_149, 999_600)] == ["0.95k", "17.1k", "1M"]


def test_a_run_in_minutes_can_be_repeated_by_the_command_that_it_tells(run, monkeypatch):
    monkeypatch.setattr(presets, "MAX_EPOCHS", ())  # or so short a text is not read for as long
    sizes = ["--embedding-size", 5, "--hidden-size", 11, "--precision", "float32", "--threads", 1]
    assert run("train", "text.txt", "--minutes", 0.02, "--out", "timed", *sizes)[0] == 0
    status, out, _ = run("info", "timed", "--json")
    facts = json.loads(out)
    assert facts["train"]["steps"] is None
    assert TrainConfig(**facts["train"]).total_steps == facts["step"] >= 2
    (command,) = facts["repeat"]
    words = shlex.split(command)
    assert words[:3] == ["charlm", "train", "text.txt"]
    status, _, err = run(*words[1:], "--out", "again")
    assert status == 0
    assert f"repeat:   {command}" in err
    assert_same_run("timed", "again")


def test_ctrl_c_at_the_very_start_leaves_no_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("charlm.cli.main", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # else all later tests ignore Ctrl-C
    assert __main__.run() == 130
    assert capsys.readouterr().err == "\ncharlm: stopped\n"


def test_a_full_disk_behind_stdout_is_one_line(workplace):
    command = f"{' '.join(CHARLM)} generate {LSTM} -l 30 --seed 1 > /dev/full"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.returncode == 1
    assert (
        result.stderr == "seed 1\ncharlm: error: cannot write to stdout: No space left on device\n"
    )


def test_a_sample_is_folded_by_columns():
    assert list(progress.folded("a bc def", 5)) == ["a bc", "def"]
    assert list(progress.folded("山高水长云", 4)) == ["山高", "水长", "云"]
    assert list(progress.folded("a\x1b[31m\u3000b", 9)) == ["a\ufffd[31m\u3000b"]
    assert list(progress.folded("", 4)) == [""]


def test_messages_hold_no_control_sequences_of_a_terminal(run):
    err = run("train", "\x1b]0;pwned\x07\n.txt")[2]
    assert err == "charlm: error: text file \\x1b]0;pwned\\x07\\n.txt does not exist\n"


def test_info_shows_no_control_sequences_of_a_terminal(run):
    Path("\x1b[31mred.txt").write_text("abc" * 200)
    run("train", "\x1b[31mred.txt", "--out", "run", *QUICK_FLAGS)
    for flags in [], ["--all"]:
        out = run("info", "run", *flags)[1]
        assert "\x1b" not in out
        assert "\\x1b[31mred.txt" in out


def test_streams_are_utf_8_whatever_the_locale(workplace):
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    Path("c.txt").write_text("山高水长，云淡风轻。\n" * 90, encoding="utf-8")
    subprocess.run([*CHARLM, "train", "c.txt", *QUICK_FLAGS], env=environment, check=True)
    result = subprocess.run(
        [*CHARLM, "generate", "c", "-p", "山高", "-l", "50"],
        env=environment, capture_output=True, check=True,
    )  # fmt: skip
    assert result.stdout.decode("utf-8").startswith("山高")
