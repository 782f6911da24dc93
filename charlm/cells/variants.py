"""A backbone with options of its cell in one word, such as ``gru+no-reset-after``."""

from typing import Any

from charlm.cells import CELLS
from charlm.errors import ConfigError
from charlm.settings import field_type
from charlm.suggestions import nearest_value


def variant(word: str) -> dict[str, Any]:
    """Return the settings that a word stands for: the backbone, and its options behind ``+``.

    >>> variant("rnn+nonlinearity=relu")
    {'backbone': 'rnn', 'nonlinearity': 'relu'}
    >>> variant("gru+no-reset-after")
    {'backbone': 'gru', 'reset_after': False}

    Raises:
        ConfigError: for a backbone or an option that there is not, or a value out of bounds.
    """
    name, *options = word.split("+")
    if name not in CELLS:
        known = ", ".join(CELLS)
        raise ConfigError(f"it must be one of {known} (got {name!r}){nearest_value(name, CELLS)}")
    found = dict(_option(name, option) for option in options)
    CELLS[name].from_dict(found)  # checks the values
    return {"backbone": name, **found}


def _option(backbone: str, text: str) -> tuple[str, Any]:
    """Return the name and the value of an option of a backbone."""
    known = {item.name: field_type(item) for item in CELLS[backbone].settings()}
    key, equals, value = text.partition("=")
    name = key.replace("-", "_")
    off = name not in known and name.startswith("no_")
    name = name.removeprefix("no_") if off else name
    kind = known.get(name)
    if kind is None or (kind is bool) == bool(equals) or (off and kind is not bool):
        forms = ", ".join(n.replace("_", "-") + "=..." * (k is not bool) for n, k in known.items())
        raise ConfigError(
            f"{backbone} has no option {text!r}: it has {forms or 'none'}, each behind a +"
        )
    if kind is bool:
        return name, not off
    try:
        return name, kind(value)
    except ValueError:
        raise ConfigError(f"{text!r} of {backbone} needs a {kind.__name__} behind =") from None
