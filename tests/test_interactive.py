"""``generate --interactive``: the text with its versions, the commands, and a real terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, ROOT, one_line

import charlm
from charlm.cli.interactive import SETTINGS, Game, Session, play
from charlm.cli.terminal import Stop
from charlm.config import SampleConfig

LSTM = DATA / "golden-lstm.safetensors"


@pytest.fixture
def game():
    """A game with a model in whole numbers, so that texts are equal to the character."""
    lm = charlm.load(LSTM).exact()
    return Game(Session(lm, SampleConfig(length=23, seed=7)))


def texts(game):
    return [version.text for version in game.session.versions]


def test_enter_continues_what_was_typed_with_one_seed_after_the_other(game, capsys):
    lm = game.session.lm
    for line in ("The sea ", "", "and "):
        assert game.enter(line) is None
    first = "The sea " + lm.generate("The sea ", length=23, seed=7)
    second = first + lm.generate(first, length=23, seed=8)
    third = second + "and " + lm.generate(f"{second}and ", length=23, seed=9)
    assert texts(game) == ["", first, second, third]
    shown, notes = capsys.readouterr()
    assert shown == f"{first}\n{second[len(first) :]}\n{third[len(second) :]}\n"
    assert notes == ""


def test_an_empty_line_begins_a_text_as_generate_does(game):
    game.enter("")
    assert game.session.current.text == game.session.lm.generate("", length=23, seed=7)


@pytest.mark.parametrize("seed", range(4))
def test_the_state_is_always_that_of_the_text(seed):
    """Whatever was done: in whole numbers every bit of it."""
    lm, rng = charlm.load(LSTM).exact(), np.random.default_rng(seed)
    game = Game(Session(lm, SampleConfig(length=23, seed=seed), "A", lm.read("A")))
    lines = ["", "The ", "\\", "/again", "/undo", "/undo", "/redo", "/stop e", "/stop default"]
    seen = set()
    for line in rng.choice(lines, 25).tolist():
        game.enter(line)
        current = game.session.current
        seen.add(current.text)
        expected = lm.read(current.text)
        assert all(map(np.array_equal, current.state.state, expected.state))
        assert np.array_equal(current.state.logits, expected.logits)
    assert len(seen) > 5


def test_undo_again_redo(game):
    for line in ("The sea ", "", "/again"):
        game.enter(line)
    start, first, second, again = texts(game)
    assert again.startswith(first)
    assert again != second
    assert game.session.current.text == again
    seen = [game.enter("/undo") or game.session.current.text for _ in range(4)]
    assert seen == [second, first, start, start]
    seen = [game.enter("/redo") or game.session.current.text for _ in range(4)]
    assert seen == [first, second, again, again]
    game.enter("/undo")
    game.enter("/undo")
    game.enter("/again")  # of the first one: what was undone is gone
    assert texts(game)[:2] == [start, first]
    assert len(texts(game)) == 3
    assert game.session.current.text.startswith("The sea ")
    assert game.session.current.text != first


def test_what_cannot_be_done_is_said_in_a_line(game, capsys):
    for line, message in (
        ("/undo", "nothing to undo"),
        ("/redo", "nothing to redo"),
        ("/again", "there is no continuation here yet"),
        ("/show", "there is no text yet"),
        ("/save", "/save needs the name of a file"),
        ("/undo 3", "/undo takes nothing behind it"),
        ("/", "unknown command /; /help lists all"),
        ("/agian", "unknown command /agian; did you mean /again?"),
        ("/exit", "did you mean /quit?"),
        ("/temp 0.3", "did you mean /temperature?"),
        ("/num-samples 3", "unknown command /num-samples"),
        ("/temperature -1", "/temperature must be at least 0 (got -1.0)"),
        ("/temperature warm", "/temperature must be of type float (got 'warm')"),
        ("/length 2.5", "/length must be of type int (got '2.5')"),
        ("/stop 漢", "character '漢'"),
        ("/allow 漢", "character '漢'"),
        ("naïve", "character 'ï' (U+00EF) at position 2 of the prompt"),
    ):
        config = game.session.config
        assert game.enter(line) is None
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert message in err
        assert "\0" not in err
        assert game.session.config == config
        assert texts(game) == [""]


def test_a_setting_is_shown_set_and_taken_back(game, capsys):
    for item in SETTINGS:
        command = f"/{item.name.replace('_', '-')}"
        word = {"top_p": "0.5", "min_p": "0.5"}.get(item.name, "e" if item.default == () else "3")
        assert game.enter(f"{command} {word}") is None
        changed = getattr(game.session.config, item.name)
        assert changed not in (item.default, None)
        shown = capsys.readouterr().err
        assert shown.split() == [command, repr("e") if changed == ("e",) else str(changed)]
        game.enter(f"/{item.name.upper()}")  # a name with another case or an underscore
        assert capsys.readouterr().err == shown
        game.enter(f"{command} default")
        back = getattr(game.session.config, item.name)
        assert back == item.default or item.name == "seed"
        capsys.readouterr()
    assert game.enter("/settings") is None
    assert len(capsys.readouterr().err.splitlines()) == len(SETTINGS)
    game.enter("/help")
    shown = capsys.readouterr().err
    assert all(f"/{item.name.replace('_', '-')} " in shown for item in SETTINGS)
    assert max(map(len, shown.splitlines())) < 80


def test_a_stop_text_belongs_to_the_text_and_the_next_continuation_is_behind_it(game):
    lm = game.session.lm
    game.enter("/length 200")
    game.enter("/stop a")
    game.enter("The sea ")
    text = game.session.current.text
    assert text == "The sea " + lm.generate("The sea ", length=200, seed=7, stop="a") + "a"
    game.enter("")
    assert game.session.current.text.startswith(text)
    assert game.session.current.text.count("a") == text.count("a") + 1
    assert game.session.current.text.endswith("a")
    game.enter("/stop \\n")
    assert game.session.config.stop == ("\n",)
    game.enter("/stop  ")
    assert game.session.config.stop == (" ",)


def test_slashes_and_line_ends_can_be_typed(game):
    assert Game._typed("//sea") == "/sea"
    assert Game._typed("/ ") == "/ "
    game.enter("The end.\\")
    assert "The end.\n" in game.session.current.text


def test_nobody_has_no_folder_to_save_to(game, capsys, workplace):
    game.enter("/save ~nosuchuser/x.txt")
    assert "~nosuchuser" in capsys.readouterr().err


def test_save_writes_the_text_and_overwrites_nothing_else(game, capsys, workplace):
    game.enter("The sea ")
    game.enter("/save text.txt")
    assert "text.txt is there already: choose another name" in capsys.readouterr().err
    assert not Path("text.txt").read_text().startswith("The sea")
    game.enter("/save a story.txt")
    assert Path("a story.txt").read_text("utf-8") == game.session.current.text
    assert capsys.readouterr().err == f"saved {8 + 23} characters to a story.txt\n"
    game.enter("")
    game.enter("/save a story.txt")
    assert "in place of what this session had saved there" in capsys.readouterr().err
    assert Path("a story.txt").read_text("utf-8") == game.session.current.text
    for name in ("no/such/folder", ".", "x" * 300, "a\0b"):
        game.enter(f"/save {name}")
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path.name for path in workplace.iterdir()) == ["a story.txt", "text.txt"]


def test_unknown_characters_are_read_as_the_flag_says(capsys):
    lm = charlm.load(LSTM, unknown="nearest")
    game = Game(Session(lm, SampleConfig(length=5, seed=1)))
    game.enter("naïve ")
    assert game.session.current.text.startswith("naive ")
    assert capsys.readouterr().err == "unknown characters: 1 read as others: ï to i (1)\n"


def test_a_request_to_stop_keeps_what_was_drawn(game, monkeypatch):
    stop = Stop()
    before = game.session.with_typed("The ")
    pieces = []
    for piece in game.session.draw(before, stop):
        pieces.append(piece)
        if len(pieces) == 4:
            stop.signal = signal.SIGINT
    assert game.session.current.text == "The " + "".join(pieces)
    assert len(pieces) == 4


def test_a_model_of_items_writes_one_at_each_enter(run, workplace, capsys):
    items = sorted(f"item {a}{b}" for a in "abcdefg" for b in "hijkl")
    (workplace / "items.txt").write_text("\n".join(items) + "\n")
    assert run("train", "items.txt", "--items", "--steps", 60, "--hidden-size", 16)[0] == 0
    lm = charlm.load("items")
    arguments = Namespace(delay=0.0)
    assert play(arguments, lm, SampleConfig(seed=1), "", None, ["", "", "it", "/quit", ""]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 2 * 3  # the end of each item, and that of what is shown of it
    assert out.split("\n")[4].startswith("it")
    assert err.startswith("seed 1\n")
    arguments.length = 5  # of who says how long, that is kept
    play(arguments, lm, SampleConfig(seed=1, length=5), "ite", lm.read("ite"), [""])
    assert capsys.readouterr().out.startswith("ite\n")


def test_without_a_terminal_it_says_so(run):
    status, out, err = run("generate", LSTM, "--interactive")
    one_line(status, out, err, expected=2)
    assert "--interactive needs a terminal" in err


@pytest.mark.parametrize(
    "flags", [["-n", 2], ["--json"], ["--save-state", "s"], ["--best-of", 2], ["--lines", 3]]
)
def test_what_does_not_go_with_it_is_refused(run, monkeypatch, flags):
    monkeypatch.setattr("charlm.cli.generate.is_terminal", lambda: True)
    status, out, err = run("generate", LSTM, "--interactive", *flags)
    one_line(status, out, err, expected=1)
    assert "does not go with --interactive" in err


class Terminal:
    """A command in a terminal of its own, 80 columns wide."""

    def __init__(self, *words, folder):
        self.master, slave = pty.openpty()
        self.shown = ""
        environment = os.environ | {"LC_ALL": "C.UTF-8", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "charlm", *map(str, words)],
            stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=environment,
            preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(slave)

    def send(self, text):
        self.shown = ""
        os.write(self.master, text.encode())

    def wait_for(self, text, seconds=60.0):
        """Read on until a text is shown."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, self.shown
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.master, 10_000).decode("utf-8", "replace")
                except OSError:  # the other end was closed
                    assert text in self.shown
        return self.shown

    @staticmethod
    def settle():
        """Give input() a moment: between the prompt and its waiting for keys it sees no signal."""
        time.sleep(0.5)

    def end(self):
        """Return the exit status."""
        status = self.process.wait(60)
        os.close(self.master)
        return status


