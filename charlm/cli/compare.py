"""The verb ``compare``."""

import json
import shutil
import signal
import statistics
import sys
import textwrap
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import (
    Subparsers,
    add_files,
    add_json,
    add_setting,
    add_settings,
    as_flags,
    given,
    name,
    start_settings,
)
from charlm.cli.progress import (
    ProgressBar,
    both,
    clock,
    indented,
    print_fact,
    share_bar,
    thousands,
)
from charlm.cli.repeat import cell_flags
from charlm.cli.terminal import Stop, columns_of, printable, say
from charlm.cli.train import reading_bar, silence_all_but_the_first
from charlm.config import CompareConfig, ComputeConfig, ModelConfig, TrainConfig
from charlm.files import as_path, shell_command

if TYPE_CHECKING:
    from charlm.training.comparison import Comparison, Member
    from charlm.training.progress import Progress


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "compare",
        help="train several backbones on one text, and tell which is best",
        description="Train each backbone on the same text, with the same budget and the same "
        "settings, and compare them in a table, in words and as a page. Ctrl-C saves and stops; "
        "the same command again goes on. More --seeds or --backbones extend a comparison.",
        epilog="The settings are those of train, chosen once for all: what is not given follows "
        "from the text and the time, as for the default backbone. The precision is the one in "
        "which all together train fastest.",
    )
    add_files(parser)
    parser.add_argument(
        "-o",
        "--out",
        type=name,
        metavar="FOLDER",
        help="folder of the comparison, with a run folder in it for each training (default: "
        "checkpoints/<name of the first FILE or folder>-compare)",
    )
    for item in CompareConfig.settings():
        add_setting(parser, item)
    add_json(parser, "print all figures as one JSON object")
    add_settings(parser, "computing", ComputeConfig)
    add_settings(parser, "model", ModelConfig, leave_out=("backbone",))
    add_settings(parser, "training", TrainConfig, leave_out=("seed",))


def run(arguments: Namespace) -> int:
    """Train what is left of a comparison, and print what it shows."""
    from charlm.model import require_torch

    require_torch()
    from charlm.training import figures
    from charlm.training.comparison import PAGE, Comparison

    silence_all_but_the_first()
    config = CompareConfig(**given(arguments, CompareConfig.names()))
    with reading_bar(arguments.files) as bar:
        comparison = Comparison.open(
            arguments.files,
            config,
            out=arguments.out,
            on_progress=bar.update,
            **start_settings(arguments),
        )
    stopped = _train(comparison, _command(arguments, comparison))
    if stopped:
        return 128 + stopped
    _measure(comparison, config.prompt)
    figures.conclude(comparison)
    if arguments.json:
        print(json.dumps(comparison.document, ensure_ascii=False))
    else:
        _print_table(comparison.document["table"])
        _print_words(comparison.document)
    print_fact("page", str(comparison.folder / PAGE))
    return 0


def _command(arguments: Namespace, comparison: "Comparison") -> str:
    """Return the command that goes on with a comparison."""
    flags = as_flags(given(arguments, CompareConfig.names()) | start_settings(arguments))
    files = [as_path(file) for file in arguments.files]
    out = ["--out", as_path(comparison.folder)]
    return shell_command(
        ["charlm", "compare", *files, *flags, *out, *cell_flags(arguments.cell_file)]
    )


def _train(comparison: "Comparison", command: str) -> int:
    """Train what is left; return the number of the signal that has stopped it, or 0."""
    left = comparison.left()
    if not left:
        return 0
    _print_start(comparison)
    again = f"continue with: {command}"
    stopping = Stop(
        "stopping after this step; once more to stop at once",
        f"stopped at once, at the last save; {again}",
    )
    with stopping as stop, ComparisonBar(comparison) as bar:
        for member in left:
            if stop.signal is not None:
                break
            bar.begin(member)
            for progress in comparison.train(member, lambda: stop.signal is not None):
                bar.show(progress)
            if comparison.is_done(member):
                bar.end(member)
    if comparison.left():
        say(f"saved; {again}")
        return stop.signal or signal.SIGTERM
    return 0


class ComparisonBar:
    """The bar of a comparison: which run of how many, and the time left for all; use as a context.

    The time of a run to come is its minutes, or as much as the runs so far took in the mean.
    """

    def __init__(self, comparison: "Comparison"):
        from charlm.training.figures import run_figures

        self.comparison = comparison
        self.figures = run_figures
        self.members = comparison.members
        self.seconds = [
            run_figures(comparison, member).get("seconds", 0.0)
            for member in self.members
            if comparison.is_done(member)
        ]
        self.minutes = comparison.document["common"].get("minutes")
        self.where = ""
        self.validation_loss: float | None = None
        self.bar = share_bar()

    def __enter__(self) -> "ComparisonBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def begin(self, member: "Member") -> None:
        """Show which run is next."""
        place, count = self.members.index(member) + 1, len(self.members)
        self.where, self.validation_loss = f"{place}/{count} {printable(member.folder.name)}", None
        if self.bar.disable:
            say(f"run {self.where}")
        self.bar.set_description_str(f"{self.where} starts")

    def show(self, progress: "Progress") -> None:
        """Move the bar; where it is none, write a line after an evaluation."""
        if progress.validation_loss is not None:
            self.validation_loss = progress.validation_loss
            if self.bar.disable:
                say(f"  step {progress.step}  val {both(progress.validation_loss)}")
        now = progress.seconds + progress.seconds_left
        each = 60 * self.minutes if self.minutes else statistics.mean([*self.seconds, now])
        left = progress.seconds_left + each * (len(self.members) - len(self.seconds) - 1)
        done = sum(self.seconds) + progress.seconds
        validation = "" if self.validation_loss is None else f" val {both(self.validation_loss, 2)}"
        text = f"{self.where}{validation} {thousands(progress.chars_per_second)}/s"
        self.bar.set_description_str(f"{text} {clock(left)} in all", refresh=False)
        self.bar.update(done / (done + left) - self.bar.n)

    def end(self, member: "Member") -> None:
        """Write what a run has reached."""
        found = self.figures(self.comparison, member)
        self.seconds.append(found.get("seconds", 0.0))
        text = found["diverged"] or f"{both(found['nats'], 4)} in {clock(found['seconds'])}"
        self.bar.write(printable(f"{found['run']}  {text}"), file=sys.stderr)


