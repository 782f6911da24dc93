"""Which units of a net follow a concept.

Units are chosen on the first half of a text and confirmed on the second. There, the score of a unit
is compared with its scores for labels that were shuffled in blocks: so a shuffled label holds as
often and in as long stretches as the true one. All units and concepts are searched, but only the
chosen ones confirmed. So the bound on p is ``FALSE_ALARM`` over the number of confirmations: at
most in that share of texts without any relation would anything be called found (Bonferroni).

For yes or no the score is the AUC: how often, of one place where the concept holds and one where it
does not, the first has the higher value (0.5 by chance). For a number it is R², the share of the
variance that a straight line explains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.files import ProgressCallback, no_progress
from charlm.insight.concepts import Concept
from charlm.insight.reading import Reading, Unit, clamped_bits
from charlm.tensor_file import Floats

CANDIDATES = 3  # units that are confirmed for each concept
LEAST_AUC = 0.8  # what a unit has to reach on the second half
LEAST_R2 = 0.3
LEAST_PLACES = 10  # in each half, where a concept holds and where it does not
FALSE_ALARM = 0.05  # for all units and concepts of a text together
LONGEST_BLOCK = 251  # characters shuffled in one piece; a prime, as lines may be of equal length
LEAST_BLOCKS = 20
LEVELS = 256  # to which values are rounded for the search
CLAMPED = 10, 400  # pieces of the second half that are read with a unit clamped, characters of each


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A unit and how well it follows a concept.

    Attributes:
        unit: which one.
        score: AUC or R² on the second half; an AUC of a unit that is low where the concept holds is
            1 minus its AUC.
        first_score: on the first half, where it was chosen.
        sign: 1 if it is high where the concept holds, -1 if it is low there.
        p: share of the shuffled labels that it follows as well.
        where: change of the loss where the concept holds, in bits per character, if the unit is
            held at its mean; None if that was not measured, or for a number.
        elsewhere: the same where it does not hold; for a number everywhere.
    """

    unit: Unit
    score: float
    first_score: float
    sign: int
    p: float
    where: float | None = None
    elsewhere: float | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found for one concept.

    Attributes:
        concept: which one.
        found: the units that were confirmed, the best first.
        best: the best unit if none was confirmed.
        why: why none was found.
    """

    concept: Concept
    found: tuple[Candidate, ...] = ()
    best: Candidate | None = None
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """The findings for all concepts.

    Attributes:
        findings: one for each concept.
        tests: how many units were confirmed or not.
        shuffles: with how many shuffled labels each was compared.
    """

    findings: tuple[Finding, ...]
    tests: int
    shuffles: int


def search(
    reading: Reading,
    concepts: Sequence[Concept],
    *,
    seed: int = 1,
    clamped: bool = True,
    on_progress: ProgressCallback = no_progress,
) -> Search:
    """Search the units of a net for those that follow a concept.

    Args:
        reading: a text as the net read it.
        concepts: what may hold in that text.
        seed: of the shuffling.
        clamped: also measure what the loss is if the best unit is held at its mean.
        on_progress: progress callback, told the number of arrays searched.
    """
    half = len(reading.ids) // 2
    usable = [concept for concept in concepts if _is_usable(concept, half)]
    chosen = _choose(reading, usable, half, on_progress)
    tests = max(1, sum(map(len, chosen)))
    shuffles = int(2 * tests / FALSE_ALARM)
    random = np.random.default_rng(seed)
    confirmed = {
        id(concept): [
            _confirmed(reading, concept, unit, score, half, shuffles, random)
            for unit, score in units
        ]
        for concept, units in zip(usable, chosen, strict=True)
    }
    findings = [
        _finding(concept, confirmed.get(id(concept), []), FALSE_ALARM / tests)
        for concept in concepts
    ]
    if clamped:
        findings = _clamped(reading, findings, half)
    return Search(findings=tuple(findings), tests=tests, shuffles=shuffles)


def _is_usable(concept: Concept, half: int) -> bool:
    """Return whether both halves have places enough to tell something."""
    parts = concept.labels[:half], concept.labels[half:]
    if concept.is_number:
        return all(len(part) and float(part.std()) > 0 for part in parts)
    return all(LEAST_PLACES <= part.sum() <= len(part) - LEAST_PLACES for part in parts)


def _choose(
    reading: Reading, concepts: Sequence[Concept], half: int, on_progress: ProgressCallback
) -> list[list[tuple[Unit, float]]]:
    """Return for each concept the best units of the first half with their scores.

    Of the arrays of one unit only the best counts: they tell about the same.
    """
    best: list[dict[tuple[int, int], tuple[float, str]]] = [{} for _ in concepts]
    for layer, array, values in reading.values():
        first = np.ascontiguousarray(values[:half].T)  # (H, half)
        levels = _levels(first)
        for concept, units in zip(concepts, best, strict=True):
            strength = _strength(first, levels, concept, half)
            for index in np.argsort(-strength, kind="stable")[:CANDIDATES]:
                key, score = (layer, int(index)), float(strength[index])
                if key not in units or score > units[key][0]:
                    units[key] = score, array
        on_progress(1)
    return [
        [
            (Unit(layer, array, index), score)
            for (layer, index), (score, array) in sorted(
                units.items(), key=lambda item: (-item[1][0], item[0])
            )[:CANDIDATES]
        ]
        for units in best
    ]


def _strength(
    values: Floats, levels: NDArray[np.uint8], concept: Concept, half: int
) -> NDArray[np.float64]:
    """Return the score of each unit (H,) on the first half, whatever the sign."""
    labels: NDArray[Any] = concept.labels[:half]
    if concept.is_number:
        return _r2(values, labels)
    scores = _aucs(levels, labels)
    return np.maximum(scores, 1 - scores)


def _levels(values: Floats) -> NDArray[np.uint8]:
    """Return the values (H, n) of each unit rounded to ``LEVELS`` steps between its extremes."""
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    scale = (LEVELS - 1) / np.maximum(high - low, 1e-12)
    levels: NDArray[np.uint8] = np.rint((values - low) * scale).astype(np.uint8)
    return levels


def _aucs(levels: NDArray[np.uint8], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the AUC of each unit (H,) from its rounded values (H, n)."""
    size = len(levels)
    rows = np.arange(size, dtype=np.int64)[:, None] * LEVELS

    def counts(part: NDArray[np.uint8]) -> NDArray[np.float64]:
        found = np.bincount((rows + part).ravel(), minlength=size * LEVELS)
        return found.reshape(size, LEVELS).astype(np.float64)

    yes, no = counts(levels[:, labels]), counts(levels[:, ~labels])
    below = np.cumsum(no, axis=1) - no
    wins = (yes * (below + no / 2)).sum(axis=1)
    return wins / (yes.sum(axis=1) * no.sum(axis=1))  # type: ignore[no-any-return]


