"""A run: a folder that a trainer fills, see ``folders``.

A new run is one call of :func:`start`, a stopped one goes on with :func:`resume`; both return a
:class:`Run`, which trains, logs and saves as its progress is read.
"""

import contextlib
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from charlm import checkpoint as checkpoints
from charlm import folders, machine, texts
from charlm.checkpoint import Checkpoint, Counters
from charlm.config import ModelConfig, TrainConfig
from charlm.corpus import Corpus, LaneStream, PathLike, Survey, survey
from charlm.dynamic import evaluate_dynamic
from charlm.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    DivergenceError,
    ProcessError,
)
from charlm.evaluation import Evaluation, evaluate
from charlm.locks import Lock
from charlm.model import CharLM
from charlm.processes import Processes, is_of_another_process, join
from charlm.recipes import configs_for, enough_epochs
from charlm.scan import OnRead, nothing
from charlm.tokenizer import CharTokenizer, Ids
from charlm.training import Progress, Trainer


class Run:
    """A trainer and the folder that it fills.

    Attributes:
        folder: where the checkpoints and the metrics are.
        lock: holds the folder until the training ends; only in the first of several processes.
        trainer: what computes.
        notices: one line for each thing that was chosen for the user.
    """

    def __init__(
        self, folder: Path, lock: Lock | None, trainer: Trainer, notices: Iterable[str] = ()
    ):
        self.folder = folder
        self.lock = lock
        self.trainer = trainer
        self.notices = list(notices)

    def progress(self, stopping: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Train to the end, yielding after every step, once what belongs on disk is there.

        Args:
            stopping: asked after every step; where it is so, in one of several processes, the run
                is saved and left, unless it has just come to its end.

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
                f"{error}; {self.folder / 'latest.safetensors'} is from before, and charlm resume "
                f"{shlex.quote(str(self.folder))} --learning-rate RATE goes on from it"
            ) from None
        except RuntimeError as error:
            if not is_of_another_process(error):
                raise
            raise ProcessError(
                f"another process of this training has ended; {self.folder / 'latest.safetensors'} "
                f"is from before, and charlm resume {shlex.quote(str(self.folder))} goes on from "
                "it, in any number of processes"
            ) from None
        finally:
            if self.lock is not None:
                self.lock.release()
            self.trainer.processes.leave()

    def save(self, *names: str) -> None:
        """Write what the trainer is now as ``best``, as ``latest``, or as both, in this order.

        Of several processes all have to call this, and the first one writes.
        """
        now = self.trainer.checkpoint()
        for name in names if self.trainer.processes.first else ():
            checkpoints.save(now, self.folder / f"{name}.safetensors")

    def _log(self, progress: Progress) -> None:
        if not self.trainer.processes.first:
            return
        line = asdict(progress)
        for name in ("is_best", "steps", "seconds_left", "note"):
            del line[name]
        folders.log(self.folder, line)


