"""Progress on stderr: bars, and all that a training says from its start to its end.

In a terminal a bar fills the width that is there; elsewhere only whole lines are written.
"""

import math
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import as_flag
from charlm.cli.terminal import columns_of, cut, printable, say
from charlm.config import TrainConfig
from charlm.errors import written
from charlm.files import as_path, shell_command
from charlm.keywords import TextSettings

if TYPE_CHECKING:
    from tqdm import tqdm

    from charlm.api import LanguageModel
    from charlm.training.progress import Progress
    from charlm.training.run import Run

SAMPLE_SECONDS = 1.5  # that the sample at the end may take
SAMPLE_SHARE = 0.01  # of the time of a run that samples on the way may take
LONGEST_WHAT = 39  # columns of what a bar says is done: half a line is left for its figures
SAMPLE: TextSettings = {"length": 150, "temperature": 0.8, "seed": 1}


class ProgressBar:
    """A bar in a terminal for what takes more than a second; use it as a context.

    Args:
        total: how many units there are.
        what: what is being done, such as ``"reading"``.
        unit: what is counted.
    """

    def __init__(self, total: int, what: str, unit: str = " char"):
        self.total, self.unit = total, unit
        self.what = cut(printable(what), LONGEST_WHAT)  # it may hold the name of a file
        self.began = time.monotonic()
        self.done = 0
        self.bar: Any = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, count: int) -> None:
        """Move on by ``count`` units, to the end at most: chunks read some characters twice."""
        before, self.done = self.done, min(self.total, self.done + count)
        if self.bar is not None:
            self.bar.update(self.done - before)
        elif time.monotonic() - self.began > 1 and sys.stderr.isatty():
            from tqdm import tqdm  # importing it takes a tenth of the time to the first character

            self.bar = tqdm(
                total=self.total, initial=self.done, desc=self.what, unit=self.unit,
                unit_scale=True, dynamic_ncols=True, leave=False,
            )  # fmt: skip


def share_bar() -> "tqdm[Any]":
    """Return a bar for the share of a time that has passed, with a text behind it."""
    from tqdm import tqdm

    return tqdm(
        total=1.0,
        bar_format="|{bar}|{desc}",
        dynamic_ncols=True,
        disable=None,  # off where stderr is not a terminal
        file=sys.stderr,
    )


class TrainingBar:
    """The bar of a run; use it as a context."""

    def __init__(self, run: "Run"):
        self.run = run
        self.validation_loss = run.trainer.counters.best_loss
        self.sampled_at = -math.inf
        self.sample_seconds = 0.0
        self.bar = share_bar()

    def __enter__(self) -> "TrainingBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, progress: "Progress") -> None:
        """Move the bar; after an evaluation, write a line and a sample above it."""
        if progress.validation_loss is not None:
            self.validation_loss = progress.validation_loss
            self._write_evaluation(progress)
        if progress.decay_reason is not None:
            self.bar.write(decay_line(progress), file=sys.stderr)
        self.bar.set_description_str(bar_text(progress, self.validation_loss), refresh=False)
        share = progress.seconds / (progress.seconds + progress.seconds_left)
        self.bar.update(share - self.bar.n)

    def _write_evaluation(self, progress: "Progress") -> None:
        from charlm.api import LanguageModel
        from charlm.checkpoint import Checkpoint

        assert progress.validation_loss is not None
        line = (
            f"step {progress.step}  epoch {progress.epoch:.2f}  "
            f"train {both(progress.train_loss)}  val {both(progress.validation_loss)}  "
            f"{thousands(progress.chars_per_second)} char/s{'  best' if progress.is_best else ''}"
        )
        began = time.monotonic()
        if SAMPLE_SHARE * (began - self.sampled_at) < self.sample_seconds:
            self.bar.write(line, file=sys.stderr)
            return
        model, tokenizer = self.run.trainer.model, self.run.trainer.dataset.tokenizer
        lm = LanguageModel(
            Checkpoint(model_config=model.config, tokenizer=tokenizer, weights=model.weights())
        )
        self.bar.write(f"{line}\n{indented(lm.generate(**SAMPLE))}", file=sys.stderr)
        self.sampled_at = time.monotonic()
        self.sample_seconds = self.sampled_at - began


