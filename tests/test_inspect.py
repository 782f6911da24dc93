"""An inspection from the command line and from Python: its panels, its page, its errors."""

import json

import numpy as np
import pytest
from conftest import BACKBONES, DATA, H, L, one_line, words
from test_insight_reading import TEXT, model

from charlm.errors import CharlmError

PANELS = ["model", "text", "surprise", "neurons", "memory", "gradients", "connectivity"]
PANELS += ["gates", "matching"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_inspection_has_every_panel(backbone):
    lm = model(*backbone)
    figures, bits = lm.inspect(TEXT, source="text.txt").to_dict(), lm.score(TEXT)
    json.dumps(figures, allow_nan=False)
    assert set(PANELS) < set(figures)
    assert figures["surprise"]["bits"] == pytest.approx(bits, abs=1e-3)
    assert figures["surprise"]["sum"] == pytest.approx(bits.sum(), rel=1e-4)
    most = figures["surprise"]["most"]
    assert len(most) == 20
    assert figures["surprise"]["bits"][most[0]] == max(figures["surprise"]["bits"])
    assert figures["text"]["text"] == TEXT
    arrays = figures["neurons"]["excerpt"]["arrays"]
    assert {(one["layer"], one["array"]) for one in arrays} == {
        (layer, name)
        for layer in range(1, L + 1)
        for name in (*lm.config.cell.state_shapes(H), *lm.config.cell.gate_names)
    }
    if backbone[0] == "rnn":
        assert figures["gates"]["left_out"] == "The cell rnn has no gates."
    else:
        for gate in figures["gates"]["gates"]:
            assert len(gate["shut"]) == H
            assert all(0 <= a + b <= 1 for a, b in zip(gate["shut"], gate["open"], strict=True))
    assert "h' =" in figures["model"]["equations"]
    assert len(figures["matching"]["codes"]) == len(TEXT)


def test_a_short_text_leaves_panels_out_and_says_why():
    figures = model().inspect(TEXT[:40]).to_dict()
    assert "40 characters" in figures["memory"]["left_out"]
    assert "40 characters" in figures["gradients"]["left_out"]
    assert "40 characters" in figures["neurons"]["why"]
    assert len(figures["connectivity"]["values"]) == 40
    assert len(model().inspect("a").to_dict()["surprise"]["most"]) == 1


def test_a_long_text_is_cut_and_that_is_said():
    inspection = model().inspect(TEXT * 2, characters=2100)
    text = inspection.figures["text"]
    assert (text["characters"], text["total"]) == (2100, 2 * len(TEXT))
    assert text["notices"] == [f"the first 2,100 of {2 * len(TEXT):,} characters"]
    assert "up to 2,000 characters" in inspection.figures["connectivity"]["left_out"]
    assert repr(inspection).startswith("Inspection(2,100 characters, ")


def test_a_model_of_items_leaves_out_what_has_no_meaning():
    text = "".join(f"{line}\n" for line in words(400, seed=2).split())
    figures = model("gru", items=True, text=text).inspect(text).to_dict()
    for panel in ("memory", "gradients", "connectivity"):
        assert "each item" in figures[panel]["left_out"]


def test_units_and_patterns_of_the_user():
    inspection = model().inspect(TEXT, units=["2.c.7", "1.o.0"], concepts=["a[bc]"])
    painted = inspection.figures["neurons"]["painted"]
    assert [(one["layer"], one["array"], one["index"]) for one in painted[:2]] == [
        (2, "c", 7),
        (1, "o", 0),
    ]
    assert painted[0]["values"] == pytest.approx(inspection.reading.states["c"][:, 1, 7])
    assert inspection.figures["neurons"]["concepts"][-1]["name"] == "matches a[bc]"


def test_the_same_again_gives_the_same():
    one, other = (model().inspect(TEXT).to_dict() for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": ["2.x.7"]}, "unit=2.x.7 names no unit of this model"),
        ({"units": ["3.c.7"]}, "a layer from 1 to 2"),
        ({"units": ["1.c.11"]}, "a number from 0 to 10"),
        ({"units": ["1.c.-1"]}, "names no unit"),
        ({"concepts": ["("]}, "is not a regular expression"),
        ({"concepts": ["a{99999999999}"]}, "is not a regular expression"),
        ({"concepts": ["(" * 3000 + ")" * 3000]}, "is not a regular expression"),
        ({"units": ["1.h." + "9" * 5000]}, "names no unit"),
        ({"characters": 0}, "characters must be a whole number from 1 on"),
        ({"on_progress": 3}, "on_progress must be a function"),
    ],
)
def test_what_python_gets_wrong(arguments, message):
    with pytest.raises(CharlmError) as error:
        model().inspect(TEXT, **arguments)
    assert message in str(error.value)


