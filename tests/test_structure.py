"""The house: which room may import which, and what third-party code each may touch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DATA, ROOT

import charlm

PACKAGE = ROOT / "charlm"

# A room imports only from rooms above it. Beside it: the third-party code that it may touch.
LAW = {
    "errors": set(),
    "cells": set(),
    "config": set(),
    "recipes": set(),
    "sources": set(),
    "scan": {"numpy"},
    "tokenizer": {"numpy"},
    "corpus": {"numpy"},
    "checkpoint": {"numpy", "safetensors"},
    "texts": {"numpy"},
    "readings": {"numpy", "safetensors"},
    "generation": {"numpy"},
    "engine": {"numpy"},
    "scoring": {"numpy"},
    "writing": {"numpy"},
    "baselines": {"numpy"},
    "memorization": {"numpy"},
    "windows": {"torch"},
    "processes": {"torch"},
    "backbones": {"torch"},
    "model": {"torch", "numpy"},
    "evaluation": {"torch", "numpy"},
    "dynamic": {"torch", "numpy"},
    "machine": {"torch"},
    "optimizer": {"torch"},
    "training": {"torch", "numpy"},
    "locks": set(),
    "folders": set(),
    "runs": {"torch", "numpy"},
    "api": {"numpy"},
    "cli": {"tqdm"},
}


def sources(room):
    folder = PACKAGE / room
    return sorted(folder.glob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def imported(path):
    """Yield the dotted name of everything that a file imports, at its top or inside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "charlm":
            yield from (f"charlm.{alias.name}" for alias in node.names if alias.name in LAW)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_room_stands_in_the_law():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__main__", "__pycache__"} == set(LAW)


@pytest.mark.parametrize("room", LAW)
def test_a_room_imports_only_what_the_law_allows(room):
    above = list(LAW)[: list(LAW).index(room)]
    for path in sources(room):
        for name in imported(path):
            top, _, rest = name.partition(".")
            if top == "charlm":
                assert not rest or rest.split(".")[0] in [*above, room], f"{path}: {name}"
            elif top not in sys.stdlib_module_names:
                assert top in LAW[room], f"{path}: {name}"


def test_the_top_level_holds_six_names_and_dotfiles():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "charlm" in names
    allowed = {"pyproject.toml", "README.md", "charlm", "corpora", "checkpoints", "tests"}
    assert {name for name in names if not name.startswith(".")} <= allowed


def test_no_pickle_anywhere():
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"import pickle|torch\.(load|save)\(", path.read_text("utf-8")), path


def loaded_after(code):
    program = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.split())


def test_importing_charlm_imports_neither_torch_nor_numpy():
    assert not {"torch", "numpy"} & loaded_after("import charlm")


def test_help_imports_neither_torch_nor_numpy():
    code = "from charlm.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass"
    assert not {"torch", "numpy", "tqdm"} & loaded_after(code)


@pytest.mark.parametrize(
    "command", [["generate", "-l", "20"], ["score", "FILE"], ["memorized", "FILE", "-l", "20"]]
)
def test_writing_and_scoring_import_no_torch(command):
    verb, *rest = [str(ROOT / "corpora" / "english.txt") if w == "FILE" else w for w in command]
    words = [verb, str(DATA / "format-1-rnn.safetensors"), *rest]
    code = f"from charlm.cli import main\nassert main({words!r}) == 0"
    loaded = loaded_after(code)
    assert "torch" not in loaded
    assert "numpy" in loaded


def test_all_names_the_public_names():
    assert all(getattr(charlm, name) is not None for name in charlm.__all__)
    assert dir(charlm) == sorted(charlm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        charlm.nothing  # noqa: B018


def test_rooms_stay_small():
    for path in PACKAGE.rglob("*.py"):
        assert len(Path(path).read_text("utf-8").splitlines()) <= 400, path
