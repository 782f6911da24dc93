"""The machine that torch computes on: device, autocast, threads, memory."""

import contextlib
import ctypes
from collections.abc import Iterator

import torch

from charlm.errors import ConfigError, argument
from charlm.model.distributed import local_rank


def find_device(name: str) -> torch.device:
    """Return the device called ``name``, one of ``config.DEVICES``.

    ``auto`` is the first accelerator, else the CPU.

    Raises:
        ConfigError: if this machine does not have it.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in available.items() if is_there)
    if not available[name]:
        raise ConfigError(
            f"{argument('device')} {name!r} is not there on this machine: choose cpu or auto"
        )
    if name == "cuda":  # of several processes each has its own
        return torch.device(name, local_rank())
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which products are computed in ``precision``."""
    half = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if half else None, enabled=half)


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
