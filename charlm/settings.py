"""Settings that are checked when they are created.

Each field of a :class:`Settings` class states its default, its help and its bounds once, with
:func:`setting`. The flags of the command line and all checks derive from that.
"""

import contextlib
import functools
import math
import numbers
import operator
import types
import typing
from collections.abc import Collection, Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any, Self

from charlm.errors import ConfigError, argument
from charlm.suggestions import nearest_argument, nearest_value

# The words of each bound, and what must hold between a value and the bound.
BOUNDS = {
    "minimum": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    choices: Collection[str] | None = None,
    compare: bool = True,
) -> Any:
    """Declare a field: its default, one line of help, and the bounds that creation checks.

    With ``compare=False`` two configs that differ in it alone are equal.
    """
    bounds = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    metadata = {"help": help, "choices": choices, **bounds}
    return field(default=default, compare=compare, metadata=metadata)


def field_type(item: "Field[Any]") -> Any:
    """Return the type of a field, ``int`` for ``int | None``."""
    if isinstance(item.type, types.UnionType):
        return next(t for t in typing.get_args(item.type) if t is not type(None))
    return item.type


def refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    """Raise ConfigError for the first of ``names`` that is not known, with the nearest one."""
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}{nearest_argument(name, known)}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of all configs: checks types and bounds, and reads itself from a mapping."""

    def __post_init__(self) -> None:
        for item in self.settings():
            object.__setattr__(self, item.name, _checked(item, getattr(self, item.name)))

    @classmethod
    @functools.cache
    def settings(cls) -> "tuple[Field[Any], ...]":
        """Return the fields that were declared with :func:`setting`."""
        if any(isinstance(value, Field) for value in vars(cls).values()):
            raise ConfigError(
                f"class {cls.__name__} has settings: put @dataclass(frozen=True, kw_only=True) "
                "above it"
            )
        found = [item for item in fields(cls) if "help" in item.metadata]
        for item in found:
            if isinstance(item.type, str):  # from __future__ import annotations
                item.type = typing.get_type_hints(cls)[item.name]
        return tuple(found)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return [item.name for item in cls.settings()]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the config with ``values``; a missing key takes its default.

        Raises:
            ConfigError: for an unknown key (naming the nearest one) or a value out of bounds.
        """
        refuse_unknown(values, cls.names())
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings by name."""
        return {name: getattr(self, name) for name in self.names()}


def _checked(item: "Field[Any]", value: Any) -> Any:
    """Return a value in the type of its field, or raise ConfigError."""
    if value is None and isinstance(item.type, types.UnionType):
        return None
    value = _converted(item.name, field_type(item), value)
    rules, name = item.metadata, argument(item.name)
    if rules["choices"] is not None and value not in rules["choices"]:
        names = ", ".join(rules["choices"])
        hint = nearest_value(value, rules["choices"])
        raise ConfigError(f"{name} must be one of {names} (got {value!r}){hint}")
    for rule, (words, holds) in BOUNDS.items():
        if rules[rule] is not None and not holds(value, rules[rule]):
            raise ConfigError(f"{name} must be {words} {rules[rule]} (got {value})")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"{name} must fit into 64 bits")
    return value


def _converted(name: str, kind: Any, value: Any) -> Any:
    """Return ``value`` as a ``kind``: numpy's numbers are numbers too, True and False are not."""
    name = argument(name)
    if typing.get_origin(kind) is tuple:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
            raise ConfigError(f"{name} must be texts (got {value!r})")
        if "" in texts:
            raise ConfigError(f"{name} must not be an empty text")
        return tuple(texts)
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = int(value)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an integer too large for a float
            value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{name} must be of type {kind.__name__} (got {value!r})")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number (got {value})")
    return value
