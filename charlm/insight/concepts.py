"""Concepts: what holds at which character of a text, by rules that a person can read.

A label belongs to the state after a character. So "inside quotes" holds from the opening quote to
the character before the closing one: from what a reader knows once the character is read.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.errors import ConfigError, argument

LONGEST = 600  # characters of a quotation or a bracket; what is longer was most likely left open
# A straight quote opens before what is no space and closes behind what is none. So one that is left
# open does not turn all that follows inside out.
QUOTES = re.compile(
    rf""""{{3}}.{{1,{LONGEST}}}?"{{3}}|'{{3}}.{{1,{LONGEST}}}?'{{3}}"""
    rf"""|(?<![\w"])"(?=[^\s"])[^"]{{1,{LONGEST}}}(?<!\s)"(?!\w)"""
    rf"""|(?<![\w'])'(?=[^\s'])[^'\n]{{1,{LONGEST}}}(?<!\s)'(?!\w)"""
    rf"|“[^”]{{1,{LONGEST}}}”|«[^»]{{1,{LONGEST}}}»|「[^」]{{1,{LONGEST}}}」|『[^』]{{1,{LONGEST}}}』",
    re.DOTALL,
)
BRACKETS = {")": "(", "]": "[", "}": "{", "）": "（", "》": "《"}
INDENTATION = re.compile(r"^[ \t]+", re.MULTILINE)
FIRST_WORD = re.compile(r"^[ \t]*\w+", re.MULTILINE)
SPEAKER = re.compile(r"^[A-Z][A-Za-z .]{0,30}[:.]$", re.MULTILINE)
MOST_POSITION = 200  # characters after which a place in a line or a word is not counted on


@dataclass(frozen=True)
class Concept:
    """Something that holds, or a number, at each character of a text.

    Attributes:
        name: for people.
        labels: (N,), bool for yes or no, else float.
    """

    name: str
    labels: NDArray[np.bool_] | NDArray[np.float64]

    @property
    def is_number(self) -> bool:
        """Whether it is a number and not a yes or no."""
        return self.labels.dtype != np.bool_


def concepts(text: str, patterns: Iterable[str] = ()) -> list[Concept]:
    """Return all concepts of a text, those of the user's regular expressions last.

    Raises:
        ConfigError: for a pattern that is none.
    """
    found = [
        Concept("inside quotes", _spans(text, QUOTES, inside=True)),
        Concept("inside brackets", _inside_brackets(text)),
        Concept("first word of a line", _spans(text, FIRST_WORD)),
        Concept("speaker's name", _spans(text, SPEAKER)),
        Concept("capital letter", _characters(text, str.isupper)),
        Concept("digit", _characters(text, str.isdigit)),
        Concept("indentation", _spans(text, INDENTATION)),
        Concept("next is a line end", _next(text, "\n")),
        Concept("next is a space", _next(text, " ")),
        Concept("place in the line", _since(text, "\n")),
        Concept("place in the word", _since(text, " \n\t")),
    ]
    for pattern in patterns:
        try:
            compiled = re.compile(pattern, re.MULTILINE)
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"{argument('concept', pattern)} is not a regular expression: {error}"
            ) from None
        found.append(Concept(f"matches {pattern}", _spans(text, compiled)))
    return found


def _spans(text: str, pattern: re.Pattern[str], *, inside: bool = False) -> NDArray[np.bool_]:
    """Return where a pattern matches, without its last character if it is a pair of quotes."""
    labels = np.zeros(len(text), np.bool_)
    for match in pattern.finditer(text):
        labels[match.start() : match.end() - inside] = True
    return labels


def _inside_brackets(text: str) -> NDArray[np.bool_]:
    """Return where a bracket is open that is closed later."""
    labels = np.zeros(len(text), np.bool_)
    opened: list[tuple[int, str]] = []
    for place, character in enumerate(text):
        if character in BRACKETS.values():
            opened.append((place, character))
        elif character in BRACKETS:
            opener = BRACKETS[character]
            if any(other == opener for _, other in opened):
                while opened[-1][1] != opener:  # left open
                    opened.pop()
                start, _ = opened.pop()
                if place - start <= LONGEST:
                    labels[start:place] = True
    return labels


def _characters(text: str, holds: Callable[[str], bool]) -> NDArray[np.bool_]:
    return np.fromiter(map(holds, text), np.bool_, len(text))


def _next(text: str, character: str) -> NDArray[np.bool_]:
    return _characters(text[1:] + "\0", character.__eq__)


def _since(text: str, ends: str) -> NDArray[np.float64]:
    """Return how many characters have been read since one of ``ends``."""
    places = np.arange(len(text))
    is_end = _characters(text, ends.__contains__)
    last = np.maximum.accumulate(np.where(is_end, places, -1))
    return np.minimum(places - last, MOST_POSITION).astype(np.float64)
