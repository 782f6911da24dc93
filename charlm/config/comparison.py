"""What a comparison of backbones trains."""

from dataclasses import dataclass

from charlm.cells import CELLS
from charlm.cells.variants import variant
from charlm.errors import ConfigError, argument
from charlm.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Settings):
    """What a comparison of backbones trains, and what it shows of each."""

    backbones: str = setting(
        "", "backbones, separated by commas, as in lstm,gru+no-reset-after (default: all)"
    )
    seeds: int = setting(
        1, "trainings of each backbone, with the seeds 1, 2, ...", minimum=1, maximum=1000
    )
    equal: str = setting(
        "time",
        "what is equal beside the text: time is the budget and all sizes; parameters is the "
        "budget and about the number of parameters, by other hidden sizes",
        choices=("time", "parameters"),
    )
    prompt: str = setting("", "what each model continues (default: the start of a line)")

    def __post_init__(self) -> None:
        super().__post_init__()
        words = self.backbone_names
        try:
            found = [variant(word) for word in words]
        except ConfigError as error:
            raise ConfigError(f"{argument('backbones')}: {error}") from None
        twice = [word for n, word in enumerate(words) if found[n] in found[:n]]
        if twice:
            raise ConfigError(f"{argument('backbones')} names {twice[0]} twice: name it once")

    @property
    def backbone_names(self) -> list[str]:
        """The backbones to train, in the order given; of none given all that there are."""
        return [name.strip() for name in self.backbones.split(",")] if self.backbones else [*CELLS]