def _r2(values: Floats, labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared correlation of each unit (H, n) with the labels (n,)."""
    x = values - values.mean(axis=1, keepdims=True)
    y = labels - labels.mean()
    variances = (x.astype(np.float64) ** 2).sum(axis=1) * (y**2).sum()
    return (x @ y) ** 2 / np.maximum(variances, 1e-300)  # type: ignore[no-any-return]


def _confirmed(
    reading: Reading,
    concept: Concept,
    unit: Unit,
    first_score: float,
    half: int,
    shuffles: int,
    random: np.random.Generator,
) -> Candidate:
    """Score a unit on the second half, for the true labels and for shuffled ones."""
    values, labels = reading.unit(unit)[half:], concept.labels[half:]
    if concept.is_number:
        x, y = values - values.mean(), labels - labels.mean()
        scale = np.sqrt(max(float((x.astype(np.float64) ** 2).sum() * (y**2).sum()), 1e-300))
    else:
        x, y = midranks(values), labels.astype(np.float64)
        x, y = x - x.mean(), y - y.mean()
        holds = int(labels.sum())
        scale = float(holds * (len(labels) - holds))
    statistic = float(x @ y) / scale  # a correlation, or AUC - 1/2
    null = shuffled_sums(x, y, shuffles, random) / scale
    p = (1 + int((np.abs(null) >= abs(statistic)).sum())) / (1 + shuffles)
    score = statistic**2 if concept.is_number else 0.5 + abs(statistic)
    sign = 1 if statistic >= 0 else -1
    return Candidate(unit=unit, score=score, first_score=first_score, sign=sign, p=p)


def midranks(values: Floats) -> NDArray[np.float64]:
    """Return the rank of each value, that of equal ones being the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.ravel()]


