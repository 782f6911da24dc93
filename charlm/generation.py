"""Logits to characters.

Anything that can be stepped, a :class:`Stepper`, can be sampled from. Sample i of a prompt draws
from a random generator seeded with (seed, i), so it is the same whatever other samples are drawn.
"""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleConfig
from charlm.errors import DivergenceError

State = tuple[NDArray[Any], ...]
Floats = NDArray[np.float64]


class Stepper(Protocol):
    """A language model that reads one character at a time."""

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any character: arrays (L, B, H) of zeros."""

    def step(self, ids: NDArray[Any], state: State) -> tuple[NDArray[Any], State]:
        """Read one character per lane: ids (B,) -> logits (B, V) of the next one, next state."""


def probabilities(logits: NDArray[Any], config: SampleConfig) -> Floats:
    """Return the distribution (..., V) that the next character is drawn from.

    In this order: temperature, top-k, top-p. Logits are scaled in float64 after their maximum is
    taken off, so no temperature overflows; temperature 0 puts all on the (first) likeliest. Of
    characters that are exactly as likely the first ones stay.

    Source: top-p is nucleus sampling, Holtzman et al. (2019), arXiv:1904.09751.
    """
    scores = np.asarray(logits, dtype=np.float64)
    best = scores.argmax(axis=-1)[..., None]
    if config.temperature == 0:
        result = np.zeros_like(scores)
        np.put_along_axis(result, best, 1.0, axis=-1)
        return result
    with np.errstate(over="ignore"):  # a score far below the best one may become -inf: weight 0
        scores = (scores - np.take_along_axis(scores, best, axis=-1)) / config.temperature
    p = np.exp(scores)
    p /= p.sum(axis=-1, keepdims=True)
    if config.top_k or config.top_p < 1:
        order = np.argsort(-np.asarray(logits), axis=-1, kind="stable")
        ranked = np.take_along_axis(p, order, axis=-1)
        if config.top_k:
            ranked[..., config.top_k :] = 0
            ranked /= ranked.sum(axis=-1, keepdims=True)
        if config.top_p < 1:
            # Kept: each one before which less than top_p has been gathered, so at least one.
            ranked[np.cumsum(ranked, axis=-1) - ranked >= config.top_p] = 0
        np.put_along_axis(p, order, ranked, axis=-1)
        p /= p.sum(axis=-1, keepdims=True)
    return p


def seeded(config: SampleConfig) -> SampleConfig:
    """Return ``config`` with a seed: its own, or else a random one."""
    return config if config.seed is not None else replace(config, seed=secrets.randbelow(2**32))


def draw(p: Floats, rng: np.random.Generator) -> int:
    """Return an index drawn from the distribution ``p`` (V,), by inverting its running sum."""
    cumulative = np.cumsum(p)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def read(stepper: Stepper, ids: NDArray[Any], state: State) -> tuple[NDArray[Any], State]:
    """Read ``ids`` (N,), N > 0, with one lane: logits (V,) of the character after them, state."""
    with np.errstate(over="ignore", invalid="ignore"):  # generate() says so in words
        for i in ids:
            logits, state = stepper.step(np.array([i]), state)
    return logits[0], state


def generate(
    stepper: Stepper,
    logits: NDArray[Any],
    state: State,
    config: SampleConfig,
    *,
    index: int = 0,
    banned: int | None = None,
) -> Iterator[int]:
    """Yield the ids of ``config.length`` new characters.

    Args:
        stepper: the model.
        logits: (V,), of the first new character; with ``state`` what :func:`read` returned.
        state: what the model has read, one lane; it is left as it is, so that many samples can
            start from it.
        config: how characters are drawn; its seed must be given.
        index: which of the independent samples this is.
        banned: an id that is never drawn: the unknown symbol.

    Raises:
        DivergenceError: if the model's predictions are no numbers.
    """
    assert config.seed is not None
    rng = np.random.default_rng([config.seed, index])
    for count in range(1, config.length + 1):
        if banned is not None:
            logits = logits.copy()
            logits[banned] = -np.inf
        if not np.isfinite(logits.max()):
            raise DivergenceError(
                "the model's predictions are no numbers: its state has grown without bound; train "
                "it again with a lower --learning-rate"
            )
        drawn = draw(probabilities(logits, config), rng)
        yield drawn
        if count < config.length:
            logits, state = read(stepper, np.array([drawn]), state)