def print_fact(label: str, text: str) -> None:
    """Write a labelled line to stderr, folded to 79 columns."""
    folded_text = textwrap.fill(
        printable(text),
        79,
        initial_indent=f"{label:9}",
        subsequent_indent=" " * 9,
        break_on_hyphens=False,  # a flag stays whole
    )
    say(folded_text)


def print_start(run: "Run") -> None:
    """Tell what is about to be trained, on what, and where it goes."""
    from charlm.data.text_files import listed

    trainer, dataset = run.trainer, run.trainer.dataset
    model, config = trainer.model.config, trainer.config
    vocab_size = dataset.tokenizer.vocab_size
    part, held_out = trainer.evaluated_length, len(dataset.validation)
    for notice in run.notices:
        print_fact("chosen", written(notice, as_flag))
    print_fact(
        "text",
        f"{listed(dataset.files)}: {dataset.characters:,} characters, {vocab_size:,} symbols; "
        f"{held_out:,} held out for validation"
        + (f", the first {part:,} for evaluations before the last" if part != held_out else ""),
    )
    print_fact(
        "model",
        f"{model.description}, {model.num_parameters(vocab_size):,} parameters",
    )
    windows = f"windows of {config.batch_size} x {config.seq_length} characters"
    if dataset.line_end is not None:
        windows = f"{config.batch_size} items at a time"
    print_fact(
        "training",
        f"{duration(config)} with {windows}, "
        f"{trainer.precision} on {trainer.device}, seed {config.seed}",
    )
    print_fact("run", f"{run.folder} (Ctrl-C saves and stops); losses in nats/bits per character")


def print_end(run: "Run", lm: "LanguageModel", cells: list[str]) -> None:
    """Tell how it went, with a sample and the command for more, which ends with ``cells``."""
    from charlm.training.progress import in_units

    counters = run.trainer.counters
    assert counters.loss is not None
    validation, end = run.trainer.dataset.validation, run.trainer.dataset.line_end
    each = ""
    if end is not None:
        per_item = counters.loss * len(validation) / int((validation == end).sum())
        each = f" per character, {in_units(per_item)} per item,"
    say()
    print_fact(
        "done",
        f"in {clock(counters.seconds)}: best validation loss {in_units(counters.loss)}{each} at "
        f"step {counters.best_step}",
    )
    if run.is_cut_short:
        measured = "to about 0.001, as there was no time to read more than once what this model"
        measured += " remembers so long"
        if counters.whole_loss is None:
            measured = f"on the first {run.trainer.evaluated_length:,} of {len(validation):,} "
            measured += "characters held out, as there was no time for all"
        print_fact("", f"measured {measured}; evaluate with --held-out has it exactly")
    say()
    # On a busy machine a sample may take longer than a run in minutes has left.
    until, pieces = time.monotonic() + SAMPLE_SECONDS, []
    for piece in lm.stream(**(SAMPLE | {"length": 400})):
        pieces.append(piece)
        if time.monotonic() > until:
            break
    say(indented("".join(pieces)))
    amount = ["--length", "1000"] if end is None else ["--num-samples", "20"]
    more = shell_command(["charlm", "generate", as_path(run.folder), *amount, *cells])
    say(f"\nmore:     {printable(more)}")


def decay_line(progress: "Progress") -> str:
    """Return a line on the step at which the end of a run in minutes is fixed."""
    why = f"{progress.seconds_left / 60:.1f} minutes are left"
    if progress.decay_reason == "early stopping":
        why = f"early stopping: validation has not improved since step {progress.best_step}"
    return f"{why}; the learning rate falls from here to the end at step {progress.steps}"


def bar_text(progress: "Progress", validation_loss: float | None) -> str:
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
    if config.steps is not None:
        return f"{config.steps} steps"
    most = "" if config.total_steps is None else f", {config.total_steps} steps at most,"
    return f"{config.minutes:g} minutes{most}"


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
