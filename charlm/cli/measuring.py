"""The verbs that measure a model, or texts with one."""

import json
import math
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from charlm import api, generation, memorization
from charlm import checkpoint as checkpoints
from charlm.baselines import baselines
from charlm.cli.arguments import given
from charlm.cli.generating import stdin_text
from charlm.cli.terminal import Bar, cut, printable, say, visible
from charlm.config import SampleConfig
from charlm.corpus import fingerprint, read_text
from charlm.errors import ConfigError, CorpusError
from charlm.texts import training_text

if TYPE_CHECKING:
    from charlm.evaluation import Evaluation

# The least surprise in bits, and how a terminal shows characters of as much (SGR codes).
COLORS = ((9.0, "97;41"), (6.0, "91"), (4.0, "33"), (2.0, "32"), (0.0, "90"))


@dataclass(frozen=True)
class Scored:
    """A text and the surprise at each of its characters, in bits."""

    name: str | int
    text: str
    surprise: list[float]

    @property
    def bits(self) -> float:
        """The surprise at the whole text."""
        return math.fsum(self.surprise)

    @property
    def bits_per_char(self) -> float:
        """The mean surprise."""
        return self.bits / max(1, len(self.text))


def score(arguments: Namespace) -> int:
    """Show how surprising texts are."""
    if not arguments.files and sys.stdin.isatty():
        raise CorpusError("no text to score: name a file, or pipe one to stdin")
    texts = {name: read_text([name]) for name in arguments.files} or {"stdin": stdin_text()}
    lm = api.load(arguments.run)
    begin = lm.read()

    def scored(name: str | int, text: str, source: str) -> Scored:
        with Bar(len(text), f"scoring {source}") as bar:
            bits = lm.score(text, state=begin, on_read=bar.update, source=source)
        return Scored(name, text, bits.tolist())

    if arguments.rank:
        found = [
            scored(number, line.removesuffix("\n"), f"line {number} of {name}")
            for name, text in texts.items()
            for number, line in enumerate(_lines(text), start=1)
            if line != "\n"
        ]
        _print_scores(_ranked(found), arguments.json, "line")
        return 0
    found = _ranked([scored(name, text, name) for name, text in texts.items()])
    if arguments.lines:
        for whole in found:
            _print_scores(list(_by_line(whole)), arguments.json, "line")
        return 0
    shown = sys.stdout.isatty() if arguments.color == "auto" else arguments.color == "always"
    if shown and not arguments.json:
        for whole in found:
            sys.stdout.write(colored(whole))
        if sys.stderr.isatty():
            say(_legend())
    _print_scores(found, arguments.json, "file")
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
        yield Scored(number, line, whole.surprise[start:end])
        start = end


def _print_scores(found: list[Scored], as_json: bool, what: str) -> None:
    """Write one line for each text."""
    if not as_json:
        print(f"bits/char       bits  characters  {what}")
    for one in found:
        if as_json:
            values: dict[str, Any] = {
                what: one.name,
                "text": one.text,
                "characters": len(one.text),
                "bits": one.bits,
                "bits_per_char": one.bits_per_char,
                "surprise": [round(bits, 4) for bits in one.surprise],
            }
            print(json.dumps(values, ensure_ascii=False))
        else:
            name = one.name if isinstance(one.name, str) else one.text.rstrip("\n")
            figures = f"{one.bits_per_char:9.4f} {one.bits:10.1f} {len(one.text):11,}"
            name = printable(name)
            if sys.stdout.isatty():
                name = cut(name, shutil.get_terminal_size().columns - len(figures) - 2)
            print(f"{figures}  {name}")


def colored(whole: Scored) -> str:
    """Return a text with the colours of its surprise."""
    pairs = zip(whole.text, whole.surprise, strict=True)
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


def evaluate(arguments: Namespace) -> int:
    """Print how well a model predicts a text, and what is reached without one."""
    from charlm import runs

    found = checkpoints.load(checkpoints.locate(arguments.run), model_only=True)
    text = read_text(arguments.files)
    how = {"held_out": arguments.held_out, "device": arguments.device}
    result = runs.score(found, text, **how)
    dynamic = None
    if arguments.dynamic:
        with Bar(result.characters, "learning") as bar:
            dynamic = runs.score(found, text, **how, dynamic=True, on_read=bar.update)
    if arguments.held_out:  # with the training's text itself before it, whatever it is called
        cut = len(text) - result.characters - 1
        past, text = text[:cut], text[cut:]
    else:  # a text that was trained on itself has nothing before it
        past = "" if fingerprint(text) == found.fingerprint else training_text(found)
    if arguments.json:
        values = result.to_dict() | {"baselines": baselines(past, text)}
        if dynamic is not None:
            values["dynamic"] = dynamic.to_dict()
        print(json.dumps(values))
        return 0
    _print_evaluation(result, dynamic)
    start = "the training text and" if past else "only"
    what = f"for comparison, bits of others, which have read {start} what comes before:"
    print(what, flush=True)  # they take seconds on a long text
    for name, bits in baselines(past, text).items():
        print(f"{bits:.4f} {name}")
    return 0


def _print_evaluation(result: "Evaluation", dynamic: "Evaluation | None") -> None:
    print(f"{result.nats_per_char:.4f} nats per character")
    print(f"{result.bits_per_char:.4f} bits per character")
    print(f"{result.perplexity:.3f} perplexity")
    print(f"{result.characters:,} characters scored")
    if dynamic is not None:
        print(f"{dynamic.bits_per_char:.4f} bits, if it goes on learning from what it has read")


def memorized(arguments: Namespace) -> int:
    """Print how much a model copies its training text."""
    text = read_text(arguments.files)
    if getattr(arguments, "length", None) == 0:
        raise ConfigError("length 0, without end, does not go with memorized")
    lm = api.load(arguments.run)
    taken = {"num_samples": 65} | given(arguments, SampleConfig)
    config = generation.seeded(SampleConfig(**taken))
    say(f"seed {config.seed}")
    with Bar(config.num_samples * config.length, "generating") as bar:
        texts = []
        for sample in lm.samples("", config):
            texts.append("".join(sample))
            bar.update(len(texts[-1]))
    result = memorization.memorized(texts, text)
    characters = sum(map(len, texts))
    if arguments.json:
        values = {
            "characters": characters,
            "seed": config.seed,
            "longest": len(result.longest),
            "longest_text": result.longest,
            "place": result.place,
            "new_share": result.new_share,
        }
        print(json.dumps(values, ensure_ascii=False))
        return 0
    print(f"{characters:,} characters generated in {len(texts)} samples")
    print(f"longest run that stands in the text: {len(result.longest)} characters")
    print(f"  at character {result.place:,}: {printable(result.longest[:200])!r}")
    for length, share in result.new_share.items():
        what = "no sample is as long" if share is None else f"{share:7.2%} do not stand in the text"
        print(f"runs of {length:2} characters: {what}")
    return 0
