"""Functions with the same bits everywhere: sums, products and tables made of them.

``EXACT`` is the array library that cells are run with. It has the functions of numpy that round in
one way only, and tanh as a table:

    >>> EXACT.tanh(np.float32([0.0, 100.0]))
    array([0.       , 0.9999998], dtype=float32)
"""

from typing import Any

import numpy as np

from charlm.errors import ConfigError
from charlm.inference.sampling import Doubles
from charlm.tensor_file import Floats

STEPS = 1024  # entries of a table for each unit of its argument
TANH_LIMIT = 8  # beyond it tanh is that of the limit
CENTER = TANH_LIMIT * STEPS + 0.5  # the place of 0, with the half that makes a cast round
WEIGHT_BITS = 30  # exp(0) is 2 ** WEIGHT_BITS
LARGEST_SCALE = 1e30  # of logits: it leaves the likeliest alone, and no gap times it overflows
EXP_LIMIT = 21  # exp(-x) beyond it is 0: less than half of a unit

# ln 2 in two parts: products of the first with small whole numbers are exact.
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6


def exp(x: Doubles) -> Doubles:
    """Return the exponential function of ``x`` (...), none of it above 0."""
    halvings = np.rint(x * -1.4426950408889634)
    r = (x + halvings * LN2_HIGH) + halvings * LN2_LOW  # |r| <= ln 2 / 2
    result = np.ones_like(r)
    for k in range(14, 0, -1):  # its series
        result = result * r / k + 1
    return np.ldexp(result, -halvings.astype(np.int32))


def log(x: Doubles) -> Doubles:
    """Return the natural logarithm of ``x`` (...), all of it above 0."""
    fraction, exponent = np.frexp(x)
    low = fraction < 0.7071067811865476
    fraction = np.where(low, 2 * fraction, fraction)
    exponent = exponent - low
    s = (fraction - 1) / (fraction + 1)  # ln fraction = 2 (s + s^3 / 3 + s^5 / 5 + ...)
    square = s * s
    series = np.full_like(s, 1 / 25)
    for k in range(23, 0, -2):
        series = series * square + 1 / k
    return exponent * LN2_HIGH + (exponent * LN2_LOW + 2 * s * series)  # type: ignore[no-any-return]


def _tanh_table() -> Floats:
    x = np.arange(-TANH_LIMIT * STEPS, TANH_LIMIT * STEPS + 1) / STEPS
    e = exp(-2 * np.abs(x))
    return (np.sign(x) * ((1 - e) / (1 + e))).astype(np.float32)


TANH = _tanh_table()  # (16385,)
SIGMOID = np.float32(0.5) + np.float32(0.5) * TANH  # at twice the argument
# exp(-x) as whole numbers, by x * STEPS.
EXP = np.rint(exp(-np.arange(EXP_LIMIT * STEPS + 1) / STEPS) * 2.0**WEIGHT_BITS)
EXP[-1] = 0


class Exact:
    """The array library of exact functions; see the module."""

    # What numpy rounds in one way only, or not at all.
    SAME: tuple[str, ...] = (
        "abs",
        "clip",
        "concatenate",
        "floor",
        "maximum",
        "minimum",
        "ones_like",
        "rint",
    )
    SAME = (*SAME, "sign", "sqrt", "stack", "where", "zeros_like")

    def tanh(self, x: Floats) -> Floats:
        """Return tanh of ``x`` (...), to the nearest entry of its table."""
        places = np.clip(x * np.float32(STEPS) + np.float32(CENTER), 0, len(TANH) - 1)
        found: Floats = TANH.take(places.astype(np.intp), mode="clip")
        return found

    def exp(self, x: Floats) -> Floats:
        """Return the exponential function of ``x`` (...), at most that of 80."""
        x = np.minimum(x.astype(np.float64), 80)
        down = exp(-np.abs(x))
        return np.where(x > 0, 1 / np.where(x > 0, down, 1), down).astype(np.float32)

    def log(self, x: Floats) -> Floats:
        """Return the natural logarithm of ``x`` (...), all of it above 0."""
        return log(x.astype(np.float64)).astype(np.float32)

    def __getattr__(self, name: str) -> Any:
        if name in self.SAME:
            return getattr(np, name)
        raise ConfigError(
            f"the cell uses {name}, which computers round in different ways: in whole numbers it "
            f"may use tanh, exp, log, {', '.join(self.SAME)}"
        )


EXACT = Exact()


def weights(gaps: Doubles, scale: float = 1.0) -> Doubles:
    """Return exp(-gaps * scale) (...) as whole numbers, 2 ** WEIGHT_BITS for 0.

    Args:
        gaps: not below 0; they are overwritten.
        scale: the reciprocal of a temperature; beyond ``LARGEST_SCALE`` it is that.
    """
    gaps *= STEPS * min(scale, LARGEST_SCALE)
    gaps += 0.5
    np.minimum(gaps, EXP_LIMIT * STEPS, out=gaps)
    with np.errstate(invalid="ignore"):  # NaN is told of by who looks at the predictions
        return EXP.take(gaps.astype(np.intp), mode="clip")
