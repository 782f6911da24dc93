"""What attackers, broken machines and careless callers do: nothing is lost, one line says why."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, QUICK, QUICK_FLAGS, V, assert_same_run, one_line, tiny_config, words

import charlm
from charlm import checkpoint as checkpoints
from charlm.cli import is_out_of_memory
from charlm.config import TrainConfig
from charlm.data import id_cache
from charlm.errors import CharlmError, CheckpointError, ConfigError
from charlm.evaluation import baselines
from charlm.files import TEMPORARY, write_atomically
from charlm.inference.decoding import Stops, failure_table
from charlm.model.language_model import CharLM
from charlm.training.optim import make_optimizer
from charlm.training.resume import resume
from charlm.training.start import start

LSTM = str(DATA / "golden-lstm.safetensors")
CHARLM = [sys.executable, "-m", "charlm"]


def charlm_process(*words, shell="", **options):
    """Run a command in a process of its own, with redirections of a shell; return what is left."""
    line = " ".join([*CHARLM, *map(str, words), shell])
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, **options
    )


def snapshot(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


# ---- links, pipes and devices in the place of files


@pytest.mark.parametrize("name", [".latest.safetensors.tmp", ".metrics.jsonl.tmp"])
def test_no_write_follows_a_link_that_lies_in_wait(workplace, name):
    Path("precious.txt").write_text("precious")
    for _ in start(["text.txt"], out="run", **QUICK).progress():
        pass
    Path("run", name).symlink_to(Path("precious.txt").absolute())
    for _ in resume("run", steps=9).progress():
        pass
    assert Path("precious.txt").read_text() == "precious"
    assert not list(Path("run").glob(TEMPORARY))


def test_a_temporary_file_is_new_and_nobody_knows_its_name(tmp_path, monkeypatch):
    names = []
    real = os.open

    def look(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            names.append(Path(path).name)
            assert flags & os.O_EXCL
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", look)
    for _ in range(3):
        write_atomically(tmp_path / "file", b"x")
    assert len(set(names)) == 3


@pytest.mark.parametrize("target", ["precious.txt", "/dev/zero", "/dev/full", "pipe"])
def test_metrics_that_are_a_link_or_a_pipe_are_refused(workplace, target):
    Path("precious.txt").write_text("precious")
    os.mkfifo("pipe")
    for _ in start(["text.txt"], out="run", **QUICK).progress():
        pass
    path = Path("run/metrics.jsonl")
    path.unlink()
    if target == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(Path(target).absolute())
    with pytest.raises(CheckpointError, match=r"cannot (read|write) run/metrics.jsonl"):
        list(resume("run", steps=9).progress())
    assert Path("precious.txt").read_text() == "precious"


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(id_cache, "LARGE", 1)


def signed_facts(folder, ids):
    """Let the facts of a folder agree with its ids, as a stranger could."""
    facts = json.loads((folder / "text.json").read_text())
    (folder / "text.json").write_text(json.dumps(facts | {"sha256": id_cache._checksum(ids)}))


@pytest.mark.parametrize(
    "kind", ["float", "bool", "complex", "0-d", "2-d", "large", "npz", "short"]
)
def test_ids_of_a_stranger_are_never_trained_on(workplace, large, kind):
    for _ in start(["text.txt"], out="run", **QUICK).progress():
        pass
    folder, good = Path("run"), np.load("run/text.npy")
    ids = {
        "float": good.astype(np.float32), "bool": good > 3, "complex": good.astype(complex),
        "0-d": np.array(good[0]), "2-d": good.reshape(1, -1), "large": good + np.uint8(V),
        "npz": good, "short": good[:-1],
    }[kind]  # fmt: skip
    (folder / "text.npy").unlink()
    if kind == "npz":
        np.savez("run/text", a=ids)
        Path("run/text.npz").rename("run/text.npy")
    else:
        np.save("run/text.npy", ids)
    signed_facts(folder, np.atleast_1d(ids))
    for _ in resume("run", steps=9).progress():  # the text itself is read again
        pass
    assert np.array_equal(np.load("run/text.npy"), good)


@pytest.mark.parametrize("name", ["text.json", "text.npy"])
@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "deep"])
def test_what_stands_for_the_ids_is_neither_waited_for_nor_read_without_end(
    workplace, large, name, target
):
    for _ in start(["text.txt"], out="run", **QUICK).progress():
        pass
    path = Path("run") / name
    path.unlink()
    if target == "pipe":
        os.mkfifo(path)
    elif target == "deep":
        path.write_text("[" * 100_000)
    else:
        path.symlink_to(target)
    for _ in resume("run", steps=9).progress():
        pass
    assert path.is_file()
    assert not path.is_symlink()


# ---- two at a time


def test_of_two_starts_into_one_folder_the_second_is_refused_and_the_first_is_whole(workplace):
    """The first one still waits for its text, so nothing of it is in the folder yet."""
    os.mkfifo("pipe")
    first = subprocess.Popen([*CHARLM, "train", "pipe", *QUICK_FLAGS, "--out", "race"])
    while not Path("race").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    with pytest.raises(ConfigError, match="another process is training in run folder race"):
        start(["text.txt"], out="race", **QUICK)
    assert Path("race").is_dir()
    Path("pipe").write_text(Path("text.txt").read_text())
    assert first.wait(timeout=60) == 0
    assert len(Path("race/metrics.jsonl").read_text().splitlines()) == 3


def test_the_loser_of_two_starts_on_large_texts_removes_nothing(workplace, large):
    winner = start(["text.txt"], out="race", **QUICK)
    before = snapshot("race")
    with pytest.raises(ConfigError):
        start(["text.txt"], out="race", **QUICK | {"seed": 2})
    assert snapshot("race") == before
    for _ in winner.progress():
        pass


def test_starts_without_a_name_take_folders_of_their_own(workplace):
    runs = []
    threads = [
        threading.Thread(target=lambda: runs.append(start(["text.txt"], **QUICK))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.folder for run in runs}) == 4


def test_a_run_whose_folder_was_moved_writes_no_more(workplace):
    run = start(["text.txt"], out="twin", **QUICK | {"save_every": 1})
    progress = run.progress()
    next(progress)
    Path("twin").rename("old")
    other = start(["text.txt"], out="twin", **QUICK | {"seed": 2})
    before = snapshot("old"), snapshot("twin")
    with pytest.raises(CheckpointError, match="it was moved or removed"):
        next(progress)
    assert (snapshot("old"), snapshot("twin")) == before
    for _ in other.progress():
        pass
    for _ in resume("old").progress():
        pass


@pytest.mark.parametrize("ending", ["bad text", "SIGTERM"])
def test_a_start_that_fails_removes_nothing_but_its_own(workplace, ending):
    """While it waits for its text, the folder that it made is replaced, and another gets a note."""
    for _ in start(["text.txt"], out="base", **QUICK).progress():
        pass
    before = snapshot("base")
    processes = []
    for name in ("replaced", "noted"):
        os.mkfifo(f"{name}.pipe")
        command = [*CHARLM, "train", f"{name}.pipe", *QUICK_FLAGS, "--out", name]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        while not Path(name).exists():
            time.sleep(0.01)
    time.sleep(0.3)
    Path("replaced").rmdir()
    shutil.copytree("base", "replaced")
    Path("noted/notes.txt").write_text("precious")
    for name, process in zip(("replaced", "noted"), processes, strict=True):
        if ending == "bad text":
            Path(f"{name}.pipe").write_bytes(b"bad \xff text")
            status = 1
        else:
            process.send_signal(getattr(signal, ending))
            status = 128 + getattr(signal, ending)
        err = process.communicate(timeout=60)[1]
        assert process.returncode == status, err
        assert "Traceback" not in err
    assert snapshot("replaced") == before
    assert snapshot("noted") == {"notes.txt": b"precious"}


def test_ids_that_a_killed_start_leaves_hinder_no_new_start(workplace, large):
    start(["text.txt"], out="run", **QUICK)
    Path("run/latest.safetensors").unlink()  # as if it was killed before the first save
    assert {path.name for path in Path("run").iterdir()} == {"text.json", "text.npy"}
    for _ in start(["text.txt"], out="run", **QUICK).progress():
        pass
    Path("mine").mkdir()
    Path("mine/text.npy").write_text("of a user")
    with pytest.raises(ConfigError, match="not empty"):
        start(["text.txt"], out="mine", **QUICK)


def test_a_text_that_is_called_dot_gets_a_folder_of_its_own(workplace):
    Path("..txt").write_text(words(300))
    assert start(["..txt"], **QUICK).folder == Path("checkpoints/text")


# ---- full disks


def test_a_large_text_on_a_full_disk_is_one_line_and_leaves_nothing(run, large):
    bound, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        status, out, err = run("train", "text.txt", *QUICK_FLAGS, "--out", "new/run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bound, most))
    one_line(status, out, err, expected=1)
    assert "cannot write new/run/text.npy: File too large" in err
    assert sorted(path.name for path in Path().iterdir()) == ["text.txt"]


def test_ids_are_mapped_only_when_their_file_is_whole(workplace, monkeypatch):
    """On a full disk to write to a mapped file is a SIGBUS, and Windows does not rename one."""
    mapped, rename = [], os.replace

    def replace(source, target):
        maps = Path("/proc/self/maps")
        mapped.append(maps.exists() and Path(source).name in maps.read_text("utf-8"))
        rename(source, target)

    monkeypatch.setattr(id_cache, "LARGE", 1)
    monkeypatch.setattr(os, "replace", replace)
    start(["text.txt"], out="run", **QUICK)
    assert mapped == [False] * 3  # text.npy, text.json, latest.safetensors


def test_a_start_whose_first_save_fails_leaves_nothing(workplace, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            start(["text.txt"], **QUICK)
    assert sorted(path.name for path in Path().iterdir()) == ["text.txt"]
    Path("mine").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            start(["text.txt"], out="mine", **QUICK)
    assert list(Path("mine").iterdir()) == []


def test_what_a_killed_write_leaves_is_removed_and_hinders_nobody(workplace):
    leftover = Path("run") / TEMPORARY.replace("*", "0123")
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    for _ in start(["text.txt"], out="run", **QUICK).progress():
        pass
    assert not leftover.exists()
    leftover.write_bytes(b"half")
    for _ in resume("run", steps=9).progress():
        pass
    assert not leftover.exists()


def test_best_never_gets_worse(workplace):
    """As after a kill between the two saves of an evaluation: best is ahead of latest."""
    run = start(["text.txt"], out="run", **QUICK | {"learning_rate": 0.02, "save_every": 1})
    for progress in run.progress():
        if progress.step == 2:
            old = snapshot("run")["latest.safetensors"]
    best = checkpoints.load(Path("run/best.safetensors")).counters
    assert best.best_step == 6
    Path("run/latest.safetensors").write_bytes(old)
    before = snapshot("run")["best.safetensors"]
    for _ in resume("run", learning_rate=1e-9).progress():
        pass
    assert snapshot("run")["best.safetensors"] == before
    assert checkpoints.load(Path("run/latest.safetensors")).counters.best_loss == best.best_loss


# ---- wrong results


def test_the_weight_decay_of_sgd_is_decoupled():
    """Without a gradient weights shrink by (1 - rate * decay) a step: no momentum is in it."""
    model = CharLM(tiny_config(), V)
    config = TrainConfig(optimizer="sgd", learning_rate=0.1, weight_decay=0.1, momentum=0.9)
    optimizer = make_optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(50):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for name, parameter in model.named_parameters():
        shrunk = before[name] * 0.99**50 if parameter.ndim > 1 else before[name]
        torch.testing.assert_close(parameter.detach(), shrunk, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("hidden_size", [48, 96])
def test_initial_values_do_not_depend_on_the_number_of_threads(hidden_size):
    before = torch.get_num_threads()
    weights = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        weights.append(CharLM(tiny_config(hidden_size=hidden_size), V, seed=1).weights())
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    for other in weights[1:]:
        assert all(np.array_equal(weights[0][name], other[name]) for name in other)


# ---- the environment


@pytest.mark.parametrize(
    "variables", [{"RANK": "1"}, {"RANK": "abc"}, {"RANK": "", "LOCAL_RANK": "x"}]
)
def test_a_rank_alone_means_nothing(run, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, out, _ = run("generate", LSTM, "-l", 9, "--seed", 1)
    assert (status, len(out)) == (0, 10)
    status, _, err = run("train", "text.txt", *QUICK_FLAGS, "--out", "run")
    assert (status, "done     in " in err) == (0, True)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE must be a whole number from 1 on"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a whole number from 1 on"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE must be a whole number from 1 on"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "abc", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK must"),
        ({"WORLD_SIZE": "2", "RANK": "7", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK is 7"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "cannot join"),
    ],
)
@pytest.mark.parametrize("verb", [["train", "text.txt"], ["resume", "run"]])
def test_a_broken_launch_is_one_line(run, monkeypatch, variables, message, verb):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, out, err = run(*verb)
    one_line(status, out, err, expected=1)
    assert message in err or (verb[0] == "resume" and "no run or checkpoint" in err)
    assert sorted(path.name for path in Path().iterdir()) == ["text.txt"]


@pytest.mark.parametrize(
    "command",
    [
        ["generate", LSTM, "--save-state="], ["generate", LSTM, "--load-state="],
        ["generate", LSTM, "--prompt-file="], ["generate", LSTM, "--lines", "2", "--novel="],
        ["generate", ""], ["score", LSTM, ""], ["evaluate", LSTM, ""], ["overlap", LSTM, ""],
        ["train", ""], ["train", "text.txt", "--out="], ["train", "text.txt", "--init-from="],
        ["resume", "run", "--text="], ["info", ""], ["corpus", "python", "--out="],
        ["train", "text.txt", "--cell-file="],
    ],
)  # fmt: skip
def test_an_empty_name_is_wrong_usage(run, command):
    one_line(*run(*command), expected=2)


# ---- closed and broken streams


def test_closed_streams_are_one_line_or_nothing(workplace):
    quick = " ".join(QUICK_FLAGS)
    for closed in (">&- 2>/dev/full", "<&- >&- 2>&-"):
        out = f"run-{len(list(Path().iterdir()))}"
        done = charlm_process("train", "text.txt", quick, "--out", out, shell=closed)
        assert done.returncode == 0, (closed, done)
        assert (Path(out) / "best.safetensors").is_file()
        assert "Traceback" not in done.stderr
    done = charlm_process("generate", LSTM, "-l 9 --seed 7", shell="2>&-")
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 10, "")
    done = charlm_process("generate", LSTM, "-l 9 --seed 7 --json", shell="2>&-")
    assert json.loads(done.stdout)["seed"] == 7
    done = charlm_process("generate", LSTM, "-l 9 --seed 7", shell=">&-")
    assert done.returncode == 1
    assert done.stderr == "seed 7\ncharlm: error: cannot write to stdout: Bad file descriptor\n"
    done = charlm_process("score", LSTM, shell="<&-")
    one_line(done.returncode, done.stdout, done.stderr, expected=1)
    assert "stdin is empty" in done.stderr


def test_a_terminal_that_is_gone_ends_a_training_with_the_status_of_the_signal(workplace):
    """A real hang-up: writing fails from now on, and SIGHUP comes."""
    main, terminal = os.openpty()
    command = [*CHARLM, "train", "text.txt", *QUICK_FLAGS, "--steps", "10000000", "--out", "run"]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    while not Path("run/best.safetensors").exists():
        os.read(main, 10_000)
    os.close(main)
    time.sleep(0.3)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129
    assert checkpoints.load(Path("run/latest.safetensors")).counters.step > 2


def test_ctrl_c_again_and_again_at_the_very_end_leaves_no_traceback(workplace):
    command = [*CHARLM, "train", "text.txt", *QUICK_FLAGS, "--out", "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    err = ""
    while "repeat:" not in err:
        err += process.stderr.readline()
    for _ in range(50):
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    err = process.communicate(timeout=60)[1]
    assert "Traceback" not in err
    assert process.returncode in (0, 130, -signal.SIGINT)


# ---- memory


@pytest.mark.parametrize("verb", ["train", "generate"])
def test_too_little_memory_is_one_line(workplace, verb):
    """In processes whose address space is bounded to little more than what they start with."""
    start(["text.txt"], out="run", **QUICK)
    before = snapshot("run")
    commands = {
        "train": ["train", "text.txt", "--steps", "3", "--hidden-size", "9000", "--precision",
                  "float32", "--threads", "1", "--out", "new"],
        "generate": ["generate", LSTM, "-n", "100000000", "-l", "3"],
    }  # fmt: skip
    program = f"""
        import resource, sys
        from pathlib import Path
        from charlm import cli, api
        if {verb!r} == "train":
            import charlm.training.start
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (900 << 20),) * 2)
        if {verb!r} == "generate":  # what a huge model would do
            from charlm.inference.engine import Engine
            Engine.stepper = lambda *_: bytearray(1 << 40)
        sys.exit(cli.main({commands[verb]!r}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert re.search(r"^charlm: error: there is not enough memory: lower", done.stderr, re.M)
    assert "Traceback" not in done.stderr
    assert snapshot("run") == before
    assert not Path("new").exists()


def test_what_counts_as_too_little_memory():
    class PanicException(BaseException):
        """As that of safetensors."""

    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(PanicException("memory allocation of 99 bytes failed"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(KeyboardInterrupt())


def test_stop_texts_take_memory_in_proportion_to_their_length():
    stop = "ab" * 100_000 + "c"
    table = failure_table(stop)
    assert len(table) == len(stop)
    watch, text = Stops([(stop, table)]), "x" + "ab" * 3 + stop
    given = ""
    for character in text:
        piece, ended = watch.feed(character)
        given += piece
    assert ended
    assert given == "xababab"


def test_baselines_of_a_long_text_are_those_of_its_beginning(monkeypatch, run):
    monkeypatch.setattr(baselines, "MOST_TEXT", 400)
    text = words(900)
    whole, start = (
        baselines.baselines("", t, baselines.ngram_chances("", t)) for t in (text, text[:400])
    )
    assert whole == start


# ---- cells of the user's own

MGU = '''
"""A minimal gated unit, of a user's own."""
from dataclasses import dataclass

from charlm.cells import CELLS, Cell, Parameter
from charlm.settings import setting


@dataclass(frozen=True, kw_only=True)
class MGU(Cell):
    slope: float = setting(1.0, "slope of the gate", above=0)

    def parameters(self, input_size, hidden_size):
        return {
            "w": Parameter((2 * hidden_size, input_size), ("xavier_uniform",) * 2),
            "u": Parameter((2 * hidden_size, hidden_size), ("orthogonal",) * 2, recurrent=True),
        }

    def project(self, x, w):
        return x @ w["w"].T

    def step(self, xp, projected, state, w):
        (h,) = state
        f, g = (a for a in ((projected + h @ w["u"].T)[..., :h.shape[-1]],
                            (projected + h @ w["u"].T)[..., h.shape[-1]:]))
        f = 0.5 + 0.5 * xp.tanh(self.slope * f)
        return (h + f * (xp.tanh(g) - h),)


CELLS["mgu"] = MGU
'''


@pytest.fixture
def mgu(monkeypatch):
    from charlm.cells import CELLS

    monkeypatch.setitem(CELLS, "mgu", None)  # taken away after the test
    del CELLS["mgu"]
    Path("my.py").write_text(MGU)


def test_a_cell_from_a_file_goes_the_whole_way(run, mgu):
    flags = ["--cell-file", "my.py", "--backbone", "mgu", "--slope", "2", "--weight-drop", "0.2"]
    status, _, err = run("train", "text.txt", *QUICK_FLAGS, *flags, "--out", "run")
    assert status == 0, err
    assert "--cell-file" in run("generate", "--help")[1]
    from charlm.cells import CELLS

    for words_ in (["generate", "run", "-l", 9], ["info", "run"], ["resume", "run", "--steps", 9],
                   ["score", "run", "text.txt"], ["evaluate", "run", "text.txt"]):  # fmt: skip
        del CELLS["mgu"]
        status, out, err = run(*words_)
        one_line(status, out, err, expected=1)
        assert "needs the cell 'mgu'" in err
        assert "--cell-file" in err
        assert "damaged" not in err
        assert "remove" not in err
        status, _, err = run(*words_, "--cell-file", "my.py")
        assert status == 0, err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read cell file my.py"),
        ("def", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "cell file my.py adds no cell"),
        (MGU.replace("slope:", "steps:"), "option steps of backbone 'mgu' has the name of another"),
        (MGU.replace("@dataclass(frozen=True, kw_only=True)", ""), "put @dataclass("),
        (
            MGU.replace('"orthogonal"', '"ortogonal"'),
            "init must be one of xavier_uniform, orthogonal",
        ),
        (MGU.replace('("xavier_uniform",) * 2', '("xavier_uniform",) * 5'), "no 5 equal blocks"),
    ],
)
def test_a_cell_file_that_fails_is_one_line(run, mgu, content, message):
    Path("my.py").unlink()
    if content is not None:
        Path("my.py").write_text(content)
    words_ = ["train", "text.txt", *QUICK_FLAGS, "--backbone", "mgu", "--cell-file", "my.py"]
    status, out, err = run(*words_)
    one_line(status, out, err, expected=1)
    assert message in err
    assert not Path("checkpoints").exists()


def test_a_cell_that_is_wrong_is_not_taken_for_arithmetic_that_is_missing(run, mgu):
    Path("my.py").write_text(MGU.replace("(2 * hidden_size, input_size)", "(4, input_size)"))
    with pytest.raises(RuntimeError, match="size"):
        run("train", "text.txt", *QUICK_FLAGS, "--backbone", "mgu", "--cell-file", "my.py")
    assert not Path("checkpoints").exists()


def test_what_is_printed_of_a_cell_from_a_file_names_the_file(run, mgu):
    from charlm.cells import CELLS

    Path("my.py").write_text(f"from __future__ import annotations\n{MGU}")
    flags = [*QUICK_FLAGS, "--cell-file", "my.py", "--backbone", "mgu"]
    err = run("train", "text.txt", *flags, "--out", "run")[2]
    for label in ("repeat:", "more:"):
        line = next(row for row in err.splitlines() if row.startswith(label))
        command = line.removeprefix(label).split()[1:]
        del CELLS["mgu"]
        assert run(*command, *(["--out", "again"] if label == "repeat:" else []))[0] == 0
    assert_same_run("run", "again")


@pytest.mark.parametrize("code", ["raise BaseException('x')", "import sys; sys.exit(0)"])
def test_a_cell_file_cannot_end_a_command_as_if_all_was_done(run, code):
    Path("my.py").write_text(code)
    status, out, err = run("info", LSTM, "--cell-file", "my.py")
    one_line(status, out, err, expected=1)
    os.mkfifo("pipe")
    one_line(*run("info", LSTM, "--cell-file", "pipe"), expected=1)


# ---- printed commands


def test_no_command_repeats_a_run_whose_base_has_changed(run):
    start(["text.txt"], out="base", **QUICK)
    for _ in resume("base").progress():
        pass
    flags = ["--steps", 3, "--precision", "float32", "--threads", 1, "--init-from", "base"]
    err = run("train", "text.txt", *flags, "--out", "tuned")[2]
    assert re.search(r"^repeat: +charlm train text.txt .*--init-from base", err, re.M)
    assert run("resume", "base", "--steps", 30)[0] == 0
    assert (
        "the weights of base that it started from have changed" in run("info", "tuned", "--all")[1]
    )


def test_no_command_repeats_a_run_on_a_pipe(workplace):
    command = f"{' '.join(CHARLM)} train <(cat text.txt) {' '.join(QUICK_FLAGS)} --out run"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "no command repeats this run: its text came through a pipe" in done.stderr


# ---- states


def test_a_state_of_another_model_of_the_same_size_is_refused(workplace):
    lm, same, other = (charlm.train("text.txt", **QUICK | {"seed": seed}) for seed in (1, 1, 2))
    state = lm.read("a")
    assert same.generate(state=state, length=3, seed=1) == lm.generate("a", length=3, seed=1)
    for use in (other.generate, other.score, other.read):
        with pytest.raises(ConfigError, match="of another model"):
            use("a", state=state)
    with pytest.raises(ConfigError, match="of another model"):
        other.save_state(state, "laundered")
    (sample,) = lm.samples("a", length=3, seed=1)
    assert len("".join(sample)) == 3
    with pytest.raises(ConfigError, match="of another model"):
        other.read(state=sample.prompt_state())


def test_a_state_that_could_not_be_loaded_replaces_none_that_could(workplace):
    lm = charlm.load(LSTM)
    state = lm.read("The")
    lm.save_state(state, "s")
    before = Path("s").read_bytes()
    for bad in (replace(state, logits=state.logits * np.nan), "x", None):
        with pytest.raises(CharlmError):
            lm.save_state(bad, "s")
    assert Path("s").read_bytes() == before


def test_a_state_is_saved_also_where_nobody_reads_to_the_end(workplace):
    line = f"{' '.join(CHARLM)} generate {LSTM} -l 0 --seed 1 --save-state s 2>err | head -c 100"
    subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=60)
    lm = charlm.load(LSTM)
    assert lm.generate(state=lm.load_state("s"), length=5)


# ---- manners


@pytest.mark.parametrize("value", [5, None, b"abc", ["a"], 1.5])
def test_a_prompt_that_is_no_text_is_a_clear_error(value):
    lm = charlm.load(LSTM)
    for use in (lm.generate, lm.score, lm.read):
        with pytest.raises(CharlmError, match=r"must be a text \(got"):
            use(value)


def test_lines_of_several_files_say_which_file(run):
    Path("one.txt").write_text("The sea\n")
    Path("two.txt").write_text("was calm\n")
    for flag in ("--by-line", "--rank"):
        out = run("score", LSTM, "one.txt", "two.txt", flag)[1]
        assert re.search(r"  one.txt: The sea$", out, re.M)
        assert re.search(r"  two.txt: was calm$", out, re.M)
        out = run("score", LSTM, "one.txt", "two.txt", flag, "--json")[1]
        found = {(o["file"], o["line"]) for o in map(json.loads, out.splitlines())}
        assert found == {("one.txt", 1), ("two.txt", 1)}
        assert "one.txt" not in run("score", LSTM, "one.txt", flag)[1]


@pytest.mark.parametrize("name", ["-x y.txt", os.fsdecode(b"a'b\n$x\xff.txt")])
def test_commands_that_are_printed_work_for_any_name(run, name):
    Path(name).write_text(words(300))
    status, _, err = run("train", f"./{name}", *QUICK_FLAGS, "--steps", "4", "--out", "./-run")
    assert status == 0
    for label in ("repeat:", "more:"):
        line = next(row for row in err.splitlines() if row.startswith(label))
        line = line.removeprefix(label).strip().replace("charlm", " ".join(CHARLM), 1)
        line += " --out again" if label == "repeat:" else " --seed 1"
        subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert np.array_equal(
        checkpoints.load(Path("again/best.safetensors")).weights["head.weight"],
        checkpoints.load(Path("-run/best.safetensors")).weights["head.weight"],
    )


def test_threads_that_are_no_whole_number_are_named(workplace):
    with pytest.raises(ConfigError, match=r"threads must be of type int \(got 1.5\)"):
        start(["text.txt"], **QUICK | {"threads": 1.5})
