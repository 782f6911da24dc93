"""The verb ``plot``."""

import argparse
import io
import math
import warnings
from argparse import Namespace
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import Subparsers, name, utf8
from charlm.cli.terminal import printable
from charlm.errors import CheckpointError, ConfigError, PackageError, argument
from charlm.files import install_command

if TYPE_CHECKING:
    from charlm.checkpoint import Checkpoint

AXES = {
    "minutes": "minutes of training",
    "steps": "steps",
    "characters": "characters read in training",
}
WIDE = 20  # factor between the ends of an axis from which on it is logarithmic
# The endings of pictures, with what such a file begins with.
PICTURES = {".png": (b"\x89PNG",), ".svg": (b"<?xml", b"<svg")}


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "plot",
        help="draw the losses of runs as curves",
        description="Draw the losses that runs had on the way, in training (dashed) and "
        f"validation. It needs matplotlib: {install_command('charlm[plot]')}.",
    )
    parser.add_argument(
        "runs",
        type=name,
        nargs="+",
        metavar="RUN",
        help="run folder, its name under checkpoints/, or the metrics.jsonl of a run",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=name,
        metavar="FILE",
        help="picture, .png or .svg, which replaces a picture but no other file (default: "
        "<name of the first RUN>.png)",
    )
    parser.add_argument(
        "--x", choices=tuple(AXES), default="minutes", help="what to draw over (default: minutes)"
    )
    parser.add_argument(
        "--line",
        type=_labelled,
        action="append",
        default=[],
        metavar="LABEL=NATS",
        help="a loss to compare with, drawn across; repeatable",
    )


def run(arguments: Namespace) -> int:
    """Draw the curves of runs into a picture, and print its name."""
    curves = [Curve.of(word, arguments.x) for word in arguments.runs]
    out = Path(f"{curves[0].name}.png" if arguments.out is None else arguments.out)
    _check_target(out)
    if find_spec("matplotlib") is None:
        raise PackageError("plot needs matplotlib, which is not installed: pip install matplotlib")
    names = [curve.name for curve in curves]
    for index, word in enumerate(arguments.runs):
        if names.count(names[index]) > 1:  # then what was typed tells them apart
            curves[index] = replace(curves[index], name=word)
    from charlm.files import write_atomically

    write_atomically(out, _picture(curves, AXES[arguments.x], arguments.line, out.suffix.lower()))
    print(printable(str(out)))
    return 0


@dataclass(frozen=True)
class Curve:
    """The losses of a run on the way, in nats per character.

    Attributes:
        name: of the run.
        best: its lowest validation loss, of all that is held out if that is known.
        x: what it is drawn over.
        train, validation: its losses there.
    """

    name: str
    best: float
    x: list[float]
    train: list[float]
    validation: list[float]

    @classmethod
    def of(cls, run: str, axis: str) -> "Curve":
        """Return the curve of a run over one of ``AXES``.

        Raises:
            CheckpointError: if there is no such run, or its metrics are missing or damaged.
        """
        from charlm.training.metrics import epoch_characters, read_metrics

        metrics, found = _find(run)
        lines = read_metrics(metrics)
        if not lines:
            raise CheckpointError(f"{metrics} is empty: the run has not been evaluated yet")
        x = [line["seconds"] / 60 for line in lines]
        if axis == "steps":
            x = [line["step"] for line in lines]
        if axis == "characters":
            if found is None:
                raise CheckpointError(
                    f"{metrics} has no checkpoint beside it, which tells the characters of an "
                    f"epoch: choose {argument('x', 'steps')}"
                )
            x = [line["epoch"] * epoch_characters(found) for line in lines]
        validation = [line["validation_loss"] for line in lines]
        loss = None if found is None else found.counters.loss
        return cls(
            name=_name(metrics),
            best=min(validation) if loss is None else loss,
            x=x,
            train=[line["train_loss"] for line in lines],
            validation=validation,
        )