def test_progress_is_told_by_part():
    told = []
    model().inspect(TEXT, on_progress=lambda part, share: told.append((part, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    parts = list(dict.fromkeys(part for part, _ in told))
    assert parts == ["reading", "neurons", "memory", "gradients", "connectivity", "done"]


GOLDEN = DATA / "golden-lstm.safetensors"


def known_text(count):
    """Return a text of the characters that the golden models know."""
    from charlm.api import load

    vocabulary = sorted(load(GOLDEN).tokenizer.vocabulary)
    return "".join(np.random.default_rng(5).choice(vocabulary, count))


def test_the_command_writes_a_page_and_a_summary(run, workplace):
    (workplace / "play.txt").write_text(known_text(1500), encoding="utf-8")
    status, out, err = run("inspect", GOLDEN, "play.txt")
    assert status == 0, err
    assert (workplace / "golden-lstm-play.html").read_text("utf-8").startswith("<!doctype html>")
    assert out.startswith("surprise ")
    assert "page golden-lstm-play.html" in err
    status, out, _ = run("inspect", GOLDEN, "play.txt", "--json", "--characters", 700)
    assert status == 0
    assert len(json.loads(out)["surprise"]["bits"]) == 700
    before = (workplace / "golden-lstm-play.html").stat().st_mtime_ns
    assert run("inspect", GOLDEN, "play.txt", "--characters", 300)[0] == 0  # its own page
    assert (workplace / "golden-lstm-play.html").stat().st_mtime_ns != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "page.txt"], "must end with .html"),
        (["-o", "folder.html"], "is a folder"),
        (["-o", "mine.html"], "charlm did not write it"),
        (["-o", "nowhere/page.html"], "there is no folder to write to"),
        (["--unit", "7"], "--unit 7 names no unit of this model"),
        (["--concept", "["], "--concept [ is not a regular expression"),
        (["--characters", "0"], "--characters must be a whole number from 1 on"),
    ],
)
def test_what_the_command_line_gets_wrong(run, workplace, words, message):
    (workplace / "play.txt").write_text(known_text(300), encoding="utf-8")
    (workplace / "folder.html").mkdir()
    (workplace / "mine.html").write_text("<p>mine</p>")
    before = sorted(workplace.iterdir())
    status, out, err = run("inspect", GOLDEN, "play.txt", *words)
    one_line(status, out, err, 1)
    assert message in err
    assert sorted(workplace.iterdir()) == before
    assert (workplace / "mine.html").read_text() == "<p>mine</p>"


def test_unknown_characters_are_named_or_replaced(run, workplace):
    (workplace / "play.txt").write_text(known_text(300) + "漢", encoding="utf-8")
    status, out, err = run("inspect", GOLDEN, "play.txt")
    one_line(status, out, err, 1)
    assert "漢" in err
    assert not (workplace / "golden-lstm-play.html").exists()
    status, _, err = run("inspect", GOLDEN, "play.txt", "--unknown", "skip")
    assert status == 0
    assert "1 left out: 漢 (1)" in err
