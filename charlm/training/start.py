"""A new run: text -> settings -> model -> trainer -> run folder."""

import contextlib
import functools
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from charlm import checkpoint as checkpoints
from charlm.checkpoint import Checkpoint
from charlm.config import ComputeConfig, Counters, ModelConfig, TrainConfig
from charlm.data import id_cache
from charlm.data.batches import Stream
from charlm.data.dataset import Dataset
from charlm.data.text_files import Survey, find_texts, survey, text_reader
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import ConfigError, CorpusError, argument
from charlm.files import PathLike, ProgressCallback, check_name, no_progress
from charlm.model.device import keep_memory
from charlm.model.distributed import Processes
from charlm.model.language_model import CharLM
from charlm.training import autotune
from charlm.training.presets import choose_configs, max_epochs
from charlm.training.run import Machine, Run, tuned_trainer
from charlm.training.run_dir import RunDir
from charlm.training.schedule import NUM_EVALUATIONS
from charlm.training.trainer import Trainer

SHORT = 0.5  # minutes of a run whose start may not take seconds
EPOCHS_UNSEEN = 3  # at most, between evaluations of a run in minutes: overfitting must be seen


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
        files: UTF-8 texts, joined in this order; in place of a folder stand the texts in it, see
            ``text_files.find_texts``.
        out: the run folder; ``checkpoints/<name of the first file or folder>`` if absent, with a
            number behind it where such a run is there already.
        init_from: a run whose weights to start with; rows of the embedding and the head are matched
            by character.
        on_progress: progress callback, told the number of bytes read of the text, which is read
            twice.
        began: since when the minutes count, by ``time.monotonic``; None is now.
        settings: any field of ``ModelConfig``, its cell, ``TrainConfig`` and ``ComputeConfig``;
            what is not given follows from the length of the text, its vocabulary and the time, see
            ``presets.choose_configs``.

    Raises:
        CharlmError: for anything that is wrong with the text, the settings or the folder; nothing
            has then been written.
    """
    began = time.monotonic() if began is None else began
    paths = [Path(path) for path in files]
    if not paths:
        raise CorpusError("no text file was given")
    for path in paths if out is None else (*paths, Path(out)):
        check_name(path)
    texts, left_out = find_texts(paths)
    taken = {name: settings.pop(name) for name in ComputeConfig.names() if name in settings}
    machine = Machine.find(ComputeConfig.from_dict(taken))
    base = None if init_from is None else _base(init_from, settings)
    with contextlib.ExitStack() as undo:
        run_dir = _create(paths[0], out, machine.processes, undo)
        dataset, stream, model_config, config, notices = _prepare(
            texts, settings, base, run_dir.path, machine, on_progress
        )
        notices = [*machine.notices, *left_out, *notices]
        model = CharLM(model_config, dataset.tokenizer.vocab_size, seed=config.seed)
        model.to(machine.device)
        if base is not None:
            model.load_weights(base.weights_for(dataset.tokenizer, model.weights()))
        trainer, seconds = tuned_trainer(
            model,
            dataset,
            stream,
            config,
            machine,
            free_threads=machine.compute.threads is None,
            init_from=str(init_from or ""),
            init_sha256="" if base is None else base.weights_sha256(),
        )
        if machine.compute.precision == "auto" and trainer.device.type == "cpu":
            again = argument("precision", trainer.precision)
            notices.append(f"precision by a short measurement; {again} repeats it")
        if config.steps is None:  # in minutes
            left = 60 * config.minutes - (time.monotonic() - began)
            notices += _plan_time(trainer, seconds / machine.processes.size, left)
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
    machine: Machine,
    on_progress: ProgressCallback,
) -> tuple[Dataset, Stream, ModelConfig, TrainConfig, list[str]]:
    """Read the text and choose the settings; return them with lines that tell what was chosen."""
    if base is not None:
        settings = _own_settings(base) | settings
    read = text_reader(paths, on_progress)
    found = survey(read())
    tokenizer, model_config, config, notices = choose_settings(found, settings, machine, base)
    processes = machine.processes
    large = found.characters >= id_cache.LARGE
    if processes.first or not large:
        ids = id_cache.encode(read, found, tokenizer, folder if large else None)
    if large:
        processes.broadcast(None)  # wait until the file is there
        ids = id_cache.open_ids(folder)
    dataset = Dataset.from_ids(
        ids,
        tokenizer,
        found.fingerprint,
        config.validation_fraction,
        tuple(map(str, paths)),
        items=bool(model_config.items),
    )
    stream = dataset.stream(config)  # refuses sizes that the text does not fill
    if config.epochs is not None:
        config = replace(config, steps=config.epochs * stream.windows_per_epoch, epochs=None)
    return dataset, stream, model_config, config, notices


def choose_settings(
    found: Survey, settings: dict[str, Any], machine: Machine, base: Checkpoint | None = None
) -> tuple[CharTokenizer, ModelConfig, TrainConfig, list[str]]:
    """Choose the vocabulary and what was not given, as the text, the time and the machine ask for.

    Args:
        found: what is known of the text.
        settings: what the user gave, see :func:`start`, but how it is computed.
        machine: where it is computed; how fast that is, is measured for a run in minutes.
        base: the run whose weights to start with, if any.

    Returns:
        The vocabulary, both configs, and lines that tell what was chosen.

    Raises:
        ConfigError: for settings that are wrong.
    """
    choose = functools.partial(
        choose_configs,
        found.characters,
        settings,
        lines=found.lines,
        is_list=found.is_list,
        repetition=found.repetition,
    )
    _, config, _ = choose()  # refuses what is wrong with the settings
    tokenizer = CharTokenizer.from_counts(found.counts, min_count=config.min_count)
    if base is not None:
        tokenizer = tokenizer.union(base.tokenizer)
    keep_memory()  # now that the text is read: what that took goes back to the system
    processes = machine.processes
    readable = None
    if config.steps is None and config.epochs is None:
        speed = autotune.reference_speed(
            tokenizer.vocab_size,
            machine.device,
            machine.compute,
            rounds=1 if config.minutes < SHORT else math.inf,
        )
        readable = processes.broadcast(60 * config.minutes * speed) * processes.size
    return tokenizer, *choose(vocab_size=tokenizer.vocab_size, readable=readable)


def _base(init_from: PathLike, settings: dict[str, Any]) -> Checkpoint:
    """Return the run whose weights to start with, unless a model is asked for beside it."""
    base = checkpoints.load(checkpoints.locate(init_from), model_only=True)
    twice = sorted(settings.keys() & _own_settings(base).keys())
    if twice:
        raise ConfigError(
            f"{', '.join(map(argument, twice))} cannot be given with {argument('init_from')}, "
            "which has its own model"
        )
    return base


def _own_settings(base: Checkpoint) -> dict[str, Any]:
    """Return the settings of a model, but whether it reads a list: that is up to the new text."""
    return {n: v for n, v in base.model_config.to_dict().items() if n != "items"}


def _plan_time(trainer: Trainer, seconds: float, left: float) -> list[str]:
    """Fit a run in minutes to its text and to this machine.

    Args:
        trainer: of the run.
        seconds: how long a step takes.
        left: seconds left for all steps.

    Returns:
        A line for people, if the text is too short for so much time, or the time for a start.
    """
    config, dataset = trainer.config, trainer.dataset
    steps = trainer.stream.windows_per_epoch
    epochs = max_epochs(dataset.characters, dataset.tokenizer.vocab_size)
    most = min(epochs * steps, max(1, math.ceil(left / seconds)))  # steps of the run
    bounded = replace(config, steps=int(most))
    interval = max(1, min(EPOCHS_UNSEEN * steps, math.ceil(most / NUM_EVALUATIONS)))
    trainer.most_interval = None if config.eval_every else EPOCHS_UNSEEN * steps
    trainer.config = replace(
        config, warmup_steps=bounded.warmup, eval_every=config.eval_every or interval
    )
    if epochs * steps * seconds < left:
        trainer.most_interval = None if config.eval_every else interval
        plan = f"{min(bounded.decay[0][0], int(most) - 1)}:{bounded.steps}"
        trainer.config = replace(trainer.config, decay_plan=plan)
        return [f"{epochs} epochs, as so short a text would be memorised with more"]
    spent = 60 * config.minutes - left
    if spent < 30 * config.minutes:
        return []
    asked = 60 * config.minutes
    return [f"starting took {spent:.0f} of {asked:.0f} seconds: give more minutes"]
