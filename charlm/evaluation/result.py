"""The result of an evaluation; it needs no torch."""

import math
from dataclasses import dataclass, field
from typing import Any

from charlm.tensor_file import Floats


@dataclass(frozen=True)
class Evaluation:
    """How well a text was predicted.

    Attributes:
        nats_per_char: mean loss of a character.
        characters: how many were scored.
        items: of a list, how many items these are, each with its line end; None for a text.
        nats: the loss of each character; None for a list.
        mixed: the same for its predictions mixed with those of an n-gram model that reads along, if
            they were computed.
        dynamic: the same for a model that goes on learning from the text, if that was asked for.
        baselines: bits per character of methods without a network by name, if they were computed.
    """

    nats_per_char: float
    characters: int
    items: int | None = None
    nats: Floats | None = field(default=None, repr=False, compare=False)
    mixed: "Evaluation | None" = None
    dynamic: "Evaluation | None" = None
    baselines: dict[str, float] = field(default_factory=dict)

    @property
    def bits_per_char(self) -> float:
        """The mean loss in bits."""
        return self.nats_per_char / math.log(2)

    @property
    def nats_per_item(self) -> float | None:
        """The mean over the items of a list; None for a text."""
        return self.nats_per_char * self.characters / self.items if self.items else None

    @property
    def perplexity(self) -> float:
        """e to the nats: the number of equally likely characters that is as hard to guess."""
        return math.exp(self.nats_per_char) if self.nats_per_char < 700 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return all figures by name; a perplexity too large for a number is None."""
        values: dict[str, Any] = {
            "nats_per_char": self.nats_per_char,
            "bits_per_char": self.bits_per_char,
            "perplexity": self.perplexity if math.isfinite(self.perplexity) else None,
            "characters": self.characters,
        }
        if self.items is not None:
            values |= {"items": self.items, "nats_per_item": self.nats_per_item}
        if self.baselines:
            values["baselines"] = self.baselines
        for name, other in (("mixed", self.mixed), ("dynamic", self.dynamic)):
            if other is not None:
                values[name] = other.to_dict()
        return values
