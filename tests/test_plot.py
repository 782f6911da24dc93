"""The verb ``plot``: what its curves are, and what it refuses. Pictures are looked at by people."""

import json
from pathlib import Path

import pytest
from conftest import QUICK_FLAGS, ROOT, metrics, one_line

from charlm.cli import plot
from charlm.errors import CheckpointError
from charlm.training.metrics import read_metrics

RESULTS = ROOT / "tests" / "benchmarks" / "results"


@pytest.fixture
def trained(run):
    assert run("train", "text.txt", *QUICK_FLAGS)[0] == 0
    return run


@pytest.mark.parametrize("axis", plot.AXES)
def test_a_curve_holds_what_the_evaluations_found(trained, axis):
    curve = plot.Curve.of("text", axis)
    lines = metrics("checkpoints/text")
    assert curve.train == [line["train_loss"] for line in lines]
    assert curve.validation == [line["validation_loss"] for line in lines]
    facts = json.loads(trained("info", "text", "--json")[1])
    assert (curve.name, curve.best) == ("text", facts["whole_loss"] or facts["best_loss"])
    if axis == "steps":
        assert curve.x == [2, 4, 6]


@pytest.mark.parametrize("text", ["lanes", "items"])
def test_the_characters_are_those_that_were_read(workplace, text):
    """Of a text exactly those of its windows; of a list about as many."""
    from charlm.training.start import start

    if text == "items":
        Path("text.txt").write_text("".join(f"{i * i % 1009}\n" for i in range(800)))
    sizes = {"hidden_size": 4, "embedding_size": 3, "batch_size": 3, "seq_length": 7}
    compute = {"precision": "float32", "threads": 1}
    run = start(["text.txt"], out="run", steps=40, items=text == "items", **sizes, **compute)
    for _ in run.progress():
        pass
    stream = run.trainer.stream
    windows = [stream.window(step) for step in range(40)]
    read = sum(w.inputs.size if w.scored is None else w.scored for w in windows)
    found = plot.Curve.of("run", "characters").x[-1]
    assert found == pytest.approx(read, rel=0.01 if text == "lanes" else 0.2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"step": 8}\n', "line 4 of checkpoints/text/metrics.jsonl is damaged"),
        (b"{\n", "line 4 of checkpoints/text/metrics.jsonl is damaged"),
        (b"\xff\n", "is damaged"),
        (b"[" * 20_000, "is damaged"),
    ],
)
def test_a_damaged_line_is_named(trained, line, message):
    path = Path("checkpoints/text/metrics.jsonl")
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(CheckpointError, match=message):
        read_metrics(path)


def test_numbers_that_are_none_are_damage_and_a_line_being_written_is_not(trained):
    path = Path("checkpoints/text/metrics.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 8, "epo')
    assert len(read_metrics(path)) == 3
    last = json.loads(whole.splitlines()[-1])
    for value in (None, "1", True, float("nan")):
        path.write_text(json.dumps(last | {"seconds": value}) + "\n")
        with pytest.raises(CheckpointError, match="line 1 of"):
            read_metrics(path)


def test_without_matplotlib_there_is_one_line(trained, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    result = trained("plot", "text")
    one_line(*result, expected=1)
    assert "pip install matplotlib" in result[2]


BAD = [
    (["text", "--out", "text.jpg"], 1, "must end in .png or .svg"),
    (["text", "--out", "mine.png"], 1, "mine.png is there already and is no picture"),
    (["text", "--out", "folder.png"], 1, "folder.png is there already and is no picture"),
    (["text", "--out", "none/a.png"], 1, "cannot write none/a.png"),
    (["none"], 1, "there is no run or checkpoint 'none'"),
    (["bare"], 1, "has no metrics.jsonl"),
    (["empty.jsonl"], 1, "empty.jsonl is empty"),
    (["alone.jsonl", "--x", "characters"], 1, "choose --x steps"),
    (["text", "--line", "x"], 2, "is not of the form LABEL=NATS"),
    (["text", "--line", "x=nan"], 2, "is not of the form LABEL=NATS"),
    (["text", "--x", "hours"], 2, "invalid choice"),
]


def test_bad_input_is_one_line_and_nothing_is_written(trained, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda name: True)
    monkeypatch.setattr(plot, "_picture", lambda *_: b"")
    Path("mine.png").write_text("a text")
    Path("folder.png").mkdir()
    Path("bare").mkdir()
    Path("bare/latest.safetensors").write_bytes(
        Path("checkpoints/text/latest.safetensors").read_bytes()
    )
    Path("empty.jsonl").touch()
    Path("alone.jsonl").write_bytes(Path("checkpoints/text/metrics.jsonl").read_bytes())
    before = sorted(Path().rglob("*"))
    for words, status, message in BAD:
        result = trained("plot", *words)
        one_line(*result, expected=status)
        assert message in result[2]
        assert sorted(Path().rglob("*")) == before


def test_curves_are_drawn_as_png_and_svg(trained):
    pytest.importorskip("matplotlib")
    assert trained("plot", "text") == (0, "text.png\n", "")
    assert Path("text.png").read_bytes().startswith(b"\x89PNG")
    assert trained("plot", "text", "--out", "text.png", "--x", "steps")[0] == 0  # replaces it
    other = RESULTS / "tiny-shakespeare-3-minutes.jsonl"
    Path("$x_").mkdir()  # no formula, whatever it looks like
    Path("$x_/metrics.jsonl").write_bytes(other.read_bytes())
    words = ["text", other, "$x_/metrics.jsonl", "--line", "th$eirs=1.5", "-o", "all.svg"]
    assert trained("plot", *words) == (0, "all.svg\n", "")
    assert Path("all.svg").read_text("utf-8").startswith("<?xml")


def test_runs_of_one_name_are_told_apart(trained, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda name: True)
    seen = []
    monkeypatch.setattr(plot, "_picture", lambda curves, *_: seen.extend(curves) or b"")
    assert trained("plot", "text", "checkpoints/text")[0] == 0
    assert [curve.name for curve in seen] == ["text", "checkpoints/text"]
