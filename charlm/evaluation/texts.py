"""What an evaluation reads, the text to score and what comes before it, and all of its figures."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from charlm.checkpoint import Checkpoint
from charlm.config import ComputeConfig
from charlm.data.dataset import find_training_part, split_text
from charlm.data.items import Rows, line_end
from charlm.data.text_files import fingerprint, read_text
from charlm.data.tokenizer import Ids
from charlm.errors import ConfigError, CorpusError, argument
from charlm.evaluation.baselines import MIXED, Chances, baselines, mixture, ngram_chances
from charlm.evaluation.dynamic import evaluate_dynamic
from charlm.evaluation.loss import evaluate
from charlm.evaluation.result import Evaluation
from charlm.files import PathLike, ProgressCallback, is_regular_file, no_progress
from charlm.inference.scoring import read, score
from charlm.integer import engine_of
from charlm.model.device import find_device, keep_memory
from charlm.model.language_model import CharLM


def text_to_score(
    checkpoint: Checkpoint, files: Iterable[PathLike] | None, *, held_out: bool = False
) -> tuple[str, str]:
    """Return the text before the one to score, and that text.

    The baselines read the text before: the training text, if it is still there.

    Args:
        checkpoint: the model to evaluate.
        files: the text; None is the text that the model was trained on, its held-out end.
        held_out: only the end of the text, as long as what training held out; of a list those of
            its items.

    Raises:
        CorpusError: if the text cannot be read; without ``files`` also if it has changed.
    """
    source, fraction = checkpoint.source, checkpoint.train_config.validation_fraction
    items = bool(checkpoint.model_config.items)
    several = None if files is None else list(files)
    if several == []:
        raise CorpusError("no text file was given")
    text = _own_text(checkpoint) if several is None else read_text(several)
    if files is None or held_out:  # with the training's text itself before it, whatever its name is
        return split_text(text, fraction, checkpoint.tokenizer, items=items)
    if fingerprint(text) == source.fingerprint:
        return "", text  # a text that was trained on itself has nothing before it
    past = find_training_part(
        source.files,
        source.fingerprint,
        checkpoint.tokenizer,
        characters=source.characters,
        validation_fraction=fraction,
        items=items,
    )
    return past, text


def _own_text(checkpoint: Checkpoint) -> str:
    """Return the text that a model was trained on."""
    source = checkpoint.source
    if not source.files:
        raise CorpusError("the model does not say what text it was trained on: name a text")
    for file in source.files:
        if not is_regular_file(file):  # a stranger may have named a pipe
            raise CorpusError(f"the text {file} of the model is not there: name a text")
    text = read_text(source.files)
    if fingerprint(text) != source.fingerprint:
        names = ", ".join(source.files)
        raise CorpusError(f"{names} is not the text of the model any more: name a text")
    return text


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    past: str,
    text: str,
    *,
    source: str = "the text",
    dynamic: bool = False,
    device: str = "auto",
    on_progress: ProgressCallback = no_progress,
) -> Evaluation:
    """Return how well a model predicts a text, and what is reached without one.

    Args:
        checkpoint: the model.
        past: what the baselines read before the text, see :func:`text_to_score`.
        text: what is scored, all but its first character.
        source: what an error calls the text.
        dynamic: also let a copy of the model learn from the text as it reads.
        device: where to compute, a ``device`` of ``ComputeConfig``.
        on_progress: progress callback, told the number of characters read; with ``dynamic`` all are
            read once more.

    Raises:
        TokenError: for a character that the model does not know.
        ConfigError: if the device is not there, or dynamic evaluation does not go with the model.
        CorpusError: if there is nothing to score.
        DivergenceError: if the model's predictions are NaN or infinite.
    """
    ids = checkpoint.tokenizer.encode(text, source=source)
    if checkpoint.exact:
        if dynamic:
            raise ConfigError(
                f"{argument('dynamic')} does not go with a model in whole numbers, which does not "
                "learn"
            )
        result = _evaluate_exactly(checkpoint, ids, on_progress)
        return _beside_others(result, past, text)
    model = CharLM(checkpoint.model_config, checkpoint.tokenizer.vocab_size)
    model.load_weights(checkpoint.weights)
    model.to(find_device(ComputeConfig(device=device).device))
    end = line_end(checkpoint.tokenizer) if checkpoint.model_config.items else None
    result = evaluate(model, ids, line_end=end, on_progress=on_progress)
    if dynamic:
        keep_memory()
        result = replace(result, dynamic=evaluate_dynamic(model, ids, on_progress=on_progress))
    return _beside_others(result, past, text)


def _beside_others(result: Evaluation, past: str, text: str) -> Evaluation:
    """Return an evaluation with what is reached without a model, and with one beside an n-gram."""
    chances = ngram_chances(past, text)
    other = chances[MIXED]
    dynamic = result.dynamic and _mixed(result.dynamic, other)
    return replace(_mixed(result, other), dynamic=dynamic, baselines=baselines(past, text, chances))


def _mixed(result: Evaluation, other: Chances) -> Evaluation:
    """Return an evaluation with that of the mixture with an n-gram; of a list there is none."""
    if result.nats is None:
        return result
    own = np.exp(-result.nats[: len(other)].astype(np.float64))
    nats = abs(float(np.log(mixture(own, other)).mean()))  # never minus zero
    return replace(result, mixed=Evaluation(nats, len(other)))


def _evaluate_exactly(
    checkpoint: Checkpoint, ids: Ids, on_progress: ProgressCallback
) -> Evaluation:
    """Return how well a model in whole numbers predicts a text (N,) but for its first character."""
    engine = engine_of(checkpoint)
    end = engine.line_end
    if len(ids) < 2:
        raise CorpusError(f"a text of {len(ids)} characters has none to score: it needs 2 or more")
    if end is None:
        nats = score(engine, ids[1:], read(engine, ids[:1]), on_progress)
        return Evaluation(float(nats.mean(dtype=np.float64)), len(nats), nats=nats)
    rows = Rows.of(ids, end)
    whole = ids if ids[-1] == end else np.append(ids, end).astype(ids.dtype)
    # The end of a last item without one is read, as all ends are, and not scored.
    nats = score(engine, whole, read(engine, np.array([end])), on_progress)[: len(ids)]
    return Evaluation(float(nats.mean(dtype=np.float64)), len(nats), len(rows.lengths))
