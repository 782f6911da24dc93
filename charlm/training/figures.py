"""The figures of a comparison: of each training, of each model, as a table, and in words."""

import math
import statistics
import time
from typing import Any

import numpy as np

from charlm import checkpoint as checkpoints
from charlm.checkpoint import Checkpoint
from charlm.config import SampleConfig
from charlm.data.tokenizer import Ids
from charlm.errors import CheckpointError
from charlm.evaluation.texts import text_to_score
from charlm.files import ProgressCallback, no_progress, write_atomically
from charlm.inference import decoding, scoring
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.inference.sampling import allowed_mask
from charlm.insight.gradients import half_distance, measure_gradients
from charlm.insight.memory import measure_memory, work
from charlm.insight.page import render
from charlm.insight.panels import LEAST_GRADIENTS, LEAST_MEMORY
from charlm.integer import engine_of
from charlm.training.comparison import PAGE, Comparison, Member
from charlm.training.metrics import epoch_characters, read_metrics
from charlm.training.run_dir import METRICS
from charlm.training.verdict import verdict

MOST_HELD_OUT = 20_000  # characters of the held-out part that models are measured on
SAMPLE = SampleConfig(length=300, temperature=0.8, seed=1)
GENERATING_SECONDS = 1.0  # for which the speed of generating is measured
STRETCH = 50  # characters that are timed together
GRADIENT_EFFORT = 25_000  # characters that are read in the time of a part of the gradients
Figures = dict[str, Any]


def held_out_text(comparison: Comparison) -> str:
    """Return the beginning of what no training of a comparison has read.

    Raises:
        CorpusError: if the text has changed.
    """
    member = comparison.members[0]
    found = comparison.latest(member)
    assert found is not None
    return text_to_score(found, map(str, comparison.texts), held_out=True)[1][:MOST_HELD_OUT]


def measured(comparison: Comparison) -> list[Member]:
    """Return the trainings whose models are measured: the first of each backbone with an end."""
    ended = [m for m in comparison.members if comparison.divergence(m) is None]
    return [
        next(member for member in ended if member.backbone == backbone)
        for backbone in comparison.document["backbones"]
        if any(member.backbone == backbone for member in ended)
    ]


def unmeasured(comparison: Comparison, prompt: str) -> list[Member]:
    """Return those of :func:`measured` that have no figures yet, or a sample of another prompt."""
    known = comparison.document["measured"]
    return [
        member
        for member in measured(comparison)
        if not _is_whole(known.get(member.backbone))
        or known[member.backbone].get("of") != _identity(comparison, member)
        or known[member.backbone].get("prompt") != prompt
    ]


def _is_whole(found: Any) -> bool:
    """Return whether the figures of a model are what :func:`measure` notes of one."""
    kinds = {"of": list, "prompt": str, "sample": str, "generating_chars_per_second": float}
    lists = {"memory": ("contexts", "loss", "error"), "gradients": ("distances", "trained")}
    if type(found) is not dict or any(type(found.get(n)) is not k for n, k in kinds.items()):
        return False
    return all(
        found.get(name) is None
        or (isinstance(found[name], dict) and all(type(found[name].get(n)) is list for n in names))
        for name, names in lists.items()
    )


def _identity(comparison: Comparison, member: Member) -> list[Any]:
    """Return what tells the model of a training from all that it could be."""
    found = comparison.latest(member)
    assert found is not None
    return [member.seed, found.counters.step, found.counters.loss]


def measure(
    comparison: Comparison,
    member: Member,
    text: str,
    prompt: str,
    on_progress: ProgressCallback = no_progress,
) -> None:
    """Measure the model of a training, and note what was found.

    Args:
        comparison: what it belongs to.
        member: the training, which has ended.
        text: what to measure it on; the same for all.
        prompt: what it continues; an empty text is the start of a line.
        on_progress: progress callback, told the number of characters read, see :func:`effort`.

    Raises:
        CheckpointError: if its checkpoint is damaged.
        DivergenceError: if its predictions are NaN or infinite.
    """
    found = checkpoints.load(checkpoints.locate(member.folder), model_only=True)
    tokenizer = found.tokenizer
    engine = engine_of(found)
    first = tokenizer.line_start
    start = scoring.read(engine, tokenizer.encode(first))
    after_prompt = start
    if prompt:
        ids = tokenizer.encode(first + prompt if engine.line_end is not None else prompt)
        after_prompt = scoring.read(engine, ids)
    known = comparison.document["measured"].get(member.backbone)
    if not (_is_whole(known) and known["of"] == _identity(comparison, member)):
        ids = tokenizer.encode(text)
        known = {
            "of": _identity(comparison, member),
            "generating_chars_per_second": _generating_speed(engine, start),
            "memory": _memory(engine, ids, start, on_progress),
            "gradients": _gradients(found, ids, on_progress),
        }
    sample = {"prompt": prompt, "sample": _sample(engine, found, after_prompt)}
    comparison.document["measured"][member.backbone] = known | sample


def effort(text: str) -> int:
    """Return how many characters :func:`measure` reads, or could read in its time."""
    return len(text) + work(len(text)) + 4 * GRADIENT_EFFORT


def _sample(engine: Engine, found: Checkpoint, prompt: PromptState) -> str:
    """Return what ``charlm generate`` writes with the settings of ``SAMPLE``."""
    vocabulary = found.tokenizer.vocabulary
    mask = allowed_mask(vocabulary, SAMPLE, found.tokenizer.unknown_id)

    def block(indices: range) -> decoding.Block:
        return decoding.Block(engine, prompt, SAMPLE, indices, mask)

    return "".join(next(decoding.samples(block, vocabulary, SAMPLE)))


