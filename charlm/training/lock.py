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
        self.release: Callable[[], object] = lambda: None
        if fcntl is None:  # pragma: no cover
            return
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"cannot open folder {folder}: {error.strerror}") from None
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
