import builtins
import pickle
import re
from pathlib import Path

import pytest
from conftest import ROOT, words

import charlm
from charlm import errors
from charlm.cli.parser import as_flag, as_flags
from charlm.errors import ConfigError, argument, written

ERRORS = errors.CharlmError.__subclasses__()


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_also_a_builtin_one(error):
    assert any(getattr(builtins, base.__name__, None) is base for base in error.__bases__)


@pytest.mark.parametrize("error", ERRORS)
def test_the_tree_in_the_docstring_names_every_error(error):
    assert f"{error.__name__} " in errors.__doc__


def test_a_message_names_arguments_from_python_and_flags_on_the_command_line():
    error = ConfigError(f"lower {argument('batch_size')}, or set {argument('min_count', 2)}")
    assert str(error) == "lower batch_size, or set min_count=2"
    assert error.written(as_flag) == "lower --batch-size, or set --min-count 2"
    assert written(argument("items", False), as_flag) == "--no-items"
    assert error.args == (str(error),)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_setting_out_of_bounds_is_named_in_the_words_of_the_caller(run):
    with pytest.raises(ConfigError, match=r"^hidden_size must be at least 1"):
        charlm.ModelConfig(hidden_size=0)
    err = run("train", "text.txt", "--hidden-size", 0)[2]
    assert err == "charlm: error: --hidden-size must be at least 1 (got 0)\n"


def test_notices_name_settings_in_the_words_of_the_caller(run, capsys):
    Path("list.txt").write_text("\n".join(sorted(set(words(600).split()))))
    sizes = {"steps": 1, "hidden_size": 4, "embedding_size": 3}
    err = " ".join(run("train", "list.txt", *as_flags(sizes))[2].split())
    assert re.search("--batch-size [0-9]+.*; --no-items learns it .* --precision [a-z]", err)
    charlm.train("list.txt", verbose=True, **sizes)
    err = capsys.readouterr().err
    assert re.search(r"batch_size=[0-9](.|\n)*; items=False learns(.|\n)*; precision=[a-z]", err)
    assert not re.search("--|\0", err)


def test_only_the_command_line_speaks_of_flags():
    """Of what an error says to someone in Python, a flag is no part but in whole commands."""
    for path in (ROOT / "charlm").rglob("*.py"):
        if "cli" not in path.parts:
            for line in path.read_text("utf-8").splitlines():
                whole = ("on the command line", "_command}", "did you mean")
                assert not re.search(r"[ (]--[a-z]", line) or any(w in line for w in whole), path
