"""The page of ``charlm serve``: trainings, the inside of a model, what the browser keeps, links."""

import shutil

from conftest import QUICK
from inspection import HOSTILE
from server_page import (  # noqa: F401
    PROMPT,
    browser,
    expected,
    go_on,
    goldens,
    pytestmark,
    refused,
    rows,
    serve,
    show,
    sync_api,
    text_of,
    write,
)

import charlm

expect = sync_api.expect

# ---- the training and the inside of a model


def test_a_training_is_watched(show, serve, workplace, monkeypatch):
    monkeypatch.setattr("charlm.server.models.LOOK_SECONDS", 0)
    folder = workplace / "run"
    settings = QUICK | {"steps": 12, "eval_every": 3}
    charlm.train("text.txt", out=folder, **settings, on_progress=lambda p: p.step < 7)
    page = show(serve(folder), clock=True)
    state = page.locator("#training-state")
    expect(state).to_contain_text("In training: step 7 of 12")
    expect(state).to_contain_text("left.")
    expect(page.locator("#training-sample")).not_to_be_empty()
    chart = page.locator("#training-chart")
    chart.locator("summary").click()
    table = chart.locator("tbody tr")
    expect(table).to_have_count(2)
    sample = page.locator("#training-sample").inner_text()
    lm = charlm.resume(folder)
    page.clock.fast_forward(4000)
    expect(state).to_contain_text("Finished: 12 steps", timeout=10_000)
    chart.locator("summary").click()
    expect(table).to_have_count(4)
    facts = page.locator("#facts")
    loss = charlm.load(folder).checkpoint.counters.loss
    expect(facts).to_contain_text(f"validation loss {loss:.3f}")
    assert page.locator("#training-sample").text_content() != sample
    assert page.locator("#training-sample").text_content() == lm.generate(length=200, seed=1)
    page.get_by_text("Settings of the training").click()
    expect(page.locator("#training-table")).to_contain_text("hidden_size")


def test_a_run_without_a_model_says_so_and_appears(show, serve, workplace, monkeypatch):
    monkeypatch.setattr("charlm.server.models.LOOK_SECONDS", 0)
    folder = workplace / "run"
    charlm.train("text.txt", out=workplace / "other", **QUICK)
    folder.mkdir()
    page = show(serve(folder), clock=True)
    expect(page.locator("#facts")).to_have_text("Its training has begun: there is no model yet.")
    page.fill("#editor", "ab")
    go_on(page)
    expect(page.locator("#problem")).to_contain_text("run has no model yet")
    assert text_of(page) == "ab"
    refused(show)
    for path in (workplace / "other").iterdir():
        shutil.copy(path, folder)
    page.clock.fast_forward(4000)
    expect(page.locator("#facts")).to_contain_text("lstm, 2 × 11 units", timeout=10_000)
    go_on(page)
    assert len(text_of(page)) == 502


def test_the_text_is_inspected(show, goldens):
    page = show(goldens)
    page.click("#tab-inside")
    page.click("#inspect")
    expect(page.locator("#inspect-problem")).to_have_text("There is no text yet: write one first.")
    write(page, length=300)
    page.click("#inspect")
    frame = page.frame_locator("#inspection iframe")
    expect(frame.locator("h1")).to_contain_text("golden-lstm", timeout=20_000)
    inspected = frame.locator("#characters").text_content()
    assert inspected.replace("↵", "\n") == text_of(page)
    expect(page.locator("#inspect-status")).to_have_text(f"golden-lstm on {321} characters")
    expect(page.locator("#inspect-problem")).to_be_hidden()
    iframe = page.locator("#inspection iframe")
    assert iframe.get_attribute("sandbox") == "allow-scripts"
    assert iframe.get_attribute("title")
    page.click("#edit")
    page.fill("#editor", "字")
    page.click("#inspect")
    expect(page.locator("#inspect-problem")).to_contain_text("字")
    refused(show)


# ---- what is kept


def test_nothing_typed_is_lost_by_a_reload(show, goldens):
    page = show(goldens)
    write(page, n=3, temperature=0.6)
    page.locator(".pick").first.click()
    page.check("#colours")
    text, branches = text_of(page), rows(page)
    page.click("#edit")
    page.keyboard.type("unfinished \U0001f600")
    page.reload()
    expect(page.locator("#editor")).to_have_value(text + "unfinished \U0001f600")
    assert (text_of(page), rows(page)) == (text, branches)
    assert page.input_value("#temperature") == "0.6"
    assert page.is_checked("#colours")
    page.click("#undo")
    assert text_of(page) == text
    other = show(goldens, context=page.context)  # a new tab begins with the same, and is its own
    assert text_of(other) == text
    other.click("#new")
    other.fill("#editor", "elsewhere")
    other.click("#edit")
    other.reload()
    assert text_of(other) == "elsewhere"
    for one in (page, other):
        one.goto(goldens + "/health")
    page.goto(goldens)
    assert text_of(page) == text
    page.click("#forget")
    page.click("#forget")
    assert len(rows(page)) == 1
    page.reload()
    assert text_of(page) == ""
    refused(show)  # no surprise of the emoji, which the model does not know


