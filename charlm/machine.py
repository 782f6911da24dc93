"""What this machine can do: its memory, its threads, and how long it takes to train.

Everything is measured on the sizes that will be trained with, never guessed: which arithmetic is
fastest differs from CPU to CPU, and from size to size.
"""

import contextlib
import ctypes
import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from charlm.config import PRECISIONS, ModelConfig, TrainConfig
from charlm.corpus import Corpus
from charlm.errors import ConfigError
from charlm.evaluation import evaluate
from charlm.model import CharLM
from charlm.recipes import REFERENCE

How = tuple[str, int]  # precision, and threads of torch (0: as many as it takes)

DEVICES = ("auto", "cpu", "cuda", "mps")
MOST_THREADS = 256  # of torch; it would try to begin any number of them
SMALL = 128  # hidden size up to which one thread may be faster than all
MARGIN = 1.15  # by which a way to train must be faster than one before it, to be sure of it
EVALUATION_SHARE = 0.02  # of the time of a run in minutes


def keep_memory() -> None:
    """Tell the C library to keep the memory that torch frees, for the life of this process.

    By default glibc gives large blocks back to the system at once. A window of training allocates
    the same blocks again and again, and to fetch them from the system anew, page by page, takes as
    long as to compute with them: at 2 x 512 units, training is 1.5 times as fast without. Where
    there is no such C library, nothing happens.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # parameters of mallopt, from malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**26)


def arithmetic(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which products are computed in ``precision``."""
    half = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if half else None, enabled=half)


@contextlib.contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Let torch compute with so many threads, 0: with as many as it would."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_per_window(
    config: ModelConfig,
    vocab_size: int,
    hows: Iterable[How],
    *,
    batch_size: int,
    seq_length: int,
    device: torch.device,
    once: bool = False,
) -> dict[How, float]:
    """Return how long training takes to read a window and to go back through it.

    All hows are timed in turn, and the best round of each counts: of three rounds, or of more that
    half a second holds, or of fewer where the machine is busy and they take long. A window must be
    as long as those that will be trained with: in short ones, most of the time is overhead.

    Args:
        config: what the model computes.
        vocab_size: the number of symbols (V).
        hows: pairs of a precision and a number of threads, 0 for as many as torch would take.
        batch_size, seq_length: the size of the window.
        device: where to compute.
        once: do one round only, to see what this machine can do, not how fast.

    Returns:
        Seconds for each how; infinity where this machine cannot (some CPUs raise an error on
        bfloat16, others compute it slower than float32).
    """
    best = dict.fromkeys(hows, math.inf)
    model = CharLM(config, vocab_size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    ids = torch.zeros(batch_size, seq_length, dtype=torch.int64, device=device)
    start = time.perf_counter()
    for turn in itertools.count():
        if turn and (once or time.perf_counter() - start > (0.5 if turn >= 3 else 3.0)):
            break
        for precision, threads in best:
            began = time.perf_counter()
            try:
                with threads_of_torch(threads):
                    with arithmetic(device, precision):
                        logits, _ = model(ids, model.initial_state(batch_size))
                    logits.float().logsumexp(-1).sum().backward()
                    optimizer.step()
                logits.sum().item()  # waits for a GPU
            except RuntimeError:
                continue
            spent = time.perf_counter() - began
            best[precision, threads] = min(best[precision, threads], spent)
    return best


def hows(precision: str, threads: int | None, model: CharLM) -> list[How]:
    """Return the ways to train ``model`` that come into question, the one to prefer first.

    Args:
        precision: ``auto`` or one of ``config.PRECISIONS``.
        threads: of torch, 0 for as many as it takes, None for what is fastest.
        model: the language model, where it will be trained.
    """
    if threads is not None and not 0 <= threads <= MOST_THREADS:
        raise ConfigError(f"threads must be from 0 to {MOST_THREADS} (got {threads})")
    if precision not in ("auto", *PRECISIONS):
        names = ", ".join(("auto", *PRECISIONS))
        raise ConfigError(f"precision must be one of {names} (got {precision!r})")
    device = next(model.parameters()).device
    usual = {"cuda": PRECISIONS, "cpu": PRECISIONS[:2]}.get(device.type, PRECISIONS[:1])
    precisions = usual if precision == "auto" else (precision,)
    counts = [threads or 0]
    if threads is None and device.type == "cpu" and model.config.hidden_size <= SMALL:
        counts.append(1)
    return [(name, count) for count in counts for name in precisions]


def fastest(hows: list[How], model: CharLM, config: TrainConfig) -> tuple[How, float]:
    """Return the fastest way to train, and how many seconds it takes for a window.

    Where there is no choice, and the number of steps is known, these are the seconds of one window
    only, the first one.

    Raises:
        ConfigError: if this machine cannot train in any of these ways.
    """
    seconds = seconds_per_window(
        model.config,
        model.head.out_features,
        hows,
        batch_size=config.batch_size,
        seq_length=config.seq_length,
        device=next(model.parameters()).device,
        once=len(hows) == 1 and config.steps is not None,
    )
    best = hows[0]
    for how in hows[1:]:
        if seconds[how] < seconds[best] / MARGIN:
            best = how
    if not math.isfinite(seconds[best]):
        raise ConfigError(
            f"this machine cannot train backbone {model.config.backbone!r} in {best[0]}: choose "
            "--precision float32"
        )
    return best, seconds[best]


def reference_speed(
    vocab_size: int, device: torch.device, precision: str, threads: int | None
) -> float:
    """Return how many characters a second this machine trains the model of ``REFERENCE`` with."""
    model_config, config = REFERENCE
    model = CharLM(model_config, vocab_size).to(device)
    if precision == "float16" and device.type == "cpu":
        precision = "auto"  # the model of reference is an LSTM, which CPUs do not train so
    _, seconds = fastest(hows(precision, threads, model), model, config)
    return config.batch_size * config.seq_length / seconds


def paced(
    config: TrainConfig, step_seconds: float, epoch_seconds: float, evaluation_seconds: float
) -> TrainConfig:
    """Return the config of a run in minutes, its warm-up and evaluations laid out for its length.

    Evaluations are at least ten, and one in three epochs, to see it when a short text is learned by
    heart; but no more of them than cost ``EVALUATION_SHARE`` of the time.
    """
    seconds = 60 * config.minutes
    wanted = min(seconds / 10, 3 * epoch_seconds)
    interval = max(wanted, evaluation_seconds / EVALUATION_SHARE)
    return replace(
        config,
        warmup_steps=replace(config, steps=math.ceil(seconds / step_seconds)).warmup,
        eval_every=config.eval_every or math.ceil(interval / step_seconds),
    )


def evaluation_seconds(model: CharLM, corpus: Corpus) -> float:
    """Return about how long an evaluation will take, from one of the beginning of the text."""
    part = corpus.validation[:16_384]
    began = time.perf_counter()
    evaluate(model, part)
    return (time.perf_counter() - began) * len(corpus.validation) / len(part)


def device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first accelerator, else the CPU."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in there.items() if is_there)
    if name not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)} (got {name!r})")
    if not there[name]:
        raise ConfigError(f"device {name!r} is not there on this machine: choose cpu or auto")
    if name == "cuda":  # of several processes each has its own
        return torch.device(name, int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)