def _own_terminal():
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def start(*flags):
        opened.append(Terminal("generate", LSTM, "--interactive", *flags, folder=tmp_path))
        opened[-1].wait_for("> ")
        return opened[-1]

    yield start
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_in_a_terminal_ctrl_c_stops_a_continuation_and_then_leaves(terminal, tmp_path):
    played = terminal("--seed", 4, "--exact", "-l", 30)
    played.send("The sea \n")
    expected = charlm.load(LSTM).exact().generate("The sea ", length=30, seed=4)
    assert expected.split()[0] in played.wait_for("\n> ")
    played.send("/length 0\n")
    played.wait_for("\n> ")
    played.send("\n")
    played.wait_for("\n", 60)
    time.sleep(0.3)
    played.send("\x03")
    played.wait_for("> ")
    played.settle()
    assert played.process.poll() is None
    played.send("/save story.txt\n")
    played.wait_for("story.txt\r\n> ")
    played.settle()
    text = (tmp_path / "story.txt").read_text("utf-8")
    assert text.startswith(f"The sea {expected}")
    assert len(text) > 38
    played.send("\x03")
    played.wait_for("charlm: stopped")
    assert played.end() == 130


def test_in_a_terminal_wide_characters_are_edited_and_refused_and_ctrl_d_leaves(terminal):
    pytest.importorskip("readline", reason="Python was built without readline")
    played = terminal("--seed", 4, "-l", 30)
    played.send("山高\n")
    assert "character '山'" in played.wait_for("\n> ")
    played.send("山高\x7f\x7f/seed\n")  # two backspaces
    assert "/seed         4" in played.wait_for("\n> ").replace("\r", "")
    played.send("\x1b[A\x1b[A\x15/help\n")  # up, up, and all of it away
    assert "/temperature X" in played.wait_for("\n> ")
    played.send("\x04")
    assert played.end() == 0


def test_in_a_terminal_sigterm_leaves_with_its_status(terminal):
    played = terminal("-l", 30)
    played.settle()
    played.process.send_signal(signal.SIGTERM)
    played.wait_for("charlm: stopped")
    assert played.end() == 143
