"""The runs that are served: their models, loaded anew when a training has found a better one."""

import math
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from charlm import checkpoint as checkpoints
from charlm.api import LanguageModel
from charlm.checkpoint import Checkpoint
from charlm.errors import CheckpointError, ConfigError
from charlm.files import age_of
from charlm.server.errors import RequestError
from charlm.server.worker import Worker
from charlm.training.metrics import read_metrics
from charlm.training.run_dir import METRICS

LOOK_SECONDS = 1.0  # between two looks whether a checkpoint has changed
SAMPLE_LENGTH = 200  # characters of the sample of a run

FileStamp = tuple[int, int, int]  # what changes when a file is replaced


class Run:
    """A run that is served.

    Args:
        name: what requests call it.
        run: a run folder, its name under ``checkpoints/``, or a model file.
        unknown: see ``charlm.load``.
        exact: whether to compute it in whole numbers.

    Raises:
        CheckpointError: if there is no such run, or its model cannot be read.
    """

    def __init__(self, name: str, run: Path, *, unknown: str, exact: bool):
        self.name = name
        self.run = run
        self.unknown = unknown
        self.exact = exact
        self._lock = threading.Lock()
        self._lm: LanguageModel | None = None
        self._workers: list[Worker] = []  # the last one draws with the model as it is now
        self._drawn = 0  # by those that have ended
        self._stamp: FileStamp | None = None
        self._looked = -math.inf
        self._sample: tuple[LanguageModel, str] | None = None
        if run.is_dir() and not has_model(run):
            return  # its training has just begun
        self._load()

    def current(self) -> tuple[LanguageModel, Worker]:
        """Return the best model as it is now, and what draws with it.

        Raises:
            RequestError: if there is none yet.
        """
        with self._lock:
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._looked = time.monotonic()
                try:
                    self._load()
                except (CheckpointError, OSError) as error:  # it may have been moved away
                    if self._lm is None:
                        raise RequestError(
                            f"{self.name} has no model yet: {error}",
                            503,
                            headers={"Retry-After": "5"},
                        ) from None
            assert self._lm is not None
            return self._lm, self._workers[-1]

    def _load(self) -> None:
        path = checkpoints.locate(self.run)
        stamp = stamp_of(path)
        if stamp == self._stamp:
            return
        lm = LanguageModel(checkpoints.load(path, model_only=True), unknown=self.unknown)
        if self.exact and not lm.checkpoint.exact:
            lm = lm.exact()
        if self._workers:
            self._workers[-1].close()  # when its streams are at their end
        self._lm, self._stamp = lm, stamp
        self._workers.append(Worker(lm))

    def workers(self) -> list[Worker]:
        """Return what draws, with the model as it is now and as it was before; forget the rest."""
        with self._lock:
            ended = [worker for worker in self._workers if not worker.is_alive]
            self._drawn += sum(worker.drawn for worker in ended)
            self._workers = [worker for worker in self._workers if worker.is_alive]
            return self._workers

    @property
    def drawn(self) -> int:
        """Characters drawn so far, by all of them."""
        return sum(worker.drawn for worker in self.workers()) + self._drawn

    def head(self) -> Checkpoint | None:
        """Return the latest checkpoint without its tensors; None if there is none yet."""
        try:
            return checkpoints.load_head(checkpoints.locate(self.run, "latest"))
        except CheckpointError:
            return None

    def card(self) -> dict[str, Any]:
        """Return what a list of models says of it, in OpenAI's shape with a part of our own."""
        head = self.head()
        place = checkpoints.locate(self.run, "latest") if head else self.run
        ready = self._lm is not None or has_model(self.run)
        own = {"ready": ready} if head is None else _facts(head) | {"ready": ready}
        own["exact"] = self.exact or (head is not None and head.exact)
        return {
            "id": self.name,
            "object": "model",
            "created": int(stamp_of(place)[0] / 1e9),
            "owned_by": "charlm",
            "charlm": own,
        }

    def progress(self) -> dict[str, Any]:
        """Return how the training of the run went, or how far it is."""
        head = self.head()
        facts: dict[str, Any] = {"id": self.name, "evaluations": [], "sample": None}
        if head is None:
            return facts | {"finished": False}
        path = checkpoints.locate(self.run, "latest")
        metrics = path.parent / METRICS
        if path.stem in ("best", "latest") and metrics.is_file():
            facts["evaluations"] = read_metrics(metrics)
        return (
            facts
            | _facts(head)
            | _pace(head, facts["evaluations"])
            | {
                "saved_seconds_ago": max(0.0, age_of(path)),
                "settings": head.model_config.to_dict() | head.train_config.to_dict(),
                "sample": self._written(),
            }
        )

    def _written(self) -> str | None:
        """Return a sample of the model as it is now, always with one seed."""
        try:
            lm, _ = self.current()
        except RequestError:
            return None
        if self._sample is None or self._sample[0] is not lm:
            self._sample = lm, lm.generate(length=SAMPLE_LENGTH, seed=1)
        return self._sample[1]


