"""What is known after a step of training; it needs no torch."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is known after a step; losses are in nats per character.

    Attributes:
        step: updates done, of ``steps``, or of None as long as they follow from the time.
        epoch: how often the training text has been read.
        train_loss: mean over the steps since the last evaluation, with dropout and the factor of
            the logits (see ``optim.logit_scale``).
        validation_loss: None but after an evaluation; of the first of the held-out characters in
            a short run, see ``schedule.evaluated_length``.
        best_loss: the lowest validation loss so far, at ``best_step``.
        is_best: whether that is this one.
        grad_norm: the norm of the gradient before clipping.
        learning_rate: of the step.
        chars_per_second: training characters read, over all time spent so far in this session.
        seconds: time spent, over all sessions; ``seconds_left`` is an estimate.
        decay_reason: why the learning rate of a run in minutes begins to fall with this step,
            ``"time"`` or ``"early stopping"``; None at all other steps.
    """

    step: int
    steps: int | None
    epoch: float
    train_loss: float
    validation_loss: float | None
    best_loss: float | None
    is_best: bool
    grad_norm: float
    learning_rate: float
    chars_per_second: float
    seconds: float
    seconds_left: float
    best_step: int
    decay_reason: str | None

    def __str__(self) -> str:
        validation = (
            "" if self.validation_loss is None else f", validation {in_units(self.validation_loss)}"
        )
        return (
            f"step {self.step}{f'/{self.steps}' if self.steps else ''}, epoch {self.epoch:.2f}: "
            f"train {in_units(self.train_loss)}{validation}"
        )


def in_units(nats: float) -> str:
    """Return a loss for people: ``1.386 nats (2.000 bits)``."""
    return f"{nats:.4f} nats ({nats / math.log(2):.4f} bits)"
