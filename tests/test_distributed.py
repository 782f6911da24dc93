"""Several processes train what one would, and nothing of a run depends on how many they were."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from conftest import QUICK_FLAGS, metrics

from charlm import checkpoint as checkpoints
from charlm.cli import main
from charlm.errors import ConfigError
from charlm.model.distributed import Processes, join
from charlm.model.layers import locked_dropout

TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "charlm"]
FLAGS = [*QUICK_FLAGS, "--batch-size", "6", "--dropout", "0.3", "--weight-drop", "0.2"]


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_lanes_are_dealt_out_evenly_and_each_once(size):
    lanes = list(range(12))
    found = [lanes[Processes(rank, size).lanes(12)] for rank in range(size)]
    assert [lane for part in found for lane in part] == lanes
    assert {len(part) for part in found} == {12 // size}


def test_lanes_that_cannot_be_dealt_out_are_refused():
    with pytest.raises(ConfigError, match=r"batch_size \(16\) must be a multiple of the number of"):
        Processes(0, 3).lanes(16)


def test_a_lane_has_its_own_mask_wherever_it_is():
    x = torch.ones(6, 4, 50)
    whole = locked_dropout(x, 0.3, torch.Generator().manual_seed(1))
    parts = [
        locked_dropout(x[:2], 0.3, torch.Generator().manual_seed(1), Processes(rank, 3))
        for rank in range(3)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_alone_all_of_it_does_nothing():
    alone, tensor = Processes(), torch.arange(6.0).view(1, 3, 2)
    assert alone.first
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.broadcast("x") == "x"
    assert torch.equal(alone.mean(tensor), tensor)
    assert torch.equal(alone.gather(tensor, 1), tensor)


@pytest.mark.parametrize(
    ("device", "nccl", "expected"),
    [
        ("cpu", True, "gloo"),
        ("cuda", True, "cpu:gloo,cuda:nccl"),  # words go by gloo, which sees that a process ends
        ("cuda", False, "gloo"),  # Windows
    ],
)
def test_a_gpu_talks_by_nccl_where_there_is_one_and_a_cpu_by_gloo(
    monkeypatch, device, nccl, expected
):
    asked = []
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **_: asked.append(backend)
    )
    assert join(torch.device(device)) == Processes(1, 2)
    assert asked == [expected]


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_what_processes_tell_each_other_lies_on_the_cpu(monkeypatch, backend):
    seen = []
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t: seen.append(t.device.type))
    monkeypatch.setattr(
        torch.distributed,
        "broadcast_object_list",
        lambda _, device: seen.append(torch.device(device).type),
    )
    assert Processes(0, 2).any(True)
    assert Processes(0, 2).broadcast("word") == "word"
    assert seen == ["cpu", "cpu"]


def together(*commands):
    """Run commands as two processes, with the variables that torchrun sets; return their stderr."""
    program = """
        import os, sys
        from charlm.cli import main
        for port, command in {commands!r}:
            os.environ["MASTER_PORT"] = port
            assert main(command) == 0
    """
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in commands]
        for one in free:
            one.bind(("127.0.0.1", 0))
        ports = [str(one.getsockname()[1]) for one in free]
    pairs = list(zip(ports, commands, strict=True))
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program).format(commands=pairs)],
            env=os.environ | variables | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    texts = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert texts[1] == ""  # one of them speaks
    return texts[0]


def test_two_processes_do_what_one_does_and_resume_each_others_checkpoints(workplace):
    assert main(["train", "text.txt", "--out", "one", *FLAGS]) == 0
    err = together(["train", "text.txt", "--out", "two", *FLAGS], ["resume", "one", "--steps", "9"])
    assert err.count("done     in ") == 2
    assert main(["resume", "two", "--steps", "9"]) == 0
    one, two = metrics("one"), metrics("two")
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], abs=1e-5), name
    a, b = (checkpoints.load(Path(run) / "latest.safetensors") for run in ("one", "two"))
    for name, tensor in a.tensors().items():
        assert tensor == pytest.approx(b.tensors()[name], abs=1e-4), name


def test_a_process_that_is_killed_ends_the_others_and_the_run_can_be_resumed(workplace):
    flags = [*FLAGS, "--steps", "10000000", "--save-every", "20"]
    process = subprocess.Popen(
        [*TWO, "train", "text.txt", "--out", "run", *flags],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    latest = Path("run/latest.safetensors")
    while not latest.exists() or checkpoints.load(latest).counters.step < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), 9)
    try:
        _, err = process.communicate(timeout=25)
    except subprocess.TimeoutExpired:  # torchrun would kill it without a word
        os.kill(int(children[0]), signal.SIGABRT)  # and this tells where it hangs
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    hung = "Fatal Python error: Aborted" in err
    assert hung or "charlm: error: another process of this training has ended" in err, err
    step = checkpoints.load(latest).counters.step
    assert main(["resume", "run", "--steps", str(step + 1)]) == 0
    if hung:  # seen twice in some hundred runs: gloo waited for a process that was gone
        pytest.xfail(f"torchrun would have ended the other process after 30 s: {err[-3000:]}")
