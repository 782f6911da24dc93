"""charlm from Python: ``train`` and ``load`` return a :class:`LanguageModel`.

Generating needs no torch; only ``train`` imports it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from charlm import checkpoint as checkpoints
from charlm import generation
from charlm.checkpoint import Checkpoint, Tensors
from charlm.config import ModelConfig, SampleConfig
from charlm.corpus import PathLike
from charlm.engine import Engine
from charlm.errors import ConfigError
from charlm.tokenizer import CharTokenizer

if TYPE_CHECKING:
    from charlm.training import Progress


class LanguageModel:
    """A trained model that writes text.

    Attributes:
        config: what the model computes.
        tokenizer: the characters that it knows.
    """

    def __init__(self, config: ModelConfig, tokenizer: CharTokenizer, weights: Tensors):
        self.config = config
        self.tokenizer = tokenizer
        self.engine = Engine(config, weights)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "LanguageModel":
        """Return the model of a checkpoint."""
        return cls(checkpoint.model_config, checkpoint.tokenizer, checkpoint.weights)

    def generate(self, prompt: str = "", **settings: Any) -> str:
        """Return the text that follows ``prompt``; see :meth:`stream`."""
        return "".join(self.stream(prompt, **settings))

    def stream(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """Yield the characters that follow ``prompt``, each as soon as it is drawn.

        Args:
            prompt: what the model reads first. An empty prompt stands for the beginning of a line.
            settings: any field of ``SampleConfig``, such as ``length`` and ``temperature``.

        Raises:
            TokenError: for a character of the prompt that the model does not know.
            ConfigError: for a setting out of bounds.
        """
        config = SampleConfig.from_dict(settings)
        if config.num_samples != 1:
            raise ConfigError("num_samples above 1 is for samples(), which yields one text each")
        return next(self.samples(prompt, config))

    def samples(self, prompt: str, config: SampleConfig) -> Iterator[Iterator[str]]:
        """Return ``config.num_samples`` independent streams of characters that follow ``prompt``.

        The prompt is read once, before this returns. Sample i depends on the seed and on i alone.
        """
        config = generation.seeded(config)
        ids = self.tokenizer.encode(prompt or self._line_begin(), source="the prompt")
        logits, state = generation.read(self.engine, ids, self.engine.initial_state(1))
        vocabulary, banned = self.tokenizer.vocabulary, self.tokenizer.unknown_id

        def sample(index: int) -> Iterator[str]:
            drawn = generation.generate(
                self.engine, logits, state, config, index=index, banned=banned
            )
            return (vocabulary[i] for i in drawn)

        return map(sample, range(config.num_samples))

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
