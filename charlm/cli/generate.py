"""The verb ``generate``."""

import contextlib
import itertools
import json
import math
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.parser import (
    Subparsers,
    add_exact,
    add_json,
    add_run,
    add_settings,
    add_unknown,
    flag_of,
    given,
    load_model,
    name,
    utf8,
)
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import (
    Stop,
    complain,
    is_terminal,
    printable,
    read_stdin,
    read_stdin_if_given,
    reader_is_gone,
    say,
    say_unknown,
)
from charlm.cli.text_writer import TextWriter
from charlm.config import LinesConfig, SampleConfig
from charlm.errors import ConfigError

if TYPE_CHECKING:
    from charlm.api import LanguageModel
    from charlm.inference.decoding import Lines, Sample
ITEMS = 10  # written with a model of items, unless the user says how many
MOST_DRAWN = 10**9  # texts for each one that is written
DERIVED = ("length", "num_samples", "stop")  # of lines they follow from the rest


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "generate",
        help="write text with a trained model",
        description="Write the prompt and what follows it to stdout, as it is drawn; with a model "
        f"of items, such as names, {ITEMS} items or --num-samples that begin with the prompt, "
        "unless --length, --stop or a state is given. On one machine sample i depends on the seed "
        "and on i alone; with --exact on any machine.",
    )
    add_run(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "-p",
        "--prompt",
        type=utf8,
        metavar="TEXT",
        help="text to continue (default: what a pipe or a file on stdin holds, but for the line "
        "end at its end; else none)",
    )
    prompt.add_argument(
        "--prompt-file",
        type=name,
        metavar="FILE",
        help="file with the text to continue, - for stdin; the end of its last line counts too",
    )
    add_unknown(parser)
    add_json(parser, "print one JSON object per sample")
    parser.add_argument(
        "--save-state",
        type=name,
        metavar="FILE",
        help="save the state of the model after the prompt and what it wrote; of several samples "
        "into FILE-1, FILE-2 ..., with the number before the suffix",
    )
    parser.add_argument(
        "--load-state", type=name, metavar="FILE", help="continue from what --save-state saved"
    )
    add_exact(parser)
    parser.add_argument(
        "--delay",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait so long after each character, to read along (default: 0)",
    )
    parser.add_argument(
        "--interactive",
        action="store_true",
        help="play in a terminal: Enter continues the text, /help lists what else there is",
    )
    add_settings(parser, "sampling", SampleConfig)
    parser.add_argument(
        "--best-of",
        type=int,
        metavar="N",
        help="draw N texts for each one that is written, and write the likeliest: the one with the "
        "lowest mean surprisal per character; with --num-samples each is the best of its own N",
    )
    add_settings(parser, "a text of one item per line", LinesConfig)
    parser.add_argument(
        "--novel", type=name, metavar="FILE", help="no line of this text, such as the training text"
    )


def run(arguments: Namespace) -> int:
    """Write texts, or lines."""
    from charlm.inference.sampling import seeded

    if arguments.interactive:
        return _play(arguments)
    config = seeded(SampleConfig(**given(arguments, SampleConfig.names())))
    lines = LinesConfig(**given(arguments, LinesConfig.names()))
    _check_best_of(arguments, config)
    if arguments.delay and arguments.json:
        raise ConfigError("--delay does not go with --json: objects are written whole")
    if lines.lines:
        clash = [name for name in DERIVED if given(arguments, [name])]
        others = ["prompt", "prompt_file", "save_state", "load_state"]
        _refuse([*clash, *_present(arguments, [*others, "best_of"])], "does not go with --lines")
        return _write_lines(arguments, load_model(arguments), config, lines)
    lm = load_model(arguments)
    states = ["save_state", "load_state"]
    as_text = given(arguments, ["length", "stop"]) or _present(arguments, states)
    if lm.config.items and not as_text:
        _refuse(
            _present(arguments, ["best_of"]), "does not go with items: give --length, or --stop"
        )
        count = config.num_samples if given(arguments, ["num_samples"]) else ITEMS
        prompt = lm.readable(_prompt(arguments))
        if prompt and lines.starts_with:
            raise ConfigError("--starts-with and a prompt are the same here: leave one out")
        if "\n" in prompt:
            raise ConfigError("the prompt of an item must be one line")
        lm.tokenizer.encode(prompt, source="the prompt")
        wanted = replace(lines, lines=count, starts_with=prompt or lines.starts_with)
        return _write_lines(arguments, lm, config, wanted)
    asked = [n for n in LinesConfig.names() if getattr(lines, n) != getattr(LinesConfig(), n)]
    _refuse([*asked, *_present(arguments, ["novel"])], "goes with --lines")
    return _write_texts(arguments, lm, config)


