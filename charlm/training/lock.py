"""A lock on a run folder: one trainer at a time, also if one of them dies."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path

from charlm.errors import CheckpointError

try:
    import fcntl
except ImportError:  # pragma: no cover (Windows, which has no such lock)
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Holds a folder until it is released, or until the process ends in whatever way.

    The lock is on the folder itself, in the kernel, so nothing is left behind.

    Args:
        folder: an existing folder.

    Raises:
        CheckpointError: if another one holds it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.descriptor: int | None = None
        self.release: Callable[[], object] = lambda: None
        if fcntl is None:  # pragma: no cover
            return
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"cannot open folder {folder}: {error.strerror}") from None
        self.descriptor = descriptor
        self.release = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise CheckpointError(
                f"another process is training in run folder {folder}: wait until it ends, or stop "
                "it first"
            ) from None
        except OSError:  # a file system without locks
            pass

    def check(self) -> None:
        """Raise CheckpointError if the folder has been moved or replaced since it was locked."""
        if self.descriptor is None:  # pragma: no cover
            return
        mine = os.fstat(self.descriptor)
        try:
            there = os.stat(self.folder)  # noqa: PTH116
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise CheckpointError(
                f"cannot write to run folder {self.folder}: it was moved or removed during the "
                "training; resume the run where it is now, from its last save"
            )
