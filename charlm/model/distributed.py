"""Data-parallel training: several processes that train one model, as ``torchrun`` starts them.

Each process has all weights and a share of the lanes. What belongs to the run as a whole (what is
drawn at random, decisions that hang on time, files) is the same in all of them or is done by the
first one, so neither the losses nor a checkpoint depend on how many there are.
"""

import datetime
import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from charlm.errors import ConfigError, argument

TIMEOUT = datetime.timedelta(minutes=10)  # to wait for the slowest process
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a training. With one process, all of this does nothing.

    Attributes:
        rank: which of them this is.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def lanes(self, batch_size: int) -> slice:
        """Return which of all lanes are those of this process.

        Raises:
            ConfigError: if they cannot be dealt out evenly.
        """
        if batch_size % self.size:
            raise ConfigError(
                f"{argument('batch_size')} ({batch_size}) must be a multiple of the number of "
                f"processes ({self.size})"
            )
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)
            tensor = tensor / self.size
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set in any process."""
        if self.size == 1:
            return flag
        return bool(self.mean(torch.tensor([float(flag)])).item())

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the tensors of all processes, one after the other along ``dim``."""
        if self.size == 1:
            return tensor
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor)
        return torch.cat(parts, dim)

    def broadcast(self, value: T) -> T:
        """Return the value that the first process has; the others wait for it."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def leave(self) -> None:
        """Leave the group of processes."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def is_from_another_process(error: RuntimeError) -> bool:
    """Return whether an error says that another process of the group has ended."""
    return isinstance(error, distributed.DistError) or any(
        word in str(error).lower() for word in ("gloo", "nccl", "connection closed by peer")
    )


def launched() -> Processes:
    """Return the processes that this one is part of, by the variables that torchrun sets.

    Raises:
        ConfigError: if some of them are missing or make no sense.
    """
    size = _variable("WORLD_SIZE", "1", minimum=1)
    if size == 1:
        return Processes()
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ConfigError(
                f"WORLD_SIZE is {size}, but {name} is not set in the environment: start several "
                "processes with torchrun, or unset WORLD_SIZE"
            )
    rank = _variable("RANK", "")
    if rank >= size:
        raise ConfigError(f"RANK is {rank} in the environment, and WORLD_SIZE only {size}")
    return Processes(rank, size)


def local_rank() -> int:
    """Return which of the processes of this machine this is."""
    return _variable("LOCAL_RANK", "0")


def _variable(name: str, default: str, *, minimum: int = 0) -> int:
    value = os.environ.get(name, default)
    if not value.isdecimal() or not value.isascii() or int(value) < minimum:
        raise ConfigError(
            f"{name} must be a whole number from {minimum} on in the environment (got {value!r}): "
            "unset it, or start several processes with torchrun"
        )
    return int(value)


def _backend(device: torch.device) -> str:
    """Return what carries the messages: between GPUs nccl, but on Windows, which has none.

    Those of few bytes go from CPU to CPU by gloo in any case: it tells at once that a process has
    ended, and nccl after minutes.
    """
    if device.type == "cuda" and distributed.is_nccl_available():
        return "cpu:gloo,cuda:nccl"
    return "gloo"


def join(device: torch.device) -> Processes:
    """Join the processes that this one is part of, and return them.

    Raises:
        ConfigError: if that fails.
    """
    processes = launched()
    if processes.size == 1:
        return processes
    if device.type == "cuda":
        torch.cuda.set_device(local_rank())
    if not distributed.is_initialized():
        try:
            distributed.init_process_group(_backend(device), timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"cannot join the other processes: {reason}") from None
    return processes
