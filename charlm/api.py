"""charlm from Python: ``train`` and ``load`` return a :class:`LanguageModel`.

Generating needs no torch; only ``train`` imports it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charlm import checkpoint as checkpoints
from charlm import generation, readings, scoring, writing
from charlm.checkpoint import Checkpoint, Tensors
from charlm.config import LinesConfig, ModelConfig, SampleConfig
from charlm.corpus import PathLike
from charlm.engine import Engine
from charlm.errors import ConfigError
from charlm.readings import Reading
from charlm.scan import OnRead, nothing
from charlm.tokenizer import CharTokenizer
from charlm.writing import Sample

if TYPE_CHECKING:
    from charlm.training import Progress


class LanguageModel:
    """A trained model that reads, writes and scores text.

    Attributes:
        config: what the model computes.
        tokenizer: the characters that it knows.
    """

    def __init__(self, config: ModelConfig, tokenizer: CharTokenizer, weights: Tensors):
        self.config = config
        self.tokenizer = tokenizer
        self.engine = Engine(config, weights)
        self._weights = weights

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "LanguageModel":
        """Return the model of a checkpoint."""
        return cls(checkpoint.model_config, checkpoint.tokenizer, checkpoint.weights)

    def generate(self, prompt: str = "", *, state: Reading | None = None, **settings: Any) -> str:
        """Return the text that follows ``prompt``; see :meth:`stream`."""
        if settings.get("length") == 0:
            raise ConfigError("length 0, without end, is for stream()")
        return "".join(self.stream(prompt, state=state, **settings))

    def stream(
        self, prompt: str = "", *, state: Reading | None = None, **settings: Any
    ) -> Iterator[str]:
        """Yield the text that follows ``prompt`` in pieces, each as soon as it is drawn.

        Args:
            prompt: what the model reads first. An empty prompt stands for the beginning of a line.
            state: what it has read before that; nothing stands for an empty prompt then.
            settings: any field of ``SampleConfig``, such as ``length`` and ``temperature``.

        Raises:
            TokenError: for a character of the prompt, of ``stop`` or of ``allow`` that the model
                does not know.
            ConfigError: for a setting out of bounds.
        """
        config = SampleConfig.from_dict(settings)
        if config.num_samples != 1:
            raise ConfigError("num_samples above 1 is for samples(), which yields one text each")
        return iter(next(self.samples(prompt, config, state=state)))

    def samples(
        self,
        prompt: str,
        config: SampleConfig,
        *,
        state: Reading | None = None,
        surprise: bool = False,
    ) -> Iterator[Sample]:
        """Return ``config.num_samples`` independent texts that follow ``prompt``.

        The prompt is read once, before this returns. Sample i depends on the seed and on i alone.

        Args:
            prompt: see :meth:`stream`.
            config: how they are drawn.
            state: see :meth:`stream`.
            surprise: whether the samples tell the surprise at what is drawn.
        """
        config = generation.seeded(config)
        for name, texts in (("stop", config.stop), ("allow", config.allow)):
            for text in texts:
                self.tokenizer.encode(text, source=name)  # what is not known is never drawn
        vocabulary = self.tokenizer.vocabulary
        mask = generation.allowed_mask(vocabulary, config, self.tokenizer.unknown_id)
        reading = self.read(prompt, state=state)

        def block(indices: range) -> generation.Block:
            return generation.Block(self.engine, reading, config, indices, mask)

        return writing.samples(block, vocabulary, config, surprise=surprise)

    def lines(
        self,
        config: LinesConfig,
        sampling: SampleConfig,
        *,
        known: Collection[str] = (),
        surprise: bool = False,
    ) -> writing.Lines:
        """Return new lines as the model writes them, for a text of one item per line.

        Args:
            config: how many, and which are wanted.
            sampling: how they are drawn; its ``length``, ``stop`` and ``num_samples`` follow from
                ``config``.
            known: lines that are not wanted, such as those of the training text.
            surprise: whether the samples tell the surprise at what is drawn.
        """
        if "\n" not in self.tokenizer.vocabulary:
            raise ConfigError("the model knows no end of a line: its text was a single line")
        if "\n" in "".join(sampling.forbid):
            raise ConfigError("forbid holds the end of a line, without which no line ends")
        self.tokenizer.encode(config.starts_with, source="starts_with")
        room = config.max_length - len(config.starts_with)
        sampling = replace(
            sampling,
            stop=("\n",),
            length=room + 1,  # one more, for the end of the line
            num_samples=config.tries or 100 * max(1, config.lines),
            allow=sampling.allow and (*sampling.allow, "\n"),
        )
        drawn = self.samples(f"\n{config.starts_with}", sampling, surprise=surprise)
        return writing.Lines(drawn, config, known)

    def read(
        self, text: str = "", *, state: Reading | None = None, on_read: OnRead = nothing
    ) -> Reading:
        """Return what the model has when it has read ``text``, to go on from any number of times.

        Args:
            text: what to read. An empty text stands for the beginning of a line, if nothing was
                read before it.
            state: what was read before it.
            on_read: called now and then with the number of characters that were read since.

        Raises:
            TokenError: for a character that the model does not know.
            ConfigError: if ``state`` is of another model.
        """
        if state is not None:
            self._check(state)
            if not text:
                return state
        ids = self.tokenizer.encode(text or self._line_begin(), source="the prompt")
        return scoring.read(self.engine, ids, state, on_read)

    def score(
        self,
        text: str,
        *,
        state: Reading | None = None,
        source: str = "the text",
        on_read: OnRead = nothing,
    ) -> NDArray[np.float64]:
        """Return the surprise at each character of ``text`` (N,), in bits, given all before it.

        Args:
            text: what to score.
            state: what was read before it; None is the beginning of a line.
            source: what to call the text in an error.
            on_read: called now and then with the number of characters that were read since.

        Raises:
            TokenError: for a character that the model does not know.
        """
        ids = self.tokenizer.encode(text, source=source)
        before = self.read(state=state)
        return scoring.score(self.engine, ids, before, on_read).astype(np.float64) / math.log(2)

    def save_state(self, state: Reading, path: PathLike) -> None:
        """Write what the model has read to a file of a few kilobytes.

        Raises:
            CheckpointError: if it cannot be written; the old file, if any, is untouched.
            ConfigError: if ``state`` is of another model.
        """
        self._check(state)
        names = self.config.cell.state_names
        readings.save(state, Path(path), model=self.fingerprint(), names=names)

    def load_state(self, path: PathLike) -> Reading:
        """Return what :meth:`save_state` wrote.

        Raises:
            CheckpointError: if the file is missing, damaged, or of another model.
        """
        return readings.load(Path(path), model=self.fingerprint(), shapes=self._shapes())

    def fingerprint(self) -> str:
        """Return the sha256 of all that makes this model what it computes."""
        config, tokenizer = self.config, self.tokenizer
        what = [config.backbone, config.nonlinearity, config.residual, config.tie_weights]
        what += [tokenizer.vocabulary, tokenizer.unknown]
        digest = hashlib.sha256(json.dumps(what).encode())
        for name, tensor in sorted(self._weights.items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    def _shapes(self) -> readings.Shapes:
        """Return the shapes of a reading, by the names of its tensors in a file."""
        shape = (self.config.num_layers, 1, self.config.hidden_size)
        names = self.config.cell.state_names
        return {"logits": (self.tokenizer.vocab_size,)} | {f"state.{n}": shape for n in names}

    def _check(self, reading: Reading) -> None:
        found = [a.shape for a in (reading.logits, *reading.state)]
        if found != list(self._shapes().values()):
            raise ConfigError("the state is of another model: its sizes are not those of this one")

    def _line_begin(self) -> str:
        vocabulary = self.tokenizer.vocabulary
        return "\n" if "\n" in vocabulary else vocabulary[0]


def load(run: PathLike) -> LanguageModel:
    """Return the best model of a run.

    Args:
        run: a run folder, its name under ``checkpoints/``, or a checkpoint file.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    path = checkpoints.locate(run)
    return LanguageModel.from_checkpoint(checkpoints.load(path, model_only=True))


def train(
    files: PathLike | Iterable[PathLike],
    *,
    on_progress: "Callable[[Progress], object] | None" = None,
    **settings: Any,
) -> LanguageModel:
    """Train a model on text files and return it, the best one of the run.

    Args:
        files: one UTF-8 text file, or several to be joined in this order.
        on_progress: called after every step, for example ``print``.
        settings: those of ``ModelConfig`` and ``TrainConfig``, and ``out``, ``init_from``,
            ``device``, ``precision`` and ``threads``; see ``charlm.runs.start``.

    Raises:
        CharlmError: for anything that is wrong with the text or the settings.
    """
    from charlm import runs

    several = [files] if isinstance(files, str) or hasattr(files, "__fspath__") else files
    run = runs.start(several, **settings)  # type: ignore[arg-type]
    for progress in run.progress():
        if on_progress is not None:
            on_progress(progress)
    return load(run.folder)
