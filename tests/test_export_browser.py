"""The page that writes in a real browser: the text is that of Python, and all of it can be used."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from chromium import browser, pytestmark, show, sync_api  # noqa: F401
from conftest import DATA
from exported import CASES, SETTINGS, Uneven, exact, model
from test_export_html import HOSTILE

import charlm
from charlm import checkpoint as checkpoints
from charlm.cells import CELLS
from charlm.export import html


@pytest.fixture(autouse=True)
def _uneven(monkeypatch):
    monkeypatch.setitem(CELLS, "uneven", Uneven)


@pytest.fixture
def demo(show, tmp_path):
    """Open the page of a model."""

    def demo(checkpoint, width=1280, **words):
        path = tmp_path / "model.html"
        html.save(checkpoint, path, run="play", **words)
        page = show(path.read_text("utf-8"), width=width)
        sync_api.expect(page.locator("#write")).to_be_enabled()
        return page

    return demo


def write(page, prompt, length, settings):
    """Write with settings as Python calls them, and return the text without the prompt."""
    page.locator("#settings").evaluate("(details) => { details.open = true; }")
    page.fill("#prompt", prompt)
    page.fill("#length", str(length))
    for name, value in settings.items():
        page.fill(f"#{name.replace('_', '-')}", str(value))
    page.click("#write")
    wait(page)
    return text_of(page)[len(prompt) :]


def wait(page):
    sync_api.expect(page.locator("#stop")).to_be_disabled(timeout=30_000)


def text_of(page):
    return page.evaluate("writer.ids.slice(writer.hidden).map((id) => vocabulary[id]).join('')")


def shown(page):
    """Return the text as the page shows it."""
    return page.locator("#characters").text_content().replace("↵", "\n")


@pytest.mark.parametrize("case", CASES)
def test_the_text_is_that_of_python(demo, case):
    checkpoint = model(*case)
    lm = exact(checkpoint)
    page = demo(checkpoint)
    for settings in SETTINGS[:2]:
        expected = lm.generate("ab cj", length=2000, **settings)
        assert write(page, "ab cj", 2000, settings) == expected
        assert shown(page) == "ab cj" + expected


def test_a_text_goes_on_as_if_it_had_been_written_at_once(demo):
    golden = checkpoints.load(DATA / "golden-lstm.safetensors", model_only=True)
    expected = charlm.load(DATA / "golden-lstm.safetensors").exact()
    page = demo(golden)
    prompt = golden.tokenizer.vocabulary[-3:]
    settings = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "seed": 77}
    text = expected.generate(prompt, length=3000, **settings)
    assert write(page, prompt, 1000, settings) == text[:1000]
    for end in (2000, 3000):
        page.click("#continue")
        wait(page)
        assert text_of(page) == prompt + text[:end]
    command = page.locator("#command").text_content().replace("\\\n", "")
    assert "--length 3000" in command
    assert "--seed 77" in command
    assert page.locator("#by-hand").text_content() == ""


def test_the_printed_command_writes_the_same_text(demo, run, workplace):
    checkpoint = model("gru")
    checkpoints.save_model(checkpoint, Path("play"))
    page = demo(checkpoint)
    prompt = "a'b\n"
    text = write(page, prompt, 300, {"temperature": 0.9, "top_k": 7})
    command = page.locator("#command").text_content()
    words = [word for word in shlex.split(command) if word != "\n"]
    assert words[0] == "charlm"
    status, out, _ = run(*words[1:])
    assert (status, out) == (0, f"{prompt}{text}\n")


def test_another_character_is_chosen_and_taken_back(demo):
    checkpoint = model("lstm")
    lm = exact(checkpoint)
    page = demo(checkpoint)
    text = "ab" + write(page, "ab", 200, SETTINGS[0])
    page.evaluate_handle("view.spans[120]").as_element().click()
    here = page.locator("#readout")
    assert "character 121" in here.inner_text()
    state = lm.read(text[:120])
    w = np.exp(state.logits.astype(float))
    expected = np.sort(100 * w / w.sum())[::-1][:10]
    chances = [float(t.strip("<\u00a0%")) for t in here.locator(".chance").all_inner_texts()]
    assert chances[:10] == pytest.approx(expected.tolist(), abs=0.1)
    assert here.locator("[aria-current]").count() == 1
    button = here.locator("button:enabled:not(#close)").nth(2)
    button.click()
    wait(page)
    changed = text_of(page)
    assert changed[:120] == text[:120]
    assert changed[120] != text[120]
    assert len(changed) == 121 + 200
    assert "was changed" in page.locator("#by-hand").text_content()
    page.click("#undo")
    assert text_of(page) == text
    assert shown(page) == text
    page.click("#continue")
    wait(page)
    assert text_of(page) == "ab" + lm.generate("ab", length=400, **SETTINGS[0])


def test_it_can_be_stopped_and_stays_usable(demo):
    page = demo(model("gru", hidden_size=256, embedding_size=40))
    page.fill("#length", "50000")
    page.click("#write")
    page.wait_for_timeout(150)
    page.click("#stop")
    wait(page)
    count = page.evaluate("writer.ids.length")
    assert 0 < count < 50_000
    page.wait_for_timeout(50)
    assert page.evaluate("writer.ids.length") == count
    sync_api.expect(page.locator("#status")).to_contain_text("characters a second, seed ")


def test_keys_alone_are_enough(demo):
    page = demo(model("rnn"))
    page.focus("#prompt")
    page.keyboard.type("abc")
    page.keyboard.press("Control+Enter")
    wait(page)
    text = text_of(page)
    page.focus("#characters")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('#likeliest button')")
    page.keyboard.press("Enter")
    wait(page)
    assert text_of(page)[:5] == text[:5]
    assert text_of(page)[5] != text[5]
    page.keyboard.press("Escape")
    names = page.evaluate("""() => Array.from(document.querySelectorAll('button, input, textarea'))
        .filter((one) => !(one.labels?.length || one.textContent.trim()
            || one.getAttribute('aria-label'))).length""")
    assert names == 0


def test_unknown_characters_are_named_and_stay(demo):
    checkpoint = model("gru")
    page = demo(checkpoint)
    text = write(page, "aZ漢b🙂Z", 50, SETTINGS[0])
    notice = page.locator("#notice")
    assert "does not know: Z (2), 漢, 🙂" in notice.inner_text()
    assert page.input_value("#prompt") == "aZ漢b🙂Z"
    assert text_of(page) == "ab" + exact(checkpoint).generate("ab", length=50, **SETTINGS[0])
    assert "--unknown skip" in page.locator("#command").text_content()
    assert text
    page.fill("#prompt", "ab")
    assert notice.inner_text() == ""


def test_items_are_written_one_on_each_line(demo):
    checkpoint = model("gru", items=True)
    checkpoint.weights["head.bias"][0] += 4
    page = demo(checkpoint)
    settings = SETTINGS[0]
    write(page, "a", 8, settings)
    drawn = exact(checkpoint).lines(8, starts_with="a", **settings)
    lines = [line for line, _ in drawn]
    assert text_of(page) == "\n".join(lines) + "\n"
    assert "8 items" in page.locator("#status").inner_text()
    assert "--num-samples 8" in page.locator("#command").text_content()


def test_line_ends_in_the_prompt_of_an_item_are_left_out_of_its_command_too(demo, run, workplace):
    checkpoint = model("gru", items=True)
    checkpoint.weights["head.bias"][0] += 4
    checkpoints.save_model(checkpoint, Path("play"))
    page = demo(checkpoint)
    write(page, "a\nb\n", 3, SETTINGS[0])
    notice = page.locator("#notice").inner_text()
    assert notice == "An item is one line: line ends are left out."
    words = shlex.split(page.locator("#command").text_content())
    status, out, _ = run(*[word for word in words[1:] if word != "\n"])
    assert (status, out) == (0, text_of(page))


def test_a_wrong_setting_is_said_and_nothing_is_lost(demo):
    page = demo(model("rnn"))
    text = write(page, "a", 20, SETTINGS[0])
    page.fill("#top-p", "7")
    page.click("#write")
    assert page.locator("#top-p:invalid").count() == 1
    assert text_of(page) == "a" + text


def test_surprise_is_shown_in_colour(demo):
    checkpoint = model("lstm")
    lm = exact(checkpoint)
    page = demo(checkpoint)
    text = write(page, "ab", 100, SETTINGS[0])
    page.locator("#colours").check()
    bits = lm.score(text, state=lm.read("ab"))
    names = page.evaluate("view.spans.slice(2).map((span) => span.className)")
    levels = [int([*name.split(" w"), "0"][1]) for name in names]
    assert levels == [min(15, int(1.5 * b + 0.5)) for b in bits]
    page.locator("#colours").uncheck()
    assert page.locator("#characters .hot").count() == 0


@pytest.mark.parametrize("width", [375, 1280])
def test_hostile_words_run_nothing_and_fit(demo, width):
    words = HOSTILE + "x" * 500
    page = demo(model("rnn"), width=width, title=words, prompt=words, description=words)
    write(page, "a" * 300 + HOSTILE, 400, SETTINGS[0])
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    page.evaluate("look(view.spans.length - 1)")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, object, embed, form form").count() == 0
    assert page.locator("script").count() == 2
    assert "<img src=x" in page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
