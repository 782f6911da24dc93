"""Playing with a model in a terminal: ``generate --interactive``.

A line that is entered is added to the text, and the model goes on from there. Lines that begin with
a slash are commands.
"""

import contextlib
import os
import signal
import sys
import typing
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.parser import as_flag, given
from charlm.cli.terminal import Stop, printable, say
from charlm.cli.text_writer import TextWriter
from charlm.config import SampleConfig
from charlm.errors import CharlmError, CheckpointError, ConfigError
from charlm.settings import field_type
from charlm.suggestions import nearest_command

if TYPE_CHECKING:
    from charlm.api import LanguageModel
    from charlm.inference.decoding import Sample
    from charlm.inference.prompt_state import PromptState

PROMPT = "> "
TAIL = 200  # characters of the text that are shown after it has changed
MOST_VERSIONS = 500  # that can be undone
SEEDS = 2**32
DEFAULT = "default"
SETTINGS = [item for item in SampleConfig.settings() if item.name != "num_samples"]
COMMANDS = {
    "/again": "another continuation in place of the last one",
    "/undo": "the text before the last step",
    "/redo": "the text after it, once more",
    "/show": "the whole text",
    "/save FILE": "write the text to a file",
    "/settings": "all settings",
    "/help": "this list",
    "/quit": "leave, as Ctrl-D does",
}
HELP = (
    "Enter continues the text. What you type before it is added to the text first:",
    "a \\ at its end is a line end, and // at its beginning is a /. Ctrl-C stops a",
    "continuation; at the prompt it leaves. Each continuation takes the next seed,",
    "so after /seed X the same steps give the same text.",
)
HELP_OF = {
    "length": "new characters of a continuation, 0 = until Ctrl-C",
    "min_p": "draw only what is at least this share as likely as the best",
    "seed": "seed of the next continuation",
    "stop": "end behind this text; \\n is a line end",
}


@dataclass(frozen=True)
class Version:
    """The text at some time.

    Attributes:
        text: all of it.
        state: of the model after it; None before anything was read.
        before: what its last continuation was drawn from; None if it ends with none.
    """

    text: str = ""
    state: "PromptState | None" = None
    before: "Version | None" = None


