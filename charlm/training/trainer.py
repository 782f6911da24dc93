"""Truncated back-propagation through time.

:meth:`Trainer.step` is the whole algorithm. What it draws at random is a function of the seed and
the number of the step, and so are the window it reads and the learning rate it uses. So a run can
be resumed at any step from the weights, the optimizer and the carried state alone.
"""

import collections
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charlm.cells.base import State
from charlm.checkpoint import Checkpoint
from charlm.config import PRECISIONS, Counters, Source, Stage, TrainConfig
from charlm.data.batches import IGNORED, Stream
from charlm.data.dataset import Dataset
from charlm.errors import ConfigError, DivergenceError, argument
from charlm.evaluation.loss import evaluate
from charlm.files import ProgressCallback, no_progress, sha256
from charlm.model.device import autocast, torch_threads
from charlm.model.distributed import Processes
from charlm.model.language_model import CharLM
from charlm.model.layers import ALONE
from charlm.tensor_file import Tensors
from charlm.training import optim
from charlm.training.progress import Progress
from charlm.training.schedule import TimePlan, evaluated_length
from charlm.training.threads import ThreadChoice

MOST_OVERFLOWS = 20  # steps in a row that are left out until a lower scale fits
MOST_UNREAD = 8  # steps that a GPU may be behind: with more, the pace of a step is not known


