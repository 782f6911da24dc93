"""What is done with a character that a model does not know.

It is an error, it is skipped, or the nearest character that the model knows is read in its place:

    >>> nearest("É", frozenset("abcDE"))
    'E'
    >>> unknown = UnknownCharacters("abcDE ", "nearest")
    >>> unknown.replace("É漢 É")
    'E E'
    >>> unknown.summary()
    'unknown characters: 2 read as others: É to E (2); 1 left out: 漢 (1)'
"""

import threading
import unicodedata
from collections import Counter
from collections.abc import Set as AbstractSet

from charlm.errors import ConfigError, argument

# Threads that read with one model count into one Counter. One lock for all models: as part of an
# object it would keep a model from being copied or sent to another process.
COUNTING = threading.Lock()

CHOICES = ("error", "skip", "nearest")
MOST_NAMED = 5  # kinds of changes that a summary names

# Characters that are used alike. The first one that the model knows is taken.
ALIKE = (
    '"”“„‟″«»「」『』',
    "'’‘‚‛′´`‹›",
    "-‐‑‒–—―−",
    ".。",
    ",，、",
    "~～〜",
)
# What Unicode does not decompose, in simpler letters.
SIMPLER = {
    **{"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O"},
    **{"ð": "d", "Ð": "D", "đ": "d", "Đ": "D", "þ": "th", "Þ": "Th", "ł": "l", "Ł": "L"},
    **{"ħ": "h", "Ħ": "H", "ı": "i", "×": "x", "÷": "/", "\u2044": "/"},
    **{"\t": " ", "\n": " ", "\x85": "\n", "\u2028": "\n", "\u2029": "\n"},
}


def nearest(character: str, known: AbstractSet[str]) -> str:
    """Return the text of known characters that is nearest to another character, "" if none is.

    Tried in this order: a character that is used alike, such as a straight quote for a curly one;
    the parts that Unicode decomposes it into (NFKD), with and without accents; simpler letters;
    and for each of these the other case.

    Args:
        character: one character.
        known: the characters to choose from.
    """
    alike = _known_like(character, known)
    if alike:
        return alike
    decomposed = unicodedata.normalize("NFKD", character)
    plain = "".join(part for part in decomposed if not unicodedata.combining(part))
    simpler = "".join(SIMPLER.get(part, part) for part in plain)
    for text in (decomposed, plain, simpler, character):
        parts = [_known_form(part, known) for part in text]
        if parts and all(parts):
            return "".join(parts)
    return ""


def _known_like(character: str, known: AbstractSet[str]) -> str:
    group = next((group for group in ALIKE if character in group), "")
    return next((other for other in group if other in known), "")


def _known_form(part: str, known: AbstractSet[str]) -> str:
    """Return a part itself if it is known, else one that is used alike, else the other case."""
    if part in known:
        return part
    cases = (part.lower(), part.upper())
    return _known_like(part, known) or next((case for case in cases if case in known), "")


class UnknownCharacters:
    """Replaces the characters of texts that a vocabulary does not hold, and counts them.

    Args:
        vocabulary: the known characters.
        how: ``"error"`` leaves texts as they are, so that to encode them is an error or gives the
            unknown symbol; ``"skip"`` leaves unknown characters out; ``"nearest"`` takes what
            :func:`nearest` finds.
        has_symbol: whether the vocabulary has an unknown symbol. To that is left what has nothing
            near it; without one, it is left out.

    Attributes:
        changes: how often each character was replaced, and by what, over all texts.
    """

    def __init__(self, vocabulary: str, how: str = "error", *, has_symbol: bool = False):
        if how not in CHOICES:
            raise ConfigError(
                f"{argument('unknown')} must be one of {', '.join(CHOICES)} (got {how!r:.100})"
            )
        self.known = frozenset(vocabulary)
        self.how = how
        self.has_symbol = has_symbol
        self.changes: Counter[tuple[str, str]] = Counter()

    def replace(self, text: str) -> str:
        """Return a text as the model reads it."""
        if self.how == "error" or not isinstance(text, str):
            return text
        table: dict[int, str] = {}
        for character in set(text) - self.known:
            found = nearest(character, self.known) if self.how == "nearest" else ""
            if found or self.how == "skip" or not self.has_symbol:
                table[ord(character)] = found
        if not table:
            return text
        counts = Counter(text)
        with COUNTING:
            for point, found in table.items():
                self.changes[chr(point), found] += counts[chr(point)]
        return text.translate(table)

    def summary(self) -> str:
        """Return how many characters were changed and which, in a line; "" if none was."""
        with COUNTING:
            counts = dict(self.changes)
        parts = []
        for words, changes in (
            ("read as others", {c: n for c, n in counts.items() if c[1]}),
            ("left out", {c: n for c, n in counts.items() if not c[1]}),
        ):
            if changes:
                most = sorted(changes.items(), key=lambda item: (-item[1], item[0]))
                named = [f"{_in_words(*change)} ({n:,})" for change, n in most[:MOST_NAMED]]
                named += ["..."] * (len(most) > MOST_NAMED)
                parts.append(f"{sum(changes.values()):,} {words}: {', '.join(named)}")
        return f"unknown characters: {'; '.join(parts)}" if parts else ""


def _in_words(character: str, replacement: str) -> str:
    if not replacement:
        return in_words(character)
    return f"{in_words(character)} to {''.join(map(in_words, replacement))}"


def in_words(character: str) -> str:
    """Return a character as it can be shown in a line: one that is not seen by its name."""
    seen = character.isprintable() and not character.isspace()
    if seen and not unicodedata.combining(character):
        return character
    return unicodedata.name(character, "").lower() or f"U+{ord(character):04X}"
