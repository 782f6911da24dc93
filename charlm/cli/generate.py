"""The verb ``generate``."""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.parser import (
    Subparsers,
    add_json,
    add_run,
    add_settings,
    add_unknown,
    flag_of,
    given,
    name,
    utf8,
)
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import (
    Stop,
    read_stdin,
    read_stdin_if_given,
    say,
    say_unknown,
    visible,
)
from charlm.config import LinesConfig, SampleConfig
from charlm.errors import ConfigError

if TYPE_CHECKING:
    from charlm.inference.decoding import Lines, Sample

FLUSH = 0.02  # seconds that text may wait for more


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "generate",
        help="write text with a trained model",
        description="Write the prompt and what follows it to stdout, as it is drawn. On one "
        "machine sample i depends on the seed and on i alone.",
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
        help="save the state of the model after the prompt and what it wrote",
    )
    parser.add_argument(
        "--load-state", type=name, metavar="FILE", help="continue from what --save-state saved"
    )
    add_settings(parser, "sampling", SampleConfig)
    add_settings(parser, "a text of one item per line", LinesConfig)
    parser.add_argument(
        "--novel", type=name, metavar="FILE", help="no line of this text, such as the training text"
    )


def run(arguments: Namespace) -> int:
    """Write texts, or lines."""
    from charlm import api
    from charlm.inference import prompt_state
    from charlm.inference.sampling import seeded

    config = seeded(SampleConfig(**given(arguments, SampleConfig.names())))
    lines = LinesConfig(**given(arguments, LinesConfig.names()))
    if lines.lines:
        return _write_lines(arguments, config, lines)
    asked = [n for n in LinesConfig.names() if getattr(lines, n) != getattr(LinesConfig(), n)]
    _refuse([*asked, *_present(arguments, ["novel"])], "goes with --lines")
    if arguments.json and config.length == 0 and not config.stop:
        raise ConfigError("--length 0 with --json needs a --stop: else nothing would end")
    if arguments.save_state:
        if config.num_samples > 1:
            raise ConfigError("--save-state goes with one sample: leave --num-samples out")
        prompt_state.check_target(Path(arguments.save_state))
    lm = api.load(arguments.run, unknown=arguments.unknown)
    state = lm.load_state(arguments.load_state) if arguments.load_state else None
    prompt = lm.readable(_prompt(arguments))
    with ProgressBar(len(prompt), "reading") as bar:
        state = lm.read(prompt, state=state, on_progress=bar.update)
    samples = lm.samples("", state=state, with_surprisal=arguments.json, **config.to_dict())
    say_unknown(lm.unknown)
    say(f"seed {config.seed}")
    unread: BrokenPipeError | None = None  # nobody reads on, as behind "| head"
    with Stop() as stop:
        try:
            for sample in samples:
                if arguments.json:
                    _print_object(sample, "".join(_until(stop, sample)))
                else:
                    if config.num_samples > 1:
                        print(f"--- sample {sample.index + 1} ---")
                    _print_text(prompt, _until(stop, sample))
                if stop.signal is not None:
                    break
        except BrokenPipeError as error:
            unread = error
    if arguments.save_state:
        lm.save_state(sample.prompt_state(), arguments.save_state)
    if unread is not None:
        raise unread
    if stop.signal is not None:
        say("charlm: stopped")
        return 128 + stop.signal
    return 0


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


def _print_text(prompt: str, pieces: Iterable[str]) -> None:
    """Write a text as it is drawn: at once, but not with a system call for every character."""
    shown = visible if sys.stdout.isatty() else str
    print(shown(prompt), end="", flush=True)
    flushed = 0.0
    for piece in pieces:
        sys.stdout.write(shown(piece))
        now = time.monotonic()
        if now - flushed > FLUSH:
            sys.stdout.flush()
            flushed = now
    print(flush=True)


def _print_object(sample: "Sample", text: str) -> None:
    values = {
        "sample": sample.index,
        "seed": sample.seed,
        "text": text,
        "bits_per_char": sample.bits_per_char,
        "stopped": sample.reason or "signal",
    }
    print(json.dumps(values, ensure_ascii=False), flush=True)


def _write_lines(arguments: Namespace, config: SampleConfig, lines: LinesConfig) -> int:
    """Write lines, one item each."""
    from charlm import api
    from charlm.data.text_files import read_text

    derived = ("length", "num_samples", "stop")
    clash = [n for n in derived if given(arguments, [n])]
    others = ["prompt", "prompt_file", "save_state", "load_state"]
    _refuse([*clash, *_present(arguments, others)], "does not go with --lines")
    known = set(read_text([arguments.novel]).split("\n")) if arguments.novel else set()
    lm = api.load(arguments.run, unknown=arguments.unknown)
    settings = {n: value for n, value in config.to_dict().items() if n not in derived}
    settings |= lines.to_dict()
    drawn = lm.lines(known=known, with_surprisal=arguments.json, **settings)
    say_unknown(lm.unknown)
    say(f"seed {config.seed}")
    found = 0
    for line, sample in drawn:
        if arguments.json:
            _print_object(sample, line)
        else:
            print(visible(line) if sys.stdout.isatty() else line, flush=True)
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
