import io
import tomllib
import urllib.error
import urllib.request

import pytest
from conftest import ROOT

from charlm.data import downloads
from charlm.errors import CorpusError


def test_the_python_library_is_a_large_text_without_tests():
    text = downloads.python_library()
    assert len(text) > 3_000_000
    assert "\0" not in text
    assert "def loads(s, *, cls=None" in text  # json
    assert "class TestCase(" in text  # unittest itself belongs to the library
    assert "class Test_TestCase(" not in text  # its own tests do not
    assert text == downloads.python_library()


def test_without_a_network_shakespeare_is_one_clear_line(monkeypatch):
    def no_network(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(
        CorpusError, match=r"cannot download https://\S+: Name or service not known"
    ):
        downloads.shakespeare()


def test_another_text_in_its_place_is_refused(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"First Folio"))
    with pytest.raises(CorpusError, match="has changed: its sha256 is"):
        downloads.shakespeare()


def test_the_wheel_holds_the_shipped_texts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    shipped = [f"corpora/{downloads.SAMPLE_TEXTS[key].file_name}" for key in ("chinese", "english")]
    assert wheel["sources"] == {"corpora": "charlm/corpora"}
    assert sorted(wheel["only-include"]) == ["charlm", *shipped]


@pytest.mark.parametrize(("name", "width"), [("english.txt", 40), ("chinese.txt", 12)])
def test_shipped_texts_do_not_repeat_themselves(name, width):
    text = (ROOT / "corpora" / name).read_text("utf-8")
    pieces = [text[i : i + width] for i in range(len(text) - width)]
    assert len(set(pieces)) > 0.999 * len(pieces)
