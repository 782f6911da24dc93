"""When a run evaluates, how much it reads then, and when a run in minutes ends.

All of it is known from what has been measured so far, and is written into the config as soon as it
decides something: so a run can be repeated step by step, whatever the machine was busy with.
"""

import math
from collections import deque
from dataclasses import replace

from charlm.config import DECAY_SHARE, Counters, TrainConfig

NUM_EVALUATIONS = 10  # of a run in minutes, planned anew where the machine becomes busier
EVALUATION_SHARE = 0.02  # of the time of a run that evaluations on the way may take
LEAST_EVALUATED = 2048  # characters
PATIENCE = 3  # evaluations without a gain after which a run in minutes starts to end
# Of the time of a run that is kept for the evaluation of all at its end. One that would take longer
# is cut short, see ``Run``: then there is time to read everything once, and somewhat more.
MOST_AT_THE_END, ONCE = 0.3, 1.5
RECENT_EVALUATIONS = 3  # of which the cost is taken: what remembers longer is read again more often
EXIT_SHARE = 0.05  # of the time that the start took, which leaving Python takes
MEMORY = 0.03  # share of a run in minutes over which the pace is measured
TOLERANCE = 0.02  # share of a run in minutes by which the planned end may be off
LEAST_MEASURED, LEAST_SECONDS = 20, 2.0  # steps or seconds after which the pace is known
REST = 0.02  # share of a run in minutes between two changes of the planned end


def evaluation_cost(characters: int) -> float:
    """Return about how many characters are trained on in the time that evaluating these takes.

    In a short text fewer chunks are read side by side, and the warm-up of each counts for more.
    """
    return characters * (0.5 + 8000 / (characters + 8000))


def evaluated_length(config: TrainConfig, held_out: int, step_characters: float) -> int:
    """Return how many of the held-out characters an evaluation on the way reads.

    These are all of them, or the first ones, as many as take ``EVALUATION_SHARE`` of the time. It
    follows from the sizes alone, so that a run that is repeated has the same best step.

    Args:
        config: how the run is trained.
        held_out: characters held out for validation.
        step_characters: characters that a step reads.
    """
    budget = EVALUATION_SHARE * config.evaluation_interval * step_characters
    if evaluation_cost(held_out) <= budget:
        return held_out
    return min(held_out, max(LEAST_EVALUATED, int(budget)))


def _fall_steps(config: TrainConfig) -> int | None:
    """Return in how many steps the user wants the rate to fall; a plan has one at least."""
    return None if config.decay_steps is None else max(1, config.decay_steps)


