"""``completion``: scripts for shells, tried in the shells that are there."""

import shutil
import subprocess

import pytest
from conftest import one_line

from charlm.cli import VERBS
from charlm.cli.completion import SHELLS
from charlm.cli.parser import make_parser


@pytest.fixture
def script(run, workplace):
    """Return a file with the script for a shell, in a folder with runs and files."""
    pytest.importorskip("shtab", reason="the extra completion is not installed")
    for name in ("english", "english-2", "two words"):
        (workplace / "checkpoints" / name).mkdir(parents=True)
    (workplace / "novel.txt").touch()

    def script(shell):
        status, out, err = run("completion", shell)
        assert (status, err) == (0, "")
        (workplace / f"script.{shell}").write_text(out, encoding="utf-8")
        return workplace / f"script.{shell}"

    return script


def shell(name, *words):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, *words], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", SHELLS)
def test_each_script_is_valid_and_holds_every_verb_and_flag(script, name):
    path = script(name)
    text = path.read_text("utf-8")
    for verb, parser in make_parser(VERBS)[1].items():
        assert verb in text
        for action in parser._actions:
            assert all(flag.lstrip("-") in text for flag in action.option_strings), (verb, action)
    shell(name, "-n", str(path))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gen"], {"generate"}),
        (["co"], {"compare", "completion", "compress", "corpus"}),
        (["generate", "--temp"], {"--temperature"}),
        (["generate", "english", "--best"], {"--best-of"}),
        (["generate", "--unknown", "n"], {"nearest"}),
        (["generate", "eng"], {"english", "english-2"}),
        (["generate", "two"], {"two words"}),
        (["generate", "check"], {"checkpoints"}),
        (["train", "nov"], {"novel.txt"}),
        (["generate", "english", "--novel", "nov"], {"novel.txt"}),
        (["completion", "f"], {"fish"}),
    ],
)
def test_bash_and_fish_complete(script, words, expected):
    bash = (
        f". {script('bash')}\nCOMP_WORDS=(charlm {' '.join(words)})\n"
        f"COMP_CWORD={len(words)}\n_shtab_charlm 2>/dev/null\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    assert set(shell("bash", "--norc", "-c", bash).splitlines()) == expected
    if shutil.which("fish"):
        code = f'source {script("fish")}; complete -C "charlm {" ".join(words)}"'
        found = {
            line.split("\t")[0].rstrip("/") for line in shell("fish", "-N", "-c", code).splitlines()
        }
        assert expected <= {name.replace("\\", "") for name in found}


def test_bash_binds_the_command_to_the_function(script):
    bound = shell("bash", "--norc", "-c", f". {script('bash')}\ncomplete -p charlm")
    assert "_shtab_charlm charlm" in bound


def test_without_the_package_one_line_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    status, out, err = run("completion", "bash")
    one_line(status, out, err, expected=1)
    assert "pip install 'charlm[completion]'" in err


def test_another_shell_is_refused(run):
    status, out, err = run("completion", "tcsh")
    one_line(status, out, err, expected=2)
    assert "bash" in err
