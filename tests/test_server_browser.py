"""The page of ``charlm serve`` in a real browser: writing, branches, editing, lines.

These need Chromium and the extras ``browser`` and ``serve``:
pip install -e '.[browser,serve]' && pytest -m browser -n 0 tests/test_server_browser*.py
"""

import math
import re

import pytest
from conftest import QUICK
from server_page import (  # noqa: F401
    GRU,
    LSTM,
    PROMPT,
    browser,
    expected,
    go_on,
    goldens,
    idle,
    pytestmark,
    rows,
    serve,
    set_up,
    show,
    shown,
    sync_api,
    text_of,
    write,
)

import charlm

expect = sync_api.expect

NAMES = [
    a + b for a in ("Ab", "An", "Be", "Ca", "Da", "El", "Fa", "Ga") for b in ("na", "ra", "lo")
]


# ---- writing


def test_a_text_is_that_of_python(show, goldens):
    page = show(goldens)
    asked = []
    page.on("request", lambda request: asked.append(request.post_data_json))
    settings = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "seed": 77}
    write(page, length=150, **settings)
    new = expected(length=150, **settings)
    assert text_of(page) == shown(page) == PROMPT + new
    assert asked[0]["prompt"] == PROMPT
    expect(page.locator("#status")).to_contain_text("150 characters, ")
    expect(page.locator("#status")).to_contain_text("seed 77")
    expect(page.locator("#live")).to_have_text("Written: 150 characters")
    go_on(page)
    more = expected(prompt=PROMPT + new, length=150, **settings)
    assert text_of(page) == PROMPT + new + more
    page.fill("#stops", "e\\n\n the")
    go_on(page)
    text = PROMPT + new + more
    stop = ("e\n", " the")
    assert text_of(page) == text + expected(prompt=text, length=150, stop=stop, **settings)


def test_a_text_begins_with_nothing(show, goldens):
    page = show(goldens)
    write(page, "")
    assert text_of(page) == shown(page) == expected(prompt="")
    expect(page.locator("#editor")).to_be_hidden()
    page.click("#edit")
    page.click("#edit")
    assert text_of(page) == expected(prompt="")
    page.click("#undo")
    assert text_of(page) == ""
    page.fill("#stops", expected(prompt="")[0].replace("\n", "\\n"))
    go_on(page)  # the first character is a stop text: nothing is left, and no branch
    assert text_of(page) == ""
    expect(page.locator("#editor")).to_be_visible()
    assert len(rows(page)) == 2


