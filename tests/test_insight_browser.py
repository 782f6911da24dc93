"""The page of an inspection in a real browser: read, hover, click, keys, figures, hostile texts.

These need Chromium and the extra ``browser``: pip install -e '.[browser]' && pytest -m browser -n 0
"""

import numpy as np
import pytest
from chromium import browser, pytestmark, show, sync_api  # noqa: F401
from conftest import PLAIN
from inspection import HOSTILE, HOSTILE_NAME, inspection
from test_insight_reading import TEXT as READ
from test_insight_reading import model

from charlm.insight.matching import matches
from charlm.insight.page import render, repr_html

PANELS = ["surprise", "neurons", "memory", "gradients", "gates", "connectivity", "matching"]
TEXT = "First Citizen:\nBefore we proceed any further,\n\thear me speak.\n\n" * 4


def character(page, place):
    """Return the element of a character of the text."""
    return page.evaluate_handle(f"view.spans[{place}]").as_element()


def readout(page):
    return page.locator(".readout").inner_text()


def places_of(buttons):
    return [int(button.get_attribute("data-place")) for button in buttons.all()]


def test_every_panel_has_its_words_and_its_equation(show):
    page = show(render("inspect", inspection(TEXT)))
    assert page.title() == "english: what it has learned"
    header = page.locator("header").inner_text()
    assert "lstm, 2 × 7 units, 2,123,456 parameters" in header
    assert "play.txt" in header
    assert "the first characters of a longer text" in header
    for panel in page.locator(".panel").all():
        assert panel.locator("h2").inner_text()
        assert panel.locator("> p").first.inner_text().count(". ") == 1  # two sentences
        assert all(m.get_attribute("aria-label") for m in panel.locator("math").all())
        assert panel.locator("math").count() >= 1
        assert panel.locator(".content > *").count() > 0
    assert [panel.get_attribute("id") for panel in page.locator(".panel").all()] == PANELS
    assert page.locator("main, header, footer, nav, aside").count() == 5
    assert page.locator("h1").count() == 1


def test_the_figures_of_a_character_are_those_of_python(show):
    figures = inspection(TEXT)
    page = show(render("inspect", figures))
    surprise, vocabulary = figures["surprise"], figures["model"]["vocabulary"]
    for place in (0, 14, 47, len(TEXT) - 1):
        character(page, place).hover()
        bits = surprise["bits"][place]
        line = 1 + TEXT[:place].count("\n")
        assert f"place {place} of {len(TEXT)}, line {line}" in readout(page)
        assert f"{bits:.2f} bits, probability" in readout(page)
        shown = page.evaluate("(place) => likeliestAt(place)", place)
        signs = [vocabulary[i] for i in surprise["likeliest"][place]]
        assert [one["sign"] for one in shown] == signs
        expected = surprise["probabilities"][place]
        assert [one["chance"] for one in shown] == pytest.approx(expected, abs=1e-5)
        texts = page.locator("#likeliest .chance").all_inner_texts()
        percents = [float(text.strip("<\u00a0%")) for text in texts]
        assert percents == pytest.approx(100 * expected, abs=0.06)
    content = page.locator("#surprise .content").inner_text()
    assert f"{surprise['mean']:.3f} bits" in content
    assert f"{surprise['sum']:,.0f} bits" in content


def test_a_place_of_the_list_is_one_click_away_and_is_announced(show):
    figures = inspection(TEXT)
    page = show(render("inspect", figures))
    buttons = page.locator("#most button")
    assert buttons.count() == 20
    assert places_of(buttons) == figures["surprise"]["most"]
    buttons.nth(3).click()
    place = figures["surprise"]["most"][3]
    assert page.evaluate("view.cursor") == place
    assert f"place {place} of" in readout(page)
    live = page.locator("#live")
    sync_api.expect(live).to_contain_text(f"place {place} of")
    assert "likeliest: " in live.text_content()
    assert live.get_attribute("aria-live") == "polite"


def levels(page):
    """Return the colour of each character: 0 for none, below 0 for the other hue."""
    names = page.evaluate("view.spans.map((span) => span.className.split(' '))")
    return [
        next((int(n[1:]) for n in name if n[:1] == "w"), 0) * (-1 if "cold" in name else 1)
        for name in names
    ]