class TimePlan:
    """Measures a session, and moves the end of a run in minutes to where its time is over.

    Args:
        config: how the run is trained so far; an end that it has already is only moved forward.
        counters: how far it is.
        held_out: characters held out for validation.
        step_characters: characters that a step reads.
        most_interval: steps between evaluations at most, if they too may be planned here, until the
            first one.
    """

    def __init__(
        self,
        config: TrainConfig,
        counters: Counters,
        held_out: int,
        step_characters: float,
        most_interval: int | None = None,
    ):
        self.in_minutes = config.steps is None
        self.most_steps = math.inf if config.total_steps is None else config.total_steps
        self.held_out = held_out
        self.step_characters = step_characters
        self.most_interval = most_interval
        self.interval = 0  # steps between evaluations, where the plan has changed them
        self.recent: deque[float] = deque()  # seconds of the last steps
        self.recent_seconds = 0.0
        self.steps, self.step_seconds = 0, 0.0  # of this session
        self.evaluations = 0
        # Seconds that the last evaluations took, as multiples of what was expected.
        self.slower: deque[float] = deque(maxlen=RECENT_EVALUATIONS)
        self.start_seconds = 0.0 if counters.step else counters.seconds  # before the first step
        self.spent = 0.0  # seconds since the session began
        self.planned_at = -math.inf  # seconds of the run

    def note(
        self,
        step_seconds: float,
        spent: float,
        config: TrainConfig,
        *,
        evaluation_seconds: float | None,
    ) -> None:
        """Note a step.

        Args:
            step_seconds: how long it took.
            spent: seconds since the session began.
            config: how the run is trained.
            evaluation_seconds: how long the evaluation took that followed, if one did.
        """
        self.spent = spent
        self.step_seconds += step_seconds
        self.steps += 1
        if self.steps == 2:  # the first one, which loads what is needed, says nothing of the others
            self.recent.clear()
            self.recent_seconds = 0.0
        self.recent.append(step_seconds)
        self.recent_seconds += step_seconds
        if evaluation_seconds is not None:
            self.evaluations += 1
            length = evaluated_length(config, self.held_out, self.step_characters)
            self.slower.append(evaluation_seconds / self._cost(length))
        memory = max(LEAST_SECONDS, MEMORY * 60 * config.minutes)
        while len(self.recent) > LEAST_MEASURED and self.recent_seconds - self.recent[0] > memory:
            self.recent_seconds -= self.recent.popleft()

    @property
    def pace(self) -> float:
        """Seconds per step, of late."""
        return max(self.recent_seconds / max(1, len(self.recent)), 1e-9)

    @property
    def _is_measured(self) -> bool:
        """Whether the pace is known: a step may be one that no clock sees, or the slow first one.

        A GPU may be some steps behind, see ``trainer.MOST_UNREAD``.
        """
        enough = len(self.recent) >= LEAST_MEASURED or self.recent_seconds >= LEAST_SECONDS
        return enough and self.steps > 1

    def evaluation_seconds(self, config: TrainConfig) -> float:
        """Return how long an evaluation takes with all that follows it, such as saving."""
        if self.evaluations:
            return max(0.0, (self.spent - self.step_seconds) / self.evaluations)
        cost = self._cost(evaluated_length(config, self.held_out, self.step_characters))
        return min(cost, 2 * EVALUATION_SHARE * config.evaluation_interval * self.pace)

    def last_seconds(self, config: TrainConfig) -> float:
        """Return how long the end takes: an evaluation of all that is held out, and a sample."""
        last = 2 * self.evaluation_seconds(config) + EXIT_SHARE * self.start_seconds
        if evaluated_length(config, self.held_out, self.step_characters) == self.held_out:
            return last
        slower = sum(self.slower) / max(1, len(self.slower))
        whole = max(1.0, slower) * self._cost(self.held_out)
        most = MOST_AT_THE_END * 60 * config.minutes
        return last + (whole if whole <= most else min(most, ONCE * self._cost(self.held_out)))

    def _cost(self, characters: int) -> float:
        """Return about how many seconds it takes to evaluate so many characters."""
        return evaluation_cost(characters) * self.pace / self.step_characters

    def seconds_per_step(self, config: TrainConfig) -> float:
        """Return how long a step takes, with its share of the evaluations."""
        interval = self.interval or config.evaluation_interval
        return self.pace + self.evaluation_seconds(config) / interval

    def seconds_left(self, config: TrainConfig, counters: Counters) -> float:
        """Return how long the run will go on."""
        if config.total_steps is None:
            return max(0.0, 60 * config.minutes - counters.seconds)
        steps = config.total_steps - counters.step
        return steps * self.seconds_per_step(config) + self.last_seconds(config) * (steps > 0)

    def update(self, config: TrainConfig, counters: Counters) -> tuple[TrainConfig, str | None]:
        """Return the config of a run in minutes, with its end fixed or moved if it is time for it.

        The learning rate begins to fall when ``DECAY_SHARE`` of the time or ``decay_steps`` are
        left, or when the validation loss has stopped falling (early stopping). From then on the end
        is moved where the pace has changed by so much that it would miss the time.

        Returns:
            The config, and why the learning rate begins to fall with this step, if it does:
            ``"time"`` or ``"early stopping"``.
        """
        if not self.in_minutes or counters.step == config.total_steps:
            return config, None
        if self.most_interval is not None and counters.best_loss is None:
            config = self._evaluations_planned(config, counters.step)
        step, seconds = counters.step, 60 * config.minutes - self.start_seconds
        left = 60 * config.minutes - counters.seconds
        per_step, last = self.seconds_per_step(config), self.last_seconds(config)
        fitting = max(1, int((left - last) / per_step))
        end = int(min(step + fitting, max(self.most_steps, step + 1)))
        if config.total_steps is None:
            if not self._is_measured and left > self.recent_seconds:
                return config, None
            wanted = _fall_steps(config)
            stale = (step - counters.best_step) / config.evaluation_interval
            if counters.best_loss is not None and stale >= PATIENCE:
                end = min(end, step + (math.ceil(step * DECAY_SHARE) if wanted is None else wanted))
                self.most_steps = end
                return self._planned(config, counters, end), "early stopping"
            half = left - last <= DECAY_SHARE * (seconds - last)
            if half if wanted is None else fitting <= wanted:
                return self._planned(config, counters, end), "time"
            return config, None
        missed = abs(config.total_steps - end) * per_step
        rested = counters.seconds - self.planned_at >= REST * seconds
        if rested and missed > max(1.0, TOLERANCE * seconds):
            return self._planned(config, counters, end), None
        return config, None

    def _evaluations_planned(self, config: TrainConfig, step: int) -> TrainConfig:
        """Return the config with its evaluations as far apart as the pace so far asks for."""
        seconds = 60 * config.minutes - self.start_seconds
        interval = min(self.most_interval or 1, math.ceil(seconds / NUM_EVALUATIONS / self.pace))
        interval = max(step + 1, interval)  # else one would be behind already
        if len(self.recent) < 5 or 0.8 < interval / config.eval_every < 1.2:
            return config
        return replace(config, eval_every=interval)

    def _planned(self, config: TrainConfig, counters: Counters, end: int) -> TrainConfig:
        """Return the config with the end at ``end``, and the fall before it from this step on."""
        self.planned_at = counters.seconds
        step = counters.step
        begun = [pair for pair in config.decay if pair[0] < step]
        start = step
        if not begun and (config.decay_steps is not None or config.decay):
            share = round(DECAY_SHARE * end)
            wanted = _fall_steps(config)
            start = max(step, end - (share if wanted is None else wanted))
        plan = config.decay_plan.split(",")[: len(begun)]
        every = self._interval_until(end, config, counters) if start == step else 0
        plan.append(f"{start}:{end}" + f":{every}" * bool(every))
        return replace(config, decay_plan=",".join(plan))

    def _interval_until(self, end: int, config: TrainConfig, counters: Counters) -> int:
        """Return new steps between evaluations, if those so far are too many; else those, or 0."""
        if self.most_interval is None:
            return 0
        left = 60 * config.minutes - counters.seconds
        share = min(1.0, left / max(1e-9, 60 * config.minutes - self.start_seconds))
        interval = max(1, math.ceil((end - counters.step) / max(1.0, NUM_EVALUATIONS * share)))
        if interval < 0.75 * (self.interval or config.evaluation_interval):
            self.interval = interval
        return self.interval