class Trainer:
    """Fits a model to the training part of a dataset.

    Args:
        model: the language model, on the device to train on.
        dataset: the text.
        config: how to train.
        stream: the windows of the dataset, if they are made already.
        precision: one of ``config.PRECISIONS``.
        threads: of torch, 0 for as many as it would.
        init_from, init_sha256: the run whose weights ``model`` has, if any, for the record.
        stages: what the run was trained with before, for the record.
        processes: those that train together.

    Attributes:
        thread_choice: how many threads each step takes; by default ``threads``.
        most_interval: steps between evaluations at most, if a run in minutes may plan them.

    Raises:
        CorpusError: if the text does not fill one window of every lane.
    """

    def __init__(
        self,
        model: CharLM,
        dataset: Dataset,
        config: TrainConfig,
        *,
        stream: Stream | None = None,
        precision: str = "float32",
        threads: int = 0,
        init_from: str = "",
        init_sha256: str = "",
        stages: tuple[Stage, ...] = (),
        processes: Processes = ALONE,
    ):
        if precision not in PRECISIONS:
            names = ", ".join(PRECISIONS)
            raise ConfigError(f"{argument('precision')} must be one of {names} (got {precision!r})")
        self.model = model
        self.dataset = dataset
        self.config = config
        self.precision = precision
        self.thread_choice = ThreadChoice([threads])
        self.most_interval: int | None = None
        self.init_from, self.init_sha256 = init_from, init_sha256
        self.stages = stages
        self.processes = processes
        self.lanes = processes.lanes(config.batch_size)  # of all lanes, those of this process
        model.backbone.processes = processes
        self.parallel = nn.parallel.DistributedDataParallel(model) if processes.size > 1 else model
        self.device = next(model.parameters()).device
        # On a GPU, torch's recurrent layers take float16 for every arithmetic but float32.
        self.in_float16 = precision == "float16" or (
            precision == "bfloat16" and self.device.type == "cuda"
        )
        self.stream = dataset.stream(config) if stream is None else stream
        self.optimizer = optim.make_optimizer(model, config)
        self.scaler = optim.make_scaler(self.device, enabled=self.in_float16)
        self.generator = torch.Generator(self.device)
        self.state: State = self.initial_state()
        self.counters = Counters()
        # Of each step its number, its loss and norm, and on a GPU, which may be behind, an event.
        self.unread: collections.deque[tuple[int, Tensor, torch.cuda.Event | None]]
        self.unread = collections.deque()
        self.grad_norm = 0.0  # of the last step that was read
        self.overflows = 0  # steps in a row that were left out

    def step(self) -> tuple[Tensor, Tensor]:
        """Do one update; return the loss (nats per character) and the gradient norm.

        Neither is read from the device here, which would make it wait: see :meth:`read`.

        Source: truncated back-propagation through time, Williams and Peng (1990), Neural
        Computation 2(4); clipping of the norm, Pascanu et al. (2013), arXiv:1211.5063.
        """
        step = self.counters.step
        window = self.stream.window(step, self.config.fall)
        if window.restart:
            self.state = self.initial_state()
        self.generator.manual_seed(_mixed(self.config.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = optim.learning_rate(step, self.config)
        scale = optim.logit_scale(self.stream.epoch(step), self.config)
        self.model.train()
        self.optimizer.zero_grad()
        with autocast(self.device, self.precision):
            inputs = self._tensor(window.inputs[self.lanes])
            logits, state = self.parallel(inputs, self.state, self.generator)
            targets = self._tensor(window.targets[self.lanes])
            loss = F.cross_entropy(
                logits.flatten(0, 1).float() * scale,
                targets.flatten(),
                ignore_index=IGNORED,
                reduction="mean" if window.scored is None else "sum",
            )
            if window.scored is not None:  # of all processes: some may have more to score
                loss = loss * (self.processes.size / window.scored)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        bound = self.config.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), bound)
        mean = self.processes.mean(loss.detach().clone())
        self._queue(step, torch.stack([mean, norm.detach()]))
        if self.device.type == "cpu":
            self.read()  # before the update, so that a divergence never reaches the weights
        with autocast(self.device, self.precision):  # for the products of soap
            self.scaler.step(self.optimizer)  # in float16 not where a gradient is infinite
        self.scaler.update()
        self.state = tuple(s.detach().float() for s in state)
        self.counters = replace(self.counters, step=step + 1)
        return mean, norm.detach()

    def read(self, *, but: int = 0) -> None:
        """Note the losses and norms of all steps so far but the last few.

        Which they are does not depend on time, so that several processes fail at the same step.

        Args:
            but: how many, at most, are left to be read later. A GPU may be behind by so many.

        Raises:
            DivergenceError: if one is not finite.
        """
        while len(self.unread) > but:
            step, values, ready = self.unread.popleft()
            if ready is not None:
                ready.synchronize()
            loss, norm = values.tolist()
            overflow = self.in_float16 and math.isfinite(loss) and not math.isfinite(norm)
            self.overflows = self.overflows + 1 if overflow else 0
            if overflow and self.overflows <= MOST_OVERFLOWS:
                norm = self.grad_norm
            self._check_finite(step, loss, norm)
            loss_sum, count = self.counters.loss_sum + loss, self.counters.loss_count + 1
            self.counters = replace(self.counters, loss_sum=loss_sum, loss_count=count)
            self.grad_norm = norm

    def evaluate(self) -> float:
        """Return the validation loss (nats per character), and note it if it is the best so far.

        Raises:
            DivergenceError: if the model's predictions are NaN or infinite.
        """
        loss = self.validation_loss(length=self.evaluated_length)
        self.counters = replace(self.counters, loss_sum=0.0, loss_count=0)
        if self.counters.best_loss is None or loss < self.counters.best_loss:
            self.counters = replace(
                self.counters, best_loss=loss, best_step=self.counters.step, whole_loss=None
            )
        return loss

    def validation_loss(
        self,
        weights: Tensors | None = None,
        length: int | None = None,
        on_progress: ProgressCallback = no_progress,
    ) -> float:
        """Return the loss of this model, or of other weights, on the first characters or all."""
        own = None if weights is None else self.model.weights()
        part, end = self.dataset.validation[:length], self.dataset.line_end
        try:
            if weights is not None:
                self.model.load_weights(weights)
            with torch_threads(self.thread_choice.usual):
                found = evaluate(self.model, part, line_end=end, on_progress=on_progress)
                return self.processes.broadcast(found.nats_per_char)
        finally:
            if own is not None:
                self.model.load_weights(own)

    @property
    def evaluated_length(self) -> int:
        """How many of the held-out characters an evaluation on the way reads."""
        return evaluated_length(self.config, len(self.dataset.validation), self.chars_per_step)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        total = self.config.total_steps
        return total is not None and self.counters.step >= total

    def run(self) -> Iterator[Progress]:
        """Train to the end, yielding after every step, and evaluate on the way."""
        began = time.perf_counter()
        before = self.counters
        held_out, per_step = len(self.dataset.validation), self.chars_per_step
        plan = TimePlan(self.config, self.counters, held_out, per_step, self.most_interval)
        while not self.finished:
            step_began = time.perf_counter()
            proven = self._step_with_threads()
            step = self.counters.step
            due = self.config.is_evaluated(step) or self.finished
            if due:
                self.processes.any(False)  # tells that one has ended; to wait for its GPU does not
            self.read(but=0 if due else MOST_UNREAD)
            step_seconds = time.perf_counter() - step_began
            if proven:
                self.thread_choice.note(step_seconds)
            train_loss = self.counters.loss_sum / max(1, self.counters.loss_count)
            best_before = self.counters.best_loss
            stepped = time.perf_counter()
            validation_loss = self.evaluate() if due else None
            spent = time.perf_counter() - began
            evaluation_seconds = spent + began - stepped if due else None
            self.counters = replace(self.counters, seconds=before.seconds + spent)
            plan.note(step_seconds, spent, self.config, evaluation_seconds=evaluation_seconds)
            planned = plan.update(self.config, self.counters)
            self.config, reason = self.processes.broadcast(planned) if plan.in_minutes else planned
            yield Progress(
                step=step,
                steps=self.config.total_steps,
                epoch=self.stream.epoch(step),
                train_loss=train_loss,
                validation_loss=validation_loss,
                best_loss=self.counters.best_loss,
                is_best=self.counters.best_loss != best_before,
                grad_norm=self.grad_norm,
                learning_rate=optim.learning_rate(step - 1, self.config),
                chars_per_second=self.chars_per_step * (step - before.step) / max(spent, 1e-9),
                seconds=self.counters.seconds,
                seconds_left=plan.seconds_left(self.config, self.counters),
                best_step=self.counters.best_step,
                decay_reason=reason,
            )

    def _step_with_threads(self) -> bool:
        """Do a step with the number of threads that was chosen.

        If it is not known yet whether that changes a bit of the result, the step is done twice.

        Returns:
            Whether it was known.
        """
        choice = self.thread_choice
        if choice.count == choice.first:
            proven, shape = True, ()
        else:
            shape = self.stream.window(self.counters.step, self.config.fall).inputs.shape
            proven = choice.is_proven(shape)
        if proven:
            with torch_threads(choice.count):
                self.step()
            return True
        before, results = self.checkpoint(), []
        for count in (choice.count, choice.first):
            self.restore(before)
            with torch_threads(count):
                self.step()
            after = self.checkpoint().tensors()
            results.append({name: sha256(tensor.data) for name, tensor in after.items()})
        choice.prove(shape, results[0] == results[1])
        return False

    def checkpoint(self) -> Checkpoint:
        """Return all that is needed to resume from here.

        Raises:
            DivergenceError: if the last update has made the weights NaN or infinite.
        """
        self.read()
        weights = self.model.weights()
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise DivergenceError(
                f"the weights are NaN or infinite after step {self.counters.step}: lower "
                f"{argument('learning_rate')}"
            )
        names = {p: name for name, p in self.model.named_parameters()}
        kept = self.optimizer.state
        return Checkpoint(
            model_config=self.model.config,
            train_config=self.config,
            tokenizer=self.dataset.tokenizer,
            weights=weights,
            source=Source(
                files=self.dataset.files,
                fingerprint=self.dataset.fingerprint,
                characters=self.dataset.characters,
                precision=self.precision,
                threads=self.thread_choice.first,
                threads_fixed=len(self.thread_choice.counts) == 1,
                processes=self.processes.size,
                init_from=self.init_from,
                init_sha256=self.init_sha256,
            ),
            stages=self.stages,
            counters=replace(self.counters, **optim.scale_of(self.scaler)),
            optimizer={
                f"{name}.{key}": value.detach().float().cpu().numpy().copy()
                for parameter, name in names.items()
                for key, value in kept[parameter].items()
                if isinstance(value, Tensor)
            },
            state={
                name: self.processes.gather(tensor, dim=1).cpu().numpy().copy()
                for name, tensor in zip(self._state_names, self.state, strict=True)
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from ``checkpoint``, whose configs and text must be those of this trainer."""
        self.model.load_weights(checkpoint.weights)
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for name, value in checkpoint.optimizer.items():
            owner, _, key = name.rpartition(".")
            # Adam's count of steps is a tensor too; the fused update wants it beside the weights.
            tensor = torch.from_numpy(value.copy()).to(self.device)
            self.optimizer.state[parameters[owner]][key] = tensor
        self.state = tuple(
            torch.from_numpy(checkpoint.state[name][:, self.lanes].copy()).to(self.device)
            for name in self._state_names
        )
        self.counters = checkpoint.counters
        optim.restore_scale(self.scaler, self.counters.loss_scale, self.counters.scaled_steps)

    def initial_state(self) -> State:
        """Return the state that the lanes of this process begin in."""
        return self.model.initial_state(self.lanes.stop - self.lanes.start)

    @property
    def _state_names(self) -> list[str]:
        return list(self.model.config.state_shapes(1))

    @property
    def chars_per_step(self) -> float:
        """How many characters a step reads, in the mean."""
        return self.stream.characters / self.stream.windows_per_epoch

    def _tensor(self, ids: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(ids.astype(np.int64))
        if self.device.type == "cuda":  # from such memory a copy need not wait
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)  # on Apple's GPUs it has to: it would read freed memory

    def _queue(self, step: int, values: Tensor) -> None:
        """Queue the loss and the norm of a step for :meth:`read`, without waiting for them."""
        ready = None
        if self.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self.device))
        self.unread.append((step, values, ready))

    def _check_finite(self, step: int, loss: float, norm: float) -> None:
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                rate = optim.learning_rate(step, self.config)
                clip = f"{'lower' if self.config.grad_clip else 'set'} {argument('grad_clip')}"
                if self.in_float16:
                    clip = f"choose {argument('precision', 'float32')}"
                raise DivergenceError(
                    f"the {name} became {value} at step {step + 1} with a "
                    f"learning rate of {rate:.2g}: lower {argument('learning_rate')}, or {clip}"
                )


def _mixed(seed: int, step: int) -> int:
    """Return one seed for a step of a run, unlike those of other steps and other runs."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
