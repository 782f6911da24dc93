"""Install charlm as others do, and use it from another folder: not editable, from its wheel.

Each environment is a fresh one. What charlm needs is linked into it from the environment of this
program, so nothing is downloaded; with ``--download``, pip installs it with the command of the
README for who only generates. The last line of the output is a JSON object.

    python tests/reliability/install.py
    python tests/reliability/install.py --download --python python3.12 --python python3.13
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAM = Path(__file__).parent / "typed_program.py"
MODEL = ROOT / "tests" / "data" / "golden-lstm.safetensors"
NO_TORCH = "charlm: error: training and evaluating need torch, which is not installed: "


def run(*words: object, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command that must end with this status, without the caller's path to charlm."""
    hidden = ("PYTHONPATH", "MYPYPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["OMP_NUM_THREADS"] = "1"  # nets this small are faster on one thread
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done


def build(folder: Path) -> Path:
    """Return the wheel, built in ``folder``."""
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    run(
        sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", *isolation, "-w", folder,
        folder=folder,
    )  # fmt: skip
    (wheel,) = folder.glob("charlm-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "charlm").rglob("*.py")}
    assert {*sources, "charlm/py.typed"} <= set(names)
    assert not any(name.startswith("tests/") for name in names)
    return wheel


def readme_packages() -> list[str]:
    """Return what the README installs for who only generates, beside charlm itself."""
    text = (ROOT / "README.md").read_text("utf-8")
    (packages,) = re.findall(r"`pip install (.*) && pip install --no-deps \.`", text)
    return str(packages).split()


class Environment:
    """A fresh environment with the wheel in it."""

    def __init__(self, folder: Path, python: str, wheel: Path):
        self.folder = folder
        run(python, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
        self.python = folder / "venv" / "bin" / "python"
        self.pip("--no-deps", wheel)

    def pip(self, *words: object) -> None:
        """Install packages."""
        own = [sys.executable, "-m", "pip", "--python", self.python, "install", "-q"]
        run(*own, *words, folder=self.folder)

    def link(self, names: list[str] | None = None) -> None:
        """Let it import packages of this program's environment: these, or all."""
        shown = Path(sysconfig.get_path("purelib"))
        if names is not None:
            linked = self.folder / "linked"
            linked.mkdir()
            for name in names:
                for file in importlib.metadata.files(name) or ():
                    top = file.parts[0]
                    if top != ".." and not (linked / top).exists():
                        (linked / top).symlink_to(shown / top)
            shown = linked
        (site,) = (self.folder / "venv").glob("lib/python*/site-packages")
        (site / "linked.pth").write_text(f"{shown}\n")

    def charlm(self, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the installed command."""
        return run(self.python.parent / "charlm", *words, folder=self.folder, status=status)


def check_without_torch(environment: Environment) -> str:
    """Generate and score, and see what the rest says; return the version of Python."""
    assert "torch" not in run(
        environment.python, "-c", "from charlm import *; import sys; print(*sys.modules)",
        folder=environment.folder,
    ).stdout.split()  # fmt: skip
    (environment.folder / "text.txt").write_text("The sea was calm. " * 40)
    assert environment.charlm("generate", MODEL, "-l", 30, "--seed", 1).stdout.strip()
    assert "bits" in environment.charlm("score", MODEL, "text.txt").stdout
    for words in (["train", "text.txt"], ["resume", MODEL], ["evaluate", MODEL, "text.txt"]):
        done = environment.charlm(*words, status=1)
        assert done.stderr.startswith(NO_TORCH), done.stderr
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    code = "import charlm\ntry: charlm.train('text.txt')\nexcept ImportError as e: print(e)"
    assert (
        "pip install torch" in run(environment.python, "-c", code, folder=environment.folder).stdout
    )
    return run(environment.python, "-V", folder=environment.folder).stdout.strip()


def check_with_torch(environment: Environment, *, quick: bool) -> bool:
    """Run the typed program; return whether it was checked too, which takes mypy half a minute."""
    where = "import charlm; print(charlm.__file__)"
    assert "site-packages" in run(environment.python, "-c", where, folder=environment.folder).stdout
    (environment.folder / "text.txt").write_text("a bad cab\n" * 300)
    done = run(environment.python, PROGRAM, "text.txt", folder=environment.folder)
    assert done.stdout.splitlines()[-1] == "8 texts, 10 refusals", done.stdout
    assert "lstm" in environment.charlm("info", "run").stdout
    if quick:
        return False
    options = ["--strict", "--python-executable", environment.python, "--cache-dir", "cache"]
    checked = run(sys.executable, "-m", "mypy", *options, PROGRAM, folder=environment.folder)
    assert "no issues found" in checked.stdout, checked.stdout
    return True


def main() -> None:
    """Check each environment that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", default=[], help="an interpreter (this one)")
    parser.add_argument("--quick", action="store_true", help="leave mypy out")
    parser.add_argument("--download", action="store_true", help="let pip install what is needed")
    arguments = parser.parse_args()
    found: dict[str, object] = {"without_torch": []}
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        wheel = build(top)
        versions = []
        for number, python in enumerate(arguments.python or [sys.executable]):
            folder = top / f"without-{number}"
            folder.mkdir()
            environment = Environment(folder, python, wheel)
            if arguments.download:
                environment.pip(*readme_packages())
            else:
                environment.link(readme_packages())
            versions.append(check_without_torch(environment))
        found["without_torch"] = versions
        folder = top / "with-torch"
        folder.mkdir()
        environment = Environment(folder, sys.executable, wheel)
        environment.link()
        found["typed"] = check_with_torch(environment, quick=arguments.quick)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
