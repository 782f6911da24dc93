"""The commands that train the same model again, bit for bit."""

from typing import TYPE_CHECKING, Any

from charlm.cli.parser import as_flags
from charlm.cli.terminal import as_path, shell_command
from charlm.config import TrainConfig

if TYPE_CHECKING:
    from charlm.checkpoint import Checkpoint

OUT = "checkpoints/again"  # the run folder of a model that takes more than one command
RESUMABLE = ("steps", "decay_steps", "learning_rate")  # the settings that resume can change


def repeat_commands(checkpoint: "Checkpoint") -> list[str]:
    """Return the commands that repeat a run, or a line that says why there are none.

    Every setting is printed, so that no default and no preset of another day comes in.
    """
    source = checkpoint.source
    configs = [stage.train_config for stage in checkpoint.stages] + [checkpoint.train_config]
    compute = [(stage.precision, stage.processes) for stage in checkpoint.stages]
    compute.append((source.precision, source.processes))
    for stage in checkpoint.stages:
        if stage.step != stage.train_config.steps:
            return [
                f"no command repeats this run: resume changed it at step {stage.step}, before its "
                "end"
            ]
    if configs[-1].steps is None:
        return ["no command repeats this run yet: its number of steps follows from the time"]
    first = _schedule(configs[0]) | {"precision": source.precision}
    flags = as_flags(first | {"precision": compute[0][0], "threads": source.threads or None})
    if source.init_from:
        flags += ["--init-from", as_path(source.init_from)]
    else:
        flags += as_flags(checkpoint.model_config.to_dict())
    if len(configs) > 1:
        flags += ["--out", OUT]
    files = [as_path(file) for file in source.files]
    commands = [_command(compute[0][1], "train", *files, *flags)]
    for before, after, (precision, processes) in zip(
        configs, configs[1:], compute[1:], strict=False
    ):
        changes: dict[str, Any] = {
            name: value
            for name, value in _schedule(after).items()
            if name in RESUMABLE and value != getattr(before, name)
        }
        changes["precision"] = precision
        commands.append(_command(processes, "resume", OUT, *as_flags(changes)))
    return commands


def _schedule(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a training by its steps, or by its minutes if those are not known."""
    values = config.to_dict()
    del values["minutes" if config.steps is not None else "steps"]
    return values


def _command(processes: int, *words: str) -> str:
    program = ["charlm"]
    if processes > 1:
        program = ["torchrun", "--nproc-per-node", str(processes), "-m", "charlm"]
    return shell_command([*program, *words])
