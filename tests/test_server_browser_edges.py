"""The page of ``charlm serve``: errors, hostile texts, input methods, keys, screens."""

import shutil

import pytest
from conftest import words
from inspection import HOSTILE
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
    refused,
    serve,
    set_up,
    show,
    shown,
    sync_api,
    text_of,
    write,
)

expect = sync_api.expect

# ---- errors


def test_errors_stand_where_one_looks(show, goldens):
    page = show(goldens)
    page.fill("#editor", "字 and")
    expect(page.locator("#notice")).to_have_text("golden-lstm does not know: 字.")
    go_on(page)
    expect(page.locator("#problem")).to_contain_text("字")
    assert text_of(page) == "字 and"
    refused(show)
    page.click("#edit")
    page.evaluate("byId('editor').value = 'half \\ud83d'")
    page.click("#continue")
    expect(page.locator("#problem")).to_contain_text("Character 6 is half a character")
    page.click("#new")
    write(page)
    expect(page.locator("#problem")).to_be_hidden()
    set_up(page, temperature=-1)
    page.click("#continue")
    assert page.evaluate("document.activeElement.id") == "temperature"


def test_a_busy_server_is_asked_again(show, goldens):
    page = show(goldens)
    answers = []

    def answer(route):
        answers.append(route.request.post_data)
        if len(answers) < 2:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": {"message": ""}})
        else:
            route.continue_()

    page.route("**/v1/completions", answer)
    set_up(page, seed=5, length=60)
    page.fill("#editor", PROMPT)
    page.click("#continue")
    expect(page.locator("#status")).to_contain_text("busy: trying again in 1 s")
    expect(page.locator("#status")).to_contain_text("60 characters", timeout=10_000)
    assert text_of(page) == PROMPT + expected()
    refused(show)


def test_a_server_that_went_away_is_said(show, serve):
    address = serve(LSTM)
    page = show(address)
    write(page)
    text = text_of(page)
    serve.stop()
    page.click("#continue")
    expect(page.locator("#gone")).to_be_visible()
    expect(page.locator("#problem")).to_have_text("The server does not answer.")
    idle(page)
    assert text_of(page) == text
    serve(LSTM, port=int(address.rpartition(":")[2]))
    expect(page.locator("#gone")).to_be_hidden(timeout=10_000)
    go_on(page)
    assert text_of(page) == text + expected(prompt=text)
    refused(show)


def test_what_was_drawn_stays_when_the_server_goes(show, serve):
    page = show(serve(LSTM))
    set_up(page, length=100_000, seed=5)
    page.fill("#editor", PROMPT)
    page.click("#continue")
    expect(page.locator("#status")).to_contain_text("characters …")
    serve.stop()
    idle(page)
    text = text_of(page)
    assert len(text) > len(PROMPT)
    assert text == PROMPT + expected(length=len(text) - len(PROMPT))
    expect(page.locator("#problem")).to_contain_text("the server is stopping")
    page.click("#continue")
    expect(page.locator("#gone")).to_be_visible()
    expect(page.locator("#problem")).to_contain_text("The server does not answer.")
    page.close()
    refused(show)


def test_a_key_is_asked_for(show, serve):
    address = serve(LSTM, key="open-sesame")
    page = show(address)
    expect(page.locator("#key")).to_be_focused()
    expect(page.locator("#desk")).to_be_hidden()
    assert "golden" not in page.content()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_have_text("The key is wrong.")
    refused(show)
    page.fill("#key", "open-sesame")
    page.keyboard.press("Enter")
    write(page)
    assert text_of(page) == PROMPT + expected()
    page.reload()
    expect(page.locator("#desk")).to_be_visible()
    assert "open-sesame" not in page.evaluate("JSON.stringify(localStorage)")
    page.click("#tab-inside")
    page.click("#inspect")
    frame = page.frame_locator("#inspection iframe")
    expect(frame.locator("h1")).to_contain_text("golden-lstm", timeout=20_000)


# ---- hostile texts, input methods, keys, screens

EVIL = "<img src=x onerror='window.hacked=1'>\u202e&quot;"


