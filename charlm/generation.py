"""Logits to characters.

Anything that can be stepped, a :class:`Stepper`, can be sampled from. Samples are drawn side by
side in blocks of fixed places and widths, and sample i draws from a generator of random numbers
seeded with (seed, i). So it depends on the seed and on i alone, whatever other samples are drawn:
not even the last bit of a product, which may depend on how many lanes there are, differs.
"""

import math
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleConfig
from charlm.errors import ConfigError, DivergenceError
from charlm.readings import Reading

State = tuple[NDArray[Any], ...]
Floats = NDArray[np.float64]

# Samples of each block; the last number repeats. One sample alone is one lane, a product of a
# vector; above that, products are fastest for multiples of 8, and 1 + 8 + 56 are 65 samples.
WIDTHS = (1, 8, 56, 64)
COLDEST = 1e-260  # below this temperature gaps of float32 would overflow, and all is argmax anyway


class Moving(Protocol):
    """Lanes of a language model, moved in place."""

    @property
    def state(self) -> State:
        """A copy of the state, arrays (L, B, H)."""

    def step(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Read one character per lane: ids (B,) -> logits (B, V) of the next one."""


class Stepper(Protocol):
    """A language model that reads one character at a time."""

    def lanes(self, state: State) -> Moving:
        """Return lanes that go on from ``state``, arrays (L, B, H), which is left as it is."""


def check_finite(values: NDArray[Any]) -> None:
    """Raise DivergenceError unless what a model says are finite numbers."""
    if not math.isfinite(values.item() if values.size == 1 else np.add.reduce(values, axis=None)):
        raise DivergenceError(
            "the model's predictions are no numbers: its state has grown without bound; train it "
            "again with a lower --learning-rate"
        )


def unnormalized(logits: NDArray[Any], config: SampleConfig) -> Floats:
    """Return weights (B, V) in proportion to which the next character of each lane is drawn.

    In this order: temperature, top-k, top-p, min-p. The largest is 1. Logits are scaled in float64
    after their maximum is taken off, so no temperature overflows; temperature 0 leaves only the
    (first) likeliest. Of characters that are exactly as likely the first ones stay.

    Raises:
        DivergenceError: if the largest logit of a lane is no finite number.

    Source: top-p is nucleus sampling, Holtzman et al. (2019), arXiv:1904.09751; min-p Nguyen et
    al. (2024), arXiv:2407.01082.
    """
    scores = logits.astype(np.float64)
    best = np.maximum.reduce(scores, axis=1, keepdims=True)
    check_finite(best)
    if config.temperature == 0:
        result = np.zeros_like(scores)
        np.put_along_axis(result, scores.argmax(axis=1)[:, None], 1.0, axis=1)
        return result
    scores -= best
    scores *= 1 / max(config.temperature, COLDEST)
    w = np.exp(scores, out=scores)
    if config.top_k or config.top_p < 1:
        order = np.argsort(-logits, axis=1, kind="stable")
        ranked = np.take_along_axis(w, order, axis=1)
        if config.top_k:
            ranked[:, config.top_k :] = 0
        if config.top_p < 1:
            # Kept: each one before which less than top_p has been gathered, so at least one.
            shares = ranked / ranked.sum(axis=1, keepdims=True)
            ranked[np.cumsum(shares, axis=1) - shares >= config.top_p] = 0
        np.put_along_axis(w, order, ranked, axis=1)
    if config.min_p:
        w[w < config.min_p] = 0
    return w


def probabilities(logits: NDArray[Any], config: SampleConfig) -> Floats:
    """Return the distribution (V,) that a character with these logits (V,) is drawn from."""
    w = unnormalized(np.asarray(logits)[None], config)[0]
    return w / w.sum()  # type: ignore[no-any-return]


def surprise(logits: NDArray[Any], ids: NDArray[Any]) -> Floats:
    """Return -log p of characters ``ids`` (...), in nats, for logits (..., V)."""
    scores = logits - logits.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(scores, np.asarray(ids, np.intp)[..., None], axis=-1)[..., 0]
    return np.log(np.exp(scores).sum(axis=-1, dtype=np.float64)) - picked  # type: ignore[no-any-return]


def choose(w: Floats, uniform: Floats) -> NDArray[np.intp]:
    """Return for each lane an index drawn from weights ``w`` (B, V), by inverting their sum.

    Args:
        w: not below 0, with one above 0 in each lane.
        uniform: a number from [0, 1) per lane (B,).
    """
    sums = np.add.accumulate(w, axis=1)
    bounds = sums[:, -1] * uniform
    if len(w) == 1:  # the same, faster
        return np.asarray(sums[0].searchsorted(bounds, side="right"))
    return (sums > bounds[:, None]).argmax(axis=1)  # type: ignore[no-any-return]


def seeded(config: SampleConfig) -> SampleConfig:
    """Return ``config`` with a seed: its own, or else a random one."""
    return config if config.seed is not None else replace(config, seed=secrets.randbelow(2**32))


def allowed_mask(vocabulary: str, config: SampleConfig, unknown_id: int | None) -> Floats | None:
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
        raise ConfigError("allow and forbid leave no character of the model's vocabulary to draw")
    return None if allowed.all() else np.where(allowed, 0.0, -np.inf)


def blocks(count: int | None) -> Iterator[range]:
    """Yield the samples of each block, until ``count`` are in one; None: without end."""
    start = block = 0
    while count is None or start < count:
        width = WIDTHS[min(block, len(WIDTHS) - 1)]
        yield range(start, start + width)
        start, block = start + width, block + 1


class Block:
    """Samples that go on from one reading side by side.

    Args:
        stepper: the model.
        reading: what it has read.
        config: how characters are drawn; its seed must be given.
        indices: which samples these are.
        mask: added to all logits (V,), see :func:`allowed_mask`.

    Attributes:
        ids: what was drawn last in each lane (B,).
    """

    NUMBERS = 64  # random numbers of a lane that are made at a time

    def __init__(
        self,
        stepper: Stepper,
        reading: Reading,
        config: SampleConfig,
        indices: range,
        mask: Floats | None = None,
    ):
        assert config.seed is not None
        self.config = config
        self.mask = mask
        self.lanes = stepper.lanes(tuple(s.repeat(len(indices), axis=1) for s in reading.state))
        self.logits: NDArray[Any] = np.repeat(reading.logits[None], len(indices), axis=0)
        self.ids = np.zeros(len(indices), np.intp)
        self.unread = False
        self.generators = [np.random.default_rng([config.seed, index]) for index in indices]
        self.count = 0

    def draw(self) -> NDArray[np.intp]:
        """Return the next character of each lane (B,).

        Raises:
            DivergenceError: if the model's predictions are no numbers.
        """
        place = self.count % self.NUMBERS
        if place == 0:
            self.uniform = np.array([g.random(self.NUMBERS) for g in self.generators])
        self.count += 1
        with np.errstate(over="ignore", invalid="ignore"):  # check_finite says it in words
            self._read()
            logits = self.logits if self.mask is None else self.logits + self.mask
            w = unnormalized(logits, self.config)
        self.ids = choose(w, self.uniform[:, place])
        self.unread = True
        return self.ids

    def nats(self) -> Floats:
        """Return the model's surprise at what was drawn last (B,), before anything else is read."""
        assert self.unread
        return surprise(self.logits, self.ids)

    def reading(self, lane: int) -> Reading:
        """Return what a lane has read, with what was drawn last."""
        self._read()
        state = tuple(s[:, lane : lane + 1] for s in self.lanes.state)
        return Reading(self.logits[lane].copy(), state)

    def _read(self) -> None:
        if self.unread:
            self.logits = self.lanes.step(self.ids)
            self.unread = False
