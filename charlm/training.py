"""Truncated back-propagation through time.

:meth:`Trainer.step` is the whole algorithm. What it draws at random is a function of the seed and
the number of the step, and so are the window it reads and the rate it uses: a run can be taken up
at any step from the weights, the optimizer and the carried state alone.
"""

import contextlib
import ctypes
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charlm.backbones import State
from charlm.checkpoint import Checkpoint, Counters
from charlm.config import PRECISIONS, ModelConfig, TrainConfig
from charlm.corpus import Corpus, LaneStream
from charlm.errors import ConfigError, DivergenceError
from charlm.evaluation import evaluate
from charlm.model import CharLM

FINAL_RATE = 0.01  # what the cosine ends at, as a share of the peak


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is known after a step; losses are in nats per character.

    Attributes:
        step: updates done, of ``steps``.
        epoch: how often the training text has been read.
        train_loss: mean over the steps since the last evaluation (dropout on).
        validation_loss: None but after an evaluation.
        best_loss: the lowest validation loss so far; ``is_best`` if it is this one.
        grad_norm: the norm of the gradient before clipping.
        learning_rate: of the step.
        chars_per_second: training characters read, over all time spent so far in this sitting.
        seconds: time spent, over all sittings.
    """

    step: int
    steps: int
    epoch: float
    train_loss: float
    validation_loss: float | None
    best_loss: float | None
    is_best: bool
    grad_norm: float
    learning_rate: float
    chars_per_second: float
    seconds: float

    def __str__(self) -> str:
        validation = (
            "" if self.validation_loss is None else f", validation {in_units(self.validation_loss)}"
        )
        return (
            f"step {self.step}/{self.steps}, epoch {self.epoch:.2f}: "
            f"train {in_units(self.train_loss)}{validation}"
        )


def in_units(nats: float) -> str:
    """Return a loss for people: ``1.386 nats (2.000 bits)``."""
    return f"{nats:.4f} nats ({nats / math.log(2):.4f} bits)"


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of ``step``, counted from 0: a linear rise, then a cosine to near 0.

    Source: Loshchilov and Hutter (2017), arXiv:1608.03983, without restarts.
    """
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return config.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW or SGD with momentum; weight decay acts on matrices only, not on biases.

    Source: Loshchilov and Hutter (2019), Decoupled weight decay regularization, arXiv:1711.05101.
    """
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


class Trainer:
    """Fits a model to the training part of a corpus.

    Args:
        model: the language model, on the device to train on.
        corpus: the text.
        config: how to train.
        precision: one of ``config.PRECISIONS``.

    Raises:
        CorpusError: if the text does not fill one window of every lane.
    """

    def __init__(
        self, model: CharLM, corpus: Corpus, config: TrainConfig, *, precision: str = "float32"
    ):
        if precision not in PRECISIONS:
            names = ", ".join(PRECISIONS)
            raise ConfigError(f"precision must be one of {names} (got {precision!r})")
        self.model = model
        self.corpus = corpus
        self.config = config
        self.precision = precision
        self.device = next(model.parameters()).device
        self.stream = LaneStream(
            corpus.train, batch_size=config.batch_size, seq_length=config.seq_length
        )
        self.optimizer = make_optimizer(model, config)
        self.generator = torch.Generator(self.device)
        self.state: State = model.initial_state(config.batch_size)
        self.counters = Counters()

    def step(self) -> tuple[float, float]:
        """Do one update; return the loss (nats per character) and the gradient norm.

        Source: truncated back-propagation through time, Williams and Peng (1990), Neural
        Computation 2(4); clipping of the norm, Pascanu et al. (2013), arXiv:1211.5063.

        Raises:
            DivergenceError: if either is not finite; the weights are then as before the step.
        """
        step = self.counters.step
        window = self.stream.window(step)
        if window.fresh:
            self.state = self.model.initial_state(self.config.batch_size)
        self.generator.manual_seed(_mixed(self.config.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config)
        self.model.train()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits, state = self.model(self._tensor(window.inputs), self.state, self.generator)
            targets = self._tensor(window.targets)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        bound = self.config.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), bound)
        self._check_finite(loss, norm)
        self.optimizer.step()
        self.state = tuple(s.detach().float() for s in state)
        self.counters = replace(
            self.counters,
            step=step + 1,
            loss_sum=self.counters.loss_sum + loss.item(),
            loss_count=self.counters.loss_count + 1,
        )
        return loss.item(), norm.item()

    def evaluate(self) -> float:
        """Return the validation loss (nats per character), and note it if it is the best so far.

        Raises:
            DivergenceError: if the model's predictions are no numbers.
        """
        loss = evaluate(self.model, self.corpus.validation).nats_per_char
        self.counters = replace(self.counters, loss_sum=0.0, loss_count=0)
        if self.counters.best_loss is None or loss < self.counters.best_loss:
            self.counters = replace(self.counters, best_loss=loss, best_step=self.counters.step)
        return loss

    def run(self) -> Iterator[Progress]:
        """Train up to ``config.steps``, yielding after every step, and evaluate on the way."""
        began = time.monotonic()
        before = self.counters
        while self.counters.step < self.config.steps:
            _, grad_norm = self.step()
            step = self.counters.step
            train_loss = self.counters.loss_sum / self.counters.loss_count
            due = step % self.config.evaluation_interval == 0 or step == self.config.steps
            validation_loss = self.evaluate() if due else None
            spent = time.monotonic() - began
            self.counters = replace(self.counters, seconds=before.seconds + spent)
            yield Progress(
                step=step,
                steps=self.config.steps,
                epoch=self.stream.epoch(step),
                train_loss=train_loss,
                validation_loss=validation_loss,
                best_loss=self.counters.best_loss,
                is_best=due and self.counters.best_step == step,
                grad_norm=grad_norm,
                learning_rate=learning_rate(step - 1, self.config),
                chars_per_second=(step - before.step) * self._chars_per_step / max(spent, 1e-9),
                seconds=self.counters.seconds,
            )

    def checkpoint(self) -> Checkpoint:
        """Return all that is needed to go on from here.

        Raises:
            DivergenceError: if the last update has spoilt the weights.
        """
        weights = self.model.weights()
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise DivergenceError(
                f"the weights are no numbers after step {self.counters.step}: lower --learning-rate"
            )
        names = {p: name for name, p in self.model.named_parameters()}
        kept = self.optimizer.state
        return Checkpoint(
            model_config=self.model.config,
            train_config=self.config,
            tokenizer=self.corpus.tokenizer,
            weights=weights,
            files=self.corpus.files,
            fingerprint=self.corpus.fingerprint,
            characters=self.corpus.characters,
            precision=self.precision,
            counters=self.counters,
            optimizer={
                f"{name}.{key}": value.detach().float().cpu().numpy().copy()
                for parameter, name in names.items()
                for key, value in kept[parameter].items()
                if isinstance(value, Tensor)
            },
            state={
                name: tensor.cpu().numpy().copy()
                for name, tensor in zip(self._state_names, self.state, strict=True)
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from ``checkpoint``, whose configs and text must be those of this trainer."""
        self.model.load_weights(checkpoint.weights)
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for name, value in checkpoint.optimizer.items():
            owner, _, key = name.rpartition(".")
            # Adam's count of steps is a tensor too; the fused update wants it beside the weights.
            tensor = torch.from_numpy(value.copy()).to(self.device)
            self.optimizer.state[parameters[owner]][key] = tensor
        self.state = tuple(
            torch.from_numpy(checkpoint.state[name].copy()).to(self.device)
            for name in self._state_names
        )
        self.counters = checkpoint.counters

    @property
    def _state_names(self) -> tuple[str, ...]:
        return self.model.config.cell.state_names

    @property
    def _chars_per_step(self) -> float:
        return self.stream.inputs.size / self.stream.windows_per_epoch

    def _tensor(self, ids: np.ndarray) -> Tensor:
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)

    def _check_finite(self, loss: Tensor, norm: Tensor) -> None:
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not torch.isfinite(value):
                rate = learning_rate(self.counters.step, self.config)
                clip = "lower --grad-clip" if self.config.grad_clip else "set --grad-clip"
                raise DivergenceError(
                    f"the {name} became {value.item()} at step {self.counters.step + 1} with a "
                    f"learning rate of {rate:.2g}: lower --learning-rate, or {clip}"
                )


def _mixed(seed: int, step: int) -> int:
    """Return one seed for a step of a run, unlike those of other steps and other runs."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


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


def bfloat16_gain(
    config: ModelConfig, vocab_size: int, *, batch_size: int, seq_length: int, rounds: int
) -> float:
    """Return how many times faster this CPU trains in bfloat16 than in float32, 0 if it cannot.

    Times forward and backward passes over a window, alternating, and takes the best round of each.
    Some CPUs raise an error on bfloat16, and others compute it slower than float32. How much it
    gains depends on the length of the window too: a short one is mostly overhead.
    """
    best = dict.fromkeys(PRECISIONS, math.inf)
    model = CharLM(config, vocab_size).eval()
    ids = torch.zeros(batch_size, seq_length, dtype=torch.int64)
    for _ in range(rounds):
        for precision in PRECISIONS:
            began = time.perf_counter()
            try:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    logits, _ = model(ids, model.initial_state(batch_size))
                logits.float().logsumexp(-1).sum().backward()
            except RuntimeError:
                return 0.0
            best[precision] = min(best[precision], time.perf_counter() - began)
    return best["float32"] / best["bfloat16"]