def _write_texts(arguments: Namespace, lm: "LanguageModel", config: SampleConfig) -> int:
    """Write texts that follow the prompt."""
    from charlm.inference import prompt_state

    if arguments.json and config.length == 0 and not config.stop:
        raise ConfigError("--length 0 with --json needs a --stop: else nothing would end")
    files = _state_files(arguments.save_state, config.num_samples)
    for file in files:
        prompt_state.check_target(file)
    state = lm.load_state(arguments.load_state) if arguments.load_state else None
    prompt = lm.readable(_prompt(arguments))
    with ProgressBar(len(prompt), "reading") as bar:
        state = lm.read(prompt, state=state, on_progress=bar.update)
    several, best_of = config.num_samples > 1, arguments.best_of or 1
    config = replace(config, num_samples=best_of * config.num_samples)
    ranked = arguments.json or best_of > 1
    samples = lm.samples("", state=state, with_surprisal=ranked, **config.to_dict())
    say_unknown(lm.unknown)
    say(f"seed {config.seed}")
    return _write_samples(arguments, lm, prompt, samples, files, several=several)


def _play(arguments: Namespace) -> int:
    """Let somebody play with a model in a terminal."""
    from charlm.cli.interactive import play
    from charlm.inference.sampling import seeded

    if not is_terminal():
        complain("--interactive needs a terminal: leave it out where a pipe or a file is read")
        return 2
    config = seeded(SampleConfig(**given(arguments, SampleConfig.names())))
    clash = [*given(arguments, ["num_samples", *LinesConfig.names()])]
    others = ["json", "save_state", "best_of", "novel"]
    _refuse([*clash, *_present(arguments, others)], "does not go with --interactive")
    lm = load_model(arguments)
    state = lm.load_state(arguments.load_state) if arguments.load_state else None
    prompt = lm.readable(_prompt(arguments))
    if prompt:
        state = lm.read(prompt, state=state)
    say_unknown(lm.unknown)
    return play(arguments, lm, config, prompt, state)


def _write_samples(
    arguments: Namespace,
    lm: "LanguageModel",
    prompt: str,
    samples: Iterable["Sample"],
    files: list[Path],
    *,
    several: bool,
) -> int:
    """Write samples, and save the state after each one to its file, if there are files."""
    stop = Stop()
    writer = TextWriter(arguments.delay, lambda: stop.signal is not None)
    unread: OSError | None = None  # nobody reads on, as behind "| head"
    written = 0
    with stop:
        for sample, pieces in _best(samples, arguments.best_of or 1, stop):
            try:
                if arguments.json:
                    _print_object(sample, "".join(pieces))
                else:
                    title = f"--- sample {written + 1} ---\n" if several else ""
                    _print_text(writer, title + prompt, pieces)
            except OSError as error:
                if not reader_is_gone(error):
                    raise
                unread = error
            if files:
                lm.save_state(sample.prompt_state(), files[written])
            written += 1
            if unread is not None or stop.signal is not None:
                break
    if len(files) > 1 and written:
        say(f"saved {', '.join(printable(str(file)) for file in files[:written])}")
    if unread is not None:
        raise unread
    if stop.signal is not None:
        say("charlm: stopped")
        return 128 + stop.signal
    return 0


def _best(
    samples: Iterable["Sample"], count: int, stop: Stop
) -> Iterator[tuple["Sample", Iterable[str]]]:
    """Yield the best of each ``count`` samples, with its pieces; one alone while it is drawn.

    Of samples that a request to stop leaves incomplete, none is yielded.
    """
    from charlm.inference.decoding import likeliest_sample

    if count == 1:
        yield from ((sample, _until(stop, sample)) for sample in samples)
        return
    samples = iter(samples)
    for first in samples:
        group = itertools.chain([first], itertools.islice(samples, count - 1))
        sample, text = likeliest_sample(_texts(stop, group))
        if stop.signal is not None:
            return
        yield sample, [text]


