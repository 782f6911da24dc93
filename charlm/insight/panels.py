"""The panels of an inspection, each a dict of figures for the page and for JSON.

A panel that does not apply is ``{"left_out": why}``.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from charlm.checkpoint import Checkpoint
from charlm.errors import PackageError
from charlm.inference.engine import Engine
from charlm.insight import memory as memories
from charlm.insight import neurons as units
from charlm.insight.concepts import Concept
from charlm.insight.reading import Reading, Unit
from charlm.model import require_torch

MOST_SURPRISING = 20
LEAST_NEURONS = 1000  # characters below which no unit can be confirmed
LEAST_MEMORY = 200
LEAST_GRADIENTS = 50
EXCERPT = 1_200_000  # values of single units that a page holds, all arrays together
SHUT, OPEN = 0.1, 0.9  # of a gate, as in arXiv:1506.02078
PARTS = {"reading": 20, "neurons": 25, "memory": 30, "gradients": 10, "connectivity": 15}  # of time
ITEMS = "The model reads each item of its list alone, from the initial state."

FractionCallback = Callable[[str, float], object]  # told a part, and a share of all


def no_fraction(part: str, share: float) -> None:
    """Ignore a progress report."""


class Progress:
    """Turns the reports of the parts into one share of the whole."""

    def __init__(self, report: FractionCallback):
        self.report = report
        self.passed = 0.0

    def part(self, name: str, total: float) -> Callable[[int], None]:
        """Return a progress callback for a part that will report ``total`` in all."""
        share, start, done = PARTS[name] / sum(PARTS.values()), self.passed, 0.0
        self.passed += share
        self.report(name, start)

        def note(count: int) -> None:
            nonlocal done
            done += count
            self.report(name, start + share * min(1.0, done / total))

        return note

    def finish(self) -> None:
        """Report that all is done."""
        self.report("done", 1.0)


def model(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Return the model in a few words and numbers."""
    config, tokenizer = checkpoint.model_config, checkpoint.tokenizer
    return {
        "name": name,
        "backbone": config.backbone,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "attention": config.attention,
        "parameters": config.num_parameters(tokenizer.vocab_size),
        "vocabulary": list(tokenizer.vocabulary),
        "vocab_size": tokenizer.vocab_size,
        "equations": _equations(type(config.cell)),
    }


def _equations(cell: type) -> str:
    """Return the lines of a cell's docstring that are indented, as equations are."""
    lines = inspect.cleandoc(cell.__doc__ or "").splitlines()
    return inspect.cleandoc("\n".join(line for line in lines if line.startswith("    ")))


def surprise(reading: Reading) -> dict[str, Any]:
    """Return how surprising each character was."""
    bits = reading.bits
    return {
        "bits": bits,
        "mean": float(bits.mean()),
        "sum": float(bits.sum()),
        "likeliest": reading.likeliest,
        "probabilities": reading.probabilities,
        "most": np.argsort(-bits, kind="stable")[:MOST_SURPRISING].tolist(),
    }


def neurons(
    reading: Reading, wanted: list[Concept], named: list[Unit], progress: Progress
) -> dict[str, Any]:
    """Return the units that follow concepts, and those that can be painted."""
    config = reading.config
    arrays = config.num_layers * len(reading.arrays)
    note = progress.part("neurons", arrays)
    if len(reading.ids) < LEAST_NEURONS:
        found = units.Search(findings=(), tests=0, shuffles=0)
        why = (
            f"The text has {len(reading.ids):,} characters. To confirm what a unit does takes "
            f"{LEAST_NEURONS:,} or more."
        )
    else:
        found, why = units.search(reading, wanted, on_progress=note), None
    painted = [one.unit for finding in found.findings for one in finding.found]
    painted = list(dict.fromkeys([*named, *painted]))
    return {
        "concepts": [_finding(finding) for finding in found.findings],
        "why": why,
        "false_alarm": units.FALSE_ALARM,
        "tests": found.tests,
        "shuffles": found.shuffles,
        "painted": [_painted(reading, unit) for unit in painted],
        "excerpt": _excerpt(reading),
    }


def _finding(finding: units.Finding) -> dict[str, Any]:
    concept = finding.concept
    return {
        "name": concept.name,
        "kind": "number" if concept.is_number else "yes/no",
        "share": None if concept.is_number else float(concept.labels.mean()),
        "measure": "R²" if concept.is_number else "AUC",
        "found": [_candidate(one) for one in finding.found],
        "best": None if finding.best is None else _candidate(finding.best),
        "why": finding.why,
    }


def _candidate(one: units.Candidate) -> dict[str, Any]:
    return {
        "unit": _unit(one.unit),
        "score": one.score,
        "score_first_half": one.first_score,
        "sign": one.sign,
        "p": one.p,
        "clamped": None
        if one.elsewhere is None
        else {"where": one.where, "elsewhere": one.elsewhere},
    }