def start(
    files: Iterable[PathLike],
    *,
    out: PathLike | None = None,
    init_from: PathLike | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    on_read: OnRead = nothing,
    began: float | None = None,
    **settings: Any,
) -> Run:
    """Begin a new run.

    Args:
        files: UTF-8 texts, joined in this order.
        out: the run folder; ``checkpoints/<name of the first file>`` if absent, with a number
            behind it where such a run is there already.
        init_from: a run whose weights to begin with; rows of the embedding and the head are matched
            by character.
        device: one of ``machine.DEVICES``.
        precision: ``auto``, which is the fastest here, or one of ``config.PRECISIONS``.
        threads: of torch; None for the fastest.
        on_read: called now and then with the number of bytes of the text, which is read twice, that
            were read since.
        began: since when the time counts, by ``time.monotonic``; None is now.
        settings: any field of ``ModelConfig`` and ``TrainConfig``; what is not given follows from
            the length of the text and the time, see ``recipes.configs_for``.

    Raises:
        CharlmError: for anything that is wrong with the text, the settings or the folder; nothing
            has then been written.
    """
    paths = [Path(path) for path in files]
    if not paths:
        raise CorpusError("no text file was given")
    began = time.monotonic() if began is None else began
    where = machine.device(device)
    processes = join(where)
    if out is not None and processes.first:
        folders.check_new(Path(out))
    base = None if init_from is None else _base(init_from, settings)
    if base is not None:
        settings |= base.model_config.to_dict()
    text = texts.source(paths, on_read)
    found = survey(text())
    model_config, config, notices = configs_for(found.characters, settings)
    tokenizer = CharTokenizer.from_counts(found.counts, min_count=config.min_count)
    if base is not None:
        tokenizer = tokenizer.union(base.tokenizer)
    machine.keep_memory()  # now that the text is read: what that took goes back to the system
    if config.steps is None:
        speed = machine.reference_speed(tokenizer.vocab_size, where, precision, threads)
        readable = processes.same(60 * config.minutes * speed) * processes.size
        model_config, config, notices = configs_for(found.characters, settings, readable=readable)
    with contextlib.ExitStack() as undo:
        folder = None
        if found.characters >= texts.LARGE:
            folder = _made(paths[0], out, processes)
            if processes.first:
                undo.callback(shutil.rmtree, folder, ignore_errors=True)  # if anything goes wrong
        ids = _encoded(text, found, tokenizer, folder, processes)
        names = tuple(map(str, paths))
        fraction = config.validation_fraction
        corpus = Corpus.from_ids(ids, tokenizer, found.fingerprint, fraction, names)
        # Refuses sizes that the text does not fill, before they are tried on a model.
        LaneStream(corpus.train, batch_size=config.batch_size, seq_length=config.seq_length)
        model = CharLM(model_config, tokenizer.vocab_size, seed=config.seed).to(where)
        if base is not None:
            model.load_weights(base.weights_for(tokenizer, model.weights()))
        hows = machine.hows(precision, threads, model)
        trainer, seconds = _trainer(model, corpus, config, hows, str(init_from or ""), processes)
        if precision == "auto" and where.type == "cpu":
            chosen = trainer.precision
            notices.append(f"arithmetic by a short measurement; --precision {chosen} repeats it")
        if config.steps is None:
            notices += _set_pace(trainer, seconds / processes.size)
            trainer.config = processes.same(trainer.config)
        trainer.counters = Counters(seconds=time.monotonic() - began)
        folder = folder or _made(paths[0], out, processes)
        run = Run(folder, Lock(folder) if processes.first else None, trainer, notices)
        undo.pop_all()
    run.save("latest")  # so that a run can be resumed from its first moment on
    return run


def _made(text: Path, out: PathLike | None, processes: Processes) -> Path:
    """Return the new folder of a run, which the first process makes."""
    folder = processes.same(folders.make(text, out) if processes.first else None)
    assert folder is not None
    return folder


def _encoded(
    text: texts.Source,
    found: Survey,
    tokenizer: CharTokenizer,
    folder: Path | None,
    processes: Processes,
) -> Ids:
    """Return the ids of a text, of a large one in a file that the first process writes."""
    if folder is None:
        return texts.encode(text, found, tokenizer, None)
    if processes.first:
        texts.encode(text, found, tokenizer, folder)
    processes.same(None)  # wait until it is there
    return texts.mapped(folder)


def _base(init_from: PathLike, settings: dict[str, Any]) -> Checkpoint:
    """Return the run whose weights to begin with, unless a model is asked for beside it."""
    twice = ", ".join(sorted(settings.keys() & set(ModelConfig.names())))
    if twice:
        raise ConfigError(f"{twice} cannot be given with init_from, which has its own model")
    return checkpoints.load(checkpoints.locate(init_from), model_only=True)


def _trainer(
    model: CharLM,
    corpus: Corpus,
    config: TrainConfig,
    hows: list[machine.How],
    init_from: str,
    processes: Processes,
) -> tuple[Trainer, float]:
    """Return a trainer that computes in the fastest of ``hows``, and the seconds of a step."""
    (precision, threads), seconds = processes.same(machine.fastest(hows, model, config))
    trainer = Trainer(
        model,
        corpus,
        config,
        precision=precision,
        threads=threads,
        init_from=init_from,
        processes=processes,
    )
    return trainer, seconds


