"""A text as parallel lanes, cut into windows for truncated back-propagation through time.

The training text is cut into B lanes of equal length, and each lane into windows of at most T
characters. A lane is a row of the batch: a parallel stream of text. Window t of every lane forms
one batch (B, T). So the state after one window is exactly the state before the next one, and the
model reads every lane from its beginning to its end:

    text     the cat sat on the mat and the dog lay by the fire.

             window 0     window 1     window 2
    lane 0   t h e _ c  | a t _ s a  | t _ o n _         state carried  ->
    lane 1   t h e _ m  | a t _ a n  | d _ t h e         state carried  ->
    lane 2   _ d o g _  | l a y _ b  | y _ t h e         state carried  ->

The targets are the inputs shifted by one character. When all lanes have been read, an epoch is
over, and they start again. The windows of a lane differ by at most one character in length, so no
odd end is lost. Only the tail of fewer than B characters that does not fill the lanes is.

Where the learning rate of a run falls for less than an epoch, the windows in its fall are the last
ones of the lanes. For what is read last counts most, and what follows a text is most like its end.
Else how well a run predicts what follows would depend on where in the lanes it happens to stop.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.errors import CorpusError, argument

IGNORED = -100  # a target that is none, as torch's cross entropy has it


@dataclass(frozen=True)
class Window:
    """One batch.

    Attributes:
        inputs, targets: ids (B, T).
        restart: whether all lanes start again with it.
        scored: how many of the targets count, None for all; the others are ``IGNORED``.
    """

    inputs: Ids
    targets: NDArray[Any]
    restart: bool
    scored: int | None = None


class Stream(Protocol):
    """The windows of a training text.

    Attributes:
        windows_per_epoch: how many there are.
        characters: how many characters are read in an epoch.
    """

    windows_per_epoch: int
    characters: int

    def window(self, step: int, fall: tuple[int, int] | None = None) -> Window:
        """Return the batch of ``step``, counted from 0 over all epochs; ``fall`` is that of a run's
        ``TrainConfig``.
        """

    def epoch(self, step: int) -> float:
        """Return how often the text has been read after ``step`` steps."""


class LaneStream:
    """The windows of a training text; which one comes follows from the step and the end of the run.

    Args:
        ids: the training text (N,).
        batch_size: the number of lanes (B).
        seq_length: the longest window (T).

    Raises:
        CorpusError: if the text does not fill one window of every lane.
    """

    def __init__(self, ids: Ids, *, batch_size: int, seq_length: int):
        lane_length = (len(ids) - 1) // batch_size
        if lane_length < seq_length:
            raise CorpusError(
                f"a training text of {len(ids)} characters does not fill one window of "
                f"{seq_length} characters in each of {batch_size} lanes: lower "
                f"{argument('batch_size')} or {argument('seq_length')}, or leave them out"
            )
        self.windows_per_epoch = -(-lane_length // seq_length)
        # Lanes as views (B, lane_length): nothing of the text is copied.
        self.inputs = ids[: batch_size * lane_length].reshape(batch_size, lane_length)
        self.targets = ids[1 : batch_size * lane_length + 1].reshape(batch_size, lane_length)
        self.lane_length = lane_length
        self.characters = batch_size * lane_length

    def window(self, step: int, fall: tuple[int, int] | None = None) -> Window:
        """See :class:`Stream`."""
        place = step % self.windows_per_epoch
        jumps = False
        if fall is not None and step >= fall[0] and fall[1] - fall[0] < self.windows_per_epoch:
            last = (step - fall[1]) % self.windows_per_epoch  # 0 follows the last step
            place, jumps = last, step == fall[0] and place != last
        start = place * self.lane_length // self.windows_per_epoch
        end = (place + 1) * self.lane_length // self.windows_per_epoch
        restart = place == 0 or jumps
        return Window(self.inputs[:, start:end], self.targets[:, start:end], restart)

    def epoch(self, step: int) -> float:
        """Return how often the text has been read after ``step`` steps."""
        return step / self.windows_per_epoch
