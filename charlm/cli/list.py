"""The verb ``list``."""

import json
import math
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import Subparsers, add_json
from charlm.cli.parser import name as name_type
from charlm.cli.terminal import ago, columns_of, cut, printable, say
from charlm.errors import CheckpointError
from charlm.files import age_of

if TYPE_CHECKING:
    from charlm.checkpoint import Checkpoint

FOLDER = "checkpoints"
STEMS = ("latest", "best")


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "list",
        help="list the runs in a folder, the newest first",
        description="Print a line for each run: the lowest validation loss, the size of the "
        "model, and how long ago it was saved. Only the head of each file is read.",
    )
    parser.add_argument(
        "folder",
        type=name_type,
        nargs="?",
        default=FOLDER,
        metavar="FOLDER",
        help=f"folder that holds run folders (default: {FOLDER})",
    )
    add_json(parser, "print one JSON object per run")


def run(arguments: Namespace) -> int:
    """Print the runs in a folder."""
    folder = Path(arguments.folder)
    if not folder.is_dir() and arguments.folder != FOLDER:
        raise CheckpointError(f"there is no folder {folder}: name one that holds run folders")
    files = sorted(_files(folder), key=age_of)
    if not files:
        say(f"there are no runs in {printable(str(folder))}: charlm train FILE makes one")
        return 0
    runs = [_facts(file) for file in files]
    if arguments.json:
        for facts in runs:
            print(json.dumps(facts, ensure_ascii=False))
        return 0
    rows = [(printable(facts["run"]), *_columns(facts)) for facts in runs]
    _print_table([("run", "nats", "bits", "parameters", "model", "steps", "saved"), *rows])
    return 0


def _files(folder: Path) -> list[Path]:
    """Return the latest checkpoint of each run in a folder, or of the folder if it is a run."""
    below = sorted(path for path in folder.glob("*") if path.is_dir())
    found = []
    for run in (folder, *below):
        there = [run / f"{stem}.safetensors" for stem in STEMS]
        found += [file for file in there if file.exists()][:1]
    return found


def _facts(file: Path) -> dict[str, Any]:
    """Return what is told of a run, or why its checkpoint cannot be read."""
    from charlm import checkpoint as checkpoints

    known = file.parent.parent == Path(FOLDER)  # then the name of the run is enough for all verbs
    name = file.parent.name if known else str(file.parent)
    facts: dict[str, Any] = {"run": name, "file": str(file)}
    facts["seconds_ago"] = round(age_of(file))
    try:
        return facts | _figures(checkpoints.load_head(file))
    except CheckpointError as error:
        return facts | {"error": str(error)}


def _bits(nats: float | None) -> float | None:
    return None if nats is None else nats / math.log(2)


def _figures(found: "Checkpoint") -> dict[str, Any]:
    model = found.model_config
    return {
        "nats_per_char": found.counters.loss,
        "bits_per_char": _bits(found.counters.loss),
        "parameters": model.num_parameters(found.tokenizer.vocab_size),
        "backbone": model.backbone,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "attention": model.attention,
        "step": found.counters.step,
        "steps": found.train_config.total_steps,
        "error": None,
    }


def _columns(facts: dict[str, Any]) -> tuple[str, ...]:
    """Return a run as the columns of its line; one that cannot be read has a single column."""
    if facts["error"] is not None:
        return (f"broken: {printable(facts['error'])}",)
    nats, bits = facts["nats_per_char"], facts["bits_per_char"]
    total = "" if facts["steps"] is None else f"/{facts['steps']}"
    return (
        "-" if nats is None else f"{nats:.4f}",
        "-" if bits is None else f"{bits:.4f}",
        f"{facts['parameters']:,}",
        f"{printable(facts['backbone'])} {facts['num_layers']} x {facts['hidden_size']}"
        + (f", attention {facts['attention']}" if facts["attention"] else ""),
        f"{facts['step']}{total}",
        ago(facts["seconds_ago"]),
    )


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns: the first and the last one flush left, the others flush right."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    first = max(columns_of(row[0]) for row in rows)
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for name, *columns in rows:
        *figures, last = columns
        cells = [text.rjust(width) for text, width in zip(figures, widths[1:], strict=False)]
        line = "  ".join([name + " " * (first - columns_of(name)), *cells, last])
        shown = sys.stdout.isatty()
        print(cut(line, shutil.get_terminal_size().columns - 1) if shown else line)
