"""How text is drawn."""

from dataclasses import dataclass

from charlm.errors import ConfigError, argument
from charlm.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Settings):
    """How characters are drawn."""

    length: int = setting(500, "new characters per sample, 0 = without end", minimum=0)
    temperature: float = setting(
        0.8, "below 1 safer, above 1 wilder, 0 = always the likeliest", minimum=0
    )
    top_k: int = setting(0, "draw among the k likeliest only, 0 = all", minimum=0)
    top_p: float = setting(
        1.0, "draw among the likeliest that hold this share, 1 = all", above=0, maximum=1
    )
    min_p: float = setting(
        0.0,
        "draw only what is at least this share as likely as the likeliest, 0 = all",
        minimum=0,
        maximum=1,
    )
    allow: tuple[str, ...] = setting(
        (), "draw only characters of this text; repeatable (default: all)"
    )
    forbid: tuple[str, ...] = setting(
        (), "never draw a character of this text; repeatable (default: none)"
    )
    stop: tuple[str, ...] = setting((), "end before this text; repeatable (default: none)")
    num_samples: int = setting(1, "independent samples", minimum=1)
    seed: int | None = setting(
        None, "seed of the drawing (default: random, and printed)", minimum=0, maximum=2**32 - 1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length == 0 and self.num_samples > 1:
            raise ConfigError(
                f"{argument('length')} 0, without end, goes with one sample: leave "
                f"{argument('num_samples')} out"
            )


@dataclass(frozen=True, kw_only=True)
class LinesConfig(Settings):
    """Which lines are wanted of a model of one item per line, such as names."""

    lines: int = setting(
        0, "write so many lines, each a new item, in place of a text", minimum=0, maximum=10**9
    )
    min_length: int = setting(1, "fewest characters of a line", minimum=0)
    max_length: int = setting(200, "most characters of a line", minimum=1, maximum=10**9)
    starts_with: str = setting("", "what every line begins with (default: anything)")
    unique: bool = setting(False, "no line twice")
    tries: int = setting(0, "most lines to draw in all, 0 = 100 for each one wanted", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_length > self.max_length:
            raise ConfigError(
                f"{argument('min_length')} ({self.min_length}) is above "
                f"{argument('max_length')} ({self.max_length})"
            )
        if len(self.starts_with) > self.max_length:
            raise ConfigError(
                f"{argument('starts_with')} is longer than {argument('max_length')} "
                f"({self.max_length})"
            )
        if "\n" in self.starts_with:
            raise ConfigError(f"{argument('starts_with')} must be one line")
