"""charlm: a character-level recurrent language model.

    import charlm

    lm = charlm.train("corpora/english.txt")       # or charlm.load("checkpoints/english")
    print(lm.generate("The sea ", length=300, temperature=0.7, seed=1))

Importing charlm imports neither torch nor numpy; its names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from charlm.api import LanguageModel as LanguageModel
    from charlm.api import NextCharacter as NextCharacter
    from charlm.api import NextCharacters as NextCharacters
    from charlm.api import load as load
    from charlm.config import ComputeConfig as ComputeConfig
    from charlm.config import LinesConfig as LinesConfig
    from charlm.config import ModelConfig as ModelConfig
    from charlm.config import SampleConfig as SampleConfig
    from charlm.config import TrainConfig as TrainConfig
    from charlm.errors import CharlmError as CharlmError
    from charlm.errors import CheckpointError as CheckpointError
    from charlm.errors import ConfigError as ConfigError
    from charlm.errors import CorpusError as CorpusError
    from charlm.errors import DivergenceError as DivergenceError
    from charlm.errors import PackageError as PackageError
    from charlm.errors import ProcessError as ProcessError
    from charlm.errors import TokenError as TokenError
    from charlm.evaluation.result import Evaluation as Evaluation
    from charlm.inference.decoding import Lines as Lines
    from charlm.inference.decoding import Sample as Sample
    from charlm.inference.prompt_state import PromptState as PromptState
    from charlm.insight.report import Inspection as Inspection
    from charlm.keywords import ComputeSettings as ComputeSettings
    from charlm.keywords import LinesSettings as LinesSettings
    from charlm.keywords import SampleSettings as SampleSettings
    from charlm.keywords import TextSettings as TextSettings
    from charlm.keywords import TrainSettings as TrainSettings
    from charlm.runs import evaluate as evaluate
    from charlm.runs import resume as resume
    from charlm.runs import train as train
    from charlm.training.progress import Progress as Progress

_HOME = {
    "charlm.api": ("LanguageModel", "NextCharacter", "NextCharacters", "load"),
    "charlm.config": (
        "ComputeConfig",
        "LinesConfig",
        "ModelConfig",
        "SampleConfig",
        "TrainConfig",
    ),
    "charlm.errors": (
        "CharlmError",
        "CheckpointError",
        "ConfigError",
        "CorpusError",
        "DivergenceError",
        "PackageError",
        "ProcessError",
        "TokenError",
    ),
    "charlm.evaluation.result": ("Evaluation",),
    "charlm.inference.decoding": ("Lines", "Sample"),
    "charlm.inference.prompt_state": ("PromptState",),
    "charlm.insight.report": ("Inspection",),
    "charlm.keywords": (
        "ComputeSettings",
        "LinesSettings",
        "SampleSettings",
        "TextSettings",
        "TrainSettings",
    ),
    "charlm.runs": ("evaluate", "resume", "train"),
    "charlm.training.progress": ("Progress",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    """Import the home of a public name when it is first asked for (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'charlm' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
