import time

import pytest
import torch

from charlm.errors import ConfigError
from charlm.model.device import autocast, find_device, keep_memory, torch_threads


def test_auto_is_the_first_accelerator_and_else_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == find_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")  # of several processes each has its own
    assert find_device("cuda") == torch.device("cuda", 3)
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device '{name}' is not there on this machine: choose"):
        find_device(name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_autocast_is_on_for_half_precision_alone_and_ends(precision):
    with autocast(torch.device("cpu"), precision):
        assert torch.is_autocast_enabled("cpu") == (precision != "float32")
        if precision != "float32":
            assert torch.get_autocast_dtype("cpu") == getattr(torch, precision)
    assert not torch.is_autocast_enabled("cpu")


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with torch_threads(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_memory_is_kept_and_all_goes_on():
    keep_memory()
    began = time.perf_counter()
    for _ in range(5):
        assert torch.ones(3_000_000).sum() == 3_000_000
    assert time.perf_counter() > began