def test_the_text_is_coloured_by_what_is_chosen(show):
    figures = inspection(TEXT)
    page = show(render("inspect", figures))
    bits = figures["surprise"]["bits"]
    most = max(4, int(np.ceil(np.sort(bits)[int(0.98 * (len(bits) - 1))])))
    expected = np.minimum(15, 15 * bits / most)
    assert np.abs(np.array(levels(page)) - expected).max() <= 0.501

    unit = figures["neurons"]["painted"][2]
    key = f"{unit['layer']}.{unit['array']}.{unit['index']}"
    page.locator(f"#neurons button[data-paints='{key}']").first.click()
    assert np.abs(np.array(levels(page)) - 15 * unit["values"]).max() <= 0.6
    shown = page.evaluate(f"paintings.get('{key}').value(5)")
    value = float(shown.split(": ")[1].replace("−", "-"))
    assert value == pytest.approx(unit["values"][5], abs=5e-3)

    page.locator("#paint").select_option("any")
    page.locator("#any-array").select_option(label="layer 2, f")
    page.locator("#any-unit").fill("6")
    excerpt = figures["neurons"]["excerpt"]
    (array,) = [a for a in excerpt["arrays"] if (a["layer"], a["array"]) == (2, "f")]
    stored = excerpt["characters"]
    found = np.array(levels(page))
    assert np.abs(found[:stored] - 15 * array["values"][:, 6]).max() <= 0.6
    assert not found[stored:].any()
    assert "first 30 characters only" in page.locator("#scale").inner_text()

    page.locator("#paint").select_option("connectivity")
    character(page, 40).click()
    counted = figures["connectivity"]["values"][40]
    found = levels(page)
    assert np.flatnonzero(found).max() == 40 - 1
    expected = 15 * counted / counted.max()
    assert [found[39 - j] for j in range(11)] == pytest.approx(expected, abs=0.51)
    strongest = page.locator("#counted button").first.get_attribute("data-place")
    assert int(strongest) == 39 - int(counted.argmax())


def test_keys_move_the_cursor_and_mark_a_span(show):
    page = show(render("inspect", inspection(TEXT)))
    page.locator("#characters").focus()
    lines = TEXT.split("\n")
    steps = [
        ("ArrowRight", 1), ("ArrowDown", len(lines[0]) + 2), ("End", len(lines[0]) + 31),
        ("Home", len(lines[0]) + 1), ("ArrowUp", 0), ("ArrowLeft", 0),
        ("Control+End", len(TEXT) - 1), ("Control+Home", 0),
    ]  # fmt: skip
    for key, place in steps:
        page.keyboard.press(key)
        assert page.evaluate("view.cursor") == place, key
    page.keyboard.press("PageDown")
    assert page.evaluate("view.cursor") > len(lines[0])
    page.keyboard.press("PageUp")
    assert page.evaluate("view.cursor") == 0
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate("view.marked") == [0, 5]
    page.keyboard.press("Escape")
    assert page.evaluate("view.marked") is None


def test_matches_are_those_of_python(show):
    figures = inspection(TEXT)
    page = show(render("inspect", figures))
    codes = figures["matching"]["codes"]
    for start, end in [(0, 1), (3, 20), (100, 180), (0, len(TEXT))]:
        found = page.evaluate(f"matches(report.matching.codes, {start}, {end})")
        assert [(one["place"], one["similarity"]) for one in found] == matches(codes, start, end)

    character(page, 3).hover()
    page.mouse.down()
    character(page, 12).hover()
    page.mouse.up()
    expected = matches(codes, 3, 13)
    buttons = page.locator("#matches button")
    assert places_of(buttons) == [place for place, _ in expected]
    shown = [float(b.locator(".amount").inner_text().replace("−", "-")) for b in buttons.all()]
    assert shown == pytest.approx([similarity for _, similarity in expected], abs=6e-4)
    buttons.nth(1).click()
    assert page.evaluate("view.cursor") == expected[1][0]
    assert all(levels(page)[expected[1][0] + k] for k in range(10))


def test_charts_are_read_out_by_keys_and_as_a_table(show):
    figures = inspection(TEXT)
    page = show(render("inspect", figures))
    chart = page.locator("#memory .chart")
    chart.locator("svg.plot").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    output = chart.locator("output")
    assert "only the last n characters: characters of context n 256" in output.inner_text()
    page.keyboard.press("ArrowDown")
    assert "random order: characters of context n 128" in output.inner_text()
    chart.locator("summary").click()
    rows = chart.locator("tbody tr")
    sync_api.expect(rows).to_have_count(len(figures["memory"]["contexts"]))
    assert "2.125 ± 0.05" in rows.nth(4).inner_text()
    assert page.locator("#gates .chart").count() == 6
    gate = page.locator("#gates .chart svg.plot").first
    gate.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#paint").input_value() == "any"
    assert page.locator("#any-unit").input_value() == "1"


@pytest.mark.parametrize("backbone", PLAIN)
def test_a_real_inspection_is_shown(show, backbone):
    found = model(*backbone).inspect(READ, characters=1500, units=["2.h.3"])
    page = show(found.to_html())
    figures = found.figures
    assert f"{figures['surprise']['mean']:.3f} bits" in page.locator("#surprise").inner_text()
    assert figures["memory"]["sentence"] in page.locator("#memory").inner_text()
    page.locator("#paint").select_option("2.h.3")
    (unit,) = [one for one in figures["neurons"]["painted"] if one["index"] == 3][:1]
    expected = 15 * unit["values"] / max(abs(unit["low"]), abs(unit["high"]))
    assert np.abs(np.array(levels(page)) - expected).max() <= 0.6
    codes = figures["matching"]["codes"]
    shown = page.evaluate("matches(report.matching.codes, 100, 130)")
    assert [one["place"] for one in shown] == [place for place, _ in matches(codes, 100, 130)]
    for summary in page.locator("summary").all():
        summary.click()


