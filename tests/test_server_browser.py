"""The page of ``charlm serve`` in a real browser, before a real server: what a user does with it.

These need Chromium and the extras ``browser`` and ``serve``:
pip install -e '.[browser,serve]' && pytest -m browser -n 0 tests/test_server_browser.py
"""

import math
import re
import shutil
import threading

import pytest
from conftest import DATA, QUICK, words
from inspection import HOSTILE

import charlm

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path"),
]
expect = sync_api.expect

LSTM, GRU = (str(DATA / f"golden-{name}.safetensors") for name in ("lstm", "gru"))
PROMPT = "The sea was calm, and"
NAMES = [
    a + b for a in ("Ab", "An", "Be", "Ca", "Da", "El", "Fa", "Ga") for b in ("na", "ra", "lo")
]


class Serving:
    """Servers that run as long as a test, or all of them."""

    def __init__(self):
        self.stops = []

    def __call__(self, *runs, key=None, port=0):
        from charlm.server.app import Server, make_app
        from charlm.server.http import HttpServer, listen
        from charlm.server.models import Models

        listener = listen("127.0.0.1", port)
        models = Models(list(map(str, runs)))
        app = make_app(Server(models, key_required=key is not None), hosts=["127.0.0.1"], key=key)
        started, stopped = threading.Event(), threading.Event()
        server = HttpServer(app, started.set, stopped.is_set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert started.wait(10)

        def stop():
            stopped.set()
            thread.join(10)
            listener.close()
            for worker in models.workers():
                worker.abort()

        self.stops.append(stop)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def stop(self):
        while self.stops:
            self.stops.pop()()


@pytest.fixture(scope="module")
def goldens():
    """The address of a server for the frozen models."""
    serving = Serving()
    yield serving(LSTM, GRU)
    serving.stop()


@pytest.fixture
def serve():
    serving = Serving()
    yield serving
    serving.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser):
    """Open the page of a server; at the end, nothing may have gone wrong in it."""
    problems, contexts = [], []

    def show(address, width=1280, path="/", context=None, clock=False, **options):
        if context is None:
            viewport = {"width": width, "height": 800}
            context = browser.new_context(viewport=viewport, **options)
            context.set_default_timeout(10_000)
            contexts.append(context)
        page = context.new_page()
        if clock:  # which a test may put forward
            page.clock.install()

        def check(request):
            if not request.url.startswith((address + "/", f"blob:{address}/", "data:image/svg")):
                problems.append(request.url)

        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append("a dialog"))
        page.on("request", check)
        page.goto(address + path)
        page.address = address
        return page

    show.problems = problems
    yield show
    for context in contexts:
        context.close()
    assert not problems


def refused(show):
    """Forget what the browser tells of answers that are errors; other problems stay."""
    left = [one for one in show.problems if not one.startswith("Failed to load resource")]
    show.problems[:] = left


def text_of(page):
    return page.evaluate("tree.read().characters.join('')")


def shown(page):
    """Return the text as the page shows it."""
    return page.locator("#characters").text_content().replace("↵", "\n")


def idle(page):
    expect(page.locator("#stop")).to_have_attribute("aria-disabled", "true", timeout=20_000)


def set_up(page, **settings):
    page.evaluate("byId('more').open = byId('dials').open = true")
    for name, value in settings.items():
        page.fill(f"#{name.replace('_', '-')}", str(value))


def go_on(page):
    page.click("#continue")
    idle(page)


def write(page, prompt=PROMPT, **settings):
    set_up(page, **({"seed": 5, "length": 60} | settings))
    page.fill("#editor", prompt)
    go_on(page)


def rows(page):
    """Return what the branches show: level, who wrote it, whether it is the current one."""
    return [
        (
            int(row.get_attribute("aria-level")),
            row.locator(".who").inner_text(),
            row.get_attribute("aria-selected") == "true",
        )
        for row in page.locator("#branches [role=treeitem]").all()
    ]


def expected(run=LSTM, prompt=PROMPT, index=0, **settings):
    """Return what Python writes."""
    settings = {"seed": 5, "length": 60} | settings
    samples = charlm.load(run).samples(prompt, num_samples=index + 1, **settings)
    return "".join(list(samples)[index])


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
    wanted = ["".join(s) for s in lm.samples("A", num_samples=8, length=500, seed=3, stop=("\n",))]
    assert lines[0] == "A" + wanted[0]
    assert len(lines) == len([line for line in wanted if line])
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
