"""What several packages need of a disk: atomic writes, digests, names for commands, callbacks."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shlex
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from charlm.errors import CheckpointError, ConfigError

PathLike = str | os.PathLike[str]
ProgressCallback = Callable[[int], object]  # is told how many bytes or characters were done since
TEMPORARY = ".charlm-*.tmp"  # the pattern of the names that a write uses until it is whole
WINDOWS = os.name == "nt"  # all of charlm looks here
REPLACE_SECONDS = 2.0  # that a file may be open in another program when it is replaced on Windows
REPLACE_NAP = 0.02  # seconds between two tries


def no_progress(count: int) -> None:
    """Ignore a progress report."""


def sha256(*parts: Any) -> str:
    """Return the sha256 of bytes or arrays, one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def check_path(value: object, what: str) -> None:
    """Raise ConfigError for an argument that cannot be a path; ``what`` names it."""
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{what} must be a path, a str or a Path (got {value!r:.100})")
    if not os.fspath(value):
        raise ConfigError(f"{what} must not be an empty text")


def check_callback(value: object, what: str) -> None:
    """Raise ConfigError for an argument that cannot be called; ``what`` names it."""
    if not callable(value):
        raise ConfigError(f"{what} must be a function (got {value!r:.100})")


def as_files(files: PathLike | Iterable[PathLike]) -> list[PathLike]:
    """Return one path or several as a list.

    Raises:
        ConfigError: for anything else.
    """
    several = [files] if isinstance(files, str | os.PathLike) else files
    if isinstance(several, bytes) or not isinstance(several, Iterable):
        raise ConfigError(f"files must be a path or several (got {files!r:.100})")
    found = list(several)
    for file in found:
        check_path(file, "a file")
    return found


def check_name(path: Path) -> None:
    """Raise ConfigError for what cannot be the name of a file on any system."""
    try:
        usable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ConfigError(f"{str(path)!r} cannot be the name of a file")


def is_regular_file(path: PathLike) -> bool:
    """Return whether a path is a regular file. Reading a pipe or a device might never end."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name too long, a folder that may not be entered
        return False


def open_regular(path: Path, mode: str) -> IO[bytes]:
    """Open a file of a run folder, which may come from a stranger: no link, pipe or device.

    Args:
        path: the file.
        mode: ``"rb"`` or ``"ab"``.

    Raises:
        OSError: if it is none, or cannot be opened.
    """
    flags = os.O_RDONLY if mode == "rb" else os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not every system has them all
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, mode)


def temporary_path(path: Path) -> Path:
    """Return a path beside ``path`` that nobody can guess, for a file until it is whole."""
    return path.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))


def as_path(name: PathLike) -> str:
    """Return the name of a file as a command takes it: a name like ``-x`` would be a flag."""
    word = os.fspath(name)
    return f"./{word}" if word.startswith("-") else word


def shell_command(words: Iterable[str]) -> str:
    """Return words as one line that a shell reads back as these words.

    On Windows that is cmd.exe, and PowerShell for words without ``"`` and with at most one ``%``.
    """
    quote = _quote_for_cmd if WINDOWS else _quote
    return " ".join(map(quote, words))


def install_command(package: str) -> str:
    """Return the command that installs a package with an extra, such as ``charlm[serve]``."""
    return shell_command(["pip", "install", package])


def _quote(word: str) -> str:
    return shlex.quote(word) if word.isprintable() else _ansi_c(word)


def _quote_for_cmd(word: str) -> str:
    r"""Return a word as cmd.exe hands it on, and as a program on Windows then takes it.

    A program takes what is in double quotes as it is, but ``\"`` as a quote, and backslashes before
    a quote as half as many. cmd.exe leaves alone what is in quotes, but ends them at ``\"`` too,
    and puts a variable in the place of ``%NAME%``. A ``^`` keeps it from both, outside of quotes
    only; so where that is needed, the quotes around the word get one as well.
    """
    if re.fullmatch(r"[\w+=:./\\-]+", word):
        return word
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', word)
    quoted = '"' + re.sub(r"(\\+)\Z", r"\1\1", escaped) + '"'
    if '"' in word or word.count("%") > 1:
        return re.sub(r'(["%^&|<>()!])', r"^\1", quoted)
    return quoted


def _ansi_c(word: str) -> str:
    """Return a word with control characters or foreign bytes in the shell's $'...' form."""
    data = os.fsencode(word)
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in "'\\" else f"\\x{b:02x}" for b in data)
    return f"$'{''.join(plain)}'"


def make_folder(folder: Path) -> None:
    """Make a folder with all above it.

    Raises:
        CheckpointError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make folder {folder}: {error.strerror}") from None


def has_mark(path: Path, mark: bytes) -> bool:
    """Return whether a file has some bytes near its beginning, as those of a kind do."""
    if not is_regular_file(path):
        return False
    with path.open("rb") as file:
        return mark in file.read(4096)


def check_replaced(path: Path, mark: bytes, what: str) -> Path:
    """Refuse a place where no file can be written, or where another kind of file would be lost.

    Args:
        path: the place.
        mark: bytes that every file of the kind has near its beginning.
        what: what to call such a file.

    Returns:
        The path, of a link that of the file behind it.

    Raises:
        ConfigError: for what cannot be the name of a file.
        CheckpointError: see above.
    """
    check_name(path)
    path = path.resolve()
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}")
    if not path.exists():
        return path
    if not is_regular_file(path):  # a folder, a device, a pipe
        raise CheckpointError(f"cannot write {path}: it is not a regular file")
    try:
        is_of_kind = has_mark(path, mark)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None
    if not is_of_kind:
        raise CheckpointError(f"{path} is there already, and not {what}: choose another name")
    return path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new temporary file beside ``path`` that is synced and renamed into place at the end.

    The temporary file has a name that nobody can guess and is made here, so no link and no pipe
    that lies in wait is ever written to. It is removed if what is done with it fails.

    >>> with atomic_file(Path("names.txt")) as file:
    ...     file.write(b"Ada")

    Raises:
        CheckpointError: if it cannot be written; at ``path`` is then the old file or the new one,
            whole.
    """
    temporary = temporary_path(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CheckpointError(f"cannot write {path}: {error.strerror}") from None
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, wholly or not at all; see :func:`atomic_file`.

    Raises:
        CheckpointError: see there.
    """
    with atomic_file(path) as file:
        file.write(data)


def _replace(source: Path, target: Path) -> None:
    """Give a file the name of another one, which it replaces.

    Windows refuses that while any program has the file open, such as one that reads the model or
    looks for viruses, and most are done in a moment. So there it is tried again for a while.
    Elsewhere an open file can be replaced, and a refusal is final.
    """
    end = time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            os.replace(source, target)  # noqa: PTH105
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() >= end:
                raise
        time.sleep(REPLACE_NAP)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power failure, where the system can.

    Windows opens no folders, and some file systems sync none. The file itself is whole and synced
    by then, so that is no reason to call it unwritten.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def age_of(file: Path) -> float:
    """Return the seconds since a file was written, to be shown: only the clock of the wall knows.

    If that clock was set since, they may be wrong, or negative.
    """
    return time.time() - file.stat().st_mtime
