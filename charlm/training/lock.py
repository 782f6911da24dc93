"""A lock on a run folder: one trainer at a time, also if one of them dies."""

import contextlib
import importlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path

from charlm.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The file that is locked where there are no locks on folders. Its name is one of those that a write
# uses until it is whole, so one that is left by a killed process counts as nothing.
LOCK = ".charlm-lock.tmp"
LOCKED_BYTE = 1 << 30  # far behind the end: on Windows nobody can read a byte that is locked


class Lock:
    """Holds a folder until it is released, or until the process ends in whatever way.

    The lock is on the folder itself, in the kernel, so nothing is left behind. On Windows it is on
    a file in the folder; only an empty file is left behind by a process that was killed.

    Args:
        folder: an existing folder.

    Raises:
        CheckpointError: if another one holds it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.descriptor: int | None = None
        self.release: Callable[[], object] = lambda: None
        self.file = None if fcntl is not None else folder / LOCK
        try:
            if self.file is None:
                descriptor = os.open(folder, os.O_RDONLY)
            else:
                descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise CheckpointError(f"cannot open folder {folder}: {error.strerror}") from None
        try:
            if self.file is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                _lock_byte(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise CheckpointError(
                f"another process is training in run folder {folder}: wait until it ends, or stop "
                "it first"
            ) from None
        except OSError:  # a file system without locks
            pass
        self.descriptor = descriptor
        self.release = weakref.finalize(self, _close, descriptor, self.file)

    def check(self) -> None:
        """Raise CheckpointError if the folder has been moved or replaced since it was locked."""
        if self.descriptor is None or self.file is not None:  # Windows moves no folder in use
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


def _lock_byte(descriptor: int) -> None:
    """Lock a file as Windows does; raise BlockingIOError if somebody else has locked it."""
    msvcrt = importlib.import_module("msvcrt")
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(error.errno, error.strerror) from None


def _close(descriptor: int, file: Path | None) -> None:
    """Release a lock; its file, if it has one, stays while another process has it open."""
    os.close(descriptor)
    if file is not None:
        with contextlib.suppress(OSError):
            file.unlink()
