"""What a model does with a text that is there: read it, and say how probable it was."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import Checkpoint
from charlm.data.unknown import UnknownCharacters
from charlm.files import PathLike, ProgressCallback, check_callback, check_path, no_progress
from charlm.inference import prompt_state, scoring
from charlm.inference.prompt_state import PromptState
from charlm.integer import engine_of


class ReadingModel:
    """A trained model that reads and scores text: the part of a ``LanguageModel`` that does so.

    Args:
        checkpoint: its weights, and where they come from.
        unknown: what is done with a character that it does not know, see ``charlm.load``.

    Attributes:
        config: what the model computes.
        tokenizer: the characters that it knows.
        unknown: what is done with other characters, and how many there were.
    """

    def __init__(self, checkpoint: Checkpoint, *, unknown: str = "error"):
        self.checkpoint = checkpoint
        self.config = checkpoint.model_config
        self.tokenizer = tokenizer = checkpoint.tokenizer
        self.engine = engine_of(checkpoint)
        self.unknown = UnknownCharacters(
            tokenizer.vocabulary, unknown, has_symbol=tokenizer.unknown
        )

    def __repr__(self) -> str:
        name, config, vocab_size = type(self).__name__, self.config, self.tokenizer.vocab_size
        return (
            f"{name}({config.backbone}, {config.num_layers} x {config.hidden_size} units, "
            f"{config.num_parameters(vocab_size):,} parameters, {vocab_size:,} symbols)"
        )

    def read(
        self,
        text: str = "",
        *,
        state: PromptState | None = None,
        on_progress: ProgressCallback = no_progress,
    ) -> PromptState:
        """Return the state of the model after ``text``, from which any number of texts can go on.

        >>> state = lm.read("Once upon a time ")
        >>> state
        PromptState(... symbols, state (...), (...))
        >>> text = lm.generate(state=state, length=100)

        Args:
            text: what to read. An empty text stands for the start of a line, if there is no state
                before it.
            state: the state before it.
            on_progress: progress callback, told the number of characters read.

        Raises:
            TokenError: for a character that the model does not know.
            ConfigError: if ``state`` is of another model.
        """
        check_callback(on_progress, "on_progress")
        if state is not None:
            prompt_state.check(state, self)
        text = self.readable(text)
        if state is not None and text == "":
            return state
        what = self.tokenizer.line_start if text == "" else text
        ids = self.tokenizer.encode(what, source="the prompt")
        if self.config.items and state is None and text != "":  # an item begins behind a line end
            ids = np.concatenate([self.tokenizer.encode("\n"), ids])
        return replace(scoring.read(self.engine, ids, state, on_progress), owner=self)

    def score(
        self,
        text: str,
        *,
        state: PromptState | None = None,
        source: str = "the text",
        on_progress: ProgressCallback = no_progress,
    ) -> NDArray[np.float64]:
        """Return the surprisal of each character of ``text`` (N,), in bits, given all before it.

        >>> bits = lm.score("The sea was calm.")
        >>> bits.shape
        (17,)
        >>> bits_per_char = bits.mean()

        The characters are those of ``text`` as the model reads it, see :meth:`readable`.

        Args:
            text: what to score.
            state: the state before it; None is the start of a line.
            source: what to call the text in an error.
            on_progress: progress callback, told the number of characters read.

        Raises:
            TokenError: for a character that the model does not know.
        """
        check_callback(on_progress, "on_progress")
        ids = self.tokenizer.encode(self.readable(text), source=source)
        before = self.read(state=state)
        nats = scoring.score(self.engine, ids, before, on_progress)
        return nats.astype(np.float64) / math.log(2)

    def readable(self, text: str) -> str:
        """Return ``text`` as the model reads it, without characters that it does not know.

        That is ``text`` itself, unless the model was loaded with ``unknown`` ``"skip"`` or
        ``"nearest"``.

        >>> charlm.load("english", unknown="nearest").readable("“É”")
        '"E"'
        """
        return self.unknown.replace(text)

    def save_state(self, state: PromptState, path: PathLike) -> None:
        """Write a state to a file of a few kilobytes.

        >>> lm.save_state(lm.read("Once upon a time "), "story.state")

        Raises:
            CheckpointError: if it cannot be written; the old file, if any, is untouched.
            ConfigError: if ``state`` is of another model.
        """
        check_path(path, "the path of the state")
        prompt_state.check(state, self)
        prompt_state.save(state, Path(path), self.config, self.fingerprint())

    def load_state(self, path: PathLike) -> PromptState:
        """Return what :meth:`save_state` wrote.

        >>> lm.save_state(lm.read("Once upon a time "), "story.state")
        >>> text = lm.generate(state=lm.load_state("story.state"), length=100)

        Raises:
            CheckpointError: if the file is missing, damaged, or of another model.
        """
        check_path(path, "the path of the state")
        vocab_size = self.tokenizer.vocab_size
        found = prompt_state.load(Path(path), self.config, vocab_size, self.fingerprint())
        return replace(found, owner=self)

    def fingerprint(self) -> str:
        """Return the sha256 of all that makes this model what it computes.

        >>> len(lm.fingerprint())
        64
        """
        return self.checkpoint.fingerprint()