class Session:
    """A text that grows, with all that it was before.

    Args:
        lm: what goes on with the text.
        config: how, with a seed: that of the next continuation.
        text: what it begins with.
        state: of the model after that; None before anything was read.
    """

    def __init__(
        self,
        lm: "LanguageModel",
        config: SampleConfig,
        text: str = "",
        state: "PromptState | None" = None,
    ):
        self.lm = lm
        self.config = config
        self.versions = [Version(text, state)]
        self.place = 0
        self.saved: set[Path] = set()

    @property
    def current(self) -> Version:
        """The text as it is."""
        return self.versions[self.place]

    def with_typed(self, typed: str) -> Version:
        """Return the version that is continued once this was typed; nothing is changed yet."""
        current = self.current
        typed = self.lm.readable(typed)
        if typed == "" and current.state is not None:
            return Version(current.text, current.state)
        return Version(current.text + typed, self.lm.read(typed, state=current.state))

    def draw(self, before: Version, stop: Stop) -> Iterator[str]:
        """Yield a continuation as it is drawn, and keep it, also if a request to stop ends it."""
        config, _ = self.lm.prepared(self.config)
        drawn = replace(config, stop=())  # a stop text is kept: the next continuation is behind it
        (sample,) = self.lm.samples(state=before.state, **drawn.to_dict())
        pieces = []
        for piece in _until_stop_text(sample, config.stop):
            pieces.append(piece)
            yield piece
            if stop.signal is not None:
                break
        text = before.text + "".join(pieces)
        self._keep(Version(text, sample.prompt_state(), before))
        assert config.seed is not None
        self.config = replace(self.config, seed=(config.seed + 1) % SEEDS)

    def _keep(self, version: Version) -> None:
        self.versions = [*self.versions[: self.place + 1], version][-MOST_VERSIONS:]
        self.place = len(self.versions) - 1

    def move(self, steps: int) -> bool:
        """Go back (-1) or forth (1) in the versions, if there is one."""
        if not 0 <= self.place + steps < len(self.versions):
            return False
        self.place += steps
        return True

    def set(self, name: str, word: str) -> None:
        """Change a setting; ``default`` is what it is unless somebody changes it.

        Raises:
            CharlmError: for a value that is wrong, or a character that the model does not know.
        """
        item = next(item for item in SETTINGS if item.name == name)
        value: Any = item.default if word.strip() == DEFAULT else _value(field_type(item), word)
        self.config, _ = self.lm.prepared(replace(self.config, **{name: value}))

    def save(self, name: str) -> str:
        """Write the text to a file; return what to say.

        Raises:
            CharlmError: if it cannot be written, or the file is there and not of this session.
        """
        from charlm.files import check_name, write_atomically

        path = Path(os.path.expanduser(name))  # noqa: PTH111  # of nobody it is left as it is
        check_name(path)
        try:
            if path.exists() and path.resolve() not in self.saved:
                raise ConfigError(f"{name} is there already: choose another name")
            write_atomically(path, self.current.text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise CheckpointError(f"cannot write {name}: {error.strerror}") from None
        again = ", in place of what this session had saved there" * (path.resolve() in self.saved)
        self.saved.add(path.resolve())
        return f"saved {len(self.current.text):,} characters to {name}{again}"


def _until_stop_text(sample: "Sample", stops: tuple[str, ...]) -> Iterator[str]:
    """Yield the characters of a sample, to the end of the first stop text in it."""
    longest = max(map(len, stops), default=0)
    tail = ""
    for piece in sample:
        yield piece
        tail = (tail + piece)[-longest:] if longest else ""
        if any(tail.endswith(stop) for stop in stops):
            return


def _value(kind: Any, word: str) -> Any:
    """Return a word as a value of a setting; what is none stays as it is, and is refused later."""
    if typing.get_origin(kind) is tuple:
        return (word.replace("\\n", "\n"),)
    with contextlib.suppress(ValueError):
        return kind(word.strip())
    return word


class Game:
    """The commands of a session, and what they show.

    Args:
        session: the text.
        delay: seconds to wait after each character of a continuation.
    """

    def __init__(self, session: Session, delay: float = 0.0):
        self.session = session
        self.delay = delay
        self.stop = Stop()

    def enter(self, line: str) -> int | None:
        """Do what a line says; return the exit status if it ends the game.

        Ctrl-C ends what is being drawn, and nothing else.
        """
        status = None
        self.stop = Stop()
        with self.stop:
            try:
                if line.startswith("/") and not line.startswith("//"):
                    status = self._command(line)
                else:
                    self._continue(self._typed(line))
            except CharlmError as error:
                say(printable(error.written(_as_command)))
        if self.stop.signal in (None, signal.SIGINT):
            return status
        say("charlm: stopped")
        return 128 + self.stop.signal

    @staticmethod
    def _typed(line: str) -> str:
        line = line[1:] if line.startswith("//") else line
        return f"{line[:-1]}\n" if line.endswith("\\") else line

    def _continue(self, typed: str) -> None:
        session = self.session
        changes = session.lm.unknown.changes.total()
        before = session.with_typed(typed)
        if session.lm.unknown.changes.total() != changes:
            say(session.lm.unknown.summary())
        self._draw(before, before.text[len(session.current.text) :])

    def _again(self) -> int | None:
        before = self.session.current.before
        if before is None:
            say("there is no continuation here yet: Enter draws one")
        else:
            self._draw(before, _tail(before.text))
        return None

    def _draw(self, before: Version, shown: str) -> None:
        """Draw a continuation, and show it behind some text."""
        writer = TextWriter(self.delay, lambda: self.stop.signal is not None)
        writer.write(shown, at_once=True)
        sys.stdout.flush()
        try:
            for piece in self.session.draw(before, self.stop):
                writer.write(piece)
        finally:
            writer.end()

    def _command(self, line: str) -> int | None:
        word, _, rest = line.partition(" ")
        word = word.lower().replace("_", "-")
        actions: dict[str, Callable[[], int | None]] = {
            "/again": self._again,
            "/undo": lambda: self._move(-1, "nothing to undo: this is where the text began"),
            "/redo": lambda: self._move(1, "nothing to redo"),
            "/show": lambda: self.show(self.session.current.text),
            "/settings": self._settings,
            "/help": self._help,
            "/quit": lambda: 0,
        }
        settings = {_as_command(item.name): item.name for item in SETTINGS}
        if word == "/save":
            name = rest.strip()
            say(printable(self.session.save(name)) if name else "/save needs the name of a file")
        elif word in settings:
            if rest:
                self.session.set(settings[word], rest)
            say(self._setting(settings[word]))
        elif word not in actions:
            hint = nearest_command(word, [*actions, "/save", *settings])
            say(printable(f"unknown command {word:.100}{hint or '; /help lists all'}"))
        elif rest.strip():
            say(f"{word} takes nothing behind it")
        else:
            return actions[word]()
        return None

    def _move(self, steps: int, otherwise: str) -> int | None:
        if self.session.move(steps):
            self.show(_tail(self.session.current.text))
        else:
            say(otherwise)
        return None

    def show(self, text: str) -> int | None:
        """Show a text."""
        if text:
            writer = TextWriter()
            writer.write(text)
            writer.end()
        else:
            say("there is no text yet")
        return None

    def _setting(self, name: str) -> str:
        value = getattr(self.session.config, name)
        if isinstance(value, tuple):
            value = ", ".join(map(repr, value)) or "none"
        return f"{_as_command(name):13} {value}"

    def _settings(self) -> int | None:
        for item in SETTINGS:
            say(self._setting(item.name))
        return None

    def _help(self) -> int | None:
        for line in HELP:
            say(line)
        rows = COMMANDS | {
            f"{_as_command(item.name)} {'TEXT' if item.default == () else 'X'}": _help_of(item.name)
            for item in SETTINGS
        }
        for command, meaning in rows.items():
            say(f"  {command:16} {meaning}")
        say(f"A setting alone shows its value; {DEFAULT!r} in place of X takes it back.")
        return None


def _tail(text: str) -> str:
    """Return the last part of a text, to show where it is now."""
    return text if len(text) <= TAIL else f"… {text[-TAIL:]}"


def _help_of(name: str) -> str:
    item = next(item for item in SETTINGS if item.name == name)
    return HELP_OF.get(name) or str(item.metadata["help"]).partition("; repeatable")[0]


def _as_command(name: str, value: str | None = None) -> str:
    """Return the command that sets a setting, or the flag if there is none, for a message."""
    if all(item.name != name for item in SETTINGS):
        return as_flag(name, value)
    command = f"/{name.replace('_', '-')}"
    return command if value is None else f"{command} {value}"


def lines(prompt: str) -> Iterator[str]:
    """Yield lines as they are entered, edited with readline if it is there, until the end.

    Raises:
        KeyboardInterrupt: for Ctrl-C at the prompt.
    """
    with contextlib.suppress(ImportError):  # not on every system
        import readline  # noqa: F401  (input() uses it then)
    while True:
        try:
            yield input(prompt)
        except EOFError:
            print()
            return
        except UnicodeDecodeError:
            say("that is not UTF-8 text: set the terminal to it")


def play(
    arguments: Namespace,
    lm: "LanguageModel",
    config: SampleConfig,
    prompt: str,
    state: "PromptState | None",
    entered: Iterable[str] | None = None,
) -> int:
    """Play until the end of the lines; return the exit status.

    Args:
        arguments: of the command line.
        lm: the model.
        config: how it draws, with a seed.
        prompt: what the text begins with.
        state: of the model after it; None if nothing was read.
        entered: what is entered; None is what somebody types.
    """
    if lm.config.items and not given(arguments, ["length", "stop"]):
        config = replace(config, stop=("\n",))
    config, _ = lm.prepared(config)
    game = Game(Session(lm, config, prompt, state), arguments.delay)
    say(f"seed {config.seed}")
    say("Enter continues the text; what you type is added to it first. /help lists more.")
    if prompt:
        game.show(prompt)
    for line in lines(PROMPT) if entered is None else entered:
        status = game.enter(line)
        if status is not None:
            return status
    return 0