def _set_pace(trainer: Trainer, seconds: float) -> list[str]:
    """Fit a run in minutes to its text and to this machine, where a step takes ``seconds``.

    Returns:
        A line for people, if the text is too short for so much time.
    """
    config, corpus = trainer.config, trainer.corpus
    steps = trainer.stream.windows_per_epoch
    epochs = enough_epochs(corpus.characters)
    if epochs * steps * seconds < 60 * config.minutes:
        trainer.config = replace(config, steps=int(epochs * steps))
        return [f"{epochs} epochs, as more would learn so short a text by heart"]
    trainer.evaluation_seconds = machine.evaluation_seconds(trainer.model, corpus)
    trainer.config = machine.paced(config, seconds, steps * seconds, trainer.evaluation_seconds)
    return []


def resume(
    run: PathLike,
    *,
    text: Iterable[PathLike] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    learning_rate: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    on_read: OnRead = nothing,
) -> Run:
    """Go on with a run exactly where its latest checkpoint is.

    Args:
        run: the run folder, its name under ``checkpoints/``, or a checkpoint file in it.
        text: where the text is now, if not where it was; it must be the same text.
        steps: a new total of steps. The schedule is laid out anew over this total: the learning
            rate is from now on that of a run which had this length from the beginning.
        minutes: a new total of minutes, in place of steps.
        learning_rate: a new peak of the learning rate.
        device: one of ``machine.DEVICES``.
        precision: ``auto`` is what the run trained with so far.
        threads: of torch; None is as many as so far.
        on_read: see :func:`start`.

    Raises:
        CharlmError: if there is no such run, or its text has changed.
    """
    path = _latest(run)
    where = machine.device(device)
    processes = join(where)
    lock = Lock(path.parent) if processes.first else None
    found = checkpoints.load(path)
    config = _extended(found.train_config, steps, minutes)
    if learning_rate is not None:
        config = replace(config, learning_rate=learning_rate)
    _check_unfinished(path.parent, found.counters, config)
    corpus = texts.same_corpus(found, path.parent, text, on_read)
    machine.keep_memory()
    model = CharLM(found.model_config, found.tokenizer.vocab_size)
    model.to(where)
    if precision == "auto":
        precision = found.precision
    hows = machine.hows(precision, found.threads if threads is None else threads, model)
    trainer, _ = _trainer(model, corpus, config, hows, found.init_from, processes)
    trainer.restore(found)
    if processes.first:
        folders.cut_metrics(path.parent, found.counters.step)
    is_latest = path.stem == "latest"
    notices = [] if is_latest else [f"to go on from {path}, as there is no latest{path.suffix}"]
    return Run(path.parent, lock, trainer, notices)


def _latest(run: PathLike) -> Path:
    """Return the checkpoint to go on from."""
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


def _extended(config: TrainConfig, steps: int | None, minutes: float | None) -> TrainConfig:
    """Return ``config`` with a new total, if one is given; the rate falls in as large a share."""
    if steps is not None and minutes is not None:
        raise ConfigError("steps and minutes cannot both be given: one follows from the other")
    if minutes is not None:
        return replace(config, minutes=minutes, steps=None, decay_steps=None)
    if steps is None:
        return config
    if config.steps is None or config.decay is None:
        return replace(config, steps=steps)
    return replace(config, steps=steps, decay_steps=round(config.decay * steps / config.steps))


def score(
    found: Checkpoint,
    text: str,
    *,
    held_out: bool = False,
    device: str = "auto",
    dynamic: bool = False,
    on_read: OnRead = nothing,
) -> Evaluation:
    """Return how well the model of ``found`` predicts ``text``.

    Args:
        found: a checkpoint; its model is enough.
        text: any text in its vocabulary.
        held_out: score only the part of ``text`` that the run's training would hold out.
        device: one of ``machine.DEVICES``.
        dynamic: let the model learn from the text as it reads, see ``dynamic``.
        on_read: with ``dynamic``, called now and then with the number of characters read since.
    """
    tokenizer = found.tokenizer
    ids = tokenizer.encode(text)
    if held_out:
        fraction = found.train_config.validation_fraction
        ids = Corpus.from_ids(ids, tokenizer, "", fraction).validation
    model = CharLM(found.model_config, tokenizer.vocab_size)
    model.load_weights(found.weights)
    model.to(machine.device(device))
    return evaluate_dynamic(model, ids, on_read=on_read) if dynamic else evaluate(model, ids)
