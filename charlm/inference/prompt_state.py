"""The saved recurrent state: all that generation needs of a text that came before.

It takes some kilobytes, however long that text was, and any number of samples can go on from it. An
attention adds half a kilobyte for each character that it looks back at.
Its file is one of :mod:`charlm.tensor_file` with the tensors ``logits`` and ``state.<name>``, and
with the fingerprint of the model: a state means nothing to any other model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm import tensor_file
from charlm.cells.base import State
from charlm.config import ModelConfig
from charlm.errors import CheckpointError, ConfigError
from charlm.files import check_name
from charlm.tensor_file import Document, Shapes

KIND = "saved state"


@dataclass(frozen=True, eq=False, repr=False)
class PromptState:
    """The state of a model after a text.

    Attributes:
        logits: of the character that comes next, (V,).
        state: after the last character read, arrays (L, 1, ...).
        owner: the language model that has read the text, if that is known.
    """

    logits: NDArray[Any]
    state: State
    owner: Any = None

    def __repr__(self) -> str:
        shapes = ", ".join(str(array.shape) for array in self.state)
        return f"PromptState({len(self.logits)} symbols, state {shapes})"

    def fits(self, config: ModelConfig, vocab_size: int) -> bool:
        """Return whether the sizes are those of a model."""
        shapes = [array.shape for array in (*self.state, self.logits)]
        return shapes == list(_shapes(config, vocab_size).values())


def check(state: object, owner: Any) -> None:
    """Raise ConfigError for what is not a state of a language model.

    Args:
        state: what may be one.
        owner: the language model.
    """
    if not isinstance(state, PromptState):
        raise ConfigError(f"the state must be a PromptState (got {state!r:.100})")
    other = state.owner
    if other not in (None, owner) and other.fingerprint() != owner.fingerprint():
        raise ConfigError("the state is of another model: it means nothing to this one")
    if not state.fits(owner.config, owner.tokenizer.vocab_size):
        raise ConfigError("the state is of another model: its sizes are not those of this one")


def _shapes(config: ModelConfig, vocab_size: int) -> Shapes:
    """Return the names and shapes of the tensors of a state."""
    state = {f"state.{name}": shape for name, shape in config.state_shapes(1).items()}
    return state | {"logits": (vocab_size,)}


def save(prompt: PromptState, path: Path, config: ModelConfig, fingerprint: str) -> None:
    """Write a state to ``path``, wholly or not at all.

    Args:
        prompt: what to save.
        path: the file.
        config: of the model.
        fingerprint: of the model.

    Raises:
        CheckpointError: if it cannot be written, or something else would be lost; what is there, if
            anything, is then untouched.
    """
    check_name(path)
    path = path.resolve()  # of a link the file behind it
    check_target(path)
    if not all(np.isfinite(array).all() for array in (*prompt.state, prompt.logits)):
        raise CheckpointError(f"cannot write {path}: the state holds NaN or infinite numbers")
    names = _shapes(config, len(prompt.logits))
    tensors = dict(zip(names, (*prompt.state, prompt.logits), strict=True))
    tensor_file.save(path, KIND, {"model": fingerprint}, tensors)


def check_target(path: Path) -> None:
    """Refuse a place where a state cannot be saved, or where something else would be lost.

    Raises:
        CheckpointError: see above.
    """
    tensor_file.check_target(path, KIND)


def load(path: Path, config: ModelConfig, vocab_size: int, fingerprint: str) -> PromptState:
    """Return the state that :func:`save` wrote to ``path``.

    Args:
        path: the file.
        config: of the model that is to go on.
        vocab_size: of that model (V).
        fingerprint: of that model.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign, or of another model.
    """

    def shapes_for(document: Document) -> Shapes:
        if document["model"] != fingerprint:
            raise CheckpointError(
                f"the {KIND} {path} is of another model: load it with the run that saved it, in "
                "whole numbers only if that was"
            )
        return _shapes(config, vocab_size)

    _, tensors = tensor_file.load(path, KIND, shapes_for)
    *state, logits = (tensors[name] for name in _shapes(config, vocab_size))
    return PromptState(logits, tuple(state))
