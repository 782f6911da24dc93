r"""Lists: texts of one item per line, such as names, titles or words.

The lines of a list have nothing to do with each other. So an item is learned, drawn and scored by
itself: the model reads a line end in its initial state, then the item, and must predict its
characters and the line end behind them. In every epoch the items come in another order, and whole
items are held out for validation.
"""

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.batches import IGNORED, Window
from charlm.data.tokenizer import CharTokenizer, Ids
from charlm.errors import ConfigError, CorpusError, argument

LEAST_ITEMS = 100  # of a text that is taken for a list
MOST_CHARACTERS = 50  # of an item, in the mean
DISTINCT = 0.1  # share of the lines of a list that differ from each other, at least
IN_ORDER = 0.95  # share of lines that do not sort before the one above them
MIXED = 16  # batches whose items are put together by length, so that little is padded


def is_list(text: str) -> bool:
    """Return whether a text looks like a list: a sorted one, or one of single words.

    In a text whose lines are in no order, half of them sort before the one above them.

        >>> is_list("\n".join(f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrstu"))
        True
    """
    lines = [line for line in text.split("\n") if line]
    if len(lines) < LEAST_ITEMS or sum(map(len, lines)) > MOST_CHARACTERS * len(lines):
        return False
    distinct = len(set(lines)) / len(lines)
    if distinct < DISTINCT or text.count("\n\n") > 0.01 * len(lines):
        return False
    single = sum(1 for line in lines if len(line.split()) == 1) / len(lines)
    if single >= 0.95 and distinct >= 0.95 and len(set(text)) <= 256:
        return True
    keys = (
        lines,
        [line.casefold() for line in lines],
        ["".join(filter(str.isalnum, line.casefold())) for line in lines],
    )
    return any(_in_order(key) >= IN_ORDER for key in keys)


def _in_order(lines: list[str]) -> float:
    pairs = itertools.pairwise(lines)
    return sum(1 for one, other in pairs if one <= other) / (len(lines) - 1)


def split_items(
    text: str, validation_fraction: float, as_read: str | None = None
) -> tuple[str, str]:
    """Return the items to train on and those held out, each with a line end behind it.

    Which are held out, and in which order they stand, is a function of the items alone: equal ones
    are on the same side, and an item stays where it is when others are added.

    Args:
        text: the list.
        validation_fraction: the share to hold out.
        as_read: the text as the model reads it, where rare characters are one symbol; the items
            are told apart by that.

    Raises:
        CorpusError: if either part is empty.
    """
    train, held_out = [], []
    lines = text.split("\n")
    for line, read in zip(lines, lines if as_read is None else as_read.split("\n"), strict=True):
        if line:
            place = zlib.crc32(read.encode("utf-8", "surrogatepass")) / 2**32
            if place < validation_fraction:
                held_out.append((place, line))
            else:
                train.append(line)
    for name, part in (("training", train), ("validation", held_out)):
        if not part:
            raise CorpusError(
                f"the {name} part of a list of {len(train) + len(held_out)} items is empty with a "
                f"{argument('validation_fraction')} of {validation_fraction}: give more items or "
                "another share"
            )
    ordered = (line for _, line in sorted(held_out))
    return "\n".join(train) + "\n", "\n".join(ordered) + "\n"


def line_end(tokenizer: CharTokenizer) -> int:
    """Return the id of the line end.

    Raises:
        ConfigError: if the vocabulary has none.
    """
    place = tokenizer.vocabulary.find("\n")
    if place < 0:
        raise ConfigError(
            f"{argument('items')} needs line ends, and the text is a single line: leave it out"
        )
    return place


