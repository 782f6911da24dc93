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
"""


class CharlmError(Exception):
    """The base of all errors that a user can cause and fix."""


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