def shuffled_sums(
    x: NDArray[np.float64] | Floats,
    y: NDArray[np.float64],
    shuffles: int,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Return sum(x * shuffled y) for labels y (n,) whose blocks were shuffled, (shuffles,)."""
    block = max(1, min(LONGEST_BLOCK, len(x) // LEAST_BLOCKS))
    count = len(x) // block
    products = x[: count * block].reshape(count, block) @ y[: count * block].reshape(count, block).T
    orders = random.permuted(np.tile(np.arange(count), (shuffles, 1)), axis=1)
    return products[np.arange(count), orders].sum(axis=1)  # type: ignore[no-any-return]


def _finding(concept: Concept, candidates: list[Candidate], most_p: float) -> Finding:
    least = LEAST_R2 if concept.is_number else LEAST_AUC
    measure = "R²" if concept.is_number else "AUC"
    candidates = sorted(candidates, key=lambda one: -one.score)
    found = tuple(one for one in candidates if one.score >= least and one.p <= most_p)
    if found:
        return Finding(concept=concept, found=found)
    if not candidates:
        return Finding(concept=concept, why=_why_not_usable(concept))
    best = candidates[0]
    if best.score < least:
        why = f"no unit reaches {measure} {least:.2f} on the second half of the text"
    else:
        why = "a shuffled label is followed as well too often for this to be no chance"
    return Finding(concept=concept, best=best, why=why)


def _why_not_usable(concept: Concept) -> str:
    if not concept.labels.any():
        return "holds nowhere in this text"
    if not concept.is_number and concept.labels.all():
        return "holds everywhere in this text"
    return "holds at too few places in one half of this text"


def _clamped(reading: Reading, findings: list[Finding], half: int) -> list[Finding]:
    """Return the findings with what the loss is if the best unit of each is held at its mean."""
    found = [finding for finding in findings if finding.found]
    units = list(dict.fromkeys(finding.found[0].unit for finding in found))
    if not units:
        return findings
    pieces, length = CLAMPED
    length = min(length, (len(reading.ids) - half) // 2)
    pieces = max(1, min(pieces, (len(reading.ids) - half) // length))
    starts = np.linspace(max(1, half), len(reading.ids) - length, pieces).astype(np.intp)
    clamps = [(unit, float(reading.unit(unit).mean())) for unit in units]
    places = starts[:, None] + np.arange(length)
    bits = clamped_bits(reading, clamps, starts, length)
    change = dict(zip(units, bits - reading.bits[places], strict=True))
    return [
        _with_change(finding, change[finding.found[0].unit], places) if finding.found else finding
        for finding in findings
    ]


def _with_change(
    finding: Finding, change: NDArray[np.float64], places: NDArray[np.intp]
) -> Finding:
    first, *others = finding.found
    where: float | None = None
    elsewhere = change
    if not finding.concept.is_number:
        # The label belongs to the state after a character, so to how the next one is predicted.
        holds = finding.concept.labels.astype(np.bool_)[places - 1]
        where = float(change[holds].mean()) if holds.any() else None
        elsewhere = change[~holds]
    mean = float(elsewhere.mean()) if elsewhere.size else None
    proven = replace(first, where=where, elsewhere=mean)
    return replace(finding, found=(proven, *others))
