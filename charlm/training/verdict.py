"""The verdict of a comparison, in words that take the noise between seeds into account.

The noise is measured by training each backbone several times, with other initial weights and other
dropout. Whether two means differ by more than that is Student's t test: their difference is divided
by its standard error, the root of the sum of the squared standard errors of both.

Source: Student (1908), The probable error of a mean, Biometrika 6(1).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# Student's t with 2, 4, ... 18 degrees of freedom, which are 2, 3, ... 10 values on each side:
# chance alone exceeds it, in either direction, in one of twenty comparisons.
T_QUANTILES = (4.303, 2.776, 2.447, 2.306, 2.228, 2.179, 2.145, 2.120, 2.101)
USUAL_NOISE = 0.02  # nats by which trainings that differ in the seed alone may differ


def noise(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how large a difference of two means must be, to be more than noise.

    Where only the seeds differ, one of twenty comparisons exceeds it (exactly so if both sides have
    as many values and the same spread). Beyond ten values the bound is that for ten, which is a
    little wider.

    >>> round(noise([1.40, 1.42], [1.50, 1.52]), 3)
    0.061

    Args:
        one: losses of one backbone, at least two.
        other: losses of another one, at least two.
    """
    error = math.sqrt(sum(statistics.variance(losses) / len(losses) for losses in (one, other)))
    count = min(len(one), len(other), len(T_QUANTILES) + 1)
    return T_QUANTILES[count - 2] * error


def verdict(losses: Mapping[str, Sequence[float]], rates: Mapping[str, Mapping[str, float]]) -> Any:
    """Return what a comparison says.

    Args:
        losses: nats per character of each backbone, one for each seed; of one that has diverged
            those of its other seeds, if any.
        rates: characters a second of each backbone, by what is done.

    Returns:
        ``sentences``, ``best`` (a backbone or None) and ``clear``: whether it is better than the
        next one beyond the noise, None where that cannot be told.
    """
    ranked = sorted((b for b in losses if losses[b]), key=lambda b: statistics.mean(losses[b]))
    clear: bool | None = None
    if not ranked:
        sentences = ["No training came to its end, so there is nothing to compare."]
    elif len(ranked) == 1:
        sentences = [f"There is no other backbone to compare {ranked[0]} with."]
    else:
        best, following = ranked[:2]
        clear, sentences = _ranking(best, losses[best], following, losses[following])
    for what, rate in rates.items():
        if len(rate) > 1:
            fastest = max(rate, key=rate.__getitem__)
            speed = f"{rate[fastest]:,.0f} characters a second"
            sentences.append(f"The fastest in {what} is {fastest}, with {speed}.")
    return {"sentences": sentences, "best": ranked[0] if ranked else None, "clear": clear}


def _ranking(
    best: str, ours: Sequence[float], following: str, theirs: Sequence[float]
) -> tuple[bool | None, list[str]]:
    """Return whether the best backbone is better than the next one, and sentences on that."""
    loss = statistics.mean(ours)
    gap = statistics.mean(theirs) - loss
    lowest = f"{best} has the lowest loss, {loss:.4f} nats per character"
    if min(len(ours), len(theirs)) < 2:
        which = "larger" if gap > USUAL_NOISE else "not larger"
        return None, [
            f"{lowest}; {following} is {gap:.4f} above it.",
            f"One seed cannot tell differences smaller than about {USUAL_NOISE} nats, by which "
            "trainings of a minute and more usually differ that differ in the seed alone; this one "
            f"is {which}. With three seeds the noise is measured.",
        ]
    bound = noise(ours, theirs)
    clear = gap > bound
    if clear:
        first = f"{best} is better than {following} here, by more than the noise"
    else:
        first = f"These trainings do not tell {best} and {following} apart"
    quantile = T_QUANTILES[min(len(ours), len(theirs), len(T_QUANTILES) + 1) - 2]
    return clear, [
        f"{first}.",
        f"{lowest} in the mean of {len(ours)} seeds, and {following} is {gap:.4f} above it.",
        f"The noise is {bound:.4f} nats: {quantile:g} times the standard error of the difference "
        "of the two means (Student's t), which seeds alone exceed in one of twenty comparisons.",
    ]
