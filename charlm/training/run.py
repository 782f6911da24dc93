"""A run: started, resumed, trained and saved.

:func:`start` begins a new run, :func:`resume` continues a stopped one. Both return a :class:`Run`,
which trains, logs and saves while its progress is read.
"""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from charlm import checkpoint as checkpoints
from charlm.checkpoint import Checkpoint, Counters, Stage
from charlm.config import ComputeConfig, ModelConfig, TrainConfig
from charlm.data import id_cache
from charlm.data.batches import LaneStream
from charlm.data.dataset import Dataset, reopen
from charlm.data.text_files import survey, text_reader
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    DivergenceError,
    ProcessError,
)
from charlm.files import PathLike, ProgressCallback, no_progress
from charlm.model.device import find_device, keep_memory
from charlm.model.distributed import Processes, is_from_another_process, join
from charlm.model.language_model import CharLM
from charlm.training import autotune
from charlm.training.presets import choose_configs, max_epochs
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
            raise ProcessError(
                f"another process of this training has ended; {self.folder / 'latest.safetensors'} "
                f"is from before, and {self._resume_command} continues from it, with any number of "
                "processes"
            ) from None
        finally:
            self.run_dir.release()
            self.trainer.processes.leave()

    @property
    def _resume_command(self) -> str:
        return f"charlm resume {shlex.quote(str(self.folder))}"

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
class _Machine:
    """What a run is computed on."""

    compute: ComputeConfig
    device: torch.device
    processes: Processes

    @classmethod
    def find(cls, compute: ComputeConfig) -> "_Machine":
        device = find_device(compute.device)
        return cls(compute=compute, device=device, processes=join(device))


def start(
    files: Iterable[PathLike],
    *,
    out: PathLike | None = None,
    init_from: PathLike | None = None,
    on_progress: ProgressCallback = no_progress,
    began: float | None = None,
    **settings: Any,
) -> Run:
    """Start a new run.

    Args:
        files: UTF-8 texts, joined in this order.
        out: the run folder; ``checkpoints/<name of the first file>`` if absent, with a number
            behind it where such a run is there already.
        init_from: a run whose weights to start with; rows of the embedding and the head are matched
            by character.
        on_progress: progress callback, told the number of bytes read of the text, which is read
            twice.
        began: since when the minutes count, by ``time.monotonic``; None is now.
        settings: any field of ``ModelConfig``, its cell, ``TrainConfig`` and ``ComputeConfig``;
            what is not given follows from the length of the text and the time, see
            ``presets.choose_configs``.

    Raises:
        CharlmError: for anything that is wrong with the text, the settings or the folder; nothing
            has then been written.
    """
    began = time.monotonic() if began is None else began
    paths = [Path(path) for path in files]
    if not paths:
        raise CorpusError("no text file was given")
    taken = {name: settings.pop(name) for name in ComputeConfig.names() if name in settings}
    machine = _Machine.find(ComputeConfig.from_dict(taken))
    base = None if init_from is None else _base(init_from, settings)
    with contextlib.ExitStack() as undo:
        run_dir = _create(paths[0], out, machine.processes, undo)
        dataset, model_config, config, notices = _prepare(
            paths, settings, base, run_dir.path, machine, on_progress
        )
        model = CharLM(model_config, dataset.tokenizer.vocab_size, seed=config.seed)
        model.to(machine.device)
        if base is not None:
            model.load_weights(base.weights_for(dataset.tokenizer, model.weights()))
        trainer, seconds = _tuned_trainer(
            model, dataset, config, machine, init_from=str(init_from or "")
        )
        if machine.compute.precision == "auto" and machine.device.type == "cpu":
            chosen = trainer.precision
            notices.append(f"precision by a short measurement; --precision {chosen} repeats it")
        if config.steps is None:
            notices += _plan_time(trainer, seconds / machine.processes.size)
            trainer.config = machine.processes.broadcast(trainer.config)
        trainer.counters = Counters(seconds=time.monotonic() - began)
        run = Run(run_dir, trainer, notices)
        run.save("latest")  # so that a run can be resumed from its first moment on
        undo.pop_all()
    return run


