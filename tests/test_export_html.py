"""The page that writes: what is in it, what is refused, and its script in an engine without a page.

The script is run by QuickJS, which is another maker's engine than Chromium's: pip install quickjs.
"""

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, PLAIN
from exported import CASES, SETTINGS, Script, Uneven, bytes_of, exact, model, script_settings

from charlm.cells import CELLS, RNN
from charlm.errors import ConfigError
from charlm.export import html
from charlm.insight.page import PAGES as SHARED
from charlm.integer import functions
from charlm.integer.engine import ExactEngine
from charlm.integer.random import uniform

needs_quickjs = pytest.mark.skipif(find_spec("quickjs") is None, reason="needs the package quickjs")
HOSTILE = (
    "</script><script>window.hacked = 1</script><!--<img src=x onerror=alert(1)>'\"&amp;"
    "\u202e\u2028\0🙂"
)


@pytest.fixture(autouse=True)
def _uneven(monkeypatch):
    monkeypatch.setitem(CELLS, "uneven", Uneven)


def data_of(page):
    """Return the data of a page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def saved(checkpoint, folder, **words):
    path = Path(folder) / "demo.html"
    html.save(checkpoint, path, **{"run": "runs/play", **words})
    return path.read_text("utf-8")


# ---------------------------------------------------------------- the page


def test_the_page_says_what_the_model_is(tmp_path):
    page = saved(model("gru"), tmp_path, prompt="abc", description="Says a lot.")
    data = data_of(page)
    assert (data["title"], data["prompt"], data["description"]) == ("play", "abc", "Says a lot.")
    assert (data["backbone"], data["num_layers"], data["hidden_size"]) == ("gru", 2, 11)
    assert (data["files"], data["characters"]) == (["play.txt"], 12_345)
    count = sum(w.size for w in model("gru").weights.values())
    assert data["parameters"] == count
    description, weights = html.script_model(model("gru"))
    assert bytes_of(data) == weights
    assert data["model"]["layers"] == description["layers"]


def test_the_page_needs_no_network(tmp_path):
    page = saved(model(), tmp_path)
    assert set(re.findall(r"\w+://[^\s\"'`]*", page)) == {"http://www.w3.org/2000/svg"}
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert not {"'unsafe-inline'", "'unsafe-eval'", "http:", "https:", "*"} & set(policy.split())
    assert not re.search(r"<(link|img|iframe|base)\b|\bsrc=|@import|url\(", page)


def test_hostile_words_are_data_only(tmp_path):
    page = saved(model(), tmp_path, title=HOSTILE, prompt=HOSTILE, description=HOSTILE, run="x")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "\u202e" not in page
    assert {data_of(page)[name] for name in ("title", "prompt", "description")} == {HOSTILE}


def test_a_model_of_2_x_256_units_takes_less_than_1400_kb(tmp_path):
    page = saved(model(hidden_size=256, embedding_size=192), tmp_path)
    assert len(page.encode()) < 1_400_000


@pytest.mark.parametrize("name", ["demo", "inspect", "compare"])
def test_no_two_files_of_a_page_define_the_same_name(name):
    folder = html.PAGES if name == "demo" else SHARED
    files = re.findall(r"<script>\{\{(.*?)\}\}", (folder / f"{name}.html").read_text("utf-8"))[0]
    names = []
    for file in files.split():
        path = folder / file if (folder / file).exists() else SHARED / file
        defined = r"^(?:async )?(?:function|class|const|let) (\w+)"
        names += re.findall(defined, path.read_text("utf-8"), re.M)
    assert len(names) == len(set(names))


# ---------------------------------------------------------------- the command


def test_export_writes_a_page_and_replaces_only_pages(run, workplace):
    words = ("export", DATA / "golden-lstm.safetensors", "demo.html")
    status, out, err = run(*words, "--title", "A & B", "--prompt", "x")
    assert (status, out) == (0, "")
    size = Path("demo.html").stat().st_size
    assert err == f"wrote demo.html ({size:,} bytes)\n"
    assert data_of(Path("demo.html").read_text("utf-8"))["title"] == "A & B"
    assert run(*words)[0] == 0
    assert data_of(Path("demo.html").read_text("utf-8"))["title"] == "golden-lstm"

    Path("demo.html").write_text("<p>mine</p>")
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "demo.html is there already" in err
    assert Path("demo.html").read_text() == "<p>mine</p>"


def test_what_is_refused_is_said_in_a_line(run, workplace):
    golden = DATA / "golden-rnn.safetensors"
    Path("folder.html").mkdir()
    for words, said in [
        (("folder.html",), "folder.html is there already"),
        (("none/demo.html",), "cannot write none/demo.html"),
        (("demo.onnx", "--title", "x"), "--title goes with a page"),
        (("demo.htm",), "must end in"),
    ]:
        status, out, err = run("export", golden, *words)
        assert (status, out, err.count("\n")) == (1, "", 1), words
        assert said in err
    assert sorted(path.name for path in workplace.iterdir()) == ["folder.html", "text.txt"]


def test_a_cell_that_cannot_be_exact_is_refused(tmp_path, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Sine(RNN):
        def step(self, xp, projected, state, w):
            return (xp.sin(projected + state[0] @ w["weight_hh"].T),)

    monkeypatch.setitem(CELLS, "sine", Sine)
    with pytest.raises(ConfigError, match="uses the function sin"):
        saved(model("sine"), tmp_path)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the script


@needs_quickjs
def test_tables_and_random_numbers_are_those_of_python():
    script = Script(model("rnn"))
    assert np.array_equal(np.float32(script.run("Array.from(TANH)")), functions.TANH)
    assert np.array_equal(script.run("Array.from(EXP)"), functions.EXP)
    x = np.float32([0.0, -0.3, 1e-30, -80, 79.5, 3.75, -700])
    for name in ("exp", "log"):
        values = np.abs(x[1:]) if name == "log" else x
        script.define("values", values.tolist())
        code = f"((out) => {{ OPERATIONS.{name}(out, values); return Array.from(out); }})"
        got = script.run(f"{code}(new Float32Array(values.length))")
        assert np.array_equal(np.float32(got), getattr(functions.EXACT, name)(values)), name
    for seed, sample, place in [(0, 0, 0), (1, 2, 3), (2**32 - 1, 77, 2**31 + 5)]:
        (expected,) = uniform(seed, [sample], place, 3).tolist()
        assert (
            script.run(f"[0, 1, 2].map((i) => uniform({seed}, {sample}, {place} + i))") == expected
        )


@needs_quickjs
def test_products_are_those_of_python_however_large_the_input_is():
    checkpoint = model("mingru")
    script = Script(checkpoint)
    engine = ExactEngine(checkpoint.model_config, checkpoint.weights)
    product = "(x) => { head.product(Float32Array.from(x), out, false); return Array.from(out); }"
    script.run("(globalThis.head = engine.head, globalThis.out = new Float32Array(head.rows), 0)")
    random = np.random.default_rng(1)
    for size in np.geomspace(0.1, 1e4, 80):
        x = np.float32(size * random.normal(size=(1, engine.head.values.shape[1])))
        script.define("x", x[0].tolist())
        assert np.array_equal(np.float32(script.run(f"({product})(x)")), (x @ engine.head.T)[0])


@needs_quickjs
@pytest.mark.parametrize(
    ("case", "residual"),
    [*[(case, True) for case in CASES], *[(case, False) for case in (*PLAIN, CASES[-1])]],
)
def test_the_script_writes_what_python_writes(case, residual):
    checkpoint = model(*case, residual=residual, num_layers=3)
    script, lm = Script(checkpoint), exact(checkpoint)
    for settings in SETTINGS:
        expected = lm.generate("ab cj", length=250, **settings)
        assert script.text("ab cj", 250, settings) == expected


@needs_quickjs
def test_without_a_prompt_and_with_tied_weights_and_an_unknown_symbol():
    checkpoint = model("gru", tie_weights=True, embedding_size=11, unknown=True, num_layers=1)
    script, lm = Script(checkpoint), exact(checkpoint)
    for prompt in ("", "a", "a\ufffdb"):
        for settings in SETTINGS:
            expected = lm.generate(prompt, length=100, **settings)
            assert script.text(prompt, 100, settings) == expected


@needs_quickjs
@pytest.mark.parametrize(
    ("prompt", "more", "left_out", "count"),
    [("", 4, "too short", 12), ("", -4, "too long", 4), ("ab", 0, "", 8)],
)
def test_items_are_those_of_python(prompt, more, left_out, count):
    """Those that are left out are the same too."""
    checkpoint = model("gru", items=True)
    checkpoint.weights["head.bias"][0] += more  # of the line end
    script, lm = Script(checkpoint), exact(checkpoint)
    settings = SETTINGS[0]
    lines = lm.lines(count, starts_with=prompt, **settings)
    expected = [line for line, _ in lines]
    assert not left_out or lines.left_out[left_out]
    script.define("prompt", lm.tokenizer.encode(prompt).tolist())
    script.define("settings", script_settings(settings))
    ids = script.run(
        "written(engine, prompt, settings, "
        f"(w) => w.ids.filter((id) => id === 0).length > {count}).ids"
    )
    assert lm.tokenizer.decode(ids) == "\n" + "\n".join(expected) + "\n"


@needs_quickjs
def test_a_text_can_be_gone_back_in():
    checkpoint = model("lstm")
    script, lm = Script(checkpoint), exact(checkpoint)
    text = lm.generate("ab", length=200, **SETTINGS[0])
    script.define("prompt", lm.tokenizer.encode("ab").tolist())
    script.define("settings", script_settings(SETTINGS[0]))
    script.context.eval("const w = written(engine, prompt, settings, (w) => w.ids.length === 202)")
    bits = lm.score(text, state=lm.read("ab"))
    assert script.run("w.bits.slice(2)") == pytest.approx(bits.tolist(), abs=1e-6)
    for place in (2, 63, 64, 65, 128, 201):  # those around a state that is kept
        logits = lm.read(("ab" + text)[:place]).logits
        assert np.array_equal(np.float32(script.run(f"Array.from(w.logitsAt({place}))")), logits)
    script.context.eval(
        "const old = w.copy(); w.replace(100, 5); for (let i = 0; i < 50; i++) w.next(settings)"
    )
    begun = ("ab" + text)[:100] + lm.tokenizer.decode([5])
    assert lm.tokenizer.decode(script.run("w.ids.slice(0, 101)")) == begun
    logits = lm.read(lm.tokenizer.decode(script.run("w.ids"))).logits
    assert np.array_equal(np.float32(script.run("Array.from(w.logits)")), logits)
    script.context.eval("old.seek(202); for (let i = 0; i < 10; i++) old.next(settings)")
    expected = lm.generate("ab", length=210, **SETTINGS[0])
    assert lm.tokenizer.decode(script.run("old.ids.slice(2)")) == expected