def test_damaged_memory_is_left_aside(show, goldens):
    page = show(goldens)
    for value in ("{", "null", '{"version": 1}', '{"version": 1, "tree": {"nodes": [{"id": 1}]}}'):
        page.goto("about:blank")
        page.goto(goldens + "/health")
        page.evaluate("(value) => localStorage.setItem('charlm.page', value)", value)
        page.evaluate("sessionStorage.clear()")
        page.evaluate("localStorage.setItem('charlm.favourites', '[{}, 3]')")
        page.goto(goldens)
        expect(page.locator("#editor")).to_be_visible()
        assert page.evaluate("recallFavourites().length") == 0
    show.problems[:] = [one for one in show.problems if "about:blank" not in one]


def test_a_full_storage_is_said_and_loses_nothing(show, goldens):
    page = show(goldens)
    page.evaluate("""() => {
        Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };
    }""")
    write(page)
    expect(page.locator("#problem")).to_contain_text("no room to keep this text")
    assert text_of(page) == PROMPT + expected()
    page.click("#keep")
    expect(page.locator("#problem")).to_contain_text("no room for another favourite")


def test_what_is_kept_is_bounded(show, goldens):
    page = show(goldens)
    found = page.evaluate("""() => {
        const grown = new Tree();
        const typed = (keep, text) => grown.add({ keep, text, kind: 'typed', given: text.length });
        grown.go(typed(0, 'mine'));
        for (let i = 0; i < 700; i++) grown.add({ keep: 4, text: 'w'.repeat(9), kind: 'written' });
        grown.prune();
        const wide = [grown.nodes.size, grown.read().characters.join('')];
        for (let i = 0; i < 40; i++) grown.go(typed(0, `${i}`.padEnd(100_000, '.')));
        grown.prune();
        const again = Tree.from(JSON.parse(JSON.stringify(grown)));
        const deep = again.read().characters;
        return [...wide, deep.length, deep.slice(0, 2).join(''), JSON.stringify(grown).length];
    }""")
    assert found[:2] == [500, "mine"]
    assert found[2:4] == [100_000, "39"]
    assert found[4] < 2_000_000


def test_a_link_writes_the_same_again(show, goldens):
    page = show(goldens)
    page.select_option("#run", "golden-gru")
    settings = {"temperature": 0.65, "top_k": 12, "top_p": 0.95, "min_p": 0.02}
    prompt = "Der 'Mond' & #?=\n"
    write(page, PROMPT + "\n", seed="", length=70, stops="zz\\n", **settings)
    text = text_of(page)
    link = page.evaluate("linkOf()")
    assert page.address in link
    other = show(goldens, path=link.removeprefix(goldens))
    assert other.evaluate("location.hash") == ""
    assert text_of(other) == PROMPT + "\n"
    assert other.input_value("#run") == "golden-gru"
    assert other.input_value("#stops") == "zz\\n"
    go_on(other)
    assert text_of(other) == text
    other.reload()
    assert text_of(other) == text
    other.click("#new")
    other.fill("#editor", prompt)
    link = other.evaluate("linkOf()")
    again = show(goldens, path=link.removeprefix(goldens))
    assert text_of(again) == prompt
    for bad in ("/#model=none&temperature=-3&length=4&prompt=a", "/#%", "/#prompt=%zz", "/#x"):
        page = show(goldens, path=bad)
        expect(page.locator("#editor")).to_be_attached()
        if "model" in bad:
            expect(page.locator("#problem")).to_contain_text("temperature, the run none")
            assert text_of(page) == "a"
            assert page.input_value("#temperature") == "0.8"


def test_a_link_opened_over_a_text_loses_nothing(show, goldens):
    page = show(goldens)
    write(page)
    text = text_of(page)
    page.evaluate("location.hash = 'prompt=new&seed=4'")
    expect(page.locator("#status")).to_contain_text("Opened from a link")
    assert text_of(page) == "new"
    page.click("#undo")
    assert text_of(page) == text


def test_favourites_are_kept_saved_and_removed(show, goldens):
    page = show(goldens)
    write(page)
    text = text_of(page)
    page.click("#keep")
    page.click("#new")
    page.fill("#editor", HOSTILE)
    page.click("#keep")
    page.reload()
    page.click("#tab-favourites")
    items = page.locator("#favourite-list > li")
    expect(items).to_have_count(2)
    with page.expect_download() as waited:
        items.nth(1).get_by_role("button", name="Download").click()
    assert waited.value.path().read_text("utf-8") == text
    with page.expect_download() as waited:
        page.click("#download-all")
    assert text in waited.value.path().read_text("utf-8")
    items.nth(1).get_by_role("button", name="Open").click()
    assert text_of(page) == text
    items.nth(1).get_by_role("button", name="Remove").click()
    expect(items).to_have_count(1)
    page.get_by_role("button", name="Put back").click()
    expect(items).to_have_count(2)
    expect(items.nth(1)).to_contain_text("golden-lstm, 81 characters")