def _find(run: str) -> tuple[Path, "Checkpoint | None"]:
    """Return the metrics that RUN names, and the checkpoint beside them if there is one."""
    from charlm import checkpoint as checkpoints
    from charlm.training.run_dir import METRICS

    path = Path(run)
    if path.suffix == ".jsonl" and path.is_file():
        latest = path.with_name("latest.safetensors")
        is_of_run = path.name == METRICS and latest.is_file()
        return path, checkpoints.load_head(latest) if is_of_run else None
    file = checkpoints.locate(run, "latest")
    metrics = file.with_name(METRICS)
    if not metrics.is_file():
        raise CheckpointError(
            f"{file.parent} has no {METRICS}, which a training writes: name a run that was trained"
        )
    return metrics, checkpoints.load_head(file)


def _name(metrics: Path) -> str:
    """Return the name of the run that metrics are of: that of its folder, if it is one."""
    from charlm.training.run_dir import METRICS

    return metrics.stem if metrics.name != METRICS else metrics.resolve().parent.name


def _labelled(word: str) -> tuple[str, float]:
    """Return ``LABEL=NATS`` as a label and a number."""
    label, equals, number = utf8(word).rpartition("=")
    try:
        nats = float(number)
    except ValueError:
        nats = math.nan
    if not (equals and math.isfinite(nats)):
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form LABEL=NATS, as other=1.5")
    return label, nats


def _check_target(path: Path) -> None:
    """Raise ConfigError unless a picture may be written to ``path``."""
    from charlm.files import check_name, is_regular_file

    check_name(path)
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(
            f"picture {path} must end in {' or '.join(PICTURES)}: choose another name with "
            f"{argument('out')}"
        )
    if not path.exists():
        return
    begins = tuple(begin for begins in PICTURES.values() for begin in begins)
    if not is_regular_file(path) or not path.read_bytes().startswith(begins):
        raise ConfigError(
            f"{path} is there already and is no picture: choose another name with {argument('out')}"
        )


def _picture(
    curves: list[Curve], label: str, across: list[tuple[str, float]], suffix: str
) -> bytes:
    """Return the picture of some curves, with lines drawn across."""
    import matplotlib

    matplotlib.use("Agg")  # draws into memory: there may be no screen
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for curve in curves:
        text = f"{curve.best:.4f} {printable(curve.name)}"
        (line,) = axes.plot(curve.x, curve.validation, marker=".", label=text)
        axes.plot(curve.x, curve.train, linestyle="--", linewidth=1, color=line.get_color())
        # On the way a short run reads only the beginning of what is held out.
        axes.plot(curve.x[-1:], [curve.best], marker="D", color=line.get_color())
    for text, nats in across:
        axes.axhline(nats, linestyle=":", linewidth=1, color="gray")
        axes.annotate(
            f"{printable(text)}: {nats:g}", (0.01, nats), xycoords=("axes fraction", "data"),
            va="bottom", fontsize=8, color="dimgray", parse_math=False,
        )  # fmt: skip
    places = [place for curve in curves for place in curve.x if place > 0]
    if places and max(places) > WIDE * min(places):  # as for runs of one and of ten minutes
        axes.set_xscale("log")
        if label == AXES["minutes"]:
            axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(label)
    axes.set_ylabel("loss, nats per character")
    words = "solid: validation, on the beginning (diamond: on all of it); dashed: training"
    axes.set_title(words, fontsize="small")
    axes.grid(which="both", alpha=0.2)
    for entry in axes.legend(title="lowest validation loss").get_texts():
        entry.set_parse_math(False)  # a name may hold a dollar sign
    return _saved(figure, suffix)


def _saved(figure: Any, suffix: str) -> bytes:
    from matplotlib import pyplot

    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that its font does not have
        figure.savefig(data, format=suffix[1:], dpi=130)
    pyplot.close(figure)
    return data.getvalue()
