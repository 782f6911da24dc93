"""The front door: every block of the README runs, and its tables say what the code says."""

import re
import shlex
import shutil
from dataclasses import fields

import pytest
from conftest import ROOT

from charlm.cli import main
from charlm.config import LinesConfig, ModelConfig, SampleConfig, TrainConfig

README = (ROOT / "README.md").read_text("utf-8")
CI = (ROOT / ".ci" / "run").read_text("utf-8")

# Trainings are cut short; all other words of a command stay as they are.
SHORT = "--steps 4 --embedding-size 8 --hidden-size 12 --precision float32"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def shortened(block):
    """Return the lines of a block of commands as this test can run them."""
    lines = []
    for line in block.splitlines():
        command = re.sub(r"--(steps|minutes|hidden-size|embedding-size) [\d.]+", "", line)
        command = re.sub(r"^(pip install .* && )", "", command)  # .ci/run does that
        if command.startswith("charlm train"):
            command += f" {'--steps 4' if '--init-from' in command else SHORT}"
        if command.startswith("charlm resume"):
            command += " --steps 6"
        if command != "pytest" and command != "charlm corpus shakespeare":  # needs a network
            lines.append(command)
    return "\n".join(lines)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of what the README's reader has before them, to work in."""
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    for name in ("english", "chinese"):
        shutil.copy(ROOT / "corpora" / f"{name}.txt", corpora)
    shutil.copy(corpora / "english.txt", corpora / "tiny-shakespeare.txt")
    monkeypatch.chdir(tmp_path)


def test_every_block_of_commands_and_of_python_runs_in_order(checkout):
    found = re.findall(r"^```(bash|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(found) >= 6
    commands = 0
    for language, block in found:
        if language == "bash":
            for command in shortened(block).splitlines():
                program, *words = shlex.split(command)
                assert program == "charlm"
                assert main(words) == 0, command
                commands += 1
        else:
            sizes = "steps=4, embedding_size=8, hidden_size=12, "
            block = re.sub(r"steps=\d+, ", sizes, block)
            assert "charlm.train(" not in block or sizes in block
            exec(compile(block, "README.md", "exec"), {})
    assert commands >= 10


def test_the_python_of_the_first_look_is_six_lines():
    (block,) = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) == 6


def test_the_set_up_commands_are_those_of_the_mission_and_of_ci():
    commands = "\n".join(blocks("bash"))
    assert "pip install -e . && charlm train corpora/english.txt" in commands
    assert "pip install -e '.[test]' && pytest" in commands
    assert "pip install -e '.[test]' && pytest" in CI


def rows_of(config):
    """Return the table rows of a config's settings, as the README must show them."""
    for item in fields(config):
        default = str(item.default)
        absent = "random" if config is SampleConfig else "-"
        words = {"True": "yes", "False": "no", "None": absent, "": "-", "()": "-"}
        default = words.get(default, default)
        yield f"| `--{item.name.replace('_', '-')}` | {default} | {item.metadata['help']} |"


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig, SampleConfig, LinesConfig])
def test_the_tables_of_settings_are_those_of_the_code(config):
    assert "\n".join(rows_of(config)) in README
