"""The verb ``score``."""

import json
import math
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import (
    Subparsers,
    add_exact,
    add_json,
    add_run,
    add_unknown,
    load_model,
    name,
)
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import (
    cut,
    obeys_codes,
    printable,
    read_stdin,
    say,
    say_unknown,
    text_files,
    visible,
)
from charlm.errors import CorpusError

if TYPE_CHECKING:
    from charlm.api import LanguageModel

# The least surprisal in bits, and how a terminal shows characters of as much (SGR codes).
COLORS = ((9.0, "97;41"), (6.0, "91"), (4.0, "33"), (2.0, "32"), (0.0, "90"))


@dataclass(frozen=True)
class Scored:
    """A text and the surprisal of each of its characters, in bits.

    Attributes:
        file: where it is from.
        line: which line of that file it is, if it is one.
    """

    file: str
    line: int | None
    text: str
    surprisal: list[float]

    @property
    def bits(self) -> float:
        """The surprisal of the whole text."""
        return math.fsum(self.surprisal)

    @property
    def bits_per_char(self) -> float:
        """The mean surprisal."""
        return self.bits / max(1, len(self.text))


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "score",
        help="show how surprising a text is to a model",
        description="Show the surprisal of each character, given all before it: in a terminal as "
        "the coloured text, and in figures. Needs no torch. Of several texts the least surprising "
        "comes first. With --unknown the figures are those of the text as it is read.",
    )
    add_run(parser)
    parser.add_argument(
        "files",
        type=name,
        nargs="*",
        metavar="FILE",
        help="UTF-8 texts; of a folder its .txt and .md files (default: stdin)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--by-line", action="store_true", help="a figure for each line of the text")
    how.add_argument(
        "--rank",
        action="store_true",
        help="take each line for a text of its own, the least surprising first; with a model of "
        "items the likeliest first, with its exact probability, that of the line end included",
    )
    add_json(parser, "print JSON: an object per text, or per line")
    add_unknown(parser)
    add_exact(parser)
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="show the text, coloured by surprisal (default: auto, in a terminal)",
    )


def run(arguments: Namespace) -> int:
    """Show how surprising texts are."""
    from charlm.data.text_files import read_text

    if not arguments.files and sys.stdin.isatty():
        raise CorpusError("no text to score: name a file, or pipe one to stdin")
    files = text_files(arguments.files)
    texts = {str(file): read_text([file]) for file in files} or {"stdin": read_stdin()}
    lm = load_model(arguments)
    start = lm.read()

    def scored(file: str, text: str, line: int | None = None) -> Scored:
        source = file if line is None else f"line {line} of {file}"
        with ProgressBar(len(text), f"scoring {source}") as bar:
            bits = lm.score(text, state=start, on_progress=bar.update, source=source)
        return Scored(file, line, text, bits.tolist())

    if arguments.rank:
        _print_ranked(lm, texts, scored, arguments.json)
        return 0
    texts = {name: lm.readable(text) for name, text in texts.items()}
    say_unknown(lm.unknown)
    for file, text in texts.items():
        if not text:
            raise CorpusError(f"nothing is left of {file}: the model knows none of its characters")
    found = _ranked([scored(name, text) for name, text in texts.items()])
    if arguments.by_line:
        lines = [line for whole in found for line in _by_line(whole)]
        _print_scores(lines, arguments.json, several=len(texts) > 1)
        return 0
    shown = obeys_codes(sys.stdout) if arguments.color == "auto" else arguments.color == "always"
    if shown and not arguments.json:
        for whole in found:
            sys.stdout.write(colored(whole))
        if obeys_codes(sys.stderr):
            say(_legend())
    _print_scores(found, arguments.json)
    return 0


def _ranked(found: list[Scored]) -> list[Scored]:
    return sorted(found, key=lambda one: one.bits_per_char)


def _lines(text: str) -> list[str]:
    """Return the lines of a text, each with its end."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _by_line(whole: Scored) -> Iterator[Scored]:
    """Yield the lines of a text, each with its end, scored after all before it."""
    start = 0
    for number, line in enumerate(_lines(whole.text), start=1):
        end = start + len(line)
        yield Scored(whole.file, number, line, whole.surprisal[start:end])
        start = end


def _print_ranked(
    lm: "LanguageModel", texts: dict[str, str], scored: Callable[..., Scored], as_json: bool
) -> None:
    """Write the lines of some texts, each scored by itself; of a model of items by probability."""
    found: list[Scored] = []
    for file, text in texts.items():
        read = {n: lm.readable(line) for n, line in enumerate(text.split("\n"), start=1)}
        lines = {number: line for number, line in read.items() if line}
        if lm.config.items:  # side by side, each with its line end
            # A character may be read as a line end, and stands for a space then.
            lines = {number: line.replace("\n", " ") for number, line in lines.items()}
            whole = scored(file, "".join(f"{line}\n" for line in lines.values()))
            items = zip(lines, _by_line(whole), strict=True)
            found += [replace(item, line=number) for number, item in items]
        else:
            found += [scored(file, line, number) for number, line in lines.items()]
    say_unknown(lm.unknown)
    found = sorted(found, key=lambda item: item.bits) if lm.config.items else _ranked(found)
    _print_scores(found, as_json, several=len(texts) > 1, probabilities=bool(lm.config.items))


def _print_scores(
    found: list[Scored], as_json: bool, *, several: bool = False, probabilities: bool = False
) -> None:
    """Write one line for each text; of lines of ``several`` files also which file it is from."""
    by_line = any(one.line is not None for one in found)
    if not as_json:
        print(
            f"{'probability  ' * probabilities}bits/char       bits  characters  "
            f"{'file: ' * several}{'line' if by_line else 'file'}"
        )
    for one in found:
        if as_json:
            line = {} if one.line is None else {"line": one.line}
            values: dict[str, Any] = {
                "file": one.file,
                **line,
                "text": one.text,
                "characters": len(one.text),
                "bits": one.bits,
                "bits_per_char": one.bits_per_char,
                **({"probability": 2.0**-one.bits} if probabilities else {}),
                "surprisal": [round(bits, 4) for bits in one.surprisal],
            }
            print(json.dumps(values, ensure_ascii=False))
            continue
        name = one.file if one.line is None else one.text.rstrip("\n")
        figures = f"{one.bits_per_char:9.4f} {one.bits:10.1f} {len(one.text):11,}"
        figures = f"{2.0**-one.bits:11.4g}  {figures}" if probabilities else figures
        name = printable(f"{one.file}: {name}" if several else name)
        if sys.stdout.isatty():
            name = cut(name, shutil.get_terminal_size().columns - len(figures) - 2)
        print(f"{figures}  {name}")


def colored(whole: Scored) -> str:
    """Return a text with the colours of its surprisal."""
    pairs = zip(whole.text, whole.surprisal, strict=True)
    pieces = []
    for color, run in groupby(pairs, key=lambda pair: _color(pair[1])):
        text = visible("".join(character for character, _ in run))
        pieces.append(f"\033[{color}m" + text.replace("\n", f"\033[0m\n\033[{color}m") + "\033[0m")
    return "".join(pieces) + "\n" * (not whole.text.endswith("\n"))


def _color(bits: float) -> str:
    return next(color for least, color in COLORS if bits >= least or least == 0)


def _legend() -> str:
    parts = [f"\033[{color}m from {least:g} \033[0m" for least, color in reversed(COLORS)]
    return f"bits: {' '.join(parts)}"
