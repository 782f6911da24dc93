"""Sampling: from logits to one character.

In this order: temperature, top-k, top-p, min-p.
"""

import math
import secrets
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleConfig
from charlm.errors import ConfigError, DivergenceError, argument

COLDEST = 1e-260  # below this temperature gaps of float32 would overflow, and all is argmax anyway

Doubles = NDArray[np.float64]


def silent() -> np.errstate:
    """Return a context in which numpy warns of no product: :func:`check_finite` says it in words.

    On a Mac, with Apple's Accelerate, it also warns where nothing is wrong (numpy issue 28687).
    """
    return np.errstate(divide="ignore", over="ignore", invalid="ignore")


def check_finite(values: NDArray[Any]) -> None:
    """Raise DivergenceError if a prediction of a model is NaN or infinite."""
    if not math.isfinite(values.item() if values.size == 1 else np.add.reduce(values, axis=None)):
        raise DivergenceError(
            "the model's predictions are NaN or infinite: its state has grown without bound; train "
            f"it again with a lower {argument('learning_rate')}"
        )


def unnormalized(logits: NDArray[Any], config: SampleConfig) -> Doubles:
    """Return weights (B, V) in proportion to which the next characters are drawn.

    The largest weight of each row is 1. Logits are scaled in float64
    after their maximum is taken off, so no temperature overflows; temperature 0 leaves only the
    (first) likeliest. Of characters that are exactly as likely the first ones stay.

    Raises:
        DivergenceError: if the largest logit of a row is not finite.

    Source: top-p is nucleus sampling, Holtzman et al. (2019), arXiv:1904.09751; min-p Nguyen et
    al. (2024), arXiv:2407.01082.
    """
    scores = logits.astype(np.float64)
    best = np.maximum.reduce(scores, axis=1, keepdims=True)
    check_finite(best)
    if config.temperature == 0:
        return likeliest(scores)
    scores -= best
    scores *= 1 / max(config.temperature, COLDEST)
    return filtered(np.exp(scores, out=scores), logits, config)


def likeliest(logits: NDArray[Any]) -> Doubles:
    """Return weights (B, V) that leave only the first of the likeliest, of logits (B, V)."""
    result = np.zeros(logits.shape)
    np.put_along_axis(result, logits.argmax(axis=1)[:, None], 1.0, axis=1)
    return result


def filtered(w: Doubles, logits: NDArray[Any], config: SampleConfig) -> Doubles:
    """Return weights ``w`` (B, V) without those that top-k, top-p and min-p leave out.

    Args:
        w: of each row; they are overwritten.
        logits: by which they are ranked (B, V).
        config: how characters are drawn.
    """
    if config.top_k or config.top_p < 1:
        order = np.argsort(-logits, axis=1, kind="stable")
        ranked = np.take_along_axis(w, order, axis=1)
        if config.top_k:
            ranked[:, config.top_k :] = 0
        if config.top_p < 1:
            # Kept: each one before which less than top_p has been gathered, so at least one.
            sums = np.cumsum(ranked, axis=1)
            ranked[sums - ranked >= config.top_p * sums[:, -1:]] = 0
        np.put_along_axis(w, order, ranked, axis=1)
    if config.min_p:
        w[w < config.min_p * np.maximum.reduce(w, axis=1, keepdims=True)] = 0
    return w


def surprisal(logits: NDArray[Any], ids: NDArray[Any]) -> Doubles:
    """Return -log p of characters ``ids`` (...), in nats, for logits (..., V)."""
    scores = logits - logits.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(scores, np.asarray(ids, np.intp)[..., None], axis=-1)[..., 0]
    return np.log(np.exp(scores).sum(axis=-1, dtype=np.float64)) - picked  # type: ignore[no-any-return]


def choose(w: Doubles, uniform: Doubles) -> NDArray[np.intp]:
    """Return for each row an index drawn from weights ``w`` (B, V), by inverting their sum.

    Args:
        w: not below 0, with one above 0 in each row.
        uniform: a number from [0, 1) for each row (B,).
    """
    sums = np.add.accumulate(w, axis=1)
    bounds = sums[:, -1] * uniform
    if len(w) == 1:  # the same, faster
        return np.asarray(sums[0].searchsorted(bounds, side="right"))
    return (sums > bounds[:, None]).argmax(axis=1)  # type: ignore[no-any-return]


def seeded(config: SampleConfig) -> SampleConfig:
    """Return ``config`` with a seed: its own, or else a random one."""
    return config if config.seed is not None else replace(config, seed=secrets.randbelow(2**32))


def allowed_mask(vocabulary: str, config: SampleConfig, unknown_id: int | None) -> Doubles | None:
    """Return what to add to logits (V,) so that only allowed characters are drawn; None: nothing.

    Never drawn are the unknown symbol, characters in ``config.forbid``, and if ``config.allow`` is
    given all that are not in it.

    Raises:
        ConfigError: if no character is left.
    """
    allow, forbid = set("".join(config.allow)), set("".join(config.forbid))
    allowed = np.array([(not allow or c in allow) and c not in forbid for c in vocabulary])
    if unknown_id is not None:
        allowed[unknown_id] = False
    if not allowed.any():
        raise ConfigError(
            f"{argument('allow')} and {argument('forbid')} leave no character of the model's "
            "vocabulary to draw"
        )
    return None if allowed.all() else np.where(allowed, 0.0, -np.inf)
