"""What a comparison trains: the settings that all runs share, and the size of each model.

They are chosen once, when a comparison begins, as a new run would choose them with the default
backbone. So all backbones have the same learning rate, dropout and arithmetic. Settings of its own
might suit one of them better; that would be another question.
"""

import bisect
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from charlm.cells import CELLS
from charlm.cells.variants import variant
from charlm.config import CompareConfig, ComputeConfig, ModelConfig, TrainConfig, option_names
from charlm.data.text_files import Survey
from charlm.errors import ConfigError, argument, written
from charlm.model.language_model import CharLM
from charlm.training import autotune
from charlm.training.run import Machine
from charlm.training.start import SHORT, choose_settings

FORMAT = 1
BUDGETS = ("steps", "epochs", "minutes")

Document = dict[str, Any]  # what compare.json holds


def part(settings: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return those settings that have one of these names."""
    return {name: settings[name] for name in names if name in settings}


def begun(
    found: Survey, config: CompareConfig, settings: dict[str, Any], machine: Machine
) -> Document:
    """Choose what all runs of a new comparison have in common; return its document.

    The settings are those that the default backbone would be trained with, but for the attention:
    recurrences are compared by themselves, unless it is asked for, and for the options of its cell.
    """
    names, options = config.backbone_names, option_names()
    cells = [variant(name)["backbone"] for name in names]
    for name in settings:
        if name in options and not any(name in CELLS[cell].names() for cell in cells):
            raise ConfigError(
                f"{argument(name)} goes with none of the backbones {', '.join(names)}: leave it out"
            )
    apart = (*options, *ComputeConfig.names())
    shared = {name: value for name, value in settings.items() if name not in apart}
    shared = {"attention": 0, **ModelConfig().cell_options, **shared}
    tokenizer, model, train, notices = choose_settings(found, shared, machine)
    budget = next(name for name in BUDGETS if getattr(train, name) is not None)
    own = ("backbone", "seed", *options, *BUDGETS)
    chosen = model.to_dict() | train.to_dict()
    common = {n: v for n, v in chosen.items() if n not in own and (n, v) != ("items", None)}
    common[budget] = getattr(train, budget)
    document: Document = {
        "format": FORMAT,
        "text": {
            "files": [],
            "sha256": found.fingerprint,
            "characters": found.characters,
            "symbols": tokenizer.vocab_size,
        },
        "asked": {"equal": config.equal, "settings": settings},
        "backbones": [],
        "seeds": 1,
        "common": common,
        "models": {},
        "target": 0,
        "notices": list(map(written, notices)),
        "diverged": {},
        "measured": {},
    }
    plain = [model_config(document, _own(name, settings)) for name in names]
    document["target"] = max(one.num_parameters(tokenizer.vocab_size) for one in plain)
    rounds = 1 if budget == "minutes" and train.minutes < SHORT else train.total_steps or math.inf
    common["precision"] = _precision(plain, tokenizer.vocab_size, train, machine, rounds)
    return document


def _own(word: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a backbone with all options of its cell: as the word says, or given for all.

    Others are at their defaults, and not chosen by the text.
    """
    own = variant(word)
    backbone = own.pop("backbone")
    cell = CELLS[backbone]
    options = cell.from_dict(part(settings, cell.names()) | own).to_dict()
    return {"backbone": backbone, **options}


def model_config(document: Document, own: dict[str, Any]) -> ModelConfig:
    """Return the model with what all have in common and these settings of its own."""
    settings = document["common"] | own
    return ModelConfig.from_dict(part(settings, (*ModelConfig.names(), *option_names())))


def _precision(
    models: list[ModelConfig],
    vocab_size: int,
    train: TrainConfig,
    machine: Machine,
    rounds: float,
) -> str:
    """Return the precision in which all models together train fastest on this machine."""
    candidates = autotune.candidates(machine.compute, machine.device, threads=0)
    if len(candidates) == 1:  # it is tried all the same: not every cell can be trained in it
        rounds = 1
    total = dict.fromkeys(candidates, 0.0)
    for config in models:
        seconds = autotune.seconds_per_window(
            CharLM(config, vocab_size).to(machine.device),
            candidates,
            batch_size=train.batch_size,
            seq_length=train.seq_length,
            rounds=rounds,
        )
        total = {candidate: total[candidate] + seconds[candidate] for candidate in candidates}
    return autotune.clearly_fastest(total).precision


def extend(document: Document, config: CompareConfig, settings: dict[str, Any]) -> None:
    """Add the backbones and seeds that are asked for; choose the size of each model."""
    document["seeds"] = max(document["seeds"], config.seeds)
    vocab_size = document["text"]["symbols"]
    for name in config.backbone_names:
        if name in document["backbones"]:
            continue
        document["backbones"].append(name)
        own = _own(name, settings)
        model = model_config(document, own)
        if config.equal == "parameters":
            model = sized(model, document["target"], vocab_size)
            own["hidden_size"] = model.hidden_size
            own["embedding_size"] = model.embedding_size
        document["models"][name] = own


def sized(config: ModelConfig, parameters: int, vocab_size: int) -> ModelConfig:
    """Return a model with the hidden size that brings it nearest to a number of parameters.

    >>> lstm = ModelConfig(hidden_size=100)
    >>> sized(ModelConfig(backbone="rnn"), lstm.num_parameters(65), 65).hidden_size
    214

    Args:
        config: the model; with ``tie_weights`` its embedding gets the same size.
        parameters: how many it should have.
        vocab_size: the number of symbols (V).
    """
    most = next(s.metadata["maximum"] for s in ModelConfig.settings() if s.name == "hidden_size")

    def with_size(size: int) -> ModelConfig:
        embedding = size if config.tie_weights else config.embedding_size
        return replace(config, hidden_size=size, embedding_size=embedding)

    def excess(size: int) -> int:
        return with_size(size).num_parameters(vocab_size) - parameters

    size = 1 + bisect.bisect_left(range(1, most), 0, key=excess)  # the first that has as many
    return with_size(min((max(1, size - 1), size), key=lambda size: abs(excess(size))))