def _print_start(comparison: "Comparison") -> None:
    """Tell what all runs have in common, and where they go."""
    from charlm.data.text_files import listed
    from charlm.training.comparison_plan import model_config

    document = comparison.document
    text, common = document["text"], document["common"]
    for notice in document["notices"]:
        print_fact("chosen", notice)
    print_fact(
        "text",
        f"{listed(comparison.texts)}: {text['characters']:,} characters, "
        f"{text['symbols']:,} symbols",
    )
    for own in document["models"].values():
        model = model_config(document, own)
        print_fact(
            "model",
            f"{model.description}, {model.num_parameters(text['symbols']):,} parameters",
        )
    budget = next(name for name in ("minutes", "steps", "epochs") if name in common)
    unit = budget[:-1] if common[budget] == 1 else budget
    print_fact(
        "training",
        f"{common[budget]:g} {unit} for each of {len(comparison.members)} runs, "
        f"{common['precision']}; all have the same settings",
    )
    print_fact("folder", f"{comparison.folder}; losses in nats/bits per character")


def _measure(comparison: "Comparison", prompt: str) -> None:
    """Measure the models that have not been measured yet."""
    from charlm.training import figures

    left = figures.unmeasured(comparison, prompt)
    if not left:
        return
    text = figures.held_out_text(comparison)
    with ProgressBar(len(left) * figures.effort(text), "measuring") as bar:
        for member in left:
            figures.measure(comparison, member, text, prompt, bar.update)
            comparison.save()


def _print_table(table: list[dict[str, Any]]) -> None:
    """Print a column for each backbone, as many side by side as fit into the terminal."""
    seeds = max(row["seeds"] for row in table)
    lines = {
        "": [row["backbone"] for row in table],
        "loss, nats per character": [_number(row["nats"], ".4f") for row in table],
        f"  its spread over {seeds} seeds": [_number(row["spread"], ".4f") for row in table],
        "loss, bits per character": [_number(row["bits"], ".4f") for row in table],
        "units": [f"{row['num_layers']} x {row['hidden_size']}" for row in table],
        "parameters": [_number(row["parameters"]) for row in table],
        "characters read in training": [_number(row["characters"]) for row in table],
        "characters a second, training": [
            _number(row["training_chars_per_second"]) for row in table
        ],
        "characters a second, generating": [
            _number(row["generating_chars_per_second"]) for row in table
        ],
        "characters of context that count": [_memory(row) for row in table],
        "gradient half-distance, characters": [_half_distance(row) for row in table],
        "runs that diverged": [str(row["diverged"]) for row in table],
    }
    if seeds == 1:
        del lines[f"  its spread over {seeds} seeds"]
    if not any(row["diverged"] for row in table):
        del lines["runs that diverged"]
    label = max(map(len, lines)) + 2
    width = max(columns_of(printable(cell)) for cells in lines.values() for cell in cells) + 2
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    fitting = max(1, (columns - 1 - label) // width)
    for start in range(0, len(table), fitting):
        for words, cells in lines.items():
            shown = map(printable, cells[start : start + fitting])
            print(words.ljust(label) + "".join(" " * (width - columns_of(c)) + c for c in shown))
        print()


def _number(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form)


def _memory(row: dict[str, Any]) -> str:
    """Return the length of the context that counts, which was measured up to some most."""
    if row["memory_most"] is None:
        return "-"
    return f"> {row['memory_most']:,}" if row["memory"] is None else f"{row['memory']:,}"


def _half_distance(row: dict[str, Any]) -> str:
    """Return over how many characters a gradient halves, if it was measured and it does."""
    if row["half_distance_most"] is None:
        return "-"
    return "never" if row["half_distance"] is None else f"{row['half_distance']:,.1f}"


def _print_words(document: dict[str, Any]) -> None:
    """Print the verdict, and a sample of each model."""
    print(textwrap.fill(printable(" ".join(document["verdict"]["sentences"])), 79))
    for backbone, found in document["measured"].items():
        if backbone in document["backbones"]:
            print(f"\n{printable(backbone)}:\n{indented(found['prompt'] + found['sample'])}")
