"""All figures of an inspection, for one model and one text."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from charlm.checkpoint import Checkpoint
from charlm.data.unknown import UnknownCharacters
from charlm.errors import ConfigError, CorpusError, argument
from charlm.files import PathLike, check_callback, check_path, write_atomically
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.insight import matching, page, panels
from charlm.insight.concepts import concepts
from charlm.insight.panels import FractionCallback, no_fraction
from charlm.insight.reading import Reading, find_unit, read


class Model(Protocol):
    """What is needed of a language model; ``charlm.LanguageModel`` has it."""

    checkpoint: Checkpoint
    engine: Engine
    unknown: UnknownCharacters

    def readable(self, text: str) -> str:
        """Return a text without characters that the model does not know."""

    def read(self) -> PromptState:
        """Return the state at the start of a line."""


@dataclass(frozen=True)
class Inspection:
    """What a net computed on a text, as figures and as a page.

        >>> inspection = lm.inspect("The sea was calm, and the ship lay still.")
        >>> inspection
        Inspection(41 characters, ... bits each)
        >>> inspection.save("page.html")

    Attributes:
        figures: by panel, see :meth:`to_dict`; long lists are arrays.
        reading: what they were computed from, with :meth:`Reading.unit` for any unit.
    """

    figures: dict[str, Any]
    reading: Reading

    def __repr__(self) -> str:
        mean = self.figures["surprise"]["mean"]
        return f"Inspection({len(self.reading.ids):,} characters, {mean:.3f} bits each)"

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as lists, numbers and texts, ready for JSON.

        By panel: ``model``, ``text``, ``surprise``, ``neurons``, ``memory``, ``gradients``,
        ``gates``, ``connectivity``, ``matching``. A panel that does not apply is
        ``{"left_out": why}``.

        >>> figures = lm.inspect("The sea was calm.").to_dict()
        >>> len(figures["surprise"]["bits"])
        17
        """
        plain: dict[str, Any] = _plain(self.figures)
        return plain

    def to_html(self) -> str:
        """Return the page as one text, which needs nothing else and no network."""
        return page.render("inspect", self.figures)

    def save(self, path: PathLike) -> None:
        """Write the page to a file, or the figures if its name ends with ``.json``.

        >>> lm.inspect("The sea was calm.").save("figures.json")

        Raises:
            CheckpointError: if it cannot be written; what was there is untouched.
        """
        check_path(path, "the path of the page")
        is_json = Path(path).suffix == ".json"
        text = json.dumps(self.to_dict(), ensure_ascii=False) if is_json else self.to_html()
        write_atomically(Path(path), text.encode("utf-8", "surrogatepass"))

    def _repr_html_(self) -> str:
        return page.repr_html(self.to_html())


def inspect_text(
    lm: Model,
    text: str,
    *,
    characters: int,
    patterns: Iterable[str] = (),
    units: Iterable[str] = (),
    name: str = "",
    source: str = "",
    gradients: bool = True,
    on_progress: FractionCallback | None = None,
) -> Inspection:
    """Compute all figures; see ``LanguageModel.inspect``."""
    if not isinstance(characters, int) or characters < 1:
        raise ConfigError(
            f"{argument('characters')} must be a whole number from 1 on (got {characters!r})"
        )
    report = no_fraction if on_progress is None else on_progress
    check_callback(report, "on_progress")
    total, read_as = len(text), lm.readable(text[:characters])
    notices = [f"the first {characters:,} of {total:,} characters"] if total > characters else []
    notices += [lm.unknown.summary()] if lm.unknown.changes else []
    if not read_as:
        raise CorpusError(f"there is nothing to inspect: {source or 'the text'} is empty")
    wanted = concepts(read_as, patterns)
    named = [find_unit(unit, lm.engine.config) for unit in units]
    progress = panels.Progress(report)
    ids = lm.checkpoint.tokenizer.encode(read_as, source=source or "the text")
    note = progress.part("reading", 1.5 * len(ids))
    engine = lm.engine
    if lm.checkpoint.exact:  # what is looked into is computed in float32, with the same weights
        engine = Engine(engine.config, lm.checkpoint.weights, line_end=engine.line_end)
    reading = read(engine, lm.checkpoint.weights, ids, lm.read(), note)
    output = next(iter(reading.states.values()))
    figures: dict[str, Any] = {
        "format": 1,
        "model": panels.model(lm.checkpoint, name),
        "text": {
            "source": source,
            "text": read_as,
            "characters": len(read_as),
            "total": total,
            "notices": notices,
        },
        "surprise": panels.surprise(reading),
        "neurons": panels.neurons(reading, wanted, named, progress),
        "memory": panels.memory(engine, reading, progress),
        **panels.gradients(lm.checkpoint, reading, progress, wanted=gradients),
        "gates": panels.gates(reading),
        "matching": {"codes": matching.codes(output[:, -1])},
    }
    progress.finish()
    return Inspection(figures, reading)


def _plain(value: Any) -> Any:
    """Return figures with lists in place of arrays, numbers to about six digits."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            value = np.round(value.astype(np.float64), 6)
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
