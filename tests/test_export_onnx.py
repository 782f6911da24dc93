"""``charlm export RUN model.onnx``: in onnxruntime the network is the one of the engine."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import BACKBONES, DATA, PLAIN, VARIANTS, B, E, H, V, one_line, random_ids
from test_trace import Everything

from charlm import checkpoint as checkpoints
from charlm.cells import CELLS, GRU
from charlm.checkpoint import Checkpoint
from charlm.config import ModelConfig
from charlm.data.tokenizer import UNKNOWN, CharTokenizer
from charlm.errors import ConfigError
from charlm.export import onnx as onnx_export
from charlm.inference.engine import Engine
from charlm.model.language_model import CharLM

GOLDEN = DATA / "golden-lstm.safetensors"
VOCABULARY = f"\n{UNKNOWN}abcdefghijk"  # V symbols

needs_packages = pytest.mark.skipif(
    find_spec("onnx") is None or find_spec("onnxruntime") is None,
    reason="onnx or onnxruntime is not installed: pip install 'charlm[onnx]' onnxruntime",
)


@pytest.fixture(autouse=True)
def cells(monkeypatch):
    monkeypatch.setitem(CELLS, "everything", Everything)


def model_of(backbone, variant="plain", *, unknown=False, **changes):
    """Return a checkpoint with a model of some sizes."""
    sizes = {"embedding_size": E, "hidden_size": H, "num_layers": 2, "dropout": 0.0, **changes}
    config = ModelConfig.from_dict({"backbone": backbone} | VARIANTS[variant] | sizes)
    weights = CharLM(config, V, seed=4).weights()
    rng = np.random.default_rng(7)
    for name, array in weights.items():  # biases that are not 0
        if not array.any():
            weights[name] = 0.1 * rng.normal(size=array.shape).astype(np.float32)
    return Checkpoint(
        model_config=config,
        tokenizer=CharTokenizer(VOCABULARY, unknown=unknown),
        weights=weights,
    )


def session_of(data):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def log_probabilities(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def largest_difference(session, engine, ids):
    """Read ids (N, B) from a state that is not zero; return the largest one in log-probability."""
    rng = np.random.default_rng(5)
    count = ids.shape[1]
    start = tuple(rng.normal(size=s.shape).astype(np.float32) for s in engine.initial_state(count))
    state = dict(zip(engine.config.state_shapes(count), start, strict=True))
    stepper = engine.stepper(start)
    ours, theirs = [], []
    for row in ids:
        logits, *after = session.run(None, {"ids": row, **state})
        state = dict(zip(state, after, strict=True))
        ours.append(logits)
        theirs.append(stepper.step(row).copy())
    for one, other in zip(state.values(), stepper.state, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    difference = log_probabilities(np.stack(ours)) - log_probabilities(np.stack(theirs))
    return np.abs(difference).max()


CASES = [
    *[((name, variant), {}) for name, variant in BACKBONES],
    (("rnn", "relu"), {"residual": False, "num_layers": 3}),
    (("lstm",), {"tie_weights": True, "embedding_size": H, "num_layers": 1}),
    (("gru",), {"items": True}),
    (("lstm", "attention"), {"items": True}),
    (("gru", "before"), {"num_layers": 4}),
    (("everything",), {"items": True}),
]
# Those that others are like, but for a few operations.
LONG = [*PLAIN, ("lstm", "attention")]


@needs_packages
@pytest.mark.parametrize(("cell", "changes"), CASES)
def test_thousands_of_carried_steps_agree_with_the_engine(cell, changes):
    model = model_of(*cell, **changes)
    end = 0 if model.model_config.items else None
    engine = Engine(model.model_config, model.weights, line_end=end)
    session = session_of(onnx_export.to_bytes(model))
    steps = 10_000 if cell in LONG and not changes else 1_500
    assert largest_difference(session, engine, random_ids(6, steps, B)) < 1e-5
    assert largest_difference(session, engine, random_ids(6, 20, 1)) < 1e-5  # B is free


@needs_packages
@pytest.mark.parametrize("unknown", [False, True])
def test_the_file_says_what_it_holds(unknown):
    model = model_of("lstm", unknown=unknown)
    session = session_of(onnx_export.to_bytes(model))
    shapes = {"h": [2, "B", H], "c": [2, "B", H]}
    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    assert inputs.pop("ids") == ("tensor(int64)", ["B"])
    assert inputs == {name: ("tensor(float)", shape) for name, shape in shapes.items()}
    outputs = {o.name: o.shape for o in session.get_outputs()}
    assert list(outputs) == ["logits", "next_h", "next_c"]
    assert outputs == {"logits": ["B", V]} | {f"next_{n}": shape for n, shape in shapes.items()}
    metadata = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in metadata.items()} == {
        "vocabulary": VOCABULARY,
        "unknown": UNKNOWN if unknown else None,
        "settings": model.model_config.to_dict(),
    }


@needs_packages
def test_the_weights_are_those_of_the_model_each_once():
    import onnx

    model = model_of("gru", "before", tie_weights=True, embedding_size=H)
    found = onnx.load_from_string(onnx_export.to_bytes(model))
    onnx.checker.check_model(found, full_check=True)
    arrays = {a.name: onnx.numpy_helper.to_array(a) for a in found.graph.initializer}
    for name, array in model.weights.items():
        parts = [a for n, a in arrays.items() if n.partition("[")[0] == name]
        np.testing.assert_array_equal(np.concatenate(parts), np.atleast_2d(array))
    assert [(o.domain, o.version) for o in found.opset_import] == [("", 13)]


@needs_packages
def test_what_cannot_be_a_model_is_one_error(monkeypatch):
    class Named(GRU):
        def state_shapes(self, hidden_size):
            return {"ids": (hidden_size,)}

    monkeypatch.setitem(CELLS, "gru", Named)
    with pytest.raises(ConfigError, match=r"cannot be written as ONNX: .*ids"):
        onnx_export.to_bytes(model_of("gru"))
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="less than 2 GiB"):
        onnx_export.to_bytes(model_of("lstm"))


@needs_packages
def test_the_verb_writes_the_file_and_replaces_its_own(run):
    Path("other.onnx").symlink_to("model.ONNX")
    for name in ("model.ONNX", "model.ONNX", "other.onnx"):
        status, out, err = run("export", GOLDEN, name)
        size = Path("model.ONNX").stat().st_size
        assert (status, out, err) == (0, "", f"wrote {name} ({size:,} bytes)\n")
    assert Path("other.onnx").is_symlink()
    found = checkpoints.load(GOLDEN, model_only=True)
    assert Path("model.ONNX").read_bytes() == onnx_export.to_bytes(found)


BAD = [
    (["model"], "must end in .safetensors or .html or .onnx"),
    (["model.pt"], "must end in .safetensors or .html or .onnx"),
    (["none/model.onnx"], "there is no folder"),
    (["folder.onnx"], "it is not a regular file"),
    (["foreign.onnx"], "foreign.onnx is there already, and not an ONNX file of charlm"),
    (["empty.onnx"], "empty.onnx is there already"),
    (["a\0.onnx"], "cannot be the name of a file"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_names_are_one_line_and_nothing_is_written(run, words, message):
    Path("folder.onnx").mkdir()
    Path("foreign.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    Path("empty.onnx").touch()
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    status, out, err = run("export", GOLDEN, *words)
    one_line(status, out, err, expected=1)
    assert message in err
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_no_run_and_no_file_are_one_line(run):
    one_line(*run("export", "none", "model.onnx"), expected=1)
    one_line(*run("export", GOLDEN), expected=2)
    assert [*Path().iterdir()] == [Path("text.txt")]


def test_without_the_package_there_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, out, err = run("export", GOLDEN, "model.onnx")
    one_line(status, out, err, expected=1)
    assert "pip install 'charlm[onnx]'" in err
    assert [*Path().iterdir()] == [Path("text.txt")]


@needs_packages
def test_a_cell_that_cannot_be_exported_is_one_line(run, monkeypatch):
    class Odd(GRU):
        def step(self, xp, projected, state, w):
            return (xp.where(state[0] > 0, state[0], projected[..., :H]),)

    monkeypatch.setitem(CELLS, "gru", Odd)
    checkpoints.save_model(model_of("gru"), Path("odd.safetensors"))
    status, out, err = run("export", "odd.safetensors", "model.onnx")
    one_line(status, out, err, expected=1)
    assert "the cell Odd cannot be exported" in err
    assert not Path("model.onnx").exists()
