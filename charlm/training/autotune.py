"""Autotuning: which precision and how many threads train fastest on this machine.

Everything is measured with the sizes that will be trained, never guessed: which arithmetic is
fastest differs from CPU to CPU and from size to size.
"""

import contextlib
import copy
import itertools
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from charlm.config import PRECISIONS, ComputeConfig
from charlm.errors import ConfigError, argument
from charlm.model.device import autocast, torch_threads
from charlm.model.language_model import CharLM
from charlm.training.optim import AdamW
from charlm.training.presets import REFERENCE
from charlm.training.threads import cores_are_free, thread_counts

SMALL = 128  # hidden size up to which fewer threads may be faster than all that have a core
HOPELESS = 2.0  # times as long as the fastest candidate: not worth another round
UNTIMED = {
    "cpu": 0
}  # rounds before the clock starts: on a GPU one, in which it loads its libraries
MARGIN = 1.15  # how many times as fast a candidate must be to be taken over an earlier one


class Compute(NamedTuple):
    """One way to compute a training.

    Attributes:
        precision: one of ``config.PRECISIONS``.
        threads: of torch, 0 for as many as it takes.
    """

    precision: str
    threads: int


def seconds_per_window(
    model: CharLM,
    candidates: Iterable[Compute],
    *,
    batch_size: int,
    seq_length: int,
    rounds: float = math.inf,
) -> dict[Compute, float]:
    """Return how long a window takes in training, forward and backward.

    All candidates are timed in turn, and the best round of each counts: of three rounds, or of more
    that half a second holds, or of fewer where the machine is busy and they take long. A candidate
    that takes more than ``HOPELESS`` times as long as the fastest one is not tried again. A window
    must be as long as those that will be trained: in short ones, most of the time is overhead.

    Args:
        model: the model, on its device; it is left as it is.
        candidates: what to time.
        batch_size, seq_length: the size of the window.
        rounds: the most of them; one shows what this machine can do, not how fast.

    Returns:
        Seconds for each candidate; infinity where this machine cannot (some CPUs raise an error on
        bfloat16, others compute it slower than float32).

    Raises:
        ConfigError: if this machine can compute none of them.
        RuntimeError: the error of the model itself, if it cannot be computed in float32 either.
    """
    failure: RuntimeError | None = None
    best = dict.fromkeys(candidates, math.inf)
    model = copy.deepcopy(model)
    device = next(model.parameters()).device
    optimizer = AdamW(model.parameters(), lr=0.0, fused=True)
    ids = torch.zeros(batch_size, seq_length, dtype=torch.int64, device=device)
    start = time.perf_counter()
    for turn in itertools.count(-UNTIMED.get(device.type, 1)):
        if turn == 0:
            start = time.perf_counter()
        elapsed = time.perf_counter() - start
        if turn >= rounds or (turn > 0 and elapsed > (0.5 if turn >= 3 else 2.0)):
            break
        for candidate in best:
            if turn > 0 and best[candidate] > HOPELESS * min(best.values()):
                continue
            began = time.perf_counter()
            try:
                with torch_threads(candidate.threads):
                    with autocast(device, candidate.precision):
                        logits, _ = model(ids, model.initial_state(batch_size))
                    logits.float().logsumexp(-1).sum().backward()
                    optimizer.step()
                logits.sum().item()  # waits for a GPU
            except RuntimeError as error:
                failure = error
                continue
            if turn >= 0:
                best[candidate] = min(best[candidate], time.perf_counter() - began)
    if failure is not None and not any(map(math.isfinite, best.values())):
        precisions = sorted({candidate.precision for candidate in best})
        if "float32" in precisions:  # then it is not a matter of the arithmetic
            raise failure
        raise ConfigError(
            f"this machine cannot train backbone {model.config.backbone!r} in "
            f"{', '.join(precisions)} ({str(failure).splitlines()[0]}): "
            f"choose {argument('precision', 'float32')}"
        )
    return best


