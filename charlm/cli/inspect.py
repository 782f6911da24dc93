"""The verb ``inspect``."""

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import Subparsers, add_json, add_run, add_unknown, name, utf8
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import printable, read_stdin, say, text_files
from charlm.errors import ConfigError, CorpusError
from charlm.files import as_path

if TYPE_CHECKING:
    from charlm.insight.report import Inspection


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "inspect",
        help="open a page that shows what a model has learned",
        description="Write a page, one HTML file without any network, that shows how a model reads "
        "a text: what surprises it, which units follow what in the text, how far back the text "
        "matters, how gradients flow, and what its gates do. Gradients need torch, all else does "
        "not.",
    )
    add_run(parser)
    parser.add_argument(
        "files",
        type=name,
        nargs="*",
        metavar="FILE",
        help="UTF-8 texts, joined; of a folder its .txt and .md files (default: stdin)",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=name,
        metavar="PAGE",
        help="the page, a name that ends with .html (default: the names of the model and the text, "
        "in the working directory)",
    )
    add_json(parser, "print all figures as one JSON object; writes a page only with --out")
    parser.add_argument(
        "--characters",
        type=int,
        default=20_000,
        metavar="N",
        help="how much of the text to read, from its beginning (default: %(default)s); "
        "connectivity is computed up to 2000",
    )
    parser.add_argument(
        "--concept",
        type=utf8,
        action="append",
        default=[],
        metavar="REGEX",
        help="also look for units that follow where this regular expression matches; repeatable",
    )
    parser.add_argument(
        "--unit",
        type=utf8,
        action="append",
        default=[],
        metavar="UNIT",
        help="also paint this unit over the whole text, such as 2.c.37: layer, array, number; "
        "repeatable",
    )
    add_unknown(parser)


def run(arguments: Namespace) -> int:
    """Write the page and print a summary."""
    from charlm import api
    from charlm.data.text_files import read_text

    if not arguments.files and sys.stdin.isatty():
        raise CorpusError("no text to inspect: name a file, or pipe one to stdin")
    page = _page(arguments)
    files = text_files(arguments.files)
    lm = api.load(arguments.run, unknown=arguments.unknown)
    text = read_text(files) if files else read_stdin()
    bar = _Bar()
    with bar:
        inspection = lm.inspect(
            text,
            source=", ".join(map(str, files)) or "stdin",
            name=str(arguments.run),
            characters=arguments.characters,
            concepts=arguments.concept,
            units=arguments.unit,
            on_progress=bar.show,
        )
    for notice in inspection.figures["text"]["notices"]:
        say(printable(notice))
    if page is not None:
        inspection.save(page)
    if arguments.json:
        print(json.dumps(inspection.to_dict(), ensure_ascii=False))
    else:
        _print_summary(inspection)
    if page is not None:
        say(printable(f"page {as_path(page)} ({page.stat().st_size / 1e6:.1f} MB)"))
    return 0


def _page(arguments: Namespace) -> Path | None:
    """Return where the page goes, None if nowhere, before any work is done.

    Raises:
        ConfigError: if it cannot be written, or would take the place of something else.
    """
    from charlm.insight.page import is_page

    if arguments.out is None and arguments.json:
        return None
    text = Path(arguments.files[0]).resolve().stem if arguments.files else "stdin"
    model = Path(arguments.run).resolve().stem
    names = dict.fromkeys(name for name in (model, text) if name)  # "english" stands there once
    page = Path(arguments.out or f"{'-'.join(names)}.html")
    other = "choose another name with --out"
    if page.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out {page} must end with .html: the page is a file of this kind")
    if page.is_dir():
        raise ConfigError(f"{page} is a folder: {other}")
    if not os.access(page.parent, os.W_OK):
        raise ConfigError(f"cannot write {page}: there is no folder to write to; {other}")
    if page.exists() and not is_page(page):
        raise ConfigError(f"{page} is there already, and charlm did not write it: {other}")
    return page


class _Bar(ProgressBar):
    """A bar for the parts of an inspection."""

    def __init__(self) -> None:
        super().__init__(100, "reading", "%")

    def show(self, part: str, share: float) -> None:
        """Move to a share of the whole."""
        self.what = part
        if self.bar is not None:
            self.bar.set_description_str(part, refresh=False)
        self.update(max(0, round(100 * share) - self.done))


def _print_summary(inspection: "Inspection") -> None:
    """Print what was found, in a few lines."""
    figures = inspection.figures
    surprise, neurons = figures["surprise"], figures["neurons"]
    print(f"surprise   {surprise['mean']:.3f} bits per character, {surprise['sum']:,.0f} in all")
    memory = figures["memory"]
    print(f"memory     {memory.get('sentence') or memory['left_out']}")
    gradients = figures["gradients"]
    for curve in gradients.get("curves", []):
        if curve["array"] == gradients["curves"][0]["array"]:
            print(f"gradients  layer {curve['layer']}: {_halved(curve)}")
    if "left_out" in gradients:
        print(f"gradients  {gradients['left_out']}")
    print(f"units      {neurons['why'] or _units(neurons)}")
    for concept in neurons["concepts"]:
        if concept["found"]:
            print(f"           {_unit_line(concept)}")


def _halved(curve: dict[str, Any]) -> str:
    def words(distance: float | None) -> str:
        return "do not vanish" if distance is None else f"halve every {distance} characters"

    return f"{words(curve['half_distance'])}; untrained {words(curve['half_distance_untrained'])}"


def _units(neurons: dict[str, Any]) -> str:
    concepts = neurons["concepts"]
    found = sum(bool(concept["found"]) for concept in concepts)
    return f"found for {found} of {len(concepts)} concepts"


def _unit_line(concept: dict[str, Any]) -> str:
    best = concept["found"][0]
    unit, clamped = best["unit"], best["clamped"]
    line = (
        f"{concept['name']}: {unit['layer']}.{unit['array']}.{unit['index']}  "
        f"{concept['measure']} {best['score']:.3f}"
    )
    if clamped is None:
        return line
    if clamped["where"] is None:
        return f"{line}; held at its mean {clamped['elsewhere']:+.3f} bits"
    return (
        f"{line}; held at its mean {clamped['where']:+.3f} bits, "
        f"elsewhere {clamped['elsewhere']:+.3f}"
    )