def test_what_was_left_out_is_said(show):
    why = "The cell rnn has no gates."
    left_out = {name: {"left_out": why} for name in PANELS}
    page = show(render("inspect", inspection(TEXT, **left_out)))
    assert page.locator(".panel", has_text=why).count() == 7
    page = show(render("inspect", inspection("a")))
    assert "place 0 of 1" in readout(page)
    page.locator("#mark").click()
    assert "no other place" in page.locator("#marked").inner_text()
    assert "none found: holds nowhere in this text" in page.locator("#neurons").inner_text()
    assert "at most 5\u00a0%" in page.locator("#neurons").inner_text()


@pytest.mark.parametrize("framed", [False, True])
def test_hostile_texts_run_nothing(show, framed):
    figures = inspection(HOSTILE * 2)
    figures["model"]["name"] = figures["text"]["source"] = HOSTILE_NAME
    figures["text"]["notices"] = [HOSTILE]
    figures["model"]["equations"] = HOSTILE
    figures["neurons"]["concepts"][0]["name"] = HOSTILE
    figures["gates"]["gates"][0]["gate"] = HOSTILE
    html = render("inspect", figures)
    page = show(repr_html(html) if framed else html)
    frame = page.frames[1] if framed else page.main_frame
    sync_api.expect(frame.locator("#most button").first).to_be_visible()
    assert frame.evaluate("characters.join('')") == HOSTILE * 2
    for place in range(0, len(HOSTILE), 3):
        frame.evaluate(f"view.move({place})")
    frame.evaluate("view.mark([0, 30])")
    for summary in frame.locator("summary").all():
        summary.click()
    frame.locator("#contents a").last.click()
    frame.wait_for_timeout(50)
    assert frame.evaluate("window.hacked") is None
    assert frame.locator("img, iframe, object, embed, form, base").count() == 0
    assert frame.locator("script").count() == 2
    text = frame.locator("#characters").inner_text()
    for sign in ("U+0000", "U+001B", "U+2028", "U+2029", "U+202E", "U+200F", "U+FEFF", "⇥", "↵"):
        assert sign in text
    assert not set("\u202e\u200f\u2066\u2028\x00\x1b") & set(text)


def test_the_policy_forbids_foreign_scripts_and_markup(show):
    page = show(render("inspect", inspection("abc")))
    problems = page.evaluate("""async () => {
        const seen = [];
        addEventListener('securitypolicyviolation', (event) => {
            seen.push(event.effectiveDirective);
            event.preventDefault();
        });
        const script = document.createElement('script');
        try { script.textContent = 'window.hacked = 1'; } catch { seen.push('trusted types'); }
        try { document.body.innerHTML = '<p>'; } catch { seen.push('trusted types'); }
        try { await fetch('http://127.0.0.1:9/'); } catch { seen.push('fetch'); }
        return [...seen, window.hacked];
    }""")
    assert {"trusted types", "fetch"} <= set(problems)
    assert problems[-1] is None
    assert page.locator("h1").count() == 1
    assert all("violates" in problem or "requires" in problem for problem in show.problems)
    show.problems.clear()


@pytest.mark.parametrize("width", [320, 375, 1280, 1920])
def test_the_page_never_scrolls_sideways(show, width):
    text = TEXT + "x" * 300 + "\t" * 60 + "字" * 200
    figures = inspection(text)
    figures["text"]["source"] = figures["model"]["name"] = "a-very-long-name-" * 20
    page = show(render("inspect", figures), width=width)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


CONTRAST = """(theme) => {
    document.documentElement.style.colorScheme = theme;
    const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const light = (colour) => {
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b] = Array.from(context.getImageData(0, 0, 1, 1).data.slice(0, 3), (value) =>
            value <= 10 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const probe = document.body.appendChild(document.createElement('span'));
    const found = {};
    for (const hue of ['hot', 'cold', 'like']) {
        found[hue] = Array.from({ length: 15 }, (_, step) => {
            probe.className = `${hue} w${step + 1}`;
            const style = getComputedStyle(probe);
            return ratio(light(style.color), light(style.backgroundColor));
        });
    }
    probe.className = 'soft';
    const soft = light(getComputedStyle(probe).color);
    const raised = getComputedStyle(document.querySelector('.readout')).backgroundColor;
    found.soft = [ratio(soft, light(raised))];
    return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_on_every_colour(show, theme):
    found = show(render("inspect", inspection("abc"))).evaluate(CONTRAST, theme)
    assert min(min(ratios) for ratios in found.values()) >= 4.5, found
    for hue in ("hot", "cold", "like"):
        assert found[hue] == sorted(found[hue], reverse=True)  # a higher step is stronger


def test_colours_follow_the_system_and_the_button(show):
    html = render("inspect", inspection(TEXT))
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    dark = show(html, color_scheme="dark").evaluate(colour)
    page = show(html, color_scheme="light")
    light = page.evaluate(colour)
    assert light != dark
    page.locator("#theme").click()
    assert page.evaluate(colour) == dark
    page.locator("#theme").click()
    assert page.evaluate(colour) == light