def test_hostile_texts_are_texts(show, serve, tmp_path):
    shutil.copy(LSTM, tmp_path / f"{EVIL}.safetensors")
    page = show(serve(tmp_path / f"{EVIL}.safetensors", GRU))
    visible = EVIL.replace("\u202e", "U+202E")
    expect(page.locator("h1")).to_have_text(visible)
    page.select_option("#beside", "golden-gru")
    whole = HOSTILE + "e\u0301\u202e\U0001f469\u200d\U0001f52c"
    seen = whole.replace("\r\n", "\n")  # as every field of a browser has it
    page.fill("#editor", whole)
    expect(page.locator("#notice")).to_contain_text("U+202E")
    page.click("#edit")
    assert text_of(page) == seen
    text = page.locator("#characters").inner_text()
    for sign in ("U+0000", "U+001B", "U+2028", "U+202E", "U+200F", "U+FEFF", "U+200D", "⇥", "↵"):
        assert sign in text
    assert not set("\u202e\u200f\u2066\u2028\x00\x1b") & set(page.locator("body").inner_text())
    assert page.evaluate("view.spans.length") == len(seen)  # a pair of surrogates is one
    page.click("#keep")
    page.click("#tab-favourites")
    go_on(page)
    assert page.locator("#problem").inner_text().startswith(visible)
    refused(show)
    page.evaluate_handle("view.spans[3]").as_element().click()
    expect(page.locator("#value")).not_to_have_text("…")
    refused(show)
    page.evaluate("closeReadout()")
    page.fill("#n", "2")
    page.click("#new")
    write(page, "a")
    assert visible in page.locator(".candidate h3").first.inner_text()
    page.click("#tab-training")
    expect(page.locator("#training-state")).to_contain_text("Validation loss")
    page.get_by_text("Lines", exact=True).first.click()
    page.click("#write-lines")
    expect(page.locator("#lines-status")).to_contain_text("seed")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, object, embed, base").count() == 0
    assert page.locator("script").count() == 2


def test_an_input_method_is_left_alone(show, goldens):
    page = show(goldens)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    devtools = page.context.new_cdp_session(page)
    compose = {"text": "zhong", "selectionStart": 5, "selectionEnd": 5}
    for field in ("#editor", "#start"):
        if field == "#start":
            page.get_by_text("Lines", exact=True).first.click()
        page.locator(field).focus()
        devtools.send("Input.imeSetComposition", compose)
        assert page.input_value(field) == "zhong"
        for kind in ("rawKeyDown", "keyUp"):  # as an input method sends what it takes for itself
            for modifiers in (0, 2):
                devtools.send("Input.dispatchKeyEvent", {
                    "type": kind, "key": "Enter", "code": "Enter", "modifiers": modifiers,
                    "windowsVirtualKeyCode": 229,
                })  # fmt: skip
        assert page.input_value(field) == "zhong"
        devtools.send("Input.insertText", {"text": "中文"})
        assert page.input_value(field) == "中文"
        assert not [url for url in asked if url.endswith("completions")]
        page.keyboard.press("Control+Enter")
        problem = page.locator("#problem" if field == "#editor" else "#lines-problem")
        expect(problem).to_contain_text("中")
        assert [url for url in asked if url.endswith("completions")]
        asked.clear()
        refused(show)