def candidates(compute: ComputeConfig, device: torch.device, threads: int) -> list[Compute]:
    """Return the precisions that come into question, the preferred one first.

    On an NVIDIA GPU bfloat16 is never faster: recurrent layers are in float16 there for both.
    """
    usual = {"cuda": PRECISIONS[::2], "cpu": PRECISIONS[:2]}.get(device.type, PRECISIONS[:1])
    precisions = usual if compute.precision == "auto" else (compute.precision,)
    return [Compute(precision, threads) for precision in precisions]


def fastest(
    compute: ComputeConfig,
    model: CharLM,
    *,
    batch_size: int,
    seq_length: int,
    rounds: float = math.inf,
) -> tuple[Compute, float]:
    """Return the fastest way to train ``model``, and how many seconds a window takes.

    First the precision is chosen, with all threads that would get a core each, then, for a small
    model, whether fewer threads are faster.

    Args:
        compute: what the user has chosen.
        model: on the device to train on.
        batch_size, seq_length: the size of a window.
        rounds: the most windows of each that are timed.

    Raises:
        ConfigError: if this machine cannot train in any of these ways.
    """
    device = next(model.parameters()).device

    def measured(candidates: list[Compute]) -> dict[Compute, float]:
        return seconds_per_window(
            model, candidates, batch_size=batch_size, seq_length=seq_length, rounds=rounds
        )

    counts = [0] if compute.threads is None else [compute.threads]
    if compute.threads is None and device.type == "cpu":
        counts = [count for count in thread_counts() if cores_are_free(count)]
        counts = counts if model.config.hidden_size <= SMALL else counts[:1]
    seconds = measured(candidates(compute, device, threads=counts[0]))
    best = clearly_fastest(seconds)
    if others := [best._replace(threads=count) for count in counts[1:]]:
        seconds |= measured(others)
        best = min([best, *others], key=seconds.__getitem__)
    return best, seconds[best]


def faster_device(
    compute: ComputeConfig, model: CharLM, device: torch.device, **sizes: Any
) -> torch.device:
    """Return ``device``, or the CPU if that is faster than a GPU of Apple that ``auto`` has found.

    torch has no loops of RNN and GRU for it, which can make it several times slower (pytorch issue
    123148).

    Args:
        compute: what the user has chosen.
        model: is moved from one to the other.
        device: found for ``compute``.
        sizes: see :func:`fastest`.
    """
    if compute.device != "auto" or device.type != "mps":
        return device
    seconds = {}
    for place in (device, torch.device("cpu")):
        with contextlib.suppress(ConfigError, RuntimeError):  # the other one may do it
            _, seconds[place] = fastest(compute, model.to(place), **sizes)
    return min(seconds, key=seconds.__getitem__, default=device)


def clearly_fastest(seconds: dict[Compute, float]) -> Compute:
    """Return the first candidate, or one that is clearly faster than those before it."""
    best, *others = seconds
    for candidate in others:
        if seconds[candidate] < seconds[best] / MARGIN:
            best = candidate
    return best


def reference_speed(
    vocab_size: int, device: torch.device, compute: ComputeConfig, *, rounds: float = math.inf
) -> float:
    """Return how many characters a second this machine trains the model of ``REFERENCE`` with.

    Args:
        vocab_size: the number of symbols (V).
        device: where to compute.
        compute: what the user has chosen.
        rounds: the most windows that are timed; for a run that is short itself it is one.
    """
    model_config, config = REFERENCE
    model = CharLM(model_config, vocab_size).to(device)
    if compute.precision == "float16" and device.type == "cpu":
        compute = replace(compute, precision="auto")  # REFERENCE is an LSTM: no float16 on CPUs
    batch_size, seq_length = config.batch_size, config.seq_length
    _, seconds = fastest(
        compute, model, batch_size=batch_size, seq_length=seq_length, rounds=rounds
    )
    return batch_size * seq_length / seconds
