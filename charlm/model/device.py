"""The machine that torch computes on: device, autocast, threads, memory."""

import contextlib
import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor

from charlm.errors import ConfigError, argument
from charlm.model.distributed import local_rank


def find_device(name: str, notices: list[str] | None = None) -> torch.device:
    """Return the device called ``name``, one of ``config.DEVICES``.

    ``auto`` is the first accelerator that can compute, else the CPU.

    Args:
        name: the device.
        notices: takes a line for each accelerator that is there and cannot compute.

    Raises:
        ConfigError: if this machine does not have it, or has fewer of it than processes.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name != "auto":
        if not available[name]:
            raise ConfigError(
                f"{argument('device')} {name!r} is not there on this machine: choose cpu or auto"
            )
        return _own_device(name)
    for device in (_own_device(name) for name, is_there in available.items() if is_there):
        try:
            torch.ones(1, device=device).add_(1).item()
        except RuntimeError as error:
            # Wheels are not built for every GPU, and torch says so only when it computes.
            reason = str(error).splitlines()[0]
            if notices is not None:
                notices.append(f"{device.type} is there but cannot compute ({reason}): not used")
        else:
            return device
    return torch.device("cpu")


def _own_device(name: str) -> torch.device:
    """Return the device called ``name`` for this one of several processes."""
    if name != "cuda":
        return torch.device(name)
    count, rank = torch.cuda.device_count(), local_rank()
    if rank >= count:
        raise ConfigError(
            f"this machine has {count} GPUs, and process {rank + 1} on it has none left: start at "
            f"most {count} processes, or choose {argument('device', 'cpu')}"
        )
    return torch.device(name, rank)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which products are computed in ``precision``."""
    half = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if half else None, enabled=half)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Let recurrent layers compute in float32 on a GPU, not in TF32 with its 10 bits (cuDNN)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def sum_in_float64(values: Tensor) -> float:
    """Return the sum of a tensor, in float64: on the CPU, as Apple's GPUs have no such numbers."""
    return float(values.detach().cpu().double().sum())


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads, 0: with as many as it would."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Tell the C library to keep the memory that torch frees, for the life of this process.

    By default glibc gives large blocks back to the system at once. A window of training allocates
    the same blocks again and again, and fetching them from the system again, page by page, takes as
    long as computing with them: at 2 x 512 units, training is 1.5 times as fast without. Where
    there is no such C library, nothing happens.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # parameters of mallopt, from malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**26)
