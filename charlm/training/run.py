"""A run that is being trained: it logs and saves while its progress is read.

``training.start`` begins a new run, ``training.resume`` continues a stopped one.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from charlm.config import ComputeConfig, TrainConfig
from charlm.data.dataset import Dataset
from charlm.errors import DivergenceError, ProcessError
from charlm.files import as_path, shell_command
from charlm.model.device import find_device
from charlm.model.distributed import Processes, is_from_another_process, join
from charlm.model.language_model import CharLM
from charlm.training import autotune
from charlm.training.run_dir import RunDir
from charlm.training.trainer import Progress, Trainer


class Run:
    """A trainer and the folder that it fills.

    Attributes:
        run_dir: where the checkpoints and the metrics are.
        trainer: what computes.
        notices: one line for each thing that was chosen for the user.
    """

    def __init__(self, run_dir: RunDir, trainer: Trainer, notices: Iterable[str] = ()):
        self.run_dir = run_dir
        self.trainer = trainer
        self.notices = list(notices)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_dir.path

    def progress(self, stopping: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Train to the end, yielding after every step, once what belongs on disk is there.

        Args:
            stopping: asked after every step; if it is true in one of several processes, the run is
                saved and left, unless it has just reached its end.

        Raises:
            DivergenceError: naming the checkpoint from before.
            CheckpointError: if the folder cannot be written.
            ProcessError: if another process of this training has ended.
        """
        interval = self.trainer.config.save_interval
        alone = False  # whether another process has ended; to say goodbye to it could hang
        try:
            for progress in self.trainer.run():
                if progress.validation_loss is not None:
                    # The line first: if the power fails here, a resume cuts it and writes it anew.
                    self._log(progress)
                    self.save(*(["best"] if progress.is_best else []), "latest")
                elif progress.step % interval == 0:
                    self.save("latest")
                if self.trainer.processes.any(stopping()) and not self.trainer.finished:
                    self.save("latest")  # before anything is shown: the terminal may be gone
                    return
                yield progress
        except DivergenceError as error:
            raise DivergenceError(
                f"{error}; {self.folder / 'latest.safetensors'} is from before, and "
                f"{self._resume_command} --learning-rate RATE continues from it"
            ) from None
        except RuntimeError as error:
            if not is_from_another_process(error):
                raise
            alone = True
            raise ProcessError(
                f"another process of this training has ended; {self.folder / 'latest.safetensors'} "
                f"is from before, and {self._resume_command} continues from it, with any number of "
                "processes"
            ) from None
        finally:
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
        checkpoint = self.trainer.checkpoint()
        if self.trainer.processes.first:
            self.run_dir.save(checkpoint, *names)

    def _log(self, progress: Progress) -> None:
        if self.trainer.processes.first:
            unlogged = ("is_best", "best_step", "steps", "seconds_left", "decay_reason")
            values = asdict(progress).items()
            self.run_dir.log({name: value for name, value in values if name not in unlogged})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is computed on."""

    compute: ComputeConfig
    device: torch.device
    processes: Processes

    @classmethod
    def find(cls, compute: ComputeConfig) -> "Machine":
        """Find the device, and join the processes that torchrun has started."""
        device = find_device(compute.device)
        return cls(compute=compute, device=device, processes=join(device))


def tuned_trainer(
    model: CharLM, dataset: Dataset, config: TrainConfig, machine: Machine, **record: Any
) -> tuple[Trainer, float]:
    """Return a trainer that computes in the fastest way, and the seconds of a step."""
    candidates = autotune.candidates(machine.compute, model)
    found = autotune.fastest(candidates, model, config)
    (precision, threads), seconds = machine.processes.broadcast(found)
    trainer = Trainer(
        model,
        dataset,
        config,
        precision=precision,
        threads=threads,
        processes=machine.processes,
        **record,
    )
    return trainer, seconds
