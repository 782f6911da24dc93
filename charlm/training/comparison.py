"""A comparison: several backbones, trained on the same text with the same budget.

It is a folder. Each training has a run folder in it, ``<backbone>-<seed>``, and beside these stand

compare.json    what was asked, the settings of all runs, and all figures
compare.html    the same as a page

It may be stopped at any moment: what is finished stays, and a run that was begun is resumed. The
figures are computed in :mod:`charlm.training.figures`.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charlm import checkpoint as checkpoints
from charlm.cells import CELLS
from charlm.checkpoint import Checkpoint
from charlm.config import CompareConfig, ComputeConfig
from charlm.data.text_files import Survey, find_texts, survey, text_reader
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CheckpointError, ConfigError, CorpusError, DivergenceError, argument
from charlm.files import (
    PathLike,
    ProgressCallback,
    check_name,
    is_regular_file,
    make_folder,
    no_progress,
    open_regular,
    write_atomically,
)
from charlm.training.comparison_plan import FORMAT, Document, begun, extend, part
from charlm.training.progress import Progress
from charlm.training.resume import resume
from charlm.training.run import Machine, Run
from charlm.training.run_dir import RunDir, name_of
from charlm.training.start import start

JSON, PAGE = "compare.json", "compare.html"
# What a training in minutes or epochs finds out by itself, and writes into its settings.
FOUND_OUT = ("epochs", "eval_every", "warmup_steps", "decay_steps", "decay_plan")


@dataclass(frozen=True)
class Member:
    """One training of a comparison.

    Attributes:
        backbone: what is trained.
        seed: of the training.
        folder: its run folder.
    """

    backbone: str
    seed: int
    folder: Path


class Comparison:
    """A comparison and the folder that it fills; it holds that folder until it is released.

        >>> comparison = Comparison.open(["corpora/english.txt"], CompareConfig(), steps=100)
        >>> for member in comparison.left():
        ...     for progress in comparison.train(member):
        ...         pass

    Attributes:
        folder: where it is.
        document: what ``compare.json`` holds.
        texts: the text files.
    """

    def __init__(self, run_dir: RunDir, document: Document, texts: list[Path]):
        self.run_dir = run_dir
        self.folder = run_dir.path
        self.document = document
        self.texts = texts
        self.started: Run | None = None  # the first run of a new one

    @classmethod
    def open(
        cls,
        files: Iterable[PathLike],
        config: CompareConfig,
        *,
        out: PathLike | None = None,
        on_progress: ProgressCallback = no_progress,
        **settings: Any,
    ) -> "Comparison":
        """Begin a comparison, or open one that was asked for in the same way before.

        One that is there already keeps its runs, and takes on more seeds and more backbones.

        Args:
            files: UTF-8 texts, as for :func:`charlm.training.start.start`.
            config: what to compare.
            out: its folder; ``checkpoints/<name of the first file or folder>-compare`` if absent,
                with a number behind it where something else is there already.
            on_progress: progress callback, told the number of bytes read of the text.
            settings: those of :func:`charlm.training.start.start`, but backbone and seed.

        Raises:
            CharlmError: for anything that is wrong with the text, the settings, the folder or a
                run in it; nothing has then been written.
        """
        paths = [Path(file) for file in files]
        texts, notices = _find_texts(paths, out)
        machine = Machine.find(ComputeConfig.from_dict(part(settings, ComputeConfig.names())))
        if machine.processes.size > 1:
            raise ConfigError("a comparison is computed by one process: leave torchrun out")
        found = survey(text_reader(texts, on_progress)())
        folder = _folder(paths[0], out, found.fingerprint)
        with contextlib.ExitStack() as undo:
            run_dir = _claim(folder, undo)
            document = _read(folder)
            is_new = document is None
            if document is None:
                document = begun(found, config, settings, machine)
                document["text"]["files"] = [str(text) for text in texts]
                document["notices"] = [*notices, *document["notices"]]
                undo.callback((folder / JSON).unlink, missing_ok=True)
            else:
                _check_same(folder, document, found, config, settings)
            extend(document, config, settings)
            comparison = cls(run_dir, document, texts)
            least = document["common"]["min_count"]
            tokenizer = CharTokenizer.from_counts(found.counts, min_count=least)
            tokenizer.encode(config.prompt, source="the prompt")  # refuses unknown characters
            for member in comparison.members:
                comparison.latest(member)  # refuses what is damaged or something else
            comparison.save()
            if is_new:  # whatever is wrong with the text or the settings is found here
                first = comparison.members[0]
                settings = comparison.settings(first)
                comparison.started = start(texts, out=first.folder, **settings)
            undo.pop_all()
        return comparison

    @property
    def members(self) -> list[Member]:
        """All trainings in the order in which they are done: first one of each backbone."""
        return [
            Member(backbone, seed, self.folder / f"{backbone}-{seed}")
            for seed in range(1, self.document["seeds"] + 1)
            for backbone in self.document["backbones"]
        ]

    def left(self) -> list[Member]:
        """Return the trainings that are not at their end yet."""
        return [member for member in self.members if not self.is_done(member)]

    def is_done(self, member: Member) -> bool:
        """Return whether a training is at its end, or has diverged."""
        found = self.latest(member)
        if found is None:
            return False
        total = found.train_config.total_steps
        return self.divergence(member) is not None or total == found.counters.step

    def divergence(self, member: Member) -> str | None:
        """Return why a training has diverged, if it has."""
        message: str | None = self.document["diverged"].get(member.folder.name)
        return message

    def latest(self, member: Member) -> Checkpoint | None:
        """Return the latest checkpoint of a training without its tensors; None before its start.

        Raises:
            CheckpointError: if it is damaged.
            ConfigError: if it is the run of another training.
        """
        names = [member.folder / f"{stem}.safetensors" for stem in ("latest", "best")]
        there = [path for path in names if path.exists()]
        if not there:
            return None
        found = checkpoints.load_head(there[0])
        why = self._difference(member, found)
        if why:
            raise ConfigError(
                f"run {member.folder} is not one of this comparison: {why}; move it away, or "
                f"choose another folder with {argument('out')}"
            )
        return found

    def _difference(self, member: Member, found: Checkpoint) -> str:
        """Return in what a run differs from what this comparison would have trained, if it does."""
        if found.source.fingerprint != self.document["text"]["sha256"]:
            return "it has read another text"
        if found.stages or found.source.init_from:
            return "its training was changed on the way, or began with other weights"
        have = found.model_config.to_dict() | found.train_config.to_dict()
        have["precision"] = found.source.precision
        for name, value in self.settings(member).items():
            if name in have and name not in FOUND_OUT and have[name] != value:
                return f"its {name} is {have[name]}, and {value} is wanted"
        return ""

    def settings(self, member: Member) -> dict[str, Any]:
        """Return all settings of a training."""
        compute = part(self.document["asked"]["settings"], ("device", "threads"))
        own = self.document["models"][member.backbone]
        return {**self.document["common"], **own, **compute, "seed": member.seed}

    def train(
        self, member: Member, stopping: Callable[[], bool] = lambda: False
    ) -> Generator[Progress, None, None]:
        """Begin or resume a training, and yield after every step.

        A divergence ends it, and is noted; what the others do is a result all the same.

        Args:
            member: the training, one that is not done.
            stopping: see :meth:`charlm.training.run.Run.progress`.
        """
        run = self._begin(member)
        run.keeps_time = False  # all are measured on the same characters
        try:
            with contextlib.closing(run.progress(stopping)) as steps:
                yield from steps
        except DivergenceError as error:
            self.document["diverged"][member.folder.name] = str(error).partition(";")[0]
            self.save()

    def _begin(self, member: Member) -> Run:
        if self.started is not None and self.started.folder == member.folder:
            run, self.started = self.started, None
            return run
        found = self.latest(member)
        if found is not None and found.counters.step == 0:
            # Its start belongs to its minutes, and nothing is lost: begin anew.
            RunDir.open(member.folder).discard()
            found = None
        if found is not None:
            moved = found.source.files != tuple(map(str, self.texts))
            compute = part(self.document["asked"]["settings"], ("device", "threads"))
            return resume(member.folder, text=self.texts if moved else None, **compute)
        self.document["diverged"].pop(member.folder.name, None)  # of a run that was removed
        return start(self.texts, out=member.folder, **self.settings(member))

    def save(self) -> None:
        """Write ``compare.json``.

        Raises:
            CheckpointError: if it cannot be written; the old file is untouched.
        """
        write_atomically(self.folder / JSON, json.dumps(self.document, indent=1).encode())

    def release(self) -> None:
        """Let other processes use the folder."""
        if self.started is not None:
            self.started.run_dir.release()
        self.run_dir.release()


def _find_texts(paths: list[Path], out: PathLike | None) -> tuple[list[Path], list[str]]:
    """Return the text files that paths stand for, and lines that tell what was left out."""
    if not paths:
        raise CorpusError("no text file was given")
    for path in paths if out is None else (*paths, Path(out)):
        check_name(path)
    texts, notices = find_texts(paths)
    for text in texts:
        if text.exists() and not is_regular_file(text):
            raise CorpusError(
                f"{text} is not a regular file, and every run reads its text anew: write it to a "
                "file first"
            )
    return texts, notices


def _folder(text: Path, out: PathLike | None, fingerprint: str) -> Path:
    """Return the folder of a comparison: the one that was named, or the first that can be it."""
    if out is not None:
        return Path(out)
    name = f"{name_of(text)}-compare"
    for number in itertools.count(1):
        folder = Path("checkpoints") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or (folder.is_dir() and checkpoints.is_unused(folder)):
            return folder
        document = _read(folder) if folder.is_dir() else None
        if document is not None and document["text"]["sha256"] == fingerprint:
            return folder
    raise AssertionError


def _claim(folder: Path, undo: contextlib.ExitStack) -> RunDir:
    """Make and lock the folder; what is made is removed if the comparison cannot begin."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"{folder} is a file, not a folder: choose another name with {argument('out')}"
        )
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        undo.callback(_remove_if_empty, path)
    make_folder(folder)
    run_dir = RunDir.open(folder)
    undo.callback(run_dir.release)
    if not (folder / JSON).exists() and not checkpoints.is_unused(folder):
        raise ConfigError(
            f"folder {folder} is not empty and holds no comparison: choose another with "
            f"{argument('out')}"
        )
    return run_dir


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _read(folder: Path) -> Document | None:
    """Return what ``compare.json`` of a folder holds; None if there is none."""
    path = folder / JSON
    try:
        with open_regular(path, "rb") as file:
            document = json.loads(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and document.get("format", FORMAT) != FORMAT:
        raise CheckpointError(f"{path} is of a newer charlm: choose another folder")
    if not (isinstance(document, dict) and _is_whole(document)):
        raise CheckpointError(
            f"{path} is damaged: move it away with its folder, or choose another folder with "
            f"{argument('out')}"
        )
    return document


def _is_whole(document: Document) -> bool:
    """Return whether a document has what this module needs, in the right types."""
    kinds: dict[str, type] = dict.fromkeys(("text", "asked", "common", "models"), dict)
    kinds |= dict.fromkeys(("measured", "diverged"), dict)
    kinds |= {"backbones": list, "seeds": int, "target": int, "notices": list}
    if not all(type(document.get(name)) is kind for name, kind in kinds.items()):
        return False
    settings, seeds = document["asked"].get("settings"), document["seeds"]
    models = [document["models"].get(str(name)) for name in document["backbones"]]
    texts = [document["text"].get("sha256"), document["asked"].get("equal")]
    numbers = [document["text"].get(name) for name in ("characters", "symbols")]
    numbers.append(document["common"].get("min_count"))
    return (
        all(isinstance(one, dict) for one in (settings, *models))
        and all(isinstance(one, str) for one in (*texts, *document["diverged"].values()))
        and all(isinstance(one, int) for one in numbers)
        and 1 <= seeds <= 1000
    )


def _check_same(
    folder: Path,
    document: Document,
    found: Survey,
    config: CompareConfig,
    settings: dict[str, Any],
) -> None:
    """Refuse to go on with a comparison that was begun in another way."""
    advice = f"give the same again, or choose another folder with {argument('out')}"
    if document["text"]["sha256"] != found.fingerprint:
        raise ConfigError(
            f"comparison {folder} is of another text, or its text has changed: {advice}"
        )
    before = document["asked"]["settings"] | {"equal": document["asked"]["equal"]}
    now = settings | {"equal": config.equal}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ConfigError(
                f"comparison {folder} was begun {_with(name, before.get(name))}, and not "
                f"{_with(name, now.get(name))}: {advice}"
            )
    for name in document["backbones"]:
        if name.partition("+")[0] not in CELLS:
            raise ConfigError(
                f"comparison {folder} needs the cell {name!r}, which this charlm does not have: "
                "add it to charlm.cells.CELLS, on the command line with --cell-file"
            )


def _with(name: str, value: object) -> str:
    """Return a setting that was given, or was not, as words of a message."""
    if value is None:
        return f"without {argument(name)}"
    if isinstance(value, bool):
        return f"with {argument(name if value else f'no_{name}')}"
    return f"with {argument(name, value)}"
