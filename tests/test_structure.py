"""The structure: which package may import which, and what third-party code each may touch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DATA, QUICK_FLAGS, ROOT

import charlm

PACKAGE = ROOT / "charlm"

# From the ground floor up: packages and modules, each with the third-party code that it may touch.
# Each imports only from itself and from floors below its own; those of one floor do not know each
# other.
FLOORS = [
    {"errors": set(), "suggestions": set()},
    {"settings": set(), "files": set()},
    {"cells": set()},
    {"config": set(), "tensor_file": {"numpy", "safetensors"}},
    {"quantization": {"numpy"}},
    {"data": {"numpy"}, "model": {"torch", "numpy"}, "keywords": set()},
    {"checkpoint": set()},
    {"inference": {"numpy"}},
    {"integer": {"numpy"}},
    {"evaluation": {"numpy", "torch"}, "insight": {"numpy", "torch"}},
    {"training": {"torch", "numpy"}, "export": {"numpy", "onnx"}},
    {"api": {"numpy"}},
    {"runs": set(), "server": {"starlette", "uvicorn", "anyio", "threadpoolctl", "numpy"}},
    {"cli": {"tqdm", "matplotlib", "shtab"}, "llm_plugin": {"llm", "pydantic"}},
]
LAW = {room: allowed for floor in FLOORS for room, allowed in floor.items()}


def files_of(room):
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def imported(path):
    """Yield the dotted name of everything that a file imports, at its top or inside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name if is_module(name) else node.module for name in names]


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_room_stands_in_the_law():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__main__", "__pycache__"} == set(LAW)


@pytest.mark.parametrize("room", LAW)
def test_a_room_imports_only_what_the_law_allows(room):
    level = next(number for number, floor in enumerate(FLOORS) if room in floor)
    below = {name for floor in FLOORS[:level] for name in floor}
    for path in files_of(room):
        for name in imported(path):
            top, _, rest = name.partition(".")
            if top == "charlm":
                assert not rest or rest.split(".")[0] in {*below, room}, f"{path}: {name}"
            elif top not in sys.stdlib_module_names:
                assert top in LAW[room], f"{path}: {name}"


def test_no_two_files_import_each_other():
    """No circle of files, within the packages either; imports inside functions count too."""
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    imports = {name: {n for n in imported(path) if n in graph} for name, path in graph.items()}
    while leaves := [name for name, needed in imports.items() if not needed]:
        for leaf in leaves:
            del imports[leaf]
        imports = {name: needed - set(leaves) for name, needed in imports.items()}
    assert not imports


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
    "command", [["generate", "-l", "20"], ["score", "FILE"], ["overlap", "FILE", "-l", "20"]]
)
def test_writing_and_scoring_import_no_torch(command):
    verb, *rest = [str(ROOT / "corpora" / "english.txt") if w == "FILE" else w for w in command]
    words = [verb, str(DATA / "golden-rnn.safetensors"), *rest]
    code = f"from charlm.cli import main\nassert main({words!r}) == 0"
    loaded = loaded_after(code)
    assert "torch" not in loaded
    assert "numpy" in loaded


def test_training_does_not_import_the_compiler_of_torch(workplace):
    """Which nothing uses; the first step would wait for it as long as for torch itself."""
    words = ["train", str(workplace / "text.txt"), *QUICK_FLAGS]
    trainings = [
        [*words, "--optimizer", name, "--out", str(workplace / name)] for name in ("adamw", "soap")
    ]
    program = f"from charlm.cli import main\nassert [main(t) for t in {trainings!r}] == [0, 0]"
    loaded = loaded_after(program)
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded


def test_all_names_the_public_names():
    assert all(getattr(charlm, name) is not None for name in charlm.__all__)
    assert dir(charlm) == sorted(charlm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        charlm.nothing  # noqa: B018


def test_rooms_stay_small():
    for path in PACKAGE.rglob("*.py"):
        assert len(Path(path).read_text("utf-8").splitlines()) <= 400, path