def test_all_of_it_goes_by_keys_alone(show, goldens):
    page = show(goldens)
    keys = page.keyboard

    def tab_to(name, back=False):
        for _ in range(60):
            keys.press("Shift+Tab" if back else "Tab")
            if page.evaluate("document.activeElement.id") == name:
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(outline) != "none"
                return
        raise AssertionError(f"{name} is not reached")

    tab_to("editor")
    keys.type(PROMPT)
    tab_to("length")
    keys.press("Control+a")
    keys.type("40")
    tab_to("seed")
    keys.type("5")
    keys.press("Control+Enter")
    idle(page)
    text = text_of(page)
    assert text == PROMPT + expected(length=40)
    assert page.evaluate("document.activeElement.id") == "characters"
    keys.press("Control+Home")
    for _ in range(30):
        keys.press("ArrowRight")
    keys.press("Enter")
    expect(page.locator("#likeliest button:focus")).to_be_visible()
    expect(page.locator("#live")).to_contain_text("Likeliest: ")
    keys.press("Tab")
    keys.press("Enter")
    idle(page)
    assert text_of(page)[:30] == text[:30]
    assert text_of(page)[30] != text[30]
    keys.press("Control+z")
    assert text_of(page) == text
    keys.press("Control+y")
    assert text_of(page) != text
    keys.press("Enter")
    expect(page.locator("#readout")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#readout")).to_be_hidden()
    tab_to("tab-training")
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    expect(page.locator("#help")).to_be_visible()


def test_everything_has_a_name(show, goldens):
    page = show(goldens)
    write(page, n=2)
    nameless = page.evaluate("""() => Array.from(document.querySelectorAll(
        'button, input, select, textarea, [role=tree], [role=treeitem], [tabindex], iframe'))
        .filter((one) => !(one.labels?.length || one.ariaLabel || one.title || one.textContent
            || one.getAttribute('aria-labelledby'))).map((one) => one.outerHTML)""")
    assert nameless == []
    ids = page.evaluate("Array.from(document.querySelectorAll('[id]'), (one) => one.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [320, 375, 1920])
def test_the_page_never_scrolls_sideways(show, serve, tmp_path, width):
    name = f"{'a-very-long-name-' * 12}.safetensors"
    shutil.copy(LSTM, tmp_path / name)
    page = show(serve(tmp_path / name, GRU), width=width)
    page.select_option("#beside", "golden-gru")
    page.fill("#editor", "x" * 300 + "\t" * 60 + "字" * 200)
    page.click("#edit")
    page.click("#keep")
    page.click("#new")
    write(page, n=3)
    page.locator(".pick").first.click()
    page.evaluate("view.move(5)")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.evaluate("closeReadout()")
    wide = "document.documentElement.scrollWidth"
    for tab in ("favourites", "training", "inside", "help"):
        page.click(f"#tab-{tab}")
        assert page.evaluate(wide) <= width, tab
    page.get_by_text("Lines", exact=True).first.click()
    page.click("#write-lines")
    expect(page.locator("#lines-status")).to_contain_text("seed")
    assert page.evaluate(wide) <= width


def test_colours_follow_the_system_and_the_button(show, goldens):
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    dark = show(goldens, color_scheme="dark").evaluate(colour)
    page = show(goldens, color_scheme="light")
    light = page.evaluate(colour)
    assert light != dark
    page.locator("#theme").click()
    assert page.evaluate(colour) == dark


PASTE = """(text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData("text/plain", text);
    byId("editor").dispatchEvent(new ClipboardEvent("paste", { clipboardData, cancelable: true }));
}"""


def test_a_long_text_is_shown_from_its_end(show, goldens):
    page = show(goldens)
    whole = words(8000)[:31_000]
    page.evaluate(PASTE, whole)
    assert page.input_value("#editor") == whole
    page.click("#edit")
    assert page.evaluate("[offset, view.spans.length]") == [10_000, 21_000]
    page.evaluate("view.move(7)")
    expect(page.locator("#where")).to_have_text("character 10,008")
    write_more = whole + expected(prompt=whole, length=50)
    set_up(page, seed=5, length=50)
    go_on(page)
    assert text_of(page) == write_more
    assert shown(page).endswith(write_more[10_000:][-300:])


def test_the_policy_forbids_foreign_scripts_and_markup(show, goldens):
    page = show(goldens)
    problems = page.evaluate("""async () => {
        const seen = [];
        addEventListener('securitypolicyviolation', (event) => event.preventDefault());
        const script = document.createElement('script');
        try { script.textContent = 'window.hacked = 1'; } catch { seen.push('trusted types'); }
        try { document.body.innerHTML = '<p>'; } catch { seen.push('trusted types'); }
        try { await fetch('http://127.0.0.1:9/'); } catch { seen.push('fetch'); }
        return [...seen, window.hacked];
    }""")
    assert {"trusted types", "fetch"} <= set(problems)
    assert problems[-1] is None
    show.problems.clear()
