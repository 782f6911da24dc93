"""Windows and unusual file systems, imitated: what fails there, and what is missing there."""

import errno
import fcntl
import io
import os
import select
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
from conftest import DATA, QUICK, ROOT

from charlm.cli import main, terminal
from charlm.cli.train import silence_all_but_the_first
from charlm.data import id_cache
from charlm.errors import CharlmError, CheckpointError
from charlm.files import write_atomically
from charlm.training import lock
from charlm.training.lock import Lock
from charlm.training.resume import resume
from charlm.training.start import start

LSTM = str(DATA / "golden-lstm.safetensors")


@pytest.fixture
def naps(monkeypatch):
    """A clock that only sleeping moves; what was slept, in seconds."""
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(slept))
    return slept


def refusing(monkeypatch, times):
    """Let a file be replaced only after it was refused so often, as while another program reads."""
    rename, left = os.replace, iter(range(times))

    def replace(source, target):
        if next(left, None) is not None:
            raise PermissionError(errno.EACCES, "Permission denied", str(source), 5, str(target))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)


# ---- files


@pytest.mark.parametrize("times", [1, 7, 60])
def test_a_file_that_is_open_elsewhere_is_replaced_when_it_is_closed(
    tmp_path, windows, naps, monkeypatch, times
):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    refusing(monkeypatch, times)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    assert len(naps) == times


