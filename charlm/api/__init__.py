"""charlm from Python: :func:`load` returns a :class:`LanguageModel` that generates and scores.

Neither needs torch; what does is in :mod:`charlm.runs`. The examples are run by the tests, with
``lm = charlm.load("english")`` before each.
"""

from charlm.api.language_model import LanguageModel, load
from charlm.api.next_characters import NextCharacter, NextCharacters

__all__ = ["LanguageModel", "NextCharacter", "NextCharacters", "load"]
