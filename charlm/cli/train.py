"""The verb ``train``, and the training that ``resume`` shares with it."""

import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.parser import Subparsers, add_files, add_settings, name, start_settings
from charlm.cli.progress import ProgressBar, TrainingBar, print_end, print_start
from charlm.cli.repeat import cell_flags, repeat_commands
from charlm.cli.terminal import Stop, complain, printable, say
from charlm.config import ComputeConfig, ModelConfig, TrainConfig
from charlm.errors import ProcessError
from charlm.files import as_path, shell_command

if TYPE_CHECKING:
    from charlm.training.run import Run


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "train",
        help="train a new model on text files",
        description="Train a new model on UTF-8 text files. Ctrl-C saves, and says how to "
        "continue. With torchrun, several processes train one model.",
        epilog="What is not given follows from the text and the time, and is printed.",
    )
    add_files(parser)
    parser.add_argument(
        "-o",
        "--out",
        type=name,
        metavar="RUN",
        help="new run folder (default: checkpoints/<name of the first FILE or folder>)",
    )
    parser.add_argument(
        "--init-from",
        type=name,
        metavar="RUN",
        help="start with the weights of this run; a fresh training, unlike resume",
    )
    add_settings(parser, "computing", ComputeConfig)
    add_settings(parser, "model", ModelConfig)
    add_settings(parser, "training", TrainConfig)


def run(arguments: Namespace) -> int:
    """Start a new run and train it to its end."""
    began = time.monotonic()  # importing torch is part of the minutes
    from charlm.model import require_torch

    require_torch()
    from charlm.training.start import start

    silence_all_but_the_first()

    with reading_bar(arguments.files) as bar:
        run = start(
            arguments.files,
            out=arguments.out,
            init_from=arguments.init_from,
            on_progress=bar.update,
            began=began,
            **start_settings(arguments),
        )
    return train_to_end(run, arguments.cell_file)


def silence_all_but_the_first() -> None:
    """Of several processes, let only the first one speak."""
    from charlm.model.distributed import launched

    if not launched().first:
        nowhere = Path(os.devnull).open("w", encoding="utf-8", errors="replace")  # noqa: SIM115
        sys.stdout = sys.stderr = nowhere


def reading_bar(files: list[str]) -> ProgressBar:
    """Return a bar for texts, which are read twice."""
    from charlm.data.text_files import find_texts

    sizes = [file.stat().st_size for file in find_texts(files)[0] if file.is_file()]
    return ProgressBar(2 * sum(sizes), "reading", "B")


def train_to_end(run: "Run", cell_files: list[str]) -> int:
    """Train, showing how it goes, until the end or until a signal asks to stop."""
    from charlm import api
    from charlm import checkpoint as checkpoints

    cells = cell_flags(cell_files)
    command = shell_command(["charlm", "resume", as_path(run.folder), *cells])
    again = f"continue with: {command}"
    print_start(run)
    stopping = Stop(
        "stopping after this step; once more to stop at once",
        f"stopped at once, at the last save; {again}",
    )
    with stopping as stop:
        try:
            with TrainingBar(run) as bar:
                for progress in run.progress(lambda: stop.signal is not None):
                    bar.show(progress)
        except ProcessError as error:  # said at once: torchrun is about to end this process too
            sys.stderr = sys.__stderr__ or sys.stderr  # the one that speaks may be the one gone
            complain(error)
            return 1
    if not run.trainer.finished:
        say(f"saved at step {run.trainer.counters.step}; {again}")
        return 128 + (stop.signal or signal.SIGTERM)  # of several processes, maybe another one's
    print_end(run, api.load(run.folder), cells)
    latest = checkpoints.load(run.folder / "latest.safetensors", model_only=True)
    for line in repeat_commands(latest, cell_files):
        say(f"repeat:   {printable(line)}")
    return 0
