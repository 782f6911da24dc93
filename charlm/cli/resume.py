"""The verb ``resume``."""

from argparse import Namespace

from charlm.cli.parser import Subparsers, add_run, add_setting, add_settings, given, name
from charlm.cli.train import reading_bar, silence_all_but_the_first, train_to_end
from charlm.config import ComputeConfig, TrainConfig

CHANGES = {  # the settings of a training that may change, with their help
    "steps": "new total of steps, also of a finished run; the schedule is laid out anew over this "
    "total, so the learning rate jumps to that of a run which had it from the start",
    "minutes": "new total of minutes, in place of steps",
    "decay_steps": "last steps, in which the learning rate falls to near 0 (default: as large a "
    "share of all steps as so far)",
    "decay_plan": "in place of decay_steps, as the repeat: line of a run has it",
    "learning_rate": "new peak of the learning rate",
}


def add_parser(verbs: Subparsers) -> None:
    """Add the parser of this verb."""
    parser = verbs.add_parser(
        "resume",
        help="continue a stopped run, exactly",
        description="Continue a stopped run from its latest checkpoint. On the same CPU, with "
        "the same torch, the result is bit for bit that of a run which was never stopped.",
    )
    add_run(parser)
    for item in TrainConfig.settings():
        if item.name in CHANGES:
            add_setting(parser, item, help=CHANGES[item.name])
    parser.add_argument(
        "--text",
        type=name,
        action="append",
        metavar="FILE",
        help="where the text is now, if it was moved; once for each file or folder",
    )
    add_settings(parser, "computing", ComputeConfig)


def run(arguments: Namespace) -> int:
    """Continue a run to its end."""
    from charlm.model import require_torch

    require_torch()
    from charlm.training.resume import resume

    silence_all_but_the_first()

    with reading_bar(arguments.text or []) as bar:
        run = resume(
            arguments.run,
            text=arguments.text,
            on_progress=bar.update,
            **given(arguments, [*CHANGES, *ComputeConfig.names()]),
        )
    return train_to_end(run, arguments.cell_file)
