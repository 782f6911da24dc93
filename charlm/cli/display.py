"""What a training shows on stderr: a head, a bar, a line and a sample per evaluation, an end.

In a terminal the bar fills the width that is there; elsewhere only whole lines are written.
"""

import math
import shlex
import sys
import textwrap
import unicodedata
from collections.abc import Iterator

from tqdm import tqdm

from charlm.api import LanguageModel
from charlm.cli.terminal import columns_of, printable, say
from charlm.config import SampleConfig, TrainConfig
from charlm.runs import Run
from charlm.training import Progress, in_units

SAMPLE = SampleConfig(length=150, temperature=0.8, seed=1)


def fact(label: str, text: str) -> None:
    """Write a labelled line to stderr, folded to 79 columns."""
    say(textwrap.fill(printable(text), 79, initial_indent=f"{label:9}", subsequent_indent=" " * 9))


def head(run: Run) -> None:
    """Tell what is about to be trained, on what, and where it goes."""
    trainer, corpus = run.trainer, run.trainer.corpus
    model, config = trainer.model.config, trainer.config
    vocab_size = corpus.tokenizer.vocab_size
    for notice in run.notices:
        fact("chosen", notice)
    fact(
        "text",
        f"{', '.join(corpus.files)}: {corpus.characters:,} characters, {vocab_size:,} symbols; "
        f"{len(corpus.validation):,} held out for validation",
    )
    fact(
        "model",
        f"{model.backbone}, {model.num_layers} x {model.hidden_size} units, "
        f"{model.num_parameters(vocab_size):,} parameters",
    )
    fact(
        "training",
        f"{duration(config)} with windows of {config.batch_size} x {config.seq_length} characters, "
        f"{trainer.precision} on {trainer.device}, seed {config.seed}",
    )
    fact("run", f"{run.folder} (Ctrl-C saves and stops); losses in nats/bits per character")


class Bar:
    """The bar of a run; use it as a context."""

    def __init__(self, run: Run):
        self.run = run
        self.validation_loss = run.trainer.counters.best_loss
        self.bar = tqdm(
            total=1.0,  # the share of the time that has passed
            bar_format="|{bar}|{desc}",
            dynamic_ncols=True,
            disable=None,  # off where stderr is no terminal
            file=sys.stderr,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, progress: Progress) -> None:
        """Move the bar; after an evaluation, write a line and a sample above it."""
        if progress.validation_loss is not None:
            self.validation_loss = progress.validation_loss
            self._write(progress)
        if progress.note is not None:
            self.bar.write(progress.note, file=sys.stderr)
        self.bar.set_description_str(bar_text(progress, self.validation_loss), refresh=False)
        share = progress.seconds / (progress.seconds + progress.seconds_left)
        self.bar.update(share - self.bar.n)

    def _write(self, progress: Progress) -> None:
        assert progress.validation_loss is not None
        line = (
            f"step {progress.step}  epoch {progress.epoch:.2f}  "
            f"train {both(progress.train_loss)}  val {both(progress.validation_loss)}  "
            f"{thousands(progress.chars_per_second)} char/s{'  best' if progress.is_best else ''}"
        )
        model, tokenizer = self.run.trainer.model, self.run.trainer.corpus.tokenizer
        lm = LanguageModel(model.config, tokenizer, model.weights())
        self.bar.write(f"{line}\n{indented(lm.generate(**SAMPLE.to_dict()))}", file=sys.stderr)


def bar_text(progress: Progress, validation_loss: float | None) -> str:
    """Return what stands behind the bar, short enough for 80 columns."""
    validation = "" if validation_loss is None else f" val {both(validation_loss, 2)}"
    steps = "" if progress.steps is None else f"/{progress.steps}"
    return (
        f"{progress.step}{steps} ep{progress.epoch:.1f} "
        f"train {both(progress.train_loss, 2)}{validation} norm {progress.grad_norm:.2g} "
        f"{thousands(progress.chars_per_second)}/s {clock(progress.seconds_left)}"
    )


def clock(seconds: float) -> str:
    """Return a time in minutes and seconds, ``1:05``, with the hours before them if there are."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(config: TrainConfig) -> str:
    """Return how long a run is."""
    return f"{config.minutes:g} minutes" if config.steps is None else f"{config.steps} steps"


def thousands(number: float) -> str:
    """Return a large number in three digits: ``17.1k``, ``1.5M``."""
    return f"{number / 1e6:.3g}M" if number >= 999_500 else f"{number / 1000:.3g}k"


def both(nats: float, digits: int = 3) -> str:
    """Return a loss in nats and in bits: ``1.386/2.000``."""
    return f"{nats:.{digits}f}/{nats / math.log(2):.{digits}f}"


def indented(text: str) -> str:
    """Return a sample, folded to 79 columns, in a form that stands apart from what is around it."""
    lines = [piece for line in text.strip("\n").split("\n") for piece in folded(line, 75)]
    return "\n".join(f"  | {line}" for line in lines)


def folded(line: str, columns: int) -> Iterator[str]:
    """Yield a line in pieces of at most so many columns; Chinese characters, say, take two."""
    piece, width = "", 0
    for character in line:
        if unicodedata.category(character) in ("Cc", "Cs"):
            character = "\ufffd"  # a terminal would obey it
        if width + columns_of(character) > columns:
            head, space, tail = piece.rpartition(" ")
            yield head if space else piece
            piece = tail if space else ""
            width = columns_of(piece)
        piece, width = piece + character, width + columns_of(character)
    yield piece


def end(run: Run, lm: LanguageModel) -> None:
    """Tell how it went, with a sample and the command for more."""
    counters = run.trainer.counters
    assert counters.best_loss is not None
    say(
        f"\ndone in {clock(counters.seconds)}: best validation loss {in_units(counters.best_loss)} "
        f"at step {counters.best_step}\n"
    )
    say(indented(lm.generate(**(SAMPLE.to_dict() | {"length": 400}))))
    say(f"\nmore:     charlm generate {shlex.quote(str(run.folder))} --length 1000")
