"""A text as a dataset: its training part and its validation part, as ids."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from charlm.config import TrainConfig
from charlm.data import id_cache
from charlm.data.batches import LaneStream, Stream
from charlm.data.items import ItemStream, line_end, split_items
from charlm.data.text_files import find_texts, fingerprint, listed, read_text, survey, text_reader
from charlm.data.tokenizer import CharTokenizer, Ids
from charlm.errors import CorpusError, argument
from charlm.files import PathLike, ProgressCallback, is_regular_file, no_progress


def training_length(characters: int, validation_fraction: float) -> int:
    """Return how many characters at the front of a text are trained on."""
    return int(characters * (1 - validation_fraction))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A text as ids: the front to train on, the end held out for validation.

    Attributes:
        tokenizer: the vocabulary.
        train: ids (N,) of the front.
        validation: ids (N,) of the end.
        fingerprint: sha256 of the whole text.
        characters: the number of characters of the whole text.
        files: where the text was read from, as the user gave it.
        line_end: the id of the line end if the text is a list, see ``data.items``; then ``train``
            and ``validation`` are whole items.
    """

    tokenizer: CharTokenizer
    train: Ids
    validation: Ids
    fingerprint: str
    characters: int
    files: tuple[str, ...] = ()
    line_end: int | None = None

    @classmethod
    def from_ids(
        cls,
        ids: Ids,
        tokenizer: CharTokenizer,
        fingerprint: str,
        validation_fraction: float,
        files: tuple[str, ...] = (),
        *,
        items: bool = False,
    ) -> "Dataset":
        """Return the dataset of a text ``ids`` (N,), its last ``validation_fraction`` held out.

        Of a list, ``items``, as large a share of the items is.

        Raises:
            CorpusError: if either part holds fewer than two characters, or no item.
        """
        end = line_end(tokenizer) if items else None
        if items:
            parts = split_items(tokenizer.decode(ids), validation_fraction)
            train, validation = map(tokenizer.encode, parts)
        else:
            cut = training_length(len(ids), validation_fraction)
            train, validation = ids[:cut], ids[cut:]
        for name, part in (("training", train), ("validation", validation)):
            if len(part) < 2:
                raise CorpusError(
                    f"the {name} part of a text of {len(ids)} characters holds {len(part)} with a "
                    f"{argument('validation_fraction')} of {validation_fraction}, and needs at "
                    "least 2: give a longer text or another share"
                )
        return cls(
            tokenizer=tokenizer,
            train=train,
            validation=validation,
            fingerprint=fingerprint,
            characters=len(ids),
            files=files,
            line_end=end,
        )

    def stream(self, config: TrainConfig) -> Stream:
        """Return the windows to train with.

        Raises:
            CorpusError: if the text does not fill one of them.
        """
        sizes = {"batch_size": config.batch_size, "seq_length": config.seq_length}
        if self.line_end is not None:
            return ItemStream(self.train, self.line_end, **sizes, seed=config.seed)
        return LaneStream(self.train, **sizes)


def reopen(
    files: Iterable[PathLike],
    tokenizer: CharTokenizer,
    expected: str,
    *,
    characters: int,
    validation_fraction: float,
    items: bool,
    folder: Path,
    moved: bool = False,
    on_progress: ProgressCallback = no_progress,
) -> Dataset:
    """Return the dataset that a run began with, refusing any other text.

    Args:
        files: where the text is.
        tokenizer: the vocabulary of the run.
        expected: the fingerprint of its text.
        characters: the length of its text.
        validation_fraction: the share that is held out.
        items: whether it was learned as a list.
        folder: the run folder, where the ids of a large text are kept.
        moved: whether the user named ``files``; then the kept ids are not used.
        on_progress: progress callback, told the number of bytes read.

    Raises:
        CorpusError: if the text is missing, or is another one.
    """
    names = tuple(map(str, find_texts(files)[0] if moved else files))
    ids = None if moved else id_cache.load(folder, tokenizer, expected, characters)
    if ids is None:
        if not moved:
            _check_regular(names)
        read = text_reader(names, on_progress)
        found = survey(read())
        if found.fingerprint != expected:
            raise CorpusError(
                f"the text of {listed(names)} is not the one of this run: it has changed, as its "
                f"fingerprint is {found.fingerprint[:16]} and the run's is {expected[:16]}; name "
                f"the right text with {argument('text')}, or begin a new run from these weights "
                f"with train and {argument('init_from')}{_joined_before(names)}"
            )
        large = found.characters >= id_cache.LARGE
        ids = id_cache.encode(read, found, tokenizer, folder if large else None)
    return Dataset.from_ids(ids, tokenizer, expected, validation_fraction, names, items=items)


def find_training_part(
    files: tuple[str, ...],
    expected: str,
    tokenizer: CharTokenizer,
    *,
    characters: int,
    validation_fraction: float,
    items: bool = False,
) -> str:
    """Return the training part of the text of a run, or nothing if that text is not there any more.

    Args:
        files: where the text was.
        expected: its fingerprint.
        tokenizer: of the run.
        characters: its length.
        validation_fraction: the share that was held out.
        items: whether it was learned as a list.
    """
    try:
        _check_regular(files)
        size = sum(Path(file).stat().st_size for file in files)
        if size > 4 * characters + 3 * len(files):
            return ""  # longer than any text of so many characters
        text = read_text(files)
    except (CorpusError, OSError):
        return ""
    if fingerprint(text) != expected:
        return ""
    return split_text(text, validation_fraction, tokenizer, items=items)[0]


def split_text(
    text: str, validation_fraction: float, tokenizer: CharTokenizer, *, items: bool
) -> tuple[str, str]:
    """Return the training part of a text, or of a list, and the part that is held out."""
    if items:
        as_read = tokenizer.decode(tokenizer.encode(text)) if tokenizer.unknown else None
        return split_items(text, validation_fraction, as_read)
    cut = training_length(len(text), validation_fraction)
    return text[:cut], text[cut:]


def _joined_before(names: tuple[str, ...]) -> str:
    """Return what to do if the run is older than the line end between two files."""
    if len(names) == 1:
        return ""
    return " (an early charlm joined files without a line end between them, as cat does)"


def _check_regular(files: tuple[str, ...]) -> None:
    """Refuse texts of a run that are not files: a stranger may have named a pipe or a device."""
    for file in files:
        if not is_regular_file(file):
            raise CorpusError(
                f"the run's text {file} is not there: name it with {argument('text')}"
            )
