"""The model as programs use it: it writes text, beside what a ``ReadingModel`` does."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, overload

from charlm import checkpoint as checkpoints
from charlm.api.reading_model import ReadingModel, checked_count
from charlm.config import SampleConfig
from charlm.errors import ConfigError, argument
from charlm.files import PathLike, check_path
from charlm.inference import decoding
from charlm.inference.prompt_state import PromptState
from charlm.inference.sampling import Doubles, allowed_mask, seeded
from charlm.keywords import LinesSettings, SampleSettings, TextSettings, line_configs
from charlm.settings import refuse_unknown

if TYPE_CHECKING:
    from charlm.insight.panels import FractionCallback
    from charlm.insight.report import Inspection


class LanguageModel(ReadingModel):
    """A trained model that generates, reads and scores text.

        >>> lm = charlm.load("english")
        >>> lm
        LanguageModel(lstm, ... units, ... parameters, ... symbols)
        >>> text = lm.generate("The sea ", length=40, seed=1)

    A model may be used by several threads at once: each gets what it would get alone. What a call
    returns to be iterated over, such as :meth:`stream`, belongs to one thread at a time. No method
    needs an event loop, and each may be called while one runs, which waits for it.

    Args:
        checkpoint: its weights, and where they come from.
        unknown: what is done with a character that it does not know, see :func:`load`.

    Attributes:
        config: what the model computes.
        tokenizer: the characters that it knows.
        unknown: what is done with other characters, and how many there were.
    """

    @overload
    def generate(
        self,
        prompt: str = "",
        *,
        state: PromptState | None = None,
        **settings: Unpack[TextSettings],
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: str = "",
        *,
        num_samples: int,
        state: PromptState | None = None,
        **settings: Unpack[TextSettings],
    ) -> list[str]: ...

    def generate(
        self,
        prompt: str = "",
        *,
        num_samples: int | None = None,
        state: PromptState | None = None,
        **settings: Unpack[TextSettings],
    ) -> str | list[str]:
        """Return the text that follows ``prompt``, or a list of ``num_samples`` of them.

        >>> text = lm.generate("The sea ", length=300, temperature=0.7, seed=1)
        >>> len(text)
        300
        >>> texts = lm.generate("The sea ", num_samples=3, length=300, temperature=0.7, seed=1)
        >>> len(texts), texts[0] == text
        (3, True)

        Args:
            prompt: see :meth:`stream`.
            num_samples: how many independent texts; a list even of one. Not given: one text, a
                str. Text i depends on the seed and on i alone.
            state: see :meth:`stream`.
            settings: see :meth:`stream`; ``length`` 0, without end, is for that alone.

        Raises:
            CharlmError: see :meth:`stream`.
        """
        _refuse_endless(settings)
        if num_samples is None:
            return "".join(self.stream(prompt, state=state, **settings))
        drawn = self.samples(prompt, state=state, num_samples=num_samples, **settings)
        return ["".join(sample) for sample in drawn]

    def best_of(
        self,
        prompt: str,
        n: int,
        *,
        state: PromptState | None = None,
        **settings: Unpack[TextSettings],
    ) -> str:
        """Return the likeliest of ``n`` texts that follow ``prompt``, drawn as by :meth:`generate`.

        That is the one with the lowest mean surprisal per character, to the model itself at
        temperature 1. It is the mean, not the sum: with ``stop`` the texts differ in length, and a
        sum would nearly always choose the shortest. Of texts that are as likely it is the first.

        >>> text = lm.best_of("The sea ", 5, length=80, seed=1)
        >>> text in lm.generate("The sea ", num_samples=5, length=80, seed=1)
        True

        Args:
            prompt: see :meth:`stream`.
            n: how many texts are drawn, at least 1.
            state: see :meth:`stream`.
            settings: see :meth:`generate`.

        Raises:
            CharlmError: see :meth:`stream`.
        """
        _refuse_endless(settings)
        count = checked_count("n", n, 1)
        refuse_unknown(settings, [*SampleConfig.names(), "prompt", "n", "state"])
        all_settings: SampleSettings = {**settings, "num_samples": count}
        drawn = self.samples(prompt, state=state, with_surprisal=True, **all_settings)
        _, text = decoding.likeliest_sample((sample, "".join(sample)) for sample in drawn)
        return text

    def stream(
        self,
        prompt: str = "",
        *,
        state: PromptState | None = None,
        **settings: Unpack[SampleSettings],
    ) -> Iterator[str]:
        """Yield the text that follows ``prompt`` in pieces, each as soon as it is drawn.

        >>> pieces = []
        >>> for piece in lm.stream("Once ", length=80):
        ...     pieces.append(piece)
        >>> len("".join(pieces))
        80

        Args:
            prompt: what the model reads first. An empty prompt stands for the start of a line.
            state: the state before the prompt; an empty prompt then stands for nothing.
            settings: any field of ``SampleConfig``, such as ``length`` and ``temperature``.

        Raises:
            TokenError: for a character of the prompt, of ``stop`` or of ``allow`` that the model
                does not know.
            ConfigError: for a setting out of bounds.
        """
        if settings.get("num_samples", 1) != 1:
            raise ConfigError("num_samples above 1 is for generate() and samples()")
        return iter(next(self.samples(prompt, state=state, **settings)))

    def samples(
        self,
        prompt: str = "",
        *,
        state: PromptState | None = None,
        with_surprisal: bool = False,
        **settings: Unpack[SampleSettings],
    ) -> Iterator[decoding.Sample]:
        """Return ``num_samples`` independent texts that follow ``prompt``; see :meth:`stream`.

        The prompt is read once, before this returns. Sample i depends on the seed and on i alone.

        >>> samples = lm.samples("The ", num_samples=3, length=80, seed=1)
        >>> [len("".join(sample)) for sample in samples]
        [80, 80, 80]

        Args:
            prompt: see :meth:`stream`.
            state: see :meth:`stream`.
            with_surprisal: whether the samples tell the surprisal of what is drawn.
            settings: see :meth:`stream`.

        Raises:
            CharlmError: see :meth:`stream`.
        """
        known = [*SampleConfig.names(), "prompt", "state", "with_surprisal"]
        refuse_unknown(settings, known)
        config, mask = self.prepared(SampleConfig.from_dict(dict(settings)))
        after_prompt = self.read(prompt, state=state)

        def block(indices: range) -> decoding.Block:
            return decoding.Block(
                self.engine, after_prompt, config, indices, mask, with_surprisal=with_surprisal
            )

        return decoding.samples(block, self.tokenizer.vocabulary, config)

    def prepared(self, config: SampleConfig) -> tuple[SampleConfig, Doubles | None]:
        """Return settings with a seed and texts as the model reads them, and what they mask.

        >>> config, mask = lm.prepared(SampleConfig(allow=("abc",)))
        >>> mask.shape
        (...,)

        Raises:
            CharlmError: see :meth:`stream`.
        """
        config = seeded(config)
        read = [[self.readable(character) for character in text] for text in config.stop]
        stop = tuple("".join(parts) for parts in read if all(parts))  # others are never drawn
        allow = tuple(map(self.readable, config.allow))
        config = replace(config, stop=stop, allow=allow)
        for name, texts in (("stop", stop), ("allow", allow)):
            for text in texts:  # what is not known is never drawn
                self.tokenizer.encode(text, source=argument(name))
        return config, allowed_mask(self.tokenizer.vocabulary, config, self.tokenizer.unknown_id)

    def lines(
        self,
        lines: int,
        *,
        known: Collection[str] = (),
        with_surprisal: bool = False,
        **settings: Unpack[LinesSettings],
    ) -> decoding.Lines:
        """Return new lines as the model writes them, for a text of one item per line.

        >>> names = [line for line, _ in lm.lines(5, unique=True, max_length=400, seed=1)]
        >>> len(names)
        5

        Args:
            lines: how many are wanted.
            known: lines that are not wanted, such as those of the training text.
            with_surprisal: whether the samples tell the surprisal of what is drawn.
            settings: any other field of ``LinesConfig``, and of ``SampleConfig`` all but
                ``length``, ``stop`` and ``num_samples``, which follow from the others.

        Raises:
            TokenError: for a character of ``starts_with`` that the model does not know.
            ConfigError: for a setting out of bounds, or if the model writes no lines.
        """
        config, sampling = line_configs(lines, dict(settings))
        if isinstance(known, str) or not isinstance(known, Collection):
            raise ConfigError(f"known must be lines, such as a set of them (got {known!r:.100})")
        config = replace(config, starts_with=self.readable(config.starts_with))
        self.tokenizer.encode(config.starts_with, source=argument("starts_with"))
        sampling = decoding.line_sampling(config, sampling, self.tokenizer.vocabulary)
        start = f"\n{config.starts_with}"
        drawn = self.samples(start, with_surprisal=with_surprisal, **sampling.to_dict())
        return decoding.Lines(drawn, config, known)

    def inspect(
        self,
        text: str,
        *,
        characters: int = 20_000,
        concepts: Sequence[str] = (),
        units: Sequence[str] = (),
        name: str = "",
        source: str = "",
        gradients: bool = True,
        on_progress: "FractionCallback | None" = None,
    ) -> "Inspection":
        """Return what the model computes on ``text``: figures, and a page that shows them.

        A notebook shows the page. Gradients need torch, all else does not.

        >>> lm.inspect("The sea was calm, and the ship lay still.").save("page.html")

        Args:
            text: what to read.
            characters: how much of it, from its beginning.
            concepts: regular expressions; units that follow where one matches are looked for too.
            units: single units to paint over the whole text, such as ``"2.c.37"``.
            name, source: what the page calls the model and the text.
            gradients: whether to compute what needs torch.
            on_progress: told the part that is computed, and the share of all that is done.

        Raises:
            CharlmError: for an unknown character, an empty text, a wrong pattern or unit.
        """
        from charlm.insight.report import inspect_text

        return inspect_text(
            self,
            text,
            characters=characters,
            patterns=concepts,
            units=units,
            name=name,
            source=source,
            gradients=gradients,
            on_progress=on_progress,
        )

    def save(self, path: PathLike) -> None:
        """Write the model to one file, which :func:`load` and all verbs but ``resume`` open.

        >>> lm.save("english.safetensors")
        >>> charlm.load("english.safetensors").generate(length=20, seed=1) == lm.generate(
        ...     length=20, seed=1
        ... )
        True

        Raises:
            CheckpointError: if it cannot be written, or something else than a model file is there.
        """
        check_path(path, "the path of the model")
        checkpoints.save_model(self.checkpoint, Path(path))

    def exact(self) -> "LanguageModel":
        """Return the model in whole numbers, whose every bit is the same on any machine.

        >>> charlm.load("english").exact().generate("The sea ", length=40, seed=1)
        '...'
        """
        unknown = self.unknown.how
        return LanguageModel(checkpoints.in_whole_numbers(self.checkpoint), unknown=unknown)


def _refuse_endless(settings: TextSettings) -> None:
    if settings.get("length") == 0:
        raise ConfigError("length 0, without end, is for stream()")


def load(run: PathLike, *, unknown: str = "error") -> LanguageModel:
    """Return the best model of a run.

    >>> lm = charlm.load("checkpoints/english")

    Args:
        run: a run folder, its name under ``checkpoints/``, or a checkpoint or model file.
        unknown: what to do with a character of a text that the model does not know: ``"error"``;
            ``"skip"`` leaves it out; ``"nearest"`` reads the nearest one that the model knows, and
            leaves out what has none. A model with an unknown symbol (``min_count``) reads that in
            place of an error, and in place of what has none.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        ConfigError: for another ``unknown``.
    """
    check_path(run, "the run")
    found = checkpoints.load(checkpoints.locate(run), model_only=True)
    return LanguageModel(found, unknown=unknown)
