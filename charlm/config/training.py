"""How a model is fitted to a text, and how that is computed."""

import functools
import math
import re
from dataclasses import dataclass

from charlm.errors import ConfigError, argument
from charlm.settings import Settings, setting

DEVICES = ("auto", "cpu", "cuda", "mps")
# Arithmetic of the products in training, the first two of a CPU; weights are always float32.
PRECISIONS = ("float32", "bfloat16", "float16")
MOST_COLUMNS = 1024  # of a matrix that soap keeps a basis for
MOST_LOGIT_SCALE = 1.2  # what logit_growth leads to at most
DECAY_SHARE = 0.5  # share of a run in which the learning rate falls, unless decay_steps is given


def has_basis(shape: tuple[int, ...]) -> bool:
    """Return whether the optimizer soap keeps a basis for a parameter of this shape."""
    return len(shape) == 2 and 1 < shape[1] <= MOST_COLUMNS


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """How the model is fitted to a text."""

    steps: int | None = setting(
        None, "updates of the weights (default: as many as the minutes hold)", minimum=1
    )
    epochs: int | None = setting(None, "times to read the text, in place of steps", minimum=1)
    minutes: float = setting(
        5.0, "minutes to train, unless steps or epochs are given", above=0, maximum=1_000_000
    )
    batch_size: int = setting(16, "parallel lanes of text (B)", minimum=1)
    seq_length: int = setting(128, "characters per lane and step (T)", minimum=1)
    optimizer: str = setting("adamw", "rule of the update", choices=("adamw", "soap", "sgd"))
    learning_rate: float = setting(0.005, "peak learning rate", above=0)
    warmup_steps: int | None = setting(
        None, "first steps, in which the learning rate rises (default: a twentieth)", minimum=0
    )
    decay_steps: int | None = setting(
        None, "last steps, in which the learning rate falls to near 0 (default: half)", minimum=0
    )
    decay_plan: str = setting(
        "",
        "in place of decay_steps: at which steps the end was planned, where it was then, and how "
        "far apart evaluations were from there on, as 600:1200,900:1150:20; the repeat: line of a "
        "run in minutes has it",
    )
    beta1: float = setting(0.6, "adamw, soap: decay of the mean of gradients", minimum=0, below=1)
    beta2: float = setting(
        0.98, "adamw, soap: decay of the mean of their squares", minimum=0, below=1
    )
    momentum: float = setting(0.9, "momentum of sgd", minimum=0, below=1)
    weight_decay: float = setting(0.1, "decoupled decay, on matrices only", minimum=0)
    logit_growth: float = setting(
        0.015,
        "what each reading of the text after the first adds to the factor of the logits in the "
        f"loss, up to {MOST_LOGIT_SCALE}: a model that reads a text often becomes too sure of "
        "itself",
        minimum=0,
    )
    grad_clip: float = setting(1.0, "bound on the norm of the whole gradient, 0 = off", minimum=0)
    eval_every: int = setting(
        0, "steps between evaluations, 0 = about ten in a run, at least one per 500", minimum=0
    )
    save_every: int = setting(
        0, "steps between saves, 0 = at evaluations, but no more than take a little time", minimum=0
    )
    validation_fraction: float = setting(
        0.1, "share of the text, at its end, held out to measure", above=0, below=1
    )
    min_count: int = setting(
        1, "rarer characters become one unknown symbol, 1 = keep all", minimum=1
    )
    seed: int = setting(1, "seed of weights and dropout", minimum=0, maximum=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        plan = _parse_plan(self.decay_plan)
        if plan and self.steps not in (None, plan[-1][1]):
            raise ConfigError(
                f"{argument('decay_plan')} ends at step {plan[-1][1]}, but {argument('steps')} is "
                f"{self.steps}: leave one out"
            )

    @property
    def total_steps(self) -> int | None:
        """All steps of the run; None while that follows from the time."""
        plan = _parse_plan(self.decay_plan)
        return plan[-1][1] if self.steps is None and plan else self.steps

    @property
    def warmup(self) -> int:
        """Steps in which the rate rises: ``warmup_steps``, or a twentieth of all."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(0.05 * (self.total_steps or 0))

    @property
    def decay(self) -> tuple[tuple[int, int], ...]:
        """Steps from which the rate falls, each with the end that was then planned.

        There is more than one where a run in minutes had to change its end, and none while the end
        is not known.
        """
        if self.decay_plan:
            return tuple((start, end) for start, end, _ in _parse_plan(self.decay_plan))
        if self.steps is None:
            return ()
        share = round(DECAY_SHARE * self.steps)
        steps = share if self.decay_steps is None else min(self.decay_steps, self.steps)
        return ((self.steps - steps, self.steps),)

    @property
    def fall(self) -> tuple[int, int] | None:
        """The step from which the rate falls, and the end that was then planned; None before."""
        return self.decay[0] if self.decay else None

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations: ``eval_every``, or about ten a run, at least one per 500."""
        return self.eval_every or min(500, math.ceil((self.total_steps or 5000) / 10))

    def is_evaluated(self, step: int) -> bool:
        """Return whether an evaluation follows ``step`` steps, unless it is the last one."""
        planned = [every for start, _, every in _parse_plan(self.decay_plan) if start < step]
        return step % ((planned and planned[-1]) or self.evaluation_interval) == 0


@functools.lru_cache(maxsize=8)  # asked for at every step
def _parse_plan(plan: str) -> tuple[tuple[int, int, int], ...]:
    """Return the entries of a ``decay_plan``: step, end, steps between evaluations or 0."""
    if not plan:
        return ()
    entry = "[0-9]{1,15}:[0-9]{1,15}(:[1-9][0-9]{0,14})?"
    if not re.fullmatch(f"{entry}(,{entry})*", plan):
        raise ConfigError(
            f"{argument('decay_plan')} must be pairs of steps, as 600:1200,900:1150 (got {plan!r})"
        )
    numbers = [[*map(int, one.split(":")), 0] for one in plan.split(",")]
    entries = tuple((start, end, every) for start, end, every, *_ in numbers)
    starts = [start for start, _, _ in entries]
    ends_so_far = [math.inf, *(end for _, end, _ in entries[:-1])]
    if starts != sorted(set(starts)) or any(
        start >= min(end, before)
        for (start, end, _), before in zip(entries, ends_so_far, strict=True)
    ):
        raise ConfigError(
            f"{argument('decay_plan')} must set each end ahead, and before the end so far (got "
            f"{plan!r})"
        )
    return entries


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Settings):
    """How training is computed: none of this is a property of the model."""

    device: str = setting(
        "auto",
        "where to compute; auto takes a GPU if there is one that can, on a Mac the faster of GPU "
        "and CPU. charlm has never run on a GPU, a Mac or Windows: they are imitated in its tests",
        choices=DEVICES,
    )
    precision: str = setting(
        "auto",
        "arithmetic of training; auto is the fastest here, in resume that of the run so far",
        choices=("auto", *PRECISIONS),
    )
    threads: int | None = setting(
        None,
        "threads of torch, 0 = as many as it takes (default: those that are fastest at the time)",
        minimum=0,
        maximum=256,  # torch would try to start any number of them
    )
