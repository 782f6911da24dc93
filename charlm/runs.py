"""charlm from Python, as far as it needs torch: :func:`train`, :func:`resume` and :func:`evaluate`.

Each returns what people want to go on with, a :class:`LanguageModel` or figures. The examples are
run by the tests.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Unpack

from charlm.api import LanguageModel, load
from charlm.config import (
    ComputeConfig,
    ModelConfig,
    TrainConfig,
    option_names,
)
from charlm.errors import written
from charlm.evaluation.result import Evaluation
from charlm.files import PathLike, as_files, check_callback, check_path
from charlm.keywords import ComputeSettings, TrainSettings
from charlm.model import require_torch
from charlm.settings import refuse_unknown

if TYPE_CHECKING:
    from charlm.training.progress import Progress
    from charlm.training.run import Run

    TrainingCallback = Callable[[Progress], object]


def train(
    files: PathLike | Iterable[PathLike],
    *,
    out: PathLike | None = None,
    init_from: PathLike | None = None,
    on_progress: "TrainingCallback | None" = None,
    on_evaluation: "TrainingCallback | None" = None,
    verbose: bool = False,
    **settings: Unpack[TrainSettings],
) -> LanguageModel:
    """Train a model on text files and return it, the best one of the run.

    Ctrl-C leaves the run as it was last saved; :func:`resume` continues it from there.

    >>> lm = charlm.train("corpora/english.txt", steps=30, hidden_size=32, out="checkpoints/small")

    Args:
        files: one UTF-8 text file, or several to be joined in this order; in place of a folder
            stand the ``.txt`` and ``.md`` files in it.
        out: the run folder; ``checkpoints/<name of the first file or folder>`` if absent.
        init_from: a run whose weights to start with.
        on_progress: called with the progress after every step. If it returns False, the run is
            saved and left, and the best model so far is returned.
        on_evaluation: called with the progress after every evaluation, such as ``print``.
        verbose: tell on stderr what was chosen, and how each evaluation went.
        settings: any field of ``ModelConfig``, its cell, ``TrainConfig`` and ``ComputeConfig``.

    Raises:
        CharlmError: for anything that is wrong with the text or the settings.
    """
    require_torch()
    from charlm.training.start import start

    configs = (ModelConfig, TrainConfig, ComputeConfig)
    known = [name for config in configs for name in config.names()]
    refuse_unknown(settings, [*known, *option_names(), *(train.__kwdefaults__ or ())])
    for path, what in ((out, "out"), (init_from, "init_from")):
        if path is not None:
            check_path(path, what)
    _check_callbacks(on_progress, on_evaluation)
    run = start(as_files(files), out=out, init_from=init_from, **settings)
    return _train_to_end(run, on_progress, on_evaluation, verbose)


def resume(
    run: PathLike,
    *,
    text: PathLike | Iterable[PathLike] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    decay_steps: int | None = None,
    decay_plan: str | None = None,
    learning_rate: float | None = None,
    on_progress: "TrainingCallback | None" = None,
    on_evaluation: "TrainingCallback | None" = None,
    verbose: bool = False,
    **compute: Unpack[ComputeSettings],
) -> LanguageModel:
    """Continue a run where it was last saved and return its best model.

    On the same CPU, with the same torch, the result is bit for bit that of a run which was never
    stopped.

    >>> lm = charlm.resume("english", steps=40)

    Args:
        run: the run folder, its name under ``checkpoints/``, or a checkpoint file in it.
        text: where the text is now, if not where it was; it must be the same text.
        steps: a new total of steps, also of a finished run.
        minutes: a new total of minutes, in place of steps.
        decay_steps: how many steps at the new end the learning rate falls in.
        decay_plan: in its place, how the fall was planned, see ``TrainConfig``.
        learning_rate: a new peak of the learning rate.
        on_progress, on_evaluation, verbose: see :func:`train`.
        compute: any field of ``ComputeConfig``.

    Raises:
        CharlmError: if there is no such run, its text has changed, or it is finished.
    """
    require_torch()
    from charlm.training import resume as stopped

    refuse_unknown(compute, [*ComputeConfig.names(), *(resume.__kwdefaults__ or ())])
    check_path(run, "the run")
    _check_callbacks(on_progress, on_evaluation)
    continued = stopped.resume(
        run,
        text=None if text is None else as_files(text),
        steps=steps,
        minutes=minutes,
        decay_steps=decay_steps,
        decay_plan=decay_plan,
        learning_rate=learning_rate,
        **compute,
    )
    return _train_to_end(continued, on_progress, on_evaluation, verbose)


def evaluate(
    run: PathLike | LanguageModel,
    files: PathLike | Iterable[PathLike] | None = None,
    *,
    held_out: bool = False,
    dynamic: bool = False,
    device: str = "auto",
) -> Evaluation:
    """Return how well a model predicts a text, and what is reached without one.

    Every character but the first is scored once, given all that comes before it.

    >>> result = charlm.evaluate("english")
    >>> result.nats_per_char < result.bits_per_char < result.perplexity
    True
    >>> sorted(result.baselines)
    ['5-gram', 'unigram', 'xz']

    Args:
        run: a model, or the run that it is the best one of; see :func:`load`.
        files: one UTF-8 text file, or several to be joined; None is the end of the training text
            that was held out.
        held_out: only the end of ``files``, as long as what training held out.
        dynamic: also let a copy of the model learn from the text as it reads, each piece scored
            before.
        device: where to compute, a ``device`` of ``ComputeConfig``.

    Raises:
        CharlmError: for anything that is wrong with the run, the text or the device.
    """
    require_torch()
    from charlm.data.text_files import find_texts
    from charlm.evaluation.texts import evaluate_checkpoint, text_to_score

    lm = run if isinstance(run, LanguageModel) else load(run)
    several = None if files is None else find_texts(as_files(files))[0]
    past, text = text_to_score(lm.checkpoint, several, held_out=held_out)
    return evaluate_checkpoint(
        lm.checkpoint, past, lm.readable(text), dynamic=dynamic, device=device
    )


def _check_callbacks(on_progress: object, on_evaluation: object) -> None:
    for callback, name in ((on_progress, "on_progress"), (on_evaluation, "on_evaluation")):
        if callback is not None:
            check_callback(callback, name)


def _train_to_end(
    run: "Run",
    on_progress: "TrainingCallback | None",
    on_evaluation: "TrainingCallback | None",
    verbose: bool,
) -> LanguageModel:
    """Train until the end, or until ``on_progress`` returns False; return the best model."""

    def show(text: object) -> None:
        if verbose and run.trainer.processes.first:
            print(text, file=sys.stderr)

    show("\n".join([*map(written, run.notices), f"run {run.folder}"]))
    # Closed at once, whatever a callback raises: else its traceback would keep the folder locked.
    with contextlib.closing(run.progress()) as steps:
        for progress in steps:
            if progress.validation_loss is not None:
                show(progress)
                if on_evaluation is not None:
                    on_evaluation(progress)
            stop = on_progress is not None and on_progress(progress) is False
            if run.trainer.processes.any(stop) and not run.trainer.finished:
                run.save("latest")
                break
    return load(run.folder)