def test_a_text_grows_as_it_is_drawn_and_stops(show, goldens):
    page = show(goldens)
    set_up(page, length=100_000, seed=5)
    page.fill("#editor", PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("characters …")
    sizes = [page.evaluate("text.characters.length")]
    while len(sizes) < 3:
        page.wait_for_timeout(60)
        sizes.append(page.evaluate("text.characters.length"))
    assert len(PROMPT) < sizes[0] < sizes[-1]
    page.keyboard.press("Escape")
    idle(page)
    text = text_of(page)
    assert len(text) < 100_000
    assert text == PROMPT + expected(length=len(text) - len(PROMPT))


def test_characters_have_the_colour_of_their_surprise(show, goldens):
    page = show(goldens)
    page.check("#colours")
    write(page, length=200)
    text = text_of(page)
    bits = charlm.load(LSTM).score(text)
    expect(page.locator("#characters .prompt").first).to_have_class(re.compile("hot w"))
    names = page.evaluate("view.spans.map((span) => span.className.split(' '))")
    found = [next((int(n[1:]) for n in name if n[:1] == "w"), 0) for name in names]
    assert all(abs(level - min(15, 1.5 * b)) < 0.51 for level, b in zip(found, bits, strict=True))
    page.uncheck("#colours")
    assert page.locator("#characters .hot").count() == 0


CONTINUATIONS = r"""() =>
    Array.from(document.querySelectorAll('.candidate .written'), (box) =>
        Array.from(box.querySelectorAll('span:not(.context)'), (one) => one.textContent)
            .join('').replaceAll('↵', '\n'))"""


def continuations(page):
    return page.evaluate(CONTINUATIONS)


def test_one_of_three_is_picked(show, goldens):
    page = show(goldens)
    write(page, n=3)
    texts = [expected(index=k) for k in range(3)]
    found = continuations(page)
    assert found[0] == texts[0]
    assert page.locator(".candidate .context").first.inner_text() == PROMPT[-24:]
    assert sorted(map(len, found)) == [60, 60, 60]  # beside others a last bit may differ
    assert text_of(page) == PROMPT
    page.locator("#characters").focus()
    page.keyboard.press("2")
    assert text_of(page) == PROMPT + found[1]
    assert page.locator(".candidate").count() == 0
    branches = [(1, "start", False), (1, "typed", False)]
    assert rows(page) == [*branches, *((2, "golden-lstm", k == 1) for k in range(3))]
    page.locator("#branches [role=treeitem]").nth(4).click()
    assert text_of(page) == PROMPT + found[2]
    page.keyboard.press("Control+z")
    assert text_of(page) == PROMPT + found[1]
    page.fill("#n", "1")
    go_on(page)
    assert text_of(page) == PROMPT + found[1] + expected(prompt=PROMPT + found[1])


def test_two_runs_write_beside_each_other(show, goldens):
    page = show(goldens)
    page.select_option("#beside", "golden-gru")
    write(page)
    titles = page.locator(".candidate h3").all_inner_texts()
    assert titles == ["1 golden-lstm", "2 golden-gru"]
    found = continuations(page)
    assert found == [expected(LSTM), expected(GRU)]
    page.locator(".pick").nth(1).click()
    assert text_of(page) == PROMPT + found[1]
    assert rows(page)[-2:] == [(2, "golden-lstm", False), (2, "golden-gru", True)]


# ---- branches


def probabilities(prompt):
    """Return the likeliest characters after a text with their probabilities."""
    lm = charlm.load(LSTM)
    logits = lm.read(prompt).logits.astype(float)
    weights = [math.exp(x - logits.max()) for x in logits]
    both = zip(lm.tokenizer.vocabulary, weights, strict=True)
    return sorted(((c, w / sum(weights)) for c, w in both), key=lambda one: -one[1])[:10]


@pytest.mark.parametrize("colours", [False, True])
def test_another_character_is_chosen(show, goldens, colours):
    page = show(goldens)
    page.set_checked("#colours", colours)  # with it, the likeliest come with the text
    write(page)
    text = text_of(page)
    place = len(PROMPT) + 17
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate_handle(f"view.spans[{place}]").as_element().click()
    buttons = page.locator("#likeliest button")
    wanted = probabilities(text[:place])
    expect(buttons.nth(9)).to_be_visible()
    assert len([url for url in asked if url.endswith("/v1/next")]) == (not colours)
    names = {"\n": "line end", " ": "space"}
    signs = page.locator("#likeliest .sign").all_inner_texts()[:10]
    assert signs == [names.get(c, c) for c, _ in wanted]
    chances = page.locator("#likeliest .chance").all_inner_texts()[:10]
    percents = [float(chance.strip("<\u00a0%")) for chance in chances]
    assert percents == pytest.approx([100 * p for _, p in wanted], abs=0.06)
    k = next(k for k, (c, _) in enumerate(wanted) if c != text[place])
    buttons.nth(k).click()
    idle(page)
    begun = text[:place] + wanted[k][0]
    assert text_of(page) == begun + expected(prompt=begun)
    page.click("#undo")
    assert text_of(page) == shown(page) == text
    page.click("#redo")
    assert text_of(page) == shown(page) == begun + expected(prompt=begun)


def test_what_comes_next_can_be_chosen_at_the_end(show, goldens):
    page = show(goldens)
    write(page)
    text = text_of(page)
    page.click("#next")
    expect(page.locator("#here")).to_have_text("The end")
    wanted = probabilities(text)
    page.locator("#likeliest button").nth(2).click()
    idle(page)
    begun = text + wanted[2][0]
    assert text_of(page) == begun + expected(prompt=begun)


def test_the_branches_are_walked_by_keys(show, goldens):
    page = show(goldens)
    write(page)
    first = text_of(page)
    go_on(page)
    second = text_of(page)
    page.locator("#branches [aria-selected=true]").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert text_of(page) == first
    set_up(page, seed=6)
    go_on(page)
    third = text_of(page)
    assert third != second
    assert rows(page) == [
        (1, "start", False), (1, "typed", False), (1, "golden-lstm", False),
        (2, "golden-lstm", False), (2, "golden-lstm", True),
    ]  # fmt: skip
    page.locator("#branches [aria-selected=true]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('aria-level')") == "1"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert text_of(page) == second
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert text_of(page) == ""
    expect(page.locator("#editor")).to_be_visible()
    for text in (second, third, first, second, first, PROMPT, ""):
        page.click("#undo")
        assert text_of(page) == text
    expect(page.locator("#undo")).to_have_attribute("aria-disabled", "true")
    for text in (PROMPT, first, second):
        page.click("#redo")
        assert text_of(page) == text


def test_the_text_is_edited(show, goldens):
    page = show(goldens)
    write(page)
    text = text_of(page)
    page.evaluate_handle("view.spans[4]").as_element().click()
    page.locator("#characters").press("e")
    expect(page.locator("#editor")).to_be_focused()
    page.keyboard.press("Delete")
    page.keyboard.type("t")
    page.keyboard.press("Control+Enter")
    idle(page)
    edited = f"{text[:4]}t{text[5:]}"
    assert text_of(page) == edited + expected(prompt=edited)
    assert [who for _, who, _ in rows(page)][-2:] == ["typed", "golden-lstm"]
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert text_of(page) == text
    page.click("#edit")
    page.keyboard.press("Escape")  # nothing was changed: no branch
    assert len(rows(page)) == 5
    page.locator("#characters").dblclick()
    page.keyboard.press("Control+End")
    page.keyboard.press("Backspace")
    page.click("#edit")
    assert text_of(page) == text[:-1]
    page.keyboard.press("Control+Shift+Z")
    assert text_of(page) == text[:-1]  # what was undone before is on another branch


CHANGES = [
    ("a\r\nb\rc\nd", "a\nb\nc\nd", None),
    ("a\r\nb\rc\nd", "a\nX\nc\nd", "a\r\nX\rc\nd"),
    ("a\r\nb", "ab", "ab"),
    ("a\r\n\r\nb", "a\n\n\nb", "a\r\n\r\n\nb"),
    ("", "\U0001f600", "\U0001f600"),
    ("\U0001f600\U0001f601", "\U0001f600\U0001f602", "\U0001f600\U0001f602"),
    ("aaa", "aa", "aa"),
]


def test_what_was_not_edited_stays_as_it_was(show, goldens):
    page = show(goldens)
    for before, edited, after in CHANGES:
        found = page.evaluate("([a, b]) => changeOf(Array.from(a), b)", [before, edited])
        if after is None:
            assert found is None
        else:
            assert before[: found["keep"]] + found["text"] == after


# ---- lines


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A run that has learned a list of names."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    settings = QUICK | {"steps": 60, "eval_every": 30, "learning_rate": 0.02, "items": True}
    charlm.train(folder / "names.txt", out=folder / "names", **settings)
    return folder / "names"


def lines_of(page):
    return [line.text_content() for line in page.locator("#lines .lines .characters").all()]


def test_lines_of_a_list_are_written(show, serve, names):
    page = show(serve(names, LSTM))
    expect(page.locator("#lines-mode")).to_be_visible()  # what such a model is for
    set_up(page, seed=3)
    page.fill("#count", "8")
    page.fill("#start", "A")
    page.keyboard.press("Enter")
    expect(page.locator("#lines-status")).to_contain_text("seed 3")
    lines = lines_of(page)
    lm = charlm.load(names)
    drawn = lm.samples("A", num_samples=8, length=500, seed=3, stop=("\n",))
    wanted = [text for text in map("".join, drawn) if text]  # an item has more than its start
    assert lines[0] == "A" + wanted[0]
    assert len(lines) == len(wanted)
    assert all(line.startswith("A") and "\n" not in line for line in lines)
    page.locator("#lines").get_by_role("button", name="Keep").first.click()
    expect(page.locator("#tab-favourites")).to_have_text("Favourites (1)")
    page.locator("#lines").get_by_role("button", name="Use").nth(1).click()
    assert text_of(page) == lines[1]
    page.fill("#length", "9")
    go_on(page)
    written = text_of(page)
    assert "\n" not in written  # an item ends where its line ends
    page.reload()
    page.get_by_text("Lines", exact=True).first.click()
    assert lines_of(page) == lines


def test_lines_of_any_model_are_written_beside_each_other(show, goldens):
    page = show(goldens)
    page.get_by_text("Lines", exact=True).first.click()
    page.select_option("#beside", "golden-gru")
    set_up(page, seed=3)
    page.fill("#count", "5")
    page.fill("#start", "The")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#lines-status")).to_contain_text("seed 3")
    assert page.locator(".line-list h3").all_inner_texts() == ["golden-lstm", "golden-gru"]
    lines = lines_of(page)
    assert all(line.startswith("The") for line in lines)
    for run in (LSTM, GRU):
        assert "The" + expected(run, "\nThe", seed=3, length=500, stop=("\n",)) in lines
