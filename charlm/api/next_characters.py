"""What may follow a text: the result of ``LanguageModel.next``."""

from typing import NamedTuple

from charlm.api.notebook import bar_table

SHOWN, SHOWN_AS_HTML = 5, 40  # the most entries, of a model that knows thousands


class NextCharacter(NamedTuple):
    """A character that may follow.

    Attributes:
        character: one character; U+FFFD is the unknown symbol, if the model has one.
        probability: from 0 to 1.
    """

    character: str
    probability: float


class NextCharacters(tuple[NextCharacter, ...]):
    """Characters that may follow, the likeliest first. A notebook shows them with bars.

    >>> found = NextCharacters([NextCharacter("e", 0.75), NextCharacter(" ", 0.25)])
    >>> found
    NextCharacters('e' 0.75, ' ' 0.25)
    >>> found[0].character, dict(found)[" "]
    ('e', 0.25)
    """

    __slots__ = ()

    def __repr__(self) -> str:
        entries = [f"{character!r} {p:.3g}" for character, p in self[:SHOWN]]
        return f"{type(self).__name__}({', '.join(entries + ['...'] * (len(self) > SHOWN))})"

    def _repr_html_(self) -> str:
        left = len(self) - SHOWN_AS_HTML
        note = f"and {left:,} more" if left > 0 else ""
        return bar_table([(repr(c), p) for c, p in self[:SHOWN_AS_HTML]], note)
