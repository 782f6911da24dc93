"""The fields of a request's body, checked one by one."""

import json
from collections.abc import Collection
from typing import Any

from charlm.server.errors import RequestError
from charlm.suggestions import nearest_argument

MOST_TEXTS = 64  # prompts of one request, or texts in a list
MOST_STOPS = 16
LONGEST_STOP = 1000  # characters


class Fields:
    """The body of a request: each field is asked for once, and what nobody asked for is refused.

    Null is the same as not given, as OpenAI's clients send it.

    Args:
        body: JSON, UTF-8.

    Raises:
        RequestError: here and in each method, naming the field.
    """

    def __init__(self, body: bytes):
        try:
            values = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError):
            raise RequestError("the body must be JSON in UTF-8") from None
        if not isinstance(values, dict):
            raise RequestError("the body must be a JSON object")
        self.values: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        self.asked: list[str] = []

    def get(self, name: str, default: Any) -> Any:
        """Return the value of a field of any type."""
        self.asked.append(name)
        return self.values.get(name, default)

    def text(self, name: str, default: str | None = None, *, longest: int) -> str:
        """Return a text of at most ``longest`` characters; without a default it must be there."""
        value = self.get(name, default)
        if value is None:
            raise RequestError(f"{name} is missing: give a text", param=name)
        return _text(value, name, longest)

    def texts(self, name: str, *, longest: int, most: int = MOST_TEXTS) -> list[str]:
        """Return a text or several as a list."""
        value = self.get(name, [])
        several = value if isinstance(value, list) else [value]
        if len(several) > most:
            raise RequestError(
                f"{name} may be {most} texts at most (got {len(several)})", param=name
            )
        return [_text(one, name, longest) for one in several]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def whole(self, name: str, minimum: int, maximum: int, *, default: int = 0) -> int:
        """Return a whole number."""
        value = self.get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise RequestError(
                f"{name} must be a whole number from {minimum} to {maximum} (got {_short(value)})",
                param=name,
            )
        return int(value)

    def flag(self, name: str) -> bool:
        """Return whether something is wanted."""
        value = self.get(name, False)
        if not isinstance(value, bool):
            raise RequestError(f"{name} must be true or false (got {_short(value)})", param=name)
        return value

    def finish(self, unsupported: Collection[str] = ()) -> None:
        """Refuse fields that nobody has asked for.

        Args:
            unsupported: fields that other servers know, which may be there if they say nothing:
                0, an empty text or object.
        """
        for name, value in self.values.items():
            if name in self.asked or (name in unsupported and not value):
                continue
            if name in unsupported:
                raise RequestError(f"charlm does not support {name}: leave it out", param=name)
            near = nearest_argument(name, self.asked)
            raise RequestError(f"there is no field {_short(name)}{near}", param=name[:100])


def _text(value: Any, name: str, longest: int) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a text (got {_short(value)})", param=name)
    if len(value) > longest:
        raise RequestError(
            f"{name} has {len(value):,} characters: {longest:,} are allowed", 413, param=name
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(
            f"{name} holds half a character (a lone surrogate)", param=name
        ) from None
    return value


def _short(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
