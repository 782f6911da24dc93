"""Where a run comes from, and how far it is."""

from dataclasses import dataclass, field

from charlm.config.training import PRECISIONS, TrainConfig
from charlm.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Counters(Settings):
    """How far a run is."""

    step: int = setting(0, "updates done", minimum=0)
    best_loss: float | None = setting(None, "lowest validation loss so far (nats per character)")
    best_step: int = setting(0, "the step that reached it", minimum=0)
    whole_loss: float | None = setting(None, "its loss on all that is held out, at the end")
    loss_sum: float = setting(0.0, "sum of the training losses since the last evaluation")
    loss_count: int = setting(0, "how many these are", minimum=0)
    seconds: float = setting(0.0, "time spent training, over all sessions", minimum=0)
    loss_scale: float = setting(0.0, "factor of the loss in float16, 0 = none yet", minimum=0)
    scaled_steps: int = setting(0, "steps since it was last changed", minimum=0)

    @property
    def loss(self) -> float | None:
        """The validation loss of the best step, of all that is held out if that is known."""
        return self.best_loss if self.whole_loss is None else self.whole_loss


@dataclass(frozen=True, kw_only=True)
class Source(Settings):
    """Where a run comes from, and how it is computed.

    Attributes:
        files: the texts, as the user named them.
    """

    fingerprint: str = setting("", "sha256 of the text")
    characters: int = setting(0, "length of the text", minimum=0)
    init_from: str = setting("", "the run whose weights it began with, if any")
    init_sha256: str = setting("", "sha256 of those weights")
    precision: str = setting("float32", "arithmetic of training", choices=PRECISIONS)
    threads: int = setting(0, "threads of torch in training, 0 = its choice", minimum=0)
    threads_fixed: bool = setting(True, "whether the user chose them")
    processes: int = setting(1, "processes that train together", minimum=1)
    files: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Stage(Settings):
    """What a run was trained with up to a step at which ``resume`` changed it."""

    step: int = setting(0, "the step", minimum=0)
    precision: str = setting("float32", "arithmetic of training", choices=PRECISIONS)
    threads: int = setting(0, "threads of torch in training, 0 = its choice", minimum=0)
    processes: int = setting(1, "processes that trained together", minimum=1)
    train_config: TrainConfig = field(default_factory=TrainConfig)