def _texts(stop: Stop, samples: Iterable["Sample"]) -> Iterator[tuple["Sample", str]]:
    """Yield samples with their texts, until a request to stop."""
    for sample in samples:
        yield sample, "".join(_until(stop, sample))
        if stop.signal is not None:
            return


def _check_best_of(arguments: Namespace, config: SampleConfig) -> None:
    count = arguments.best_of
    if count is None:
        return
    if not 1 <= count <= MOST_DRAWN:
        raise ConfigError(f"--best-of must be from 1 to {MOST_DRAWN:,} (got {count})")
    if config.length == 0:
        raise ConfigError("--length 0, without end, does not go with --best-of")


def _seconds(word: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(word) < math.inf:
            return float(word)
    raise ArgumentTypeError(f"expected a number of seconds from 0 on, got {word!r}")


def _state_files(name: str | None, num_samples: int) -> list[Path]:
    """Return where the state of each sample is saved, none if it is not."""
    if name is None:
        return []
    path = Path(name)
    if num_samples == 1 or path.is_dir():  # a folder is refused
        return [path]
    numbers = range(1, num_samples + 1)
    return [path.parent / f"{path.stem}-{number}{path.suffix}" for number in numbers]


def _prompt(arguments: Namespace) -> str:
    """Return the text to continue."""
    from charlm.data.text_files import read_text

    if arguments.prompt_file == "-":
        return read_stdin()
    if arguments.prompt_file:
        return read_text([arguments.prompt_file])
    if arguments.prompt is None and not arguments.load_state:
        return read_stdin_if_given().removesuffix("\n")  # echo adds a line end
    return arguments.prompt or ""


def _until(stop: Stop, sample: "Sample") -> Iterable[str]:
    for piece in sample:
        yield piece
        if stop.signal is not None:
            if sample.reason is None:
                yield sample.held  # it was drawn, and is part of the state
            return


def _print_text(writer: TextWriter, prompt: str, pieces: Iterable[str]) -> None:
    """Write a prompt at once, and the text that follows it as it is drawn."""
    writer.write(prompt, at_once=True)
    sys.stdout.flush()
    for piece in pieces:
        writer.write(piece)
    writer.end()


def _print_object(sample: "Sample", text: str) -> None:
    values = {
        "sample": sample.index,
        "seed": sample.seed,
        "text": text,
        "bits_per_char": sample.bits_per_char,
        "stopped": sample.reason or "signal",
    }
    print(json.dumps(values, ensure_ascii=False), flush=True)


def _write_lines(
    arguments: Namespace, lm: "LanguageModel", config: SampleConfig, lines: LinesConfig
) -> int:
    """Write lines, one item each."""
    from charlm.data.text_files import read_text

    known = set(read_text([arguments.novel]).split("\n")) if arguments.novel else set()
    settings = {n: value for n, value in config.to_dict().items() if n not in DERIVED}
    settings |= lines.to_dict()
    drawn = lm.lines(known=known, with_surprisal=arguments.json, **settings)
    say_unknown(lm.unknown)
    say(f"seed {config.seed}")
    found, writer = 0, TextWriter(arguments.delay)
    for line, sample in drawn:
        if arguments.json:
            _print_object(sample, line)
        else:
            writer.write(line)
            writer.end()
        found += 1
    if found == lines.lines:
        return 0
    say(f"charlm: {_shortfall(drawn, found, lines)}")
    return 1


def _shortfall(drawn: "Lines", found: int, lines: LinesConfig) -> str:
    reasons = [f"{count} {reason}" for reason, count in drawn.left_out.most_common()]
    left_out = f" (left out: {', '.join(reasons)})" if reasons else ""
    return (
        f"{found} of {lines.lines} lines found in {drawn.tried} tries{left_out}: ask for less, or "
        "raise --tries or --temperature"
    )


def _present(arguments: Namespace, names: list[str]) -> list[str]:
    return [name for name in names if getattr(arguments, name)]


def _refuse(names: list[str], why: str) -> None:
    """Refuse the first of some flags that were given."""
    if names:
        raise ConfigError(f"{flag_of(names[0])} {why}")