def _unit(unit: Unit) -> dict[str, Any]:
    return {"layer": unit.layer, "array": unit.array, "index": unit.index}


def _painted(reading: Reading, unit: Unit) -> dict[str, Any]:
    values = reading.unit(unit)
    return {**_unit(unit), **_range(values), "values": values}


def _range(values: Any) -> dict[str, float]:
    return {"low": float(values.min()), "high": float(values.max())}


def _excerpt(reading: Reading) -> dict[str, Any]:
    config = reading.config
    size = config.num_layers * config.hidden_size * len(reading.arrays)
    count = min(len(reading.ids), max(1, EXCERPT // size))
    return {
        "characters": count,
        "arrays": [
            {"layer": layer, "array": name, **_range(values[:count]), "values": values[:count]}
            for layer, name, values in reading.values()
        ],
    }


def memory(engine: Engine, reading: Reading, progress: Progress) -> dict[str, Any]:
    """Return the loss against the context."""
    count = len(reading.ids)
    note = progress.part("memory", memories.work(count))
    if engine.line_end is not None:
        return {"left_out": ITEMS}
    if count < LEAST_MEMORY:
        return {
            "left_out": f"The text has {count:,} characters; this takes {LEAST_MEMORY:,} or more."
        }
    found = memories.measure_memory(engine, reading.ids, reading.bits, on_progress=note)

    def curve(one: memories.Curve) -> dict[str, Any]:
        return {"contexts": one.contexts.tolist(), "loss": one.loss, "error": one.error}

    return {
        **curve(found.nearest),
        "full": found.full,
        "reach": found.reach,
        "shuffled": {**curve(found.shuffled), "block": min(memories.SHUFFLED, count // 3)},
        "order": found.order,
        "threshold": memories.THRESHOLD,
        "sentence": str(found),
    }


def gradients(
    checkpoint: Checkpoint, reading: Reading, progress: Progress, *, wanted: bool = True
) -> dict[str, Any]:
    """Return the panels that need torch, gradient flow and connectivity, if they are wanted."""
    note = progress.part("gradients", 4)
    names = ("gradients", "connectivity")
    if not wanted:
        why = "Not computed here: charlm inspect on the command line shows it."
        return {name: {"left_out": why} for name in names}
    if reading.line_end is not None:
        return {name: {"left_out": ITEMS} for name in names}
    try:
        require_torch()
    except PackageError as error:
        return {name: {"left_out": f"This needs torch: {error.message}"} for name in names}
    from charlm.insight import connectivity
    from charlm.insight import gradients as flow

    count = len(reading.ids)
    found: dict[str, Any] = {}
    if count < LEAST_GRADIENTS:
        why = f"The text has {count:,} characters; this takes {LEAST_GRADIENTS:,} or more."
        found["gradients"] = {"left_out": why}
    else:
        measured = flow.measure_gradients(
            reading.config,
            checkpoint.weights,
            reading.ids,
            checkpoint.train_config,
            on_progress=note,
        )
        found["gradients"] = _flows(measured, flow.half_distance)
    note = progress.part("connectivity", count)
    if count > connectivity.MOST_CHARACTERS:
        most = connectivity.MOST_CHARACTERS
        why = (
            f"It is computed for texts up to {most:,} characters: characters={most} in Python, "
            f"--characters {most} on the command line."
        )
        found["connectivity"] = {"left_out": why}
    else:
        values = connectivity.connectivity(reading, on_progress=note)
        found["connectivity"] = {"depth": values.shape[1], "values": values}
    return found


def _flows(measured: Any, half_distance: Callable[[Any], float | None]) -> dict[str, Any]:
    clipping = measured.clipping
    return {
        "distances": list(range(len(measured.flows[0].trained))),
        "curves": [
            {
                "layer": flow.layer,
                "array": flow.array,
                "trained": flow.trained,
                "untrained": flow.untrained,
                "half_distance": half_distance(flow.trained),
                "half_distance_untrained": half_distance(flow.untrained),
            }
            for flow in measured.flows
        ],
        "clipping": {
            "bound": clipping.bound,
            "norms": clipping.norms,
            "untrained_norms": clipping.untrained_norms,
            "clipped": clipping.clipped,
            "factor": clipping.factor,
        },
    }


def gates(reading: Reading) -> dict[str, Any]:
    """Return how often each gate is nearly shut and nearly open."""
    config = reading.config
    if not config.cell.gate_names:
        return {"left_out": f"The cell {config.backbone} has no gates."}
    return {
        "shut_below": SHUT,
        "open_above": OPEN,
        "gates": [
            {
                "layer": layer,
                "gate": name,
                "shut": (values < SHUT).mean(axis=0),
                "open": (values > OPEN).mean(axis=0),
            }
            for layer in range(1, config.num_layers + 1)
            for name, values in reading.gates(layer).items()
        ],
    }