def _create(
    text: Path, out: PathLike | None, processes: Processes, undo: contextlib.ExitStack
) -> RunDir:
    """Return the new run folder, which the first process makes and, if anything fails, removes."""
    if not processes.first:
        return RunDir(processes.broadcast(Path()))
    run_dir = RunDir.create(text, out)
    undo.callback(run_dir.discard)
    processes.broadcast(run_dir.path)
    return run_dir


def _prepare(
    paths: list[Path],
    settings: dict[str, Any],
    base: Checkpoint | None,
    folder: Path,
    machine: _Machine,
    on_progress: ProgressCallback,
) -> tuple[Dataset, ModelConfig, TrainConfig, list[str]]:
    """Read the text and choose the settings; return them with lines that tell what was chosen."""
    if base is not None:
        settings = settings | base.model_config.to_dict()
    read = text_reader(paths, on_progress)
    found = survey(read())
    model_config, config, notices = choose_configs(found.characters, settings)
    tokenizer = CharTokenizer.from_counts(found.counts, min_count=config.min_count)
    if base is not None:
        tokenizer = tokenizer.union(base.tokenizer)
    keep_memory()  # now that the text is read: what that took goes back to the system
    processes = machine.processes
    if config.steps is None:
        speed = autotune.reference_speed(tokenizer.vocab_size, machine.device, machine.compute)
        readable = processes.broadcast(60 * config.minutes * speed) * processes.size
        model_config, config, notices = choose_configs(
            found.characters, settings, readable=readable
        )
    large = found.characters >= id_cache.LARGE
    if processes.first or not large:
        ids = id_cache.encode(read, found, tokenizer, folder if large else None)
    if large:
        processes.broadcast(None)  # wait until the file is there
        ids = id_cache.open_ids(folder)
    dataset = Dataset.from_ids(
        ids, tokenizer, found.fingerprint, config.validation_fraction, tuple(map(str, paths))
    )
    # Refuses sizes that the text does not fill, before they are tried on a model.
    LaneStream(dataset.train, batch_size=config.batch_size, seq_length=config.seq_length)
    return dataset, model_config, config, notices


def _base(init_from: PathLike, settings: dict[str, Any]) -> Checkpoint:
    """Return the run whose weights to start with, unless a model is asked for beside it."""
    base = checkpoints.load(checkpoints.locate(init_from), model_only=True)
    twice = ", ".join(sorted(settings.keys() & base.model_config.to_dict().keys()))
    if twice:
        raise ConfigError(f"{twice} cannot be given with init_from, which has its own model")
    return base


