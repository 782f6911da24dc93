"""Everything that a user can cause and fix.

    CharlmError
    ├── ConfigError       a setting out of its bounds, or settings that contradict each other
    ├── TokenError        a character that the vocabulary does not hold
    ├── CorpusError       a text that cannot be read, or is too short for what was asked
    ├── CheckpointError   a checkpoint that is missing, damaged, foreign or too new
    ├── DivergenceError   a loss or gradient that is no longer a number
    ├── ProcessError      another process of the same training that has ended
    └── PackageError      a package that is not installed

Each class also inherits the fitting builtin, so ``except ValueError`` works too. A message is one
line in lower case: what is wrong with which value, where, and what to do. The command line prints
it behind ``charlm: error:`` and exits with 1; any other exception is a bug and keeps its traceback.

A message names a setting with :func:`argument`. From Python it reads ``hidden_size``, and the
command line prints ``--hidden-size``.
"""

import re
from collections.abc import Callable

# An argument in a message: its name and maybe a value, between characters that no name or text in
# a message holds as such.
ARGUMENT = re.compile("\0(\\w+)(?:=([^\0]*))?\0")


def argument(name: str, value: object = None) -> str:
    """Return the name of an argument, maybe with a value, for a message.

    >>> str(ConfigError(f"lower {argument('batch_size')}"))
    'lower batch_size'

    Args:
        name: the argument as Python names it.
        value: what to set it to, if the message says that.
    """
    return f"\0{name}\0" if value is None else f"\0{name}={value}\0"


def as_keyword(name: str, value: str | None) -> str:
    """Return an argument of a message as Python writes it: ``batch_size`` or ``batch_size=2``."""
    return f"{name}={value}" if value else name


def written(message: str, write: Callable[[str, str | None], str] = as_keyword) -> str:
    """Return a message with each argument as ``write`` writes its name and its value.

    >>> written(f"lower {argument('batch_size')}")
    'lower batch_size'
    """
    return ARGUMENT.sub(lambda found: write(found[1], found[2]), message)


class CharlmError(Exception):
    """The base of all errors that a user can cause and fix.

    Attributes:
        message: the message, with arguments as :func:`argument` returns them.
    """

    def __init__(self, message: str):
        self.message = message
        super().__init__(written(message))

    @property
    def arguments(self) -> list[str]:
        """The names of the arguments that the message speaks of, in its order."""
        return [found[1] for found in ARGUMENT.finditer(self.message)]

    def written(self, write: Callable[[str, str | None], str]) -> str:
        """Return the message as :func:`written` does."""
        return written(self.message, write)


class ConfigError(CharlmError, ValueError):
    """A setting is out of its bounds, or two settings contradict each other."""


class TokenError(CharlmError, ValueError):
    """A character is not in the vocabulary."""


class CorpusError(CharlmError, ValueError):
    """A text cannot be read, or is too short for what was asked."""


class CheckpointError(CharlmError, ValueError):
    """A checkpoint is missing, damaged, foreign or too new, or cannot be written."""


class DivergenceError(CharlmError, ArithmeticError):
    """The loss or its gradient is no longer a finite number."""


class ProcessError(CharlmError, RuntimeError):
    """Another process of the same training has ended."""


class PackageError(CharlmError, ImportError):
    """A package that is needed is not installed."""