def test_a_file_that_stays_open_is_an_error_after_two_seconds(tmp_path, windows, naps, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    refusing(monkeypatch, sys.maxsize)
    with pytest.raises(CheckpointError, match=r"cannot write .*: Permission denied"):
        write_atomically(path, b"new")
    assert 2 <= sum(naps) < 2.1
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_elsewhere_a_refusal_is_final(tmp_path, naps, monkeypatch):
    refusing(monkeypatch, sys.maxsize)
    with pytest.raises(CheckpointError, match="Permission denied"):
        write_atomically(tmp_path / "file", b"new")
    assert naps == []


def test_a_reader_of_the_ids_and_of_the_model_does_not_end_a_training(
    workplace, windows, naps, monkeypatch
):
    monkeypatch.setattr(id_cache, "LARGE", 1)
    refusing(monkeypatch, 3)
    assert sum(1 for _ in start(["text.txt"], out="run", **QUICK).progress()) == QUICK["steps"]


@pytest.mark.parametrize("name", ["open", "fsync"])
def test_a_file_system_that_syncs_no_folders_takes_saves(tmp_path, monkeypatch, name):
    """Windows does not even open them."""
    call = getattr(os, name)

    def refused(target, *more):
        if Path(target).is_dir() if name == "open" else os.path.isdir(f"/dev/fd/{target}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        return call(target, *more)

    monkeypatch.setattr(os, name, refused)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_start_that_fails_while_its_ids_are_mapped_leaves_a_folder_for_the_next(
    workplace, monkeypatch
):
    """Windows removes no file that is mapped."""
    unlink = Path.unlink

    def refused(path, **options):
        if path.name == "text.npy":
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, **options)

    monkeypatch.setattr(id_cache, "LARGE", 1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        with pytest.raises(CharlmError):
            start(["text.txt"], out="run", **(QUICK | {"batch_size": 10**9}))
    start(["text.txt"], out="run", **QUICK)


def test_git_changes_no_line_ends():
    """Those of the texts and pages that come with charlm count."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    found = subprocess.run(
        ["git", "check-attr", "text", "corpora/english.txt", "charlm/server/pages/page.js"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.rpartition(" ")[2] for line in found.stdout.splitlines()] == ["unset"] * 2


# ---- the lock


@pytest.fixture
def without_fcntl(monkeypatch):
    """Locks of Windows: on bytes of a file that is open, and nobody can read those bytes."""

    def locking(descriptor, mode, count):
        assert (mode, count) == (2, 1)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) > os.fstat(descriptor).st_size + (1 << 20)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    module = types.SimpleNamespace(LK_NBLCK=2, LK_UNLCK=0, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", module)
    monkeypatch.setattr(lock, "fcntl", None)
    return module


def test_without_fcntl_a_folder_has_one_trainer_too(tmp_path, without_fcntl):
    held = Lock(tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="another process is training in run folder"):
            Lock(tmp_path)
    held.check()
    held.release()
    assert list(tmp_path.iterdir()) == []
    again = Lock(tmp_path)
    del again  # as at the end of the process
    Lock(tmp_path).release()


def test_without_fcntl_a_run_is_held_while_it_trains(workplace, without_fcntl):
    run = start(["text.txt"], out="run", **QUICK)
    for progress in run.progress():
        if progress.step == 2:
            with pytest.raises(CheckpointError, match="another process is training"):
                resume("run")
    names = {path.name for path in Path("run").iterdir()}
    assert names == {"best.safetensors", "latest.safetensors", "metrics.jsonl"}
    resume("run", steps=9).run_dir.release()


def test_without_fcntl_a_start_that_fails_leaves_nothing(workplace, without_fcntl, monkeypatch):
    """Windows removes neither an open file nor a folder with one."""
    unlink, opened = Path.unlink, []
    monkeypatch.setattr(
        without_fcntl, "locking", lambda descriptor, *_: opened.append(descriptor)
    )  # fmt: skip

    def refused(path, **options):
        if path.name == lock.LOCK and Path(f"/proc/self/fd/{opened[-1]}").exists():
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(CharlmError):
        start(["text.txt"], out="new/run", **(QUICK | {"batch_size": 10**9}))
    assert sorted(path.name for path in Path().iterdir()) == ["text.txt"]


def test_the_lock_of_a_killed_trainer_is_gone_and_its_file_counts_as_nothing(
    workplace, without_fcntl
):
    Path("run").mkdir()
    Path("run", lock.LOCK).touch()
    start(["text.txt"], out="run", **QUICK)


def test_without_fcntl_a_file_system_may_have_no_locks(tmp_path, without_fcntl, monkeypatch):
    def locking(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(without_fcntl, "locking", locking)
    Lock(tmp_path).release()


# ---- signals


@pytest.mark.parametrize("use", [terminal.Stop, terminal.stop_signals])
@pytest.mark.parametrize("missing", ["SIGHUP", "SIGBREAK"])
def test_every_handler_is_put_back_whatever_signals_there_are(monkeypatch, use, missing):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    monkeypatch.delattr(signal, missing)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    try:
        with use():
            assert [signal.getsignal(number) for number in numbers] != before
        assert [signal.getsignal(number) for number in numbers] == before
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_ctrl_break_stops_as_ctrl_c_does(run, monkeypatch):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    monkeypatch.delattr(signal, "SIGHUP")
    # Else the signal would end this process where nobody listens to it.
    monkeypatch.setattr(signal, "raise_signal", lambda number: handled(number))

    def handled(number):
        handler = signal.getsignal(number)
        assert callable(handler), "nobody listens"
        handler(number, None)

    with terminal.Stop() as stop:
        signal.raise_signal(signal.SIGBREAK)
    assert stop.signal == signal.SIGBREAK
    with pytest.raises(terminal.StopSignal), terminal.stop_signals():
        signal.raise_signal(signal.SIGBREAK)


class Unread(io.StringIO):
    """A pipe that nobody reads any more; the error is that of the system."""

    error: OSError = BrokenPipeError(errno.EPIPE, "Broken pipe")

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize("kind", ["posix", "windows"])
def test_a_reader_that_has_seen_enough_is_no_error(workplace, capfd, monkeypatch, request, kind):
    """Windows has no name for SIGPIPE, and calls a closed pipe an invalid argument."""
    monkeypatch.delattr(signal, "SIGPIPE")
    stream = Unread()
    if kind == "windows":
        request.getfixturevalue("windows")
        stream.error = OSError(errno.EINVAL, "Invalid argument")
    monkeypatch.setattr(sys, "stdout", stream)
    command = ["generate", LSTM, "-p", "The", "-l", "30", "--seed", "1", "--save-state", "state"]
    assert main(command) == 141
    assert capfd.readouterr().err == "seed 1\n"
    assert Path("state").exists()


def test_elsewhere_an_invalid_argument_is_an_error(capfd, monkeypatch):
    stream = Unread()
    stream.error = OSError(errno.EINVAL, "Invalid argument")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["corpus"]) == 1
    assert capfd.readouterr().err == "charlm: error: cannot write to stdout: Invalid argument\n"


# ---- the terminal


def test_text_has_the_line_ends_that_it_has(monkeypatch):
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="cp1252", newline="\r\n")  # as Windows opens it
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["generate", LSTM, "-p", "The\nsea", "-l", "300", "--seed", "1"]) == 0
    assert data.getvalue().startswith(b"The\nsea")
    assert b"\r" not in data.getvalue()


class Console(io.TextIOWrapper):
    def isatty(self):
        return True

    def fileno(self):
        return 1


@pytest.mark.parametrize("fails", ["", "GetConsoleMode", "SetConsoleMode"])
def test_colours_are_shown_where_the_console_obeys_codes(workplace, windows, monkeypatch, fails):
    asked = []

    def get_console_mode(console, pointer):
        assert console.value == 1001
        pointer._obj.value = 3
        return fails != "GetConsoleMode"

    def set_console_mode(console, mode):
        asked.append((console.value, mode))
        return fails != "SetConsoleMode"

    kernel32 = types.SimpleNamespace(GetConsoleMode=get_console_mode)
    kernel32.SetConsoleMode = set_console_mode
    monkeypatch.setattr("ctypes.windll", types.SimpleNamespace(kernel32=kernel32), raising=False)
    msvcrt = types.SimpleNamespace(get_osfhandle=lambda descriptor: 1000 + descriptor)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Console(data, encoding="utf-8"))
    Path("few.txt").write_text("The sea", encoding="utf-8")
    assert main(["score", LSTM, "few.txt"]) == 0
    assert (b"\033[" in data.getvalue()) == (not fails)
    assert b"few.txt" in data.getvalue()
    assert asked == ([] if fails == "GetConsoleMode" else [(1001, 7)])


@pytest.mark.parametrize("what", ["silent", "text", "end"])
def test_a_pipe_on_stdin_that_stays_silent_is_noticed(windows, naps, monkeypatch, what):
    """Windows has select for sockets only."""
    reading, writing = os.pipe()
    ready = select.select

    def refused(*_):
        raise OSError(10038, "An operation was attempted on something that is not a socket")

    def peek(pipe, size):
        if not ready([pipe], [], [], 0)[0]:
            return 0, 0
        if what == "end":
            raise BrokenPipeError(errno.EPIPE, "The pipe has been ended")
        return 1, 0

    monkeypatch.setattr(select, "select", refused)
    monkeypatch.setitem(sys.modules, "_winapi", types.SimpleNamespace(PeekNamedPipe=peek))
    msvcrt = types.SimpleNamespace(get_osfhandle=lambda descriptor: descriptor)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    if what == "text":
        os.write(writing, b"x")
    elif what == "end":
        os.close(writing)
    assert terminal._something_comes(reading, 1.5) == (what != "silent")
    assert sum(naps) == pytest.approx(1.5 if what == "silent" else 0, abs=0.1)
    for descriptor in (reading, writing)[: 1 if what == "end" else 2]:
        os.close(descriptor)


def test_what_the_other_processes_say_is_lost_whatever_the_encoding(monkeypatch):
    """Windows opens text files in an encoding that lacks most characters."""
    opened = Path.open

    def on_windows(path, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
        return opened(path, mode, buffering, encoding or "cp1252", errors, newline)

    monkeypatch.setattr(Path, "open", on_windows)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    for name, value in (("WORLD_SIZE", 2), ("RANK", 1), ("MASTER_ADDR", "x"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    silence_all_but_the_first()
    with sys.stdout as stream:
        print("漢字 \udcff", file=stream, flush=True)


# ---- the server


def test_a_port_is_never_shared_with_another_server(windows, monkeypatch):
    """On Windows SO_REUSEADDR means that."""
    http = pytest.importorskip("charlm.server.http")
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with http.listen("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE) != 0
