"""The page of a comparison in a real browser: its figures are those of Python, and no text runs."""

from pathlib import Path

import pytest
from chromium import browser, pytestmark, show  # noqa: F401
from conftest import QUICK
from inspection import HOSTILE, HOSTILE_NAME

from charlm.config import CompareConfig
from charlm.training import figures
from charlm.training.comparison import Comparison


@pytest.fixture
def comparison(workplace, monkeypatch):
    """Two backbones and two seeds, trained for a moment on a hostile text."""
    monkeypatch.setattr(figures, "GENERATING_SECONDS", 0.01)
    name = HOSTILE_NAME.replace("/", "_")
    text = HOSTILE.replace("\0", "")  # no text that is trained on holds it
    Path(name).write_text(text * 60, encoding="utf-8", newline="")
    config = CompareConfig(backbones="rnn,gru", seeds=2)
    found = Comparison.open([name], config, out="all", **QUICK)
    for member in found.left():
        for _ in found.train(member):
            pass
    held_out = figures.held_out_text(found)
    for member in figures.measured(found):
        figures.measure(found, member, held_out, HOSTILE[:90])
    figures.conclude(found)
    return found


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_shows_the_figures_and_runs_nothing(comparison, show, width):
    page = show(Path("all/compare.html").read_text("utf-8"), width=width)
    table, document = comparison.document["table"], comparison.document
    cells = page.locator("#verdict tbody tr").first.locator("td").all_inner_texts()
    assert cells == [f"{row['nats']:.4f}" for row in table]
    assert document["verdict"]["sentences"][0] == page.locator("#verdict strong").inner_text()
    assert page.locator("#curves .chart").count() == 2
    assert page.locator("#curves .legend").first.locator("li").all_inner_texts() == ["rnn", "gru"]
    assert page.locator("#curves polyline.line").count() >= 2 * 4
    for panel in ("gradients", "memory"):
        assert page.locator(f"#{panel} .chart").count() == 1
    assert page.locator("#samples pre").count() == 2
    assert page.locator("img, iframe").count() == 0
    inside = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert inside, "the page must not scroll sideways"
