import builtins

import pytest

from charlm import errors

ERRORS = errors.CharlmError.__subclasses__()


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_also_a_builtin_one(error):
    assert any(getattr(builtins, base.__name__, None) is base for base in error.__bases__)


@pytest.mark.parametrize("error", ERRORS)
def test_the_tree_in_the_docstring_names_every_error(error):
    assert f"{error.__name__} " in errors.__doc__