def _tuned_trainer(
    model: CharLM, dataset: Dataset, config: TrainConfig, machine: _Machine, **record: Any
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


def _plan_time(trainer: Trainer, seconds: float) -> list[str]:
    """Fit a run in minutes to its text and to this machine, where a step takes ``seconds``.

    Returns:
        A line for people, if the text is too short for so much time.
    """
    config, dataset = trainer.config, trainer.dataset
    steps = trainer.stream.windows_per_epoch
    epochs = max_epochs(dataset.characters)
    if epochs * steps * seconds < 60 * config.minutes:
        trainer.config = replace(config, steps=int(epochs * steps))
        return [f"{epochs} epochs, as so short a text would be memorised with more"]
    trainer.evaluation_seconds = autotune.estimate_evaluation_seconds(trainer.model, dataset)
    trainer.config = autotune.plan_evaluations(
        config, seconds, steps * seconds, trainer.evaluation_seconds
    )
    return []


def resume(
    run: PathLike,
    *,
    text: Iterable[PathLike] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    decay_steps: int | None = None,
    learning_rate: float | None = None,
    on_progress: ProgressCallback = no_progress,
    **compute: Any,
) -> Run:
    """Continue a run exactly where its latest checkpoint is.

    Args:
        run: the run folder, its name under ``checkpoints/``, or a checkpoint file in it.
        text: where the text is now, if not where it was; it must be the same text.
        steps: a new total of steps. The schedule is laid out anew over this total: the learning
            rate is from now on that of a run which had this length from the start.
        minutes: a new total of minutes, in place of steps.
        decay_steps: how many steps at the new end the learning rate falls in.
        learning_rate: a new peak of the learning rate.
        on_progress: see :func:`start`.
        compute: any field of ``ComputeConfig``; precision and threads are by default those of the
            run so far.

    Raises:
        CharlmError: if there is no such run, or its text has changed.
    """
    path = _latest(run)
    machine = _Machine.find(ComputeConfig.from_dict(compute))
    with contextlib.ExitStack() as undo:
        first = machine.processes.first
        run_dir = RunDir.open(path.parent) if first else RunDir(path.parent)
        undo.callback(run_dir.release)
        found = checkpoints.load(path)
        changes = {"decay_steps": decay_steps, "learning_rate": learning_rate}
        config = _extended(found.train_config, steps, minutes, changes)
        _check_unfinished(path.parent, found.counters, config)
        dataset = reopen(
            found.source.files if text is None else text,
            found.tokenizer,
            found.source.fingerprint,
            validation_fraction=config.validation_fraction,
            folder=path.parent,
            moved=text is not None,
            on_progress=on_progress,
        )
        keep_memory()
        model = CharLM(found.model_config, found.tokenizer.vocab_size).to(machine.device)
        machine = replace(machine, compute=_compute_so_far(machine.compute, found))
        trainer, _ = _tuned_trainer(
            model, dataset, config, machine, init_from=found.source.init_from
        )
        trainer.restore(found)
        trainer.stages = _stages(found, trainer)
        if first:
            run_dir.cut_metrics(found.counters.step)
        undo.pop_all()
    is_latest = path.stem == "latest"
    notices = [] if is_latest else [f"resumes from {path}, as there is no latest{path.suffix}"]
    return Run(run_dir, trainer, notices)


def _latest(run: PathLike) -> Path:
    """Return the checkpoint to resume from."""
    path = checkpoints.locate(run, "latest")
    if path.stem not in ("latest", "best"):
        raise CheckpointError(
            f"{path} is a checkpoint without its run: resume a run folder, or begin a new run from "
            "it with charlm train --init-from"
        )
    latest = path.with_stem("latest")
    if path != latest and latest.is_file():
        raise CheckpointError(
            f"{path} is not where its run is: resume {path.parent}, or remove {latest} to go back"
        )
    return path


def _compute_so_far(compute: ComputeConfig, found: Checkpoint) -> ComputeConfig:
    """Return ``compute`` with what was not asked for as in the run so far."""
    precision, threads = compute.precision, compute.threads
    return replace(
        compute,
        precision=found.source.precision if precision == "auto" else precision,
        threads=found.source.threads if threads is None else threads,
    )


def _stages(found: Checkpoint, trainer: Trainer) -> tuple[Stage, ...]:
    """Return the stages of a run, with a new one if it continues in another way from here."""
    before = (found.train_config, found.source.precision, found.source.processes)
    now = (trainer.config, trainer.precision, trainer.processes.size)
    if now == before or found.counters.step == 0:
        return found.stages
    config, precision, processes = before
    stage = Stage(
        step=found.counters.step, train_config=config, precision=precision, processes=processes
    )
    return (*found.stages, stage)


def _check_unfinished(folder: Path, counters: Counters, config: TrainConfig) -> None:
    if config.steps is not None and counters.step >= config.steps:
        raise ConfigError(
            f"run {folder} is finished: it has done {counters.step} steps, and {config.steps} are "
            "asked for; give a larger total with --steps or --minutes"
        )
    if config.steps is None and counters.seconds >= 60 * config.minutes:
        raise ConfigError(
            f"run {folder} has trained for {counters.seconds / 60:.1f} minutes, and "
            f"{config.minutes:g} are asked for; give a larger total with --minutes"
        )


def _extended(
    config: TrainConfig, steps: int | None, minutes: float | None, changes: dict[str, Any]
) -> TrainConfig:
    """Return ``config`` with a new total, if one is given; the rate falls in as large a share."""
    if steps is not None and minutes is not None:
        raise ConfigError("steps and minutes cannot both be given: one follows from the other")
    given = {name: value for name, value in changes.items() if value is not None}
    if minutes is not None:
        given = {"minutes": minutes, "steps": None, "decay_steps": None} | given
    elif steps is not None:
        if config.steps is not None and config.decay is not None:
            given = {"decay_steps": round(config.decay * steps / config.steps)} | given
        given |= {"steps": steps}
    return replace(config, **given)
