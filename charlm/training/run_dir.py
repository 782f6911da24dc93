"""The folder of a run on disk. Who creates or opens it holds it until it is released.

best.safetensors      the checkpoint with the lowest validation loss
latest.safetensors    the checkpoint to resume from
metrics.jsonl         one line of JSON per evaluation
text.npy, text.json   the ids of a large text, see ``data.id_cache``
"""

import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

from charlm import checkpoint as checkpoints
from charlm.checkpoint import Checkpoint
from charlm.data import id_cache
from charlm.errors import CheckpointError, ConfigError, argument
from charlm.files import (
    TEMPORARY,
    PathLike,
    as_path,
    make_folder,
    open_regular,
    shell_command,
    write_atomically,
)
from charlm.training.lock import LOCK, Lock

METRICS = "metrics.jsonl"
OWN_FILES = ("best.safetensors", "latest.safetensors", METRICS, id_cache.IDS, id_cache.FACTS)
LONGEST_LINE = 10_000  # bytes of the metrics


class RunDir:
    """A run folder, and the lock on it.

    Attributes:
        path: the folder.
        made: folders that were made for it, innermost first.
    """

    def __init__(self, path: Path, lock: Lock | None = None):
        self.path = path
        self.lock = lock
        self.made: list[Path] = []

    @classmethod
    def create(cls, text: Path, out: PathLike | None) -> "RunDir":
        """Make and lock the folder of a new run on ``text``, which must be new or empty.

        ``text`` is the first text, or the folder that the texts are in.

        Without ``out`` it is ``checkpoints/<name of the text>``, with a number behind the name
        where such a folder is there already.

        Raises:
            ConfigError: if there is something in it.
            CheckpointError: if it cannot be made, or another process is training in it.
        """
        if out is not None:
            return cls._claim(Path(out))
        name = name_of(text)
        for number in itertools.count(1):
            folder = Path("checkpoints") / (name if number == 1 else f"{name}-{number}")
            if not folder.exists() or (folder.is_dir() and checkpoints.is_unused(folder)):
                with contextlib.suppress(ConfigError):  # another process was faster
                    return cls._claim(folder)
        raise AssertionError

    @classmethod
    def _claim(cls, path: Path) -> "RunDir":
        if path.exists() and not path.is_dir():
            raise ConfigError(
                f"{path} is a file, not a run folder: choose another name with {argument('out')}"
            )
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        make_folder(path)
        try:
            run_dir = cls.open(path)
            if not checkpoints.is_unused(path):
                run_dir.release()
                raise ConfigError(
                    f"run folder {path} is there already and not empty: choose another with "
                    f"{argument('out')}, or continue that run: "
                    + shell_command(["charlm", "resume", as_path(path)])
                )
        except CheckpointError as error:
            raise ConfigError(error.message) from None
        run_dir.made = made
        return run_dir

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """Lock an existing run folder, and remove what an interrupted write has left in it.

        Raises:
            CheckpointError: if another process is training in it.
        """
        run_dir = cls(path, Lock(path))
        for leftover in path.glob(TEMPORARY):
            if leftover.name != LOCK:
                with contextlib.suppress(OSError):
                    leftover.unlink()
        return run_dir

    def discard(self) -> None:
        """Remove what a start has written, as it failed; nothing else, and only where it wrote."""
        with contextlib.suppress(CheckpointError):
            self._check()  # the path may lead to another folder by now
            for path in (*map(self.path.joinpath, OWN_FILES), *self.path.glob(TEMPORARY)):
                # Windows removes no ids that are mapped. With their facts they count as nothing.
                if path.name == id_cache.FACTS and path.with_name(id_cache.IDS).exists():
                    continue
                with contextlib.suppress(OSError):
                    path.unlink()
            if self.lock is not None and self.lock.file is not None:
                self.release()  # its file is in the folder
            for folder in self.made:
                with contextlib.suppress(OSError):  # somebody has put something into it
                    folder.rmdir()
        self.release()

    def release(self) -> None:
        """Let others train in this folder."""
        if self.lock is not None:
            self.lock.release()

    def save(self, checkpoint: Checkpoint, *names: str) -> None:
        """Write a checkpoint as ``best``, as ``latest``, or as both, in this order."""
        self._check()
        for name in names:
            checkpoints.save(checkpoint, self.path / f"{name}.safetensors")

    def log(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics.

        Raises:
            CheckpointError: if it cannot be written.
        """
        self._check()
        path = self.path / METRICS
        try:
            with open_regular(path, "ab") as file:
                file.write((json.dumps(values) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror}") from None

    def cut_metrics(self, step: int) -> None:
        """Remove from the metrics all that was written after ``step``, and a half-written line."""
        path = self.path / METRICS
        kept = []
        try:
            with open_regular(path, "rb") as file:
                for line in iter(lambda: file.readline(LONGEST_LINE), b""):
                    if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                        break
                    kept.append(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # a line that was not written whole
        write_atomically(path, b"".join(kept))

    def _check(self) -> None:
        if self.lock is not None:
            self.lock.check()


def name_of(text: Path) -> str:
    """Return the name that the run folders of a text, or of a folder of texts, begin with."""
    stem = text.resolve().name if text.is_dir() else text.stem
    return (stem.strip(".") and stem) or "text"  # of a file called ..txt
