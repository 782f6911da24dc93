"""The runs under ``checkpoints/`` as models of llm, Simon Willison's command for language models.

llm finds this module by the entry point in ``pyproject.toml``, and nothing else imports it. After
``pip install 'charlm[llm]'``::

    llm -m charlm/english "The sea "
    llm -m charlm/english -o temperature 0.5 -o max_tokens 100 -o seed 7 "Once "
    llm -c ""

A run is ``charlm/`` and its name, in the folder where llm is started. The model continues the text
of the prompt. A conversation is one text: what was said so far, by either side, and what is new.
There is no one to instruct, so a system prompt is refused; llm itself refuses attachments.

Source: https://llm.datasette.io/en/stable/plugins/tutorial-model-plugin.html
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llm
from pydantic import Field, create_model

from charlm.config import SampleConfig
from charlm.errors import CharlmError, ConfigError, argument
from charlm.settings import field_type

FOLDER = Path("checkpoints")
# What llm and others call a setting, by its name here.
NAMES = {"length": "max_tokens"}
OPTIONS = ("length", "temperature", "top_k", "top_p", "min_p", "stop", "seed")
HELP = {"length": "characters to write", "seed": "seed of the drawing; a random one is logged"}


def _options() -> dict[str, Any]:
    """Return the options of a model as pydantic declares fields, from the settings."""
    settings = {item.name: item for item in SampleConfig.settings() if item.name in OPTIONS}
    fields: dict[str, Any] = {}
    for name in OPTIONS:
        kind = str if name == "stop" else field_type(settings[name])
        help = HELP.get(name) or settings[name].metadata["help"].partition("; repeatable")[0]
        default = settings[name].default
        shown = f" (default: {default})" if isinstance(default, int | float) else ""
        fields[NAMES.get(name, name)] = (kind | None, Field(default=None, description=help + shown))
    how = "a character that the model does not know: error, skip, or nearest (default: error)"
    return fields | {"unknown": (str | None, Field(default=None, description=how))}


def register_models(register: Callable[..., None]) -> None:
    """Register each run folder; its files are not opened before it is asked to write."""
    for run in sorted(FOLDER.glob("*")):
        if any((run / f"{stem}.safetensors").is_file() for stem in ("best", "latest")):
            register(Charlm(run))


llm.hookimpl(register_models)  # marks it; as a decorator its type would be lost


class Charlm(llm.Model):  # type: ignore[misc]
    """A run as llm sees it.

    Args:
        run: its folder.
    """

    can_stream = True
    Options = create_model("Options", __base__=llm.Options, **_options())

    def __init__(self, run: Path):
        self.model_id = f"charlm/{run.name}"
        self.run = run

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None
    ) -> Iterator[str]:
        """Yield what follows the text of the prompt; see :class:`llm.Model`.

        Raises:
            llm.ModelError: for what a user can mend.
        """
        try:
            yield from self._written(prompt, response)
        except CharlmError as error:
            raise llm.ModelError(error.written(_as_option)) from None

    def _written(self, prompt: Any, response: Any) -> Iterator[str]:
        from charlm.api import load

        text = _text_of(prompt.messages)
        given = {name: getattr(prompt.options, NAMES.get(name, name)) for name in OPTIONS}
        settings = {name: value for name, value in given.items() if value is not None}
        config = SampleConfig(**settings)
        if config.length == 0:
            raise ConfigError(f"{argument('length')} must be at least 1 (got 0)")
        lm = load(self.run, unknown=prompt.options.unknown or "error")
        (sample,) = lm.samples(text, **config.to_dict())
        yield from sample
        response.response_json = {"seed": sample.seed, "stopped": sample.reason}
        response.set_usage(input=len(text), output=sample.count)


def _text_of(messages: list[Any]) -> str:
    """Return the text that messages make, one behind the other."""
    if any(message.role == "system" for message in messages):
        raise ConfigError("a model of charlm continues a text: put the system prompt before it")
    parts = [part for message in messages for part in message.parts]
    return "".join(getattr(part, "text", "") for part in parts)


def _as_option(name: str, value: str | None) -> str:
    name = NAMES.get(name, name)
    return f"-o {name}" if value is None else f"-o {name} {value}"
