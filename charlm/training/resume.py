"""A stopped run, continued: checkpoint -> the same text -> trainer, restored."""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from charlm import checkpoint as checkpoints
from charlm.checkpoint import Checkpoint
from charlm.config import ComputeConfig, Counters, TrainConfig
from charlm.data.dataset import reopen
from charlm.errors import CheckpointError, ConfigError, argument
from charlm.files import PathLike, ProgressCallback, no_progress
from charlm.model.device import keep_memory
from charlm.model.language_model import CharLM
from charlm.training.presets import refuse_two_falls
from charlm.training.run import Machine, Run, tuned_trainer
from charlm.training.run_dir import RunDir
from charlm.training.schedule import evaluated_length
from charlm.training.trainer import Trainer


def resume(
    run: PathLike,
    *,
    text: Iterable[PathLike] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    decay_steps: int | None = None,
    decay_plan: str | None = None,
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
        decay_plan: in its place, how the fall was planned, see ``TrainConfig``.
        learning_rate: a new peak of the learning rate.
        on_progress: see :func:`charlm.training.start.start`.
        compute: any field of ``ComputeConfig``; precision and threads are by default those of the
            run so far.

    Raises:
        CharlmError: if there is no such run, or its text has changed.
    """
    path = _latest(run)
    machine = Machine.find(ComputeConfig.from_dict(compute))
    with contextlib.ExitStack() as undo:
        first = machine.processes.first
        run_dir = RunDir.open(path.parent) if first else RunDir(path.parent)
        undo.callback(run_dir.release)
        found = checkpoints.load(path)
        changes = {
            "decay_steps": decay_steps,
            "decay_plan": decay_plan,
            "learning_rate": learning_rate,
        }
        config = _extended(found.train_config, steps, minutes, changes)
        _check_unfinished(path.parent, found.counters, config)
        dataset = reopen(
            found.source.files if text is None else text,
            found.tokenizer,
            found.source.fingerprint,
            characters=found.source.characters,
            validation_fraction=config.validation_fraction,
            items=bool(found.model_config.items),
            folder=path.parent,
            moved=text is not None,
            on_progress=on_progress,
        )
        keep_memory()
        model = CharLM(found.model_config, found.tokenizer.vocab_size).to(machine.device)
        free = machine.compute.threads is None and not found.source.threads_fixed
        trainer, _ = tuned_trainer(
            model,
            dataset,
            dataset.stream(config),
            config,
            replace(machine, compute=_compute_so_far(machine.compute, found)),
            free_threads=free,
            init_from=found.source.init_from,
            init_sha256=found.source.init_sha256,
            stages=found.stages,
        )
        trainer.restore(found)
        if not _same_place(trainer, found.train_config):
            trainer.state = trainer.initial_state()
        is_changed = _is_changed(found, trainer)
        if is_changed and found.counters.step > 0:
            trainer.stages = (*found.stages, found.last_stage())
        if is_changed or trainer.device.type != "cpu":
            trainer.counters = _with_best(trainer.counters, path.parent)
        held_out, before = len(dataset.validation), found.train_config
        if evaluated_length(before, held_out, trainer.chars_per_step) != trainer.evaluated_length:
            trainer.counters = _measured_anew(trainer, path.parent)
        if first:
            run_dir.cut_metrics(found.counters.step)
        undo.pop_all()
    is_latest = path.stem == "latest"
    notices = [] if is_latest else [f"resumes from {path}, as there is no latest{path.suffix}"]
    return Run(run_dir, trainer, [*machine.notices, *notices])


def _latest(run: PathLike) -> Path:
    """Return the checkpoint to resume from."""
    path = checkpoints.locate(run, "latest")
    if path.stem not in ("latest", "best"):
        raise CheckpointError(
            f"{path} is a checkpoint without its run: resume a run folder, or begin a new run from "
            f"it with train and {argument('init_from')}"
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


def _is_changed(found: Checkpoint, trainer: Trainer) -> bool:
    """Return whether a run continues in another way from here."""
    before = found.last_stage()
    now = replace(
        before,
        precision=trainer.precision,
        threads=trainer.thread_choice.first,
        processes=trainer.processes.size,
        train_config=trainer.config,
    )
    return now != before


def _with_best(counters: Counters, folder: Path) -> Counters:
    """Return counters that know the best checkpoint, which may be ahead of the latest one.

    That is so after a kill between the two saves. An exact resume reaches the same best again; a
    changed one must not replace it by a worse one.
    """
    try:
        best = checkpoints.load(folder / "best.safetensors", model_only=True).counters
    except CheckpointError:
        return counters
    if best.best_loss is None or best.best_loss >= (counters.best_loss or math.inf):
        return counters
    return replace(counters, best_loss=best.best_loss, best_step=best.best_step)


def _measured_anew(trainer: Trainer, folder: Path) -> Counters:
    """Return counters whose best loss is one on as many characters as evaluations read now.

    A run of another length reads another part of what is held out, and a loss on an easier part
    would never be reached again. Without its weights the best is unknown, and the next one counts.
    """
    counters = trainer.counters
    if counters.best_loss is None:
        return counters
    try:
        best = checkpoints.load(folder / "best.safetensors", model_only=True)
    except CheckpointError:
        return replace(counters, best_loss=None)
    return replace(
        counters, best_loss=trainer.validation_loss(best.weights, trainer.evaluated_length)
    )


def _same_place(trainer: Trainer, before: TrainConfig) -> bool:
    """Return whether the next window follows the last one that was read.

    The fall of the learning rate decides which windows are read in it, see ``data.batches``.
    """
    step = trainer.counters.step
    planned, next_one = (
        trainer.stream.window(step, config.fall).inputs for config in (before, trainer.config)
    )
    return np.array_equal(planned, next_one)


def _check_unfinished(folder: Path, counters: Counters, config: TrainConfig) -> None:
    if config.total_steps is not None and counters.step >= config.total_steps:
        raise ConfigError(
            f"run {folder} is finished: it has done {counters.step} steps, and "
            f"{config.total_steps} are asked for; give a larger total with {argument('steps')} or "
            f"{argument('minutes')}"
        )
    if config.total_steps is None and counters.seconds >= 60 * config.minutes:
        raise ConfigError(
            f"run {folder} has trained for {counters.seconds / 60:.1f} minutes, and "
            f"{config.minutes:g} are asked for; give a larger total with {argument('minutes')}"
        )


def _extended(
    config: TrainConfig, steps: int | None, minutes: float | None, changes: dict[str, Any]
) -> TrainConfig:
    """Return ``config`` with a new total, if one is given; the rate falls in as large a share."""
    if steps is not None and minutes is not None:
        raise ConfigError(
            f"{argument('steps')} and {argument('minutes')} cannot both be given: one follows from "
            "the other"
        )
    refuse_two_falls(changes)
    if steps is not None:
        steps = TrainConfig(steps=steps).steps  # checked before anything is computed from it
    given = {name: value for name, value in changes.items() if value is not None}
    if minutes is not None:
        end = {"steps": None, "decay_steps": None, "decay_plan": "", "warmup_steps": config.warmup}
        given = {"minutes": minutes} | end | given
    elif steps is not None:
        if config.decay:
            share = 1 - config.decay[0][0] / config.decay[-1][1]
            given = {"decay_steps": round(share * steps)} | given
        given = {"steps": steps, "decay_plan": ""} | given
    elif "decay_steps" in given and config.decay_plan:
        given |= {"steps": config.total_steps, "decay_plan": ""}
    return replace(config, **given)
