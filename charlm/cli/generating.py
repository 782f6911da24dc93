"""The verb that writes."""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from charlm import api, generation, readings
from charlm.cli.arguments import given
from charlm.cli.terminal import Bar, Stop, say, visible
from charlm.config import LinesConfig, SampleConfig
from charlm.corpus import decoded, read_text
from charlm.errors import ConfigError, CorpusError
from charlm.writing import Lines, Sample

FLUSH = 0.02  # seconds that text may wait for more


def generate(arguments: Namespace) -> int:
    """Write texts, or lines."""
    config = generation.seeded(SampleConfig(**given(arguments, SampleConfig)))
    lines = LinesConfig(**given(arguments, LinesConfig))
    if lines.lines:
        return _lines(arguments, config, lines)
    asked = [n for n in LinesConfig.names() if getattr(lines, n) != getattr(LinesConfig(), n)]
    _refuse([*asked, *_present(arguments, ["novel"])], "goes with --lines")
    if arguments.json and config.length == 0 and not config.stop:
        raise ConfigError("--length 0 with --json needs a --stop: else nothing would end")
    if arguments.save_state:
        if config.num_samples > 1:
            raise ConfigError("--save-state goes with one sample: leave --num-samples out")
        readings.check_target(Path(arguments.save_state))
    lm = api.load(arguments.run)
    reading = lm.load_state(arguments.load_state) if arguments.load_state else None
    prompt = _prompt_file(arguments.prompt_file) if arguments.prompt_file else arguments.prompt
    with Bar(len(prompt), "reading") as bar:
        reading = lm.read(prompt, state=reading, on_read=bar.update)
    samples = lm.samples("", config, state=reading, surprise=arguments.json)
    say(f"seed {config.seed}")
    with Stop() as stop:
        for sample in samples:
            if arguments.json:
                _print_object(sample, "".join(_until(stop, sample)))
            else:
                if config.num_samples > 1:
                    print(f"--- sample {sample.index + 1} ---")
                _print_text(prompt, _until(stop, sample))
            if stop.signal is not None:
                break
    if arguments.save_state:
        lm.save_state(sample.reading(), arguments.save_state)
    if stop.signal is not None:
        say("charlm: stopped")
        return 128 + stop.signal
    return 0


def stdin_text() -> str:
    """Return what stdin holds, as UTF-8 text."""
    text = "".join(piece for _, piece in decoded([sys.stdin.buffer.read()], "stdin"))
    if not text:
        raise CorpusError("stdin is empty: there is no text in it")
    return text


def _prompt_file(name: str) -> str:
    return stdin_text() if name == "-" else read_text([name])


def _until(stop: Stop, sample: Sample) -> Iterable[str]:
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


def _print_object(sample: Sample, text: str) -> None:
    values = {
        "sample": sample.index,
        "seed": sample.seed,
        "text": text,
        "bits_per_char": sample.bits_per_char,
        "stopped": sample.reason or "signal",
    }
    print(json.dumps(values, ensure_ascii=False), flush=True)


def _lines(arguments: Namespace, config: SampleConfig, lines: LinesConfig) -> int:
    """Write lines, one item each."""
    taken = given(arguments, SampleConfig)
    clash = [name for name in ("length", "num_samples", "stop") if name in taken]
    others = ["prompt", "prompt_file", "save_state", "load_state"]
    _refuse([*clash, *_present(arguments, others)], "does not go with --lines")
    known = set(read_text([arguments.novel]).split("\n")) if arguments.novel else set()
    lm = api.load(arguments.run)
    drawn = lm.lines(lines, config, known=known, surprise=arguments.json)
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


def _shortfall(drawn: Lines, found: int, lines: LinesConfig) -> str:
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
        raise ConfigError(f"--{names[0].replace('_', '-')} {why}")
