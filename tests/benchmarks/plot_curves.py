"""Draw validation loss over minutes from the metrics of runs.

    pip install -e '.[plot]'
    python tests/benchmarks/plot_curves.py OUT.png LABEL=RUN/metrics.jsonl [...] [--line LABEL=NATS]

Every line that --line asks for is a figure to compare with, drawn across.
"""

import argparse
import json
from pathlib import Path


def pair(word):
    """Return ``LABEL=VALUE`` as two words."""
    label, equals, value = word.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form LABEL=VALUE")
    return label, value


def curve(path):
    """Return minutes and validation losses of a metrics file."""
    lines = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return [line["seconds"] / 60 for line in lines], [line["validation_loss"] for line in lines]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out")
    parser.add_argument("runs", nargs="+", type=pair, metavar="LABEL=METRICS")
    parser.add_argument("--line", type=pair, action="append", default=[], metavar="LABEL=NATS")
    parser.add_argument("--title", default="")
    arguments = parser.parse_args(argv)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for label, path in arguments.runs:
        minutes, losses = curve(path)
        (line,) = axes.plot(minutes, losses, marker=".", label=f"{label}: {min(losses):.3f}")
        axes.plot(minutes[-1:], losses[-1:], marker="o", color=line.get_color())
    for label, nats in arguments.line:
        axes.axhline(float(nats), linestyle="--", linewidth=1, color="gray")
        axes.annotate(
            f"{label}: {nats}", (0.01, float(nats)), xycoords=("axes fraction", "data"),
            va="bottom", fontsize=8, color="dimgray",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("validation loss, nats per character")
    axes.set_title(arguments.title)
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    figure.savefig(arguments.out, dpi=130)


if __name__ == "__main__":
    main()
