"""What a model does with a text that is there: read it, and say how probable it was."""

import math
import operator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charlm.api.next_characters import NextCharacter, NextCharacters
from charlm.api.notebook import facts_table
from charlm.checkpoint import Checkpoint
from charlm.data.unknown import UnknownCharacters
from charlm.errors import ConfigError, argument
from charlm.files import PathLike, ProgressCallback, check_callback, check_path, no_progress
from charlm.inference import prompt_state, scoring
from charlm.inference.batching import likeliest_characters
from charlm.inference.prompt_state import PromptState
from charlm.integer import engine_of

LONGEST_FACT = 200  # characters of the names of files that a notebook shows


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
            f"{name}({config.description}, {config.num_parameters(vocab_size):,} parameters, "
            f"{vocab_size:,} symbols)"
        )

    def _repr_html_(self) -> str:
        found = self.checkpoint
        loss, files = found.counters.loss, ", ".join(found.source.files)
        facts = {
            "model": self.config.description + ", in whole numbers" * found.exact,
            "parameters": f"{self.config.num_parameters(self.tokenizer.vocab_size):,}",
            "symbols": f"{self.tokenizer.vocab_size:,}",
            "text": files if len(files) <= LONGEST_FACT else f"{files[:LONGEST_FACT]} ...",
        }
        if loss is not None:
            facts["loss"] = (
                f"{loss:.4f} nats ({loss / math.log(2):.4f} bits) per character at step "
                f"{found.counters.best_step:,}"
            )
        return facts_table(type(self).__name__, {n: fact for n, fact in facts.items() if fact})

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

    def next(
        self, text: str = "", *, state: PromptState | None = None, top: int = 10
    ) -> NextCharacters:
        """Return the likeliest characters that may follow ``text``, with their probabilities.

        The probabilities are those of the model itself, at temperature 1.

        >>> following = lm.next("The se", top=3)
        >>> following
        NextCharacters('...)
        >>> following[0].probability >= following[1].probability
        True
        >>> round(sum(p for _, p in lm.next("The se", top=0)), 6)
        1.0

        Args:
            text: what comes before; an empty text stands for the start of a line, if there is no
                state before it.
            state: the state before the text.
            top: how many characters; 0 is all that the model knows.

        Raises:
            TokenError: for a character that the model does not know.
            ConfigError: if ``top`` is below 0, or ``state`` is of another model.
        """
        count = checked_count("top", top, 0) or self.tokenizer.vocab_size
        logits = self.read(text, state=state).logits
        (found,) = likeliest_characters(self.engine, self.tokenizer.vocabulary, logits[None], count)
        return NextCharacters(NextCharacter(c, math.exp(log_p)) for c, log_p in found)

    def embed(self, text: str, *, state: PromptState | None = None) -> NDArray[np.float32]:
        """Return the recurrent state after ``text`` as one vector, float32.

        It holds the arrays of the state one after the other, in the order of the cell, and of each
        the first layer first: for an RNN or a GRU the outputs h, so L * H numbers; for an LSTM all
        of h and then all of the memory c, 2 * L * H numbers. What an attention looks back at is not
        in it. The same text gives the same vector.
        Texts that end alike have vectors that are alike, as the state remembers the end best.

        >>> one, other = lm.embed("The sea was calm."), lm.embed("The sea was calm.")
        >>> one.shape
        (...,)
        >>> bool((one == other).all())
        True

        Args:
            text: what to read; an empty text stands for the start of a line, if there is no state
                before it.
            state: the state before the text.

        Raises:
            TokenError: for a character that the model does not know.
            ConfigError: if ``state`` is of another model.
        """
        arrays = self.config.recurrent_state(self.read(text, state=state).state)
        return np.concatenate([array.ravel() for array in arrays]).astype(np.float32, copy=False)

    def readable(self, text: str) -> str:
        """Return ``text`` as the model reads it, without characters that it does not know.

        That is ``text`` itself, unless the model was loaded with ``unknown`` ``"skip"`` or
        ``"nearest"``.

        >>> charlm.load("english", unknown="nearest").readable("“É”")
        '"E"'
        """
        return self.unknown.replace(text)

    def save_state(self, state: PromptState, path: PathLike) -> None:
        """Write a state to a file of some kilobytes; attention over 512 characters takes 262 more.

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


def checked_count(name: str, value: object, least: int) -> int:
    """Return a whole number that is not below ``least``, or raise ConfigError with its name."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{argument(name)} must be of type int (got {value!r:.100})") from None
    if count < least:
        raise ConfigError(f"{argument(name)} must be at least {least} (got {count})")
    return count
