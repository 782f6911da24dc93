"""The plug-in for the command ``llm``, found by its entry point and run by llm itself."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import DATA, ROOT

import charlm

pytestmark = pytest.mark.skipif(find_spec("llm") is None, reason="llm is not installed")

SETTINGS = {"length": 30, "seed": 3}
FLAGS = ["-o", "max_tokens", "30", "-o", "seed", "3"]


@pytest.fixture
def checkout(workplace, monkeypatch):
    """A folder with one run, another folder without one, and charlm as if it were installed."""
    run = workplace / "checkpoints" / "story"
    run.mkdir(parents=True)
    (run.parent / "empty").mkdir()
    shutil.copy(DATA / "golden-lstm.safetensors", run / "best.safetensors")
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    info = workplace / "site" / "charlm-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: charlm\nVersion: 9\n")
    lines = [f"{name} = {module}" for name, module in entries["llm"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[llm]", *lines]))
    monkeypatch.setenv("PYTHONPATH", f"{info.parent}{os.pathsep}{ROOT}")
    monkeypatch.setenv("LLM_USER_PATH", str(workplace / "llm"))
    return workplace


def llm(*words, status=0):
    result = subprocess.run(
        [sys.executable, "-m", "llm", *words],
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


def test_llm_finds_the_runs_writes_with_them_and_goes_on_with_a_conversation(checkout):
    lm = charlm.load(checkout / "checkpoints" / "story")
    text = lm.generate("The sea ", **SETTINGS)
    assert llm("-m", "charlm/story", "The sea ", *FLAGS) == f"{text}\n"
    more = lm.generate(f"The sea {text}and ", stop="e", temperature=1.5, **SETTINGS)
    assert llm("-c", "and ", *FLAGS, "-o", "stop", "e", "-o", "temperature", "1.5") == f"{more}\n"
    error = llm("-m", "charlm/story", "naïve", status=1)
    assert error.startswith("Error: character 'ï' (U+00EF) at position 2")
    assert len(error.splitlines()) == 1


IN_LLM = """
import sys
import charlm.llm_plugin
assert not {"torch", "charlm.api"} & set(sys.modules)
import llm
assert [m.model_id for m in llm.get_models() if "charlm" in m.model_id] == ["charlm/story"]
model = llm.get_model("charlm/story")
pieces = list(model.prompt("The sea ", max_tokens=30, seed=3))
assert len(pieces) == 30
assert "torch" not in sys.modules
response = model.prompt("The sea ", max_tokens=30, seed=3, stream=False)
assert response.text() == "".join(pieces)
assert response.response_json == {"seed": 3, "stopped": "length"}
assert response.usage().input == 8 and response.usage().output == 30
talk = model.conversation()
first = talk.prompt("The sea ", max_tokens=5, seed=1).text()
second = talk.prompt("and ", max_tokens=5, seed=2).text()
import charlm
assert second == charlm.load("story").generate(f"The sea {first}and ", length=5, seed=2)
for options, message in (
    (dict(system="be kind"), "put the system prompt before it"),
    (dict(temperature=-1), "-o temperature must be at least 0"),
    (dict(max_tokens=0), "-o max_tokens must be at least 1"),
    (dict(unknown="never"), "-o unknown must be one of error, skip, nearest"),
):
    try:
        model.prompt("The", **options).text()
    except llm.ModelError as error:
        assert message in str(error) and "\\n" not in str(error), error
    else:
        raise AssertionError(options)
assert len(model.prompt("naïve", unknown="nearest", max_tokens=7).text()) == 7
"""


def test_llm_uses_a_run_from_python(checkout):
    subprocess.run([sys.executable, "-c", IN_LLM], check=True, timeout=120)


def test_charlm_does_not_need_llm(checkout):
    code = (
        "import sys; sys.modules['llm'] = None\nfrom charlm.cli import main\n"
        "sys.exit(main(['generate', 'story', '-l', '5']))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    for path in Path(ROOT, "charlm").rglob("*.py"):
        assert path.stem == "llm_plugin" or "llm_plugin" not in path.read_text("utf-8")