def _facts(head: Checkpoint) -> dict[str, Any]:
    """Return what a model is and what it was trained on."""
    config, counters = head.model_config, head.counters
    return {
        "backbone": config.backbone,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "attention": config.attention,
        "parameters": config.num_parameters(head.tokenizer.vocab_size),
        "vocabulary": head.tokenizer.vocabulary,
        "items": bool(config.items),
        "validation_loss": counters.loss,
        "finished": _is_finished(head),
        # Their folders are nobody's business.
        "files": [encodable(Path(file).name) for file in head.source.files],
        "characters": head.source.characters,
    }


def _is_finished(head: Checkpoint) -> bool:
    total = head.train_config.total_steps
    return total is not None and head.counters.step >= total


def _pace(head: Checkpoint, evaluations: list[dict[str, float]]) -> dict[str, Any]:
    """Return how far a training is, how fast, and about how long it goes on."""
    counters, config = head.counters, head.train_config
    step, seconds, total = counters.step, counters.seconds, config.total_steps
    left = None
    if _is_finished(head):
        left = 0.0
    elif total is not None and step:
        left = (total - step) * seconds / step
    elif config.minutes is not None:
        left = max(0.0, config.minutes * 60 - seconds)
    return {
        "step": step,
        "steps": total,
        "minutes": config.minutes,
        "seconds": seconds,
        "seconds_left": left,
        "chars_per_second": evaluations[-1]["chars_per_second"] if evaluations else None,
        "best_step": counters.best_step,
    }


class Models:
    """All runs that are served, by name.

    Args:
        runs: run folders, their names under ``checkpoints/``, or model files.
        unknown, exact: see :class:`Run`.

    Raises:
        CheckpointError: if one of them cannot be read.
        ConfigError: if two of them have the same name.
    """

    def __init__(self, runs: Iterable[str], *, unknown: str = "error", exact: bool = False):
        self.runs: dict[str, Run] = {}
        for run in runs:
            place = find(run)
            name = name_of(place)
            if name in self.runs:
                raise ConfigError(
                    f"two of the runs are called {name}: {self.runs[name].run} and {place}; serve "
                    "one of them, or rename its folder"
                )
            self.runs[name] = Run(name, place, unknown=unknown, exact=exact)

    def get(self, name: str) -> Run:
        """Return a run; an empty name stands for the only one.

        Raises:
            RequestError: if there is none of this name.
        """
        if name in self.runs:
            return self.runs[name]
        if not name and len(self.runs) == 1:
            return next(iter(self.runs.values()))
        known = ", ".join(self.runs)
        if not name:
            raise RequestError(f"model is missing: give one of {known}", param="model")
        raise RequestError(f"there is no model {name[:100]!r}: {known}", 404, param="model")

    def cards(self) -> list[dict[str, Any]]:
        """Return what is told of each; see :meth:`Run.card`."""
        return [run.card() for run in self.runs.values()]

    def workers(self) -> list[Worker]:
        """Return what draws now."""
        return [worker for run in self.runs.values() for worker in run.workers()]

    def stop(self) -> None:
        """Let nothing more be drawn than what ends in a moment."""
        for worker in self.workers():
            worker.stop()


def find(run: str) -> Path:
    """Return the folder or file of a run; a folder may be that of a training that has just begun.

    Raises:
        CheckpointError: if there is none.
    """
    for place in (Path(run), Path("checkpoints") / run):
        if place.is_dir() and checkpoints.is_unused(place):
            return place
    path = checkpoints.locate(run)
    return path.parent if path.stem in ("best", "latest") else path


def has_model(run: Path) -> bool:
    """Return whether a run has a model already."""
    try:
        checkpoints.locate(run)
    except CheckpointError:
        return False
    return True


def name_of(place: Path) -> str:
    """Return what requests call the run at a place."""
    return encodable(place.resolve().name if place.is_dir() else place.stem)


def encodable(name: str) -> str:
    """Return the name of a file as UTF-8 can hold it: other bytes of it become U+FFFD.

    >>> encodable("run\\udcff")
    'run\ufffd'
    """
    return os.fsencode(name).decode("utf-8", "replace")


def stamp_of(path: Path) -> FileStamp:
    """Return what changes when a file is replaced."""
    found = os.stat(path)  # noqa: PTH116
    return found.st_mtime_ns, found.st_size, found.st_ino