@dataclass(frozen=True)
class Rows:
    """The items of a text as rows: what is read and what is to be predicted.

    Attributes:
        ids: the text (N,), with a line end before it.
        starts: where each item begins (I,) in ``ids``, at the line end before it.
        lengths: characters to predict of each (I,), its line end with them.
    """

    ids: Ids
    starts: NDArray[np.intp]
    lengths: NDArray[np.intp]

    @classmethod
    def of(cls, ids: Ids, end: int) -> "Rows":
        """Return the rows of a text ``ids`` (N,), where ``end`` is the id of the line end."""
        padded = np.concatenate([np.array([end], ids.dtype), ids])
        ends = np.flatnonzero(ids == end) + 1
        if len(ids) and ids[-1] != end:
            ends = np.append(ends, len(ids))  # the last item, whose end is not to be predicted
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        return cls(padded, starts.astype(np.intp), (ends - starts).astype(np.intp))

    def window(
        self, items: NDArray[np.intp], batch_size: int, first: int, last: int
    ) -> tuple[Ids, NDArray[np.int64]]:
        """Return inputs and targets (B, T) of some items, from their character ``first`` to
        ``last``; what is behind the end of an item is to be ignored.
        """
        lengths = np.zeros(batch_size, np.intp)
        starts = np.zeros(batch_size, np.intp)
        lengths[: len(items)], starts[: len(items)] = self.lengths[items], self.starts[items]
        offsets = np.arange(first, min(last, int(lengths.max())))
        inside = offsets < lengths[:, None]
        places = np.where(inside, starts[:, None] + offsets, 0)
        following = self.ids[np.minimum(places + 1, len(self.ids) - 1)].astype(np.int64)
        return self.ids[places], np.where(inside, following, IGNORED)


def batches_by_length(lengths: NDArray[np.intp], batch_size: int) -> Iterator[NDArray[np.intp]]:
    """Yield the places of all items in batches (B,) of about the same length."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class ItemStream:
    """The windows of a list; which one comes at a step is a function of the seed and the step.

    A lane reads one item after another, each from the initial state. An item that is longer than a
    window goes on in the next one, with the state carried.

    Args:
        ids: the items to train on (N,), each with its line end.
        end: the id of the line end.
        batch_size: the number of lanes (B).
        seq_length: the longest window (T).
        seed: of the order.
    """

    def __init__(self, ids: Ids, end: int, *, batch_size: int, seq_length: int, seed: int):
        self.rows = Rows.of(ids, end)
        self.batch_size, self.seq_length, self.seed = batch_size, seq_length, seed
        self.short = np.flatnonzero(self.rows.lengths <= seq_length)
        self.long = np.flatnonzero(self.rows.lengths > seq_length)
        longest = np.sort(self.rows.lengths[self.long])
        ends = [*longest[batch_size - 1 :: batch_size], *longest[-1:]]
        count = -(-len(longest) // batch_size)
        self.windows_per_epoch = -(-len(self.short) // batch_size) + sum(
            -(-int(length) // seq_length) for length in ends[:count]
        )
        self.characters = len(ids)
        self.epoch_of_plan = -1
        self.plan: list[tuple[NDArray[np.intp], int]] = []  # items of each window, and its part

    def window(self, step: int, fall: tuple[int, int] | None = None) -> Window:
        """Return the batch of ``step``, counted from 0 over all epochs, each in another order."""
        epoch, place = divmod(step, self.windows_per_epoch)
        if epoch != self.epoch_of_plan:
            self.plan, self.epoch_of_plan = self._plan(epoch), epoch
        items, part = self.plan[place]
        first = part * self.seq_length
        inputs, targets = self.rows.window(items, self.batch_size, first, first + self.seq_length)
        scored = int((targets != IGNORED).sum())
        return Window(inputs, targets, restart=part == 0, scored=scored)

    def epoch(self, step: int) -> float:
        """Return how often the list has been read after ``step`` steps."""
        return step / self.windows_per_epoch

    def _plan(self, epoch: int) -> list[tuple[NDArray[np.intp], int]]:
        """Return the windows of an epoch: the short items mixed, the long ones by length."""
        rng = np.random.default_rng([self.seed, epoch])
        short = rng.permutation(self.short)
        batches = []
        for start in range(0, len(short), MIXED * self.batch_size):
            some = short[start : start + MIXED * self.batch_size]
            found = batches_by_length(self.rows.lengths[some], self.batch_size)
            batches += [some[places] for places in found]
        long = rng.permutation(self.long)
        found = batches_by_length(self.rows.lengths[long], self.batch_size)
        batches += [long[places] for places in found]
        plan = []
        for index in rng.permutation(len(batches)):
            items = batches[index]
            parts = -(-int(self.rows.lengths[items].max()) // self.seq_length)
            plan += [(items, part) for part in range(parts)]
        return plan
