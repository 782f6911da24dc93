"""The READMEs: every block of commands and of Python runs, and what they say of files is true."""

import hashlib
import re
import shlex
import shutil
import sys
import types

import pytest
from conftest import ROOT

from charlm.cells import CELLS
from charlm.cli import main
from charlm.training import figures

FOLDERS = ("charlm", "charlm/export", "charlm/server", "checkpoints", "corpora")
READMES = ["README.md", *(f"{name}/README.md" for name in FOLDERS)]
CI = (ROOT / ".ci" / "run").read_text("utf-8")

# What this test cannot run: .ci/run does, or it needs a network.
ELSEWHERE = {
    "git clone ADDRESS-OF-THIS-REPOSITORY charlm && cd charlm",
    "python3 -m venv .venv && . .venv/bin/activate",
    "pip install -e '.[test]' && pytest",
    "pip install -e '.[dev]'",
    "pip install -e '.[onnx]'",
    "pip install -e '.[serve]' && charlm serve english --open",
    "pytest",
    "ruff check .",
    "ruff format --check .",
    "mypy",
    "charlm corpus shakespeare",
}

# Trainings are cut short; all other words of a command stay as they are.
SHORT = "--steps 4 --embedding-size 8 --hidden-size 12 --precision float32"


def text_of(readme):
    return (ROOT / readme).read_text("utf-8")


def blocks(readme):
    return re.findall(r"^```(bash|python)\n(.*?)^```$", text_of(readme), re.MULTILINE | re.DOTALL)


def shortened(line):
    """Return a line of a block as this test can run it, or nothing."""
    if line in ELSEWHERE:
        return None
    command = line.removeprefix("pip install -e . && ")
    command = re.sub(r"--(steps|minutes|hidden-size|embedding-size) [\d.]+", "", command)
    if command.startswith("charlm inspect"):
        command += " --characters 500"
    if command.startswith("charlm compare"):
        command += f" {SHORT} --backbones lstm,rnn"
    if command.startswith("charlm train"):
        command += f" {'--steps 4' if '--init-from' in command else SHORT}"
    if command.startswith("charlm resume"):
        command += " --steps 6"
    return command


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The start of the texts that a reader has before them, to work in."""
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    for name in ("english", "chinese"):
        text = (ROOT / "corpora" / f"{name}.txt").read_text("utf-8")
        (corpora / f"{name}.txt").write_text(text[:12_000], encoding="utf-8")
    shutil.copy(corpora / "english.txt", corpora / "tiny-shakespeare.txt")
    monkeypatch.setattr(figures, "GENERATING_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("readme", "least"), [("README.md", 8), ("checkpoints/README.md", 5), ("corpora/README.md", 3)]
)
def test_every_command_and_all_python_runs_in_order(checkout, readme, least):
    commands = 0
    for language, block in blocks(readme):
        if language == "python":
            sizes = "steps=4, embedding_size=8, hidden_size=12, "
            block = re.sub(r"steps=\d+, ", sizes, block)
            assert "charlm.train(" not in block or sizes in block
            exec(compile(block, readme, "exec"), {})
            continue
        for command in filter(None, map(shortened, block.splitlines())):
            program, *words = shlex.split(command)
            assert program == "charlm"
            assert main(words) == 0, command
            commands += 1
    assert commands >= least


def test_the_cell_of_the_page_for_contributors_trains(checkout, monkeypatch):
    monkeypatch.setitem(CELLS, "leaky", None)  # taken back after the test
    (python,) = [block for language, block in blocks("charlm/README.md") if language == "python"]
    namespace = {"__name__": "leaky_of_the_page"}
    monkeypatch.setitem(sys.modules, "leaky_of_the_page", types.ModuleType("leaky_of_the_page"))
    exec(compile(python, "charlm/README.md", "exec"), namespace)
    CELLS["leaky"] = namespace["Leaky"]
    words = ["train", "corpora/english.txt", *SHORT.split(), "--backbone", "leaky", "--out", "run"]
    assert main(words) == 0
    assert main(["generate", "run", "-l", "5"]) == 0


def test_the_program_of_the_page_on_export_continues_a_text(checkout, capsys):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert main(["export", str(ROOT / "tests/data/golden-lstm.safetensors"), "model.onnx"]) == 0
    (python,) = [block for language, block in blocks("charlm/export/README.md") if "py" in language]
    assert len([line for line in python.splitlines() if line.strip()]) <= 15
    exec(compile(python, "charlm/export/README.md", "exec"), {})
    text = capsys.readouterr().out
    assert text.startswith("The sea ")
    assert len(text) == 301


def test_only_known_commands_are_not_run():
    for readme in [*READMES, "tests/README.md"]:
        for language, block in blocks(readme):
            for line in block.splitlines() if language == "bash" else ():
                known = line in ELSEWHERE or line.split()[0] == "charlm" or "&& charlm" in line
                # What asks a server is run by test_server_clients.py.
                assert known or (readme == "charlm/server/README.md" and line[:5] == "curl ")


def test_the_python_of_the_front_page_is_six_lines():
    (block,) = [block for language, block in blocks("README.md") if language == "python"]
    assert len([line for line in block.splitlines() if line.strip()]) == 6


def test_the_front_page_is_short_and_the_set_up_comes_before_any_table():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 200
    assert text.index("## Set up") < text.index("\n|")


def test_the_set_up_commands_are_those_of_the_mission_and_of_ci():
    commands = "\n".join(block for _, block in blocks("README.md"))
    assert "pip install -e . && charlm train corpora/english.txt" in commands
    assert "pip install -e '.[test]' && pytest" in commands
    assert "pip install -e '.[test]' && pytest" in CI


def test_the_tree_on_the_page_for_contributors_is_the_tree():
    tree = re.search(r"```text\ncharlm/\n(.*?)```", text_of("charlm/README.md"), re.DOTALL)[1]
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    here = {path.name for path in (ROOT / "charlm").rglob("*.py")}
    assert named <= here
    short = {"cells", "cli", "evaluation"}  # folders that are described as a whole
    folders = [path for path in (ROOT / "charlm").iterdir() if path.is_dir()]
    for folder in (path for path in folders if path.name not in {*short, "__pycache__"}):
        assert {path.name for path in folder.glob("*.py")} - {"__init__.py"} <= named, folder


def test_every_link_leads_somewhere():
    for readme in [*READMES, "tests/README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", text_of(readme)):
            if "://" not in target:
                assert ((ROOT / readme).parent / target).exists(), (readme, target)


@pytest.mark.parametrize("name", ["english", "chinese"])
def test_the_texts_are_those_of_the_table(name):
    data = (ROOT / "corpora" / f"{name}.txt").read_bytes()
    text = data.decode()
    row = next(r for r in text_of("corpora/README.md").splitlines() if f"/{name}.txt`" in r)
    cells = [cell.strip() for cell in row.split("|")]
    digest = hashlib.sha256(data).hexdigest()
    assert cells[3:6] == [f"{len(text):,}", f"{len(set(text)):,}", f"`{digest}`"]