def _generating_speed(engine: Engine, start: PromptState) -> float:
    """Return how many characters a second are drawn, one after the other.

    The fastest stretch counts: what else the machine does only slows the others down.
    """
    block = decoding.Block(engine, start, SAMPLE, range(1))
    for _ in range(20):  # until memory and caches are warm
        block.draw()
    best, end = 0.0, time.perf_counter() + GENERATING_SECONDS
    while not best or time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(STRETCH):
            block.draw()
        best = max(best, STRETCH / (time.perf_counter() - began))
    return best


def _memory(
    engine: Engine, ids: Ids, start: PromptState, on_progress: ProgressCallback
) -> Figures | None:
    """Return how the loss in bits depends on the length of the context, if that can be measured."""
    if engine.line_end is not None or len(ids) < LEAST_MEMORY:
        return None
    bits = scoring.score(engine, ids, start, on_progress).astype(np.float64) / math.log(2)
    found = measure_memory(engine, ids, bits, on_progress=on_progress)
    return {
        "reach": found.reach,
        "order": found.order,
        "full": found.full,
        "contexts": found.nearest.contexts.tolist(),
        "loss": found.nearest.loss.tolist(),
        "error": found.nearest.error.tolist(),
    }


def _gradients(found: Checkpoint, ids: Ids, on_progress: ProgressCallback) -> Figures | None:
    """Return how far gradients of the top layer's output reach back, if that can be measured."""
    if found.model_config.items or len(ids) < LEAST_GRADIENTS:
        return None
    gradients = measure_gradients(
        found.model_config,
        found.weights,
        ids,
        found.train_config,
        on_progress=lambda parts: on_progress(parts * GRADIENT_EFFORT),
    )
    top = max(flow.layer for flow in gradients.flows)
    flow = next(flow for flow in gradients.flows if flow.layer == top)
    return {
        "distances": list(range(len(flow.trained))),
        "trained": flow.trained.tolist(),
        "untrained": flow.untrained.tolist(),
        "half_distance": gradients.half_distance,
        "half_distance_untrained": half_distance(flow.untrained),
    }


def run_figures(comparison: Comparison, member: Member) -> Figures:
    """Return the figures of a training that is at its end."""
    name = {"run": member.folder.name, "backbone": member.backbone, "seed": member.seed}
    why = comparison.divergence(member)
    if why is not None:
        return name | {"diverged": why}
    found = comparison.latest(member)
    metrics = member.folder / METRICS
    lines = read_metrics(metrics)
    if found is None or found.counters.loss is None or not lines:
        raise CheckpointError(f"{metrics} does not hold what the training of {member.folder} found")
    each = epoch_characters(found)
    return name | {
        "diverged": None,
        "nats": found.counters.loss,
        "bits": found.counters.loss / math.log(2),
        "parameters": found.model_config.num_parameters(found.tokenizer.vocab_size),
        "steps": found.counters.step,
        "seconds": found.counters.seconds,
        "characters": round(lines[-1]["epoch"] * each),
        "training_chars_per_second": lines[-1]["chars_per_second"],
        "curve": {
            "steps": [line["step"] for line in lines],
            "minutes": [line["seconds"] / 60 for line in lines],
            "characters": [round(line["epoch"] * each) for line in lines],
            "train": [line["train_loss"] for line in lines],
            "validation": [line["validation_loss"] for line in lines],
        },
    }


def conclude(comparison: Comparison) -> None:
    """Compute the table and the verdict of a comparison whose trainings have ended; save all.

    Raises:
        CheckpointError: if a run is damaged, or the folder cannot be written.
    """
    document = comparison.document
    runs = [run_figures(comparison, member) for member in comparison.members]
    table = [_row(comparison, name, runs) for name in document["backbones"]]
    document["runs"], document["table"] = runs, table
    document["verdict"] = verdict(
        {row["backbone"]: row["losses"] for row in table},
        {
            what: {
                row["backbone"]: row[f"{what}_chars_per_second"]
                for row in table
                if row[f"{what}_chars_per_second"] is not None
            }
            for what in ("training", "generating")
        },
    )
    comparison.save()
    page = render("compare", document)
    write_atomically(comparison.folder / PAGE, page.encode("utf-8", "surrogatepass"))


def _row(comparison: Comparison, backbone: str, runs: list[Figures]) -> Figures:
    """Return the row of a backbone: means over its seeds, and what its first model was found to do.

    What is not known is None.
    """
    own = [run for run in runs if run["backbone"] == backbone]
    ended = [run for run in own if run["diverged"] is None]
    losses = [run["nats"] for run in ended]
    model = comparison.document["common"] | comparison.document["models"][backbone]
    known = comparison.document["measured"].get(backbone, {}) if ended else {}
    nats = statistics.mean(losses) if losses else None
    memory, gradients = known.get("memory"), known.get("gradients")

    def mean(name: str) -> float | None:
        return statistics.mean(run[name] for run in ended) if ended else None

    return {
        "backbone": backbone,
        "num_layers": model["num_layers"],
        "hidden_size": model["hidden_size"],
        "parameters": ended[0]["parameters"] if ended else None,
        "seeds": len(own),
        "diverged": len(own) - len(ended),
        "losses": losses,
        "nats": nats,
        "spread": statistics.stdev(losses) if len(losses) > 1 else None,
        "bits": None if nats is None else nats / math.log(2),
        "characters": mean("characters"),
        "seconds": mean("seconds"),
        "training_chars_per_second": mean("training_chars_per_second"),
        "generating_chars_per_second": known.get("generating_chars_per_second"),
        "memory": memory and memory.get("reach"),
        "memory_most": memory and memory["contexts"][-1],
        "half_distance": gradients and gradients.get("half_distance"),
        "half_distance_most": gradients and gradients["distances"][-1],
    }
