"""The commands that train the same model again, bit for bit."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import as_flags
from charlm.errors import CheckpointError
from charlm.files import as_path, is_regular_file, shell_command

if TYPE_CHECKING:
    from charlm.checkpoint import Checkpoint
    from charlm.config import Source, Stage

OUT = "checkpoints/again"  # the run folder of a model that takes more than one command
# The settings that resume can change.
RESUMABLE = ("steps", "decay_steps", "decay_plan", "learning_rate")


def repeat_commands(checkpoint: "Checkpoint", cell_files: list[str]) -> list[str]:
    """Return the commands that repeat a run, or a line that says why there are none.

    Every setting is printed, so that no default and no preset of another day comes in.

    Args:
        checkpoint: the run.
        cell_files: the files of ``--cell-file`` that it needs.
    """
    if checkpoint.train_config.total_steps is None:
        return ["no command repeats this run yet: its number of steps follows from the time"]
    for stage in checkpoint.stages:
        if stage.step != stage.train_config.total_steps:
            return [
                f"no command repeats this run: resume changed it at step {stage.step}, before its "
                "end"
            ]
    source = checkpoint.source
    for file in source.files:
        if file.startswith(("/dev/", "/proc/")) or (
            Path(file).exists() and not is_regular_file(file)
        ):
            return [f"no command repeats this run: its text came through a pipe ({file})"]
    if source.init_from and not _is_unchanged(source):
        return [
            f"no command repeats this run: the weights of {source.init_from} that it started from "
            "have changed"
        ]
    first, *others = stages = [*checkpoint.stages, checkpoint.last_stage()]
    flags = as_flags(_known_end(first) | _compute(first))
    if source.init_from:
        flags += ["--init-from", as_path(source.init_from)]
    else:
        flags += as_flags(checkpoint.model_config.to_dict())
    flags += ["--out", OUT] if others else []
    files = [as_path(file) for file in source.files]
    cells = cell_flags(cell_files)
    commands = [_command(first, "train", *files, *flags, *cells)]
    for before, after in itertools.pairwise(stages):
        old, new = _known_end(before), _known_end(after)
        changes = {name: new[name] for name in RESUMABLE if new[name] != old[name]}
        if "steps" in changes:  # with which resume plans the fall anew, unless it is given
            changes |= {n: new[n] for n in ("decay_steps", "decay_plan") if new[n] is not None}
        words = as_flags(changes | _compute(after))
        commands.append(_command(after, "resume", OUT, *words, *cells))
    return commands


def _is_unchanged(source: "Source") -> bool:
    """Return whether the run that another one started from still has the same weights."""
    from charlm import checkpoint as checkpoints

    try:
        base = checkpoints.load(checkpoints.locate(source.init_from), model_only=True)
    except CheckpointError:
        return False
    return base.weights_sha256() == source.init_sha256


def cell_flags(cell_files: list[str]) -> list[str]:
    """Return the words of the command line that name these cell files."""
    return [word for file in cell_files for word in ("--cell-file", as_path(file))]


def _known_end(stage: "Stage") -> dict[str, Any]:
    """Return the settings of a training whose end does not follow from the time any more."""
    config = stage.train_config
    return config.to_dict() | {
        "steps": config.total_steps,
        "minutes": None,
        "decay_plan": config.decay_plan or None,
        "decay_steps": None if config.decay_plan else config.decay_steps,
    }


def _compute(stage: "Stage") -> dict[str, Any]:
    return {"precision": stage.precision, "threads": stage.threads}


def _command(stage: "Stage", *words: str) -> str:
    program = ["charlm"]
    if stage.processes > 1:
        program = ["torchrun", "--nproc-per-node", str(stage.processes), "-m", "charlm"]
    return shell_command([*program, *words])
