"""A run that is being trained: it logs and saves while its progress is read.

``training.start`` begins a new run, ``training.resume`` continues a stopped one.
"""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from charlm import checkpoint as checkpoints
from charlm.checkpoint import Checkpoint
from charlm.config import ComputeConfig, TrainConfig
from charlm.data.batches import Stream
from charlm.data.dataset import Dataset
from charlm.errors import CheckpointError, DivergenceError, ProcessError
from charlm.files import as_path, shell_command
from charlm.inference.chunked import OutOfTimeError
from charlm.model.device import find_device
from charlm.model.distributed import Processes, is_from_another_process, join
from charlm.model.language_model import CharLM
from charlm.tensor_file import Tensors
from charlm.training import autotune
from charlm.training.progress import Progress
from charlm.training.run_dir import RunDir
from charlm.training.threads import ThreadChoice, thread_counts
from charlm.training.trainer import Trainer

# How late the evaluation of all that is held out may end in a run in minutes.
LATE_SHARE, LATE_SECONDS = 0.02, 0.5
SAVING_SHARE = 0.01  # of the time that saving may take, unless the user says when to save


class Run:
    """A trainer and the folder that it fills.

    Attributes:
        run_dir: where the checkpoints and the metrics are.
        trainer: what computes.
        notices: one line for each thing that was chosen for the user, for ``errors.written``.
        keeps_time: whether the last evaluation is cut short where the time is over. A cell that
            remembers long may need longer for it than all minutes that the run has.
        is_cut_short: whether it was; its loss is then right to about 0.001.
    """

    def __init__(self, run_dir: RunDir, trainer: Trainer, notices: Iterable[str] = ()):
        self.run_dir = run_dir
        self.trainer = trainer
        self.notices = list(notices)
        self.is_cut_short = False
        self.keeps_time = trainer.config.steps is None and trainer.processes.size == 1
        self.unsaved_best: Checkpoint | None = None
        self.saved_at = self.saving_seconds = 0.0  # when the last save was, and how long it took

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, step {self.trainer.counters.step})"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_dir.path

    def progress(
        self, stopping: Callable[[], bool] = lambda: False
    ) -> Generator[Progress, None, None]:
        """Train to the end, yielding after every step.

        Saved is at evaluations, as often as ``SAVING_SHARE`` allows or as ``save_every`` says, when
        the run is stopped, and at its end.

        Args:
            stopping: asked after every step; if it is true in one of several processes, the run is
                saved and left, unless it has just reached its end.

        Raises:
            DivergenceError: naming the checkpoint from before.
            CheckpointError: if the folder cannot be written.
            ProcessError: if another process of this training has ended.
        """
        alone = False  # whether another process may have ended; to say goodbye to it could hang
        try:
            for progress in self.trainer.run():
                if progress.validation_loss is not None:
                    # The line first: if the power fails here, a resume cuts it and writes it anew.
                    self._log(progress)
                    if progress.is_best:
                        self.unsaved_best = self.trainer.checkpoint()
                if self.trainer.finished:
                    self._finish(is_best=progress.is_best)
                elif self._is_time_to_save(progress):
                    self.save("latest")
                if self.trainer.processes.any(stopping()) and not self.trainer.finished:
                    self.save("latest")  # before anything is shown: the terminal may be gone
                    return
                yield progress
        except DivergenceError as error:
            raise DivergenceError(
                f"{error.message}; {self.folder / 'latest.safetensors'} is from before, and "
                f"{self._resume_command} --learning-rate RATE continues from it"
            ) from None
        except RuntimeError as error:
            alone = True
            if not is_from_another_process(error):
                raise
            raise ProcessError(
                f"another process of this training has ended; {self.folder / 'latest.safetensors'} "
                f"is from before, and {self._resume_command} continues from it, with any number of "
                "processes"
            ) from None
        finally:
            with contextlib.suppress(OSError):  # at the end of an interpreter the lock is gone
                self._save_best()  # it may be ahead of the latest one
            self.run_dir.release()
            if not alone:
                self.trainer.processes.leave()

    @property
    def _resume_command(self) -> str:
        return shell_command(["charlm", "resume", as_path(self.folder)])

    def save(self, *names: str) -> None:
        """Save what the trainer is now as ``best``, as ``latest``, or as both, in this order.

        Of several processes all have to call this, and the first one writes.
        """
        began = time.monotonic()
        self._save_best()
        checkpoint = self.trainer.checkpoint()
        if self.trainer.processes.first:
            self.run_dir.save(checkpoint, *names)
        self.saved_at = time.monotonic()
        self.saving_seconds = self.saved_at - began

    def _save_best(self) -> None:
        best, self.unsaved_best = self.unsaved_best, None
        if best is not None and self.trainer.processes.first:
            self.run_dir.save(best, "best")

    def _is_time_to_save(self, progress: Progress) -> bool:
        every = self.trainer.config.save_every
        if every > 0:
            return progress.validation_loss is not None or progress.step % every == 0
        if progress.validation_loss is None:
            return False
        rested = SAVING_SHARE * (time.monotonic() - self.saved_at) >= self.saving_seconds
        return self.trainer.processes.broadcast(rested)

    def _finish(self, *, is_best: bool) -> None:
        """Evaluate the best weights on all that is held out, and save.

        Args:
            is_best: whether the best weights are those that the trainer has now.
        """
        began = time.monotonic()
        trainer = self.trainer
        self._save_best()
        best: Checkpoint | None = None
        if not is_best and trainer.processes.first:
            with contextlib.suppress(CheckpointError):  # somebody has removed it
                best = checkpoints.load(self.folder / "best.safetensors")
        weights = trainer.processes.broadcast(None if best is None else best.weights)
        whole = trainer.counters.best_loss
        if trainer.evaluated_length < len(trainer.dataset.validation):
            there = is_best or weights is not None
            whole = self._evaluate_whole(weights) if there else None
        spent = trainer.counters.seconds + time.monotonic() - began
        trainer.counters = replace(trainer.counters, whole_loss=whole, seconds=spent)
        if best is not None and best.counters.whole_loss != whole:
            self.unsaved_best = replace(best, counters=replace(best.counters, whole_loss=whole))
        self.save(*(["best"] if is_best else []), "latest")

    def _evaluate_whole(self, weights: Tensors | None) -> float | None:
        """Return the validation loss of all that is held out, None if there is no time at all."""
        seconds = 60 * self.trainer.config.minutes * (1 + LATE_SHARE) + LATE_SECONDS
        end = time.monotonic() + seconds - self.trainer.counters.seconds

        def check(_: int) -> None:
            if self.keeps_time and not self.is_cut_short and time.monotonic() > end:
                self.is_cut_short = True
                raise OutOfTimeError

        try:
            return self.trainer.validation_loss(weights, on_progress=check)
        except OutOfTimeError:
            return None

    def _log(self, progress: Progress) -> None:
        if self.trainer.processes.first:
            unlogged = ("is_best", "best_step", "steps", "seconds_left", "decay_reason")
            values = asdict(progress).items()
            self.run_dir.log({name: value for name, value in values if name not in unlogged})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is computed on.

    Attributes:
        notices: a line for each accelerator that is there and cannot compute.
    """

    compute: ComputeConfig
    device: torch.device
    processes: Processes
    notices: tuple[str, ...] = ()

    @classmethod
    def find(cls, compute: ComputeConfig) -> "Machine":
        """Find the device, and join the processes that torchrun has started."""
        notices: list[str] = []
        device = find_device(compute.device, notices)
        return cls(compute=compute, device=device, processes=join(device), notices=tuple(notices))


def tuned_trainer(
    model: CharLM,
    dataset: Dataset,
    stream: Stream,
    config: TrainConfig,
    machine: Machine,
    *,
    free_threads: bool,
    **record: Any,
) -> tuple[Trainer, float]:
    """Return a trainer that computes in the fastest way, and the seconds of a step.

    Args:
        model, dataset, stream, config: what to train.
        machine: where; the number of threads that it names is kept, or the first one.
        free_threads: whether their number may follow the load.
        record: see :class:`Trainer`.
    """
    processes = machine.processes
    batch_size, seq_length = stream.window(0).inputs.shape  # as they will be
    nothing_to_choose = machine.compute.threads is not None and machine.compute.precision != "auto"
    # No more windows are timed than will be trained.
    rounds = 1 if nothing_to_choose else config.total_steps or math.inf
    sizes = {"batch_size": batch_size, "seq_length": seq_length, "rounds": rounds}
    device = machine.device
    if processes.size == 1:
        device = autotune.faster_device(machine.compute, model, device, **sizes)
    found = autotune.fastest(machine.compute, model.to(device), **sizes)
    (precision, threads), seconds = processes.broadcast(found)
    trainer = Trainer(
        model,
        dataset,
        config,
        stream=stream,
        precision=precision,
        threads=threads,
        processes=processes,
        **record,
    )
    if free_threads and processes.size == 1 and device.type == "cpu":
        trainer.thread_choice = ThreadChoice(list(dict.fromkeys([threads, *thread_counts()])))
    return trainer, seconds
