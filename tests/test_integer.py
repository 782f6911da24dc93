"""The network in whole numbers: the same bits in any order, close to the network in float32."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BACKBONES, DATA, EVERY, ROOT, is_unbounded, tiny_config

from charlm import quantization
from charlm.api import LanguageModel, load
from charlm.cells import CELLS
from charlm.cells.base import Cell, Parameter
from charlm.checkpoint import Checkpoint, in_whole_numbers
from charlm.config import SampleConfig
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CheckpointError, ConfigError
from charlm.evaluation.texts import evaluate_checkpoint
from charlm.inference.engine import Engine
from charlm.inference.sampling import choose
from charlm.integer import bounds, functions, random
from charlm.integer.engine import ExactEngine
from charlm.integer.kernels import Matrix
from charlm.model.language_model import CharLM
from charlm.quantization import exponents, rounded, values, whole

TEXT = "\n abcdefgh"
V = len(TEXT)


def weights_of(backbone, variant="plain", *, scale=3.0, **changes):
    config = tiny_config(backbone, variant, **changes)
    scale = 1.0 if is_unbounded(backbone, variant) else scale
    weights = CharLM(config, V, seed=5).weights()
    return config, {name: w * np.float32(scale) for name, w in weights.items()}


def lm_of(backbone, variant="plain", **changes):
    config, weights = weights_of(backbone, variant, **changes)
    tokenizer = CharTokenizer(TEXT)
    return LanguageModel(Checkpoint(model_config=config, tokenizer=tokenizer, weights=weights))


def ids_of(count, lanes, seed=1):
    return np.random.default_rng(seed).integers(0, V, (lanes, count))


def test_rounded_weights_are_whole_numbers_of_8_bits_and_near():
    rng = np.random.default_rng(2)
    matrix = (rng.normal(size=(37, 11)) * np.exp(rng.normal(0, 3, (37, 1)))).astype(np.float32)
    numbers, k = whole(matrix)
    assert np.abs(numbers.astype(int)).max() == 127 or np.abs(numbers.astype(int)).max() > 63
    again = values(numbers, k)
    assert (np.abs(again - matrix).max(axis=1) <= 2.0 ** -(k.astype(float) + 1)).all()
    np.testing.assert_array_equal(rounded({"w": again})["w"], again)  # rounding twice is once
    np.testing.assert_array_equal(exponents(np.zeros((3, 2), np.float32)) <= 10, True)


def test_tables_are_within_half_a_step_of_the_functions():
    x = np.linspace(-12, 12, 100_003).astype(np.float32)
    assert np.abs(functions.EXACT.tanh(x) - np.tanh(x)).max() < 0.5 / functions.STEPS + 1e-6
    gaps = np.linspace(0, 25, 100_003)
    error = functions.weights(gaps.copy()) / 2.0**functions.WEIGHT_BITS - np.exp(-gaps)
    assert (
        np.abs(error) <= np.exp(-gaps) * 0.51 / functions.STEPS + 2.0**-functions.WEIGHT_BITS
    ).all()


def test_exp_and_log_are_right_to_the_last_bits():
    x = -np.random.default_rng(3).exponential(5, 10_001)
    np.testing.assert_allclose(functions.exp(x), np.exp(x), rtol=4e-16)
    y = np.exp(np.random.default_rng(4).normal(0, 5, 10_001))
    np.testing.assert_allclose(functions.log(y), np.log(y), rtol=4e-16, atol=2e-16)


def test_random_numbers_are_those_of_the_paper_and_a_function_of_their_place():
    """The known answers are those that the authors publish for Threefry-2x32 with 20 rounds."""
    zero = np.zeros(1, np.uint32)
    x, y = random.threefry((0, 0), zero, zero)
    assert (int(x[0]), int(y[0])) == (0x6B200159, 0x99BA4EFE)
    ones = np.full(1, 0xFFFFFFFF, np.uint32)
    x, y = random.threefry((0xFFFFFFFF, 0xFFFFFFFF), ones, ones)
    assert (int(x[0]), int(y[0])) == (0x1CB996FC, 0xBB002BE7)
    numbers = random.uniform(7, [3, 4], 0, 50)
    parts = random.Generator(7, [3, 4])
    np.testing.assert_array_equal(np.hstack([parts.random(19), parts.random(31)]), numbers)
    assert len({*numbers.ravel(), *random.uniform(8, [3], 0, 50)[0]}) == 150
    assert (random.uniform(2**63 - 1, [0], 0, 9) != random.uniform(2**31 - 1, [0], 0, 9)).all()


@pytest.mark.filterwarnings("error")
def test_the_least_temperatures_take_the_likeliest():
    for scale in (1e29, 1e31, 1e300, math.inf):
        weights = functions.weights(np.array([0.0, 2.0**-20, 3.0]), scale)
        assert weights.tolist() == [2.0**functions.WEIGHT_BITS, 0, 0]


def test_random_numbers_are_uniform():
    """Chi square over 64 bins: a right generator fails with probability 1e-6."""
    numbers = random.uniform(1, range(64), 0, 1000).ravel()
    counts = np.bincount((numbers * 64).astype(int), minlength=64)
    assert ((counts - 1000) ** 2 / 1000).sum() < 125
    assert 0 <= numbers.min() < numbers.max() < 1


@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_is_exact(bits):
    """Against products of fractions, for inputs of any size; each is rounded by itself."""
    rng = np.random.default_rng(6)
    w = rounded({"w": rng.normal(0, 0.3, (5, 600)).astype(np.float32)})["w"]
    x = (rng.normal(size=(7, 600)) * 10.0 ** np.arange(-3, 4)[:, None]).astype(np.float32)
    matrix = Matrix(w, bits)
    found = x @ matrix.T
    for lane, row in enumerate(found):
        np.testing.assert_array_equal(row, (x[lane : lane + 1] @ matrix.T)[0])
        most = np.abs(x[lane]).max()
        e = max(0, math.frexp(most / matrix.most)[1]) if most > matrix.most else 0
        unit = 2.0 ** (e - bits)
        inputs = [Fraction(float(np.rint(v / unit) * unit)) for v in x[lane].astype(float)]
        for column in range(5):
            exact = sum(a * Fraction(float(b)) for a, b in zip(inputs, w[column], strict=True))
            assert Fraction(float(row[column])) == exact


@pytest.mark.parametrize(("name", "variant"), EVERY)
@pytest.mark.parametrize("residual", [True, False])
def test_kernels_give_the_bits_of_the_equations(name, variant, residual):
    """Step by step and window by window, from a state that is not zero, whatever is beside it."""
    config, weights = weights_of(name, variant, num_layers=3, residual=residual)
    ids = ids_of(60, 4)
    fast = ExactEngine(config, weights)
    slow = ExactEngine(config, weights, implementation="reference")
    steppers = [engine.stepper(engine.initial_state(4)) for engine in (fast, slow, fast)]
    alone = fast.stepper(fast.initial_state(1))
    for t in range(30):
        logits = [stepper.step(ids[:, t]).copy() for stepper in steppers]
        np.testing.assert_array_equal(logits[0], logits[1])
        np.testing.assert_array_equal(logits[0][2:3], alone.step(ids[2:3, t]))
    state = steppers[0].state
    for mine, other in zip(state, steppers[1].state, strict=True):
        np.testing.assert_array_equal(mine, other)
    window = fast.stepper(state)
    y = window.predict(window.read(ids[:, 30:]))
    for t in range(30, 60):
        np.testing.assert_array_equal(y[:, t - 30], steppers[0].step(ids[:, t]))
    for mine, other in zip(window.state, steppers[0].state, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_it_predicts_as_the_network_in_float32_does(name, variant):
    config, weights = weights_of(name, variant, scale=1.5)
    ids = ids_of(400, 3)
    exact, engine = ExactEngine(config, weights), Engine(config, weights)
    a, b = (e.stepper(e.initial_state(3)) for e in (exact, engine))
    gap = 0.0
    for t in range(399):
        one, other = a.step(ids[:, t]), b.step(ids[:, t])
        gap += float(
            np.mean(exact.surprisal(one, ids[:, t + 1]) - engine.surprisal(other, ids[:, t + 1]))
        )
    assert abs(gap / 399) < 0.005


def test_surprisal_is_that_of_the_softmax():
    config, weights = weights_of("lstm")
    exact = ExactEngine(config, weights)
    logits = np.random.default_rng(8).normal(0, 4, (57, V)).astype(np.float32)
    ids = ids_of(57, 1)[0]
    expected = np.log(np.exp(logits).sum(1, dtype=float)) - logits[np.arange(57), ids]
    np.testing.assert_allclose(exact.surprisal(logits, ids), expected, atol=0.6 / functions.STEPS)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 1.0}, {"temperature": 0.6, "top_k": 4}, {"top_p": 0.7}, {"min_p": 0.1}],
)
def test_weights_leave_out_what_the_float_ones_do_and_follow_them(settings):
    config, weights = weights_of("gru")
    logits = np.random.default_rng(9).normal(0, 1.5, (41, V)).astype(np.float32)
    drawn = SampleConfig(**settings)
    mine = ExactEngine(config, weights).weights(logits, drawn)
    other = Engine(config, weights).weights(logits, drawn)
    assert (mine == np.rint(mine)).all()
    np.testing.assert_allclose(
        mine / mine.sum(1, keepdims=True), other / other.sum(1, keepdims=True), atol=2e-3
    )
    cold = ExactEngine(config, weights).weights(logits, SampleConfig(temperature=0))
    np.testing.assert_array_equal(choose(cold, np.full(41, 0.5)), logits.argmax(1))


def test_a_sample_depends_on_seed_and_number_alone():
    lm = lm_of("lstm").exact()
    many = ["".join(s) for s in lm.samples("ab", num_samples=11, length=60, seed=4)]
    assert many[0] == lm.generate("ab", length=60, seed=4)
    few = ["".join(s) for s in lm.samples("ab", num_samples=3, length=60, seed=4)]
    assert many[:3] == few
    assert len({*many}) == 11


@pytest.mark.parametrize("tie", [False, True])
def test_a_model_in_whole_numbers_is_saved_and_loaded(tmp_path, tie):
    lm = lm_of("gru", tie_weights=tie, **({"embedding_size": 7, "hidden_size": 7} if tie else {}))
    exact, path = lm.exact(), tmp_path / "m.safetensors"
    exact.save(path)
    again = load(path)
    assert again.checkpoint.exact
    assert again.fingerprint() == exact.fingerprint() != lm.fingerprint()
    assert again.generate("ab", length=99, seed=3) == exact.generate("ab", length=99, seed=3)
    np.testing.assert_array_equal(again.score("abc hgf"), exact.score("abc hgf"))
    np.testing.assert_array_equal(again.exact().score("abc hgf"), exact.score("abc hgf"))
    state = tmp_path / "s.state"
    exact.save_state(exact.read("abc"), state)
    assert again.load_state(state).fits(again.config, V)
    with pytest.raises(CheckpointError, match="of another model"):
        lm.load_state(state)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        load(path)


@dataclass(frozen=True, kw_only=True)
class Elementwise(Cell):
    """A cell with a vector in place of a recurrent matrix, and an unbounded output."""

    function: str = "tanh"

    def parameters(self, input_size, hidden_size):
        return {
            "weight": Parameter((hidden_size, input_size), ("xavier_uniform",)),
            "own": Parameter((hidden_size,), (0.9,)),
        }

    def project(self, x, w):
        return x @ w["weight"].T

    def step(self, xp, projected, state, w):
        (h,) = state
        return (w["own"] * h + 3 * getattr(xp, self.function)(projected),)


@dataclass(frozen=True, kw_only=True)
class Diagonal(Cell):
    """A cell without any matrix; its input is as wide as its state."""

    def parameters(self, input_size, hidden_size):
        return {"own": Parameter((hidden_size,), (0.9,))}

    def project(self, x, w):
        return x

    def step(self, xp, projected, state, w):
        return (xp.tanh(projected + w["own"] * state[0]),)


def test_a_cell_without_a_matrix_runs_in_whole_numbers(monkeypatch):
    monkeypatch.setitem(CELLS, "diagonal", Diagonal)
    config, weights = weights_of(
        "diagonal", num_layers=1, scale=1.0, embedding_size=11, hidden_size=11
    )
    engines = ExactEngine(config, weights), Engine(config, weights)
    steppers = [engine.stepper(engine.initial_state(9)) for engine in engines]
    ids = ids_of(20, 9)
    for t in range(20):
        one, other = (stepper.step(ids[:, t]) for stepper in steppers)
    assert np.abs(one - other).max() < 0.03 * np.abs(other).max()


def test_any_cell_runs_in_whole_numbers_or_says_what_it_may_not_use(monkeypatch):
    monkeypatch.setitem(CELLS, "elementwise", Elementwise)
    config, weights = weights_of("elementwise", num_layers=2, scale=1.0)
    ids = ids_of(40, 9)
    exact = ExactEngine(config, weights)
    together, alone = exact.stepper(exact.initial_state(9)), exact.stepper(exact.initial_state(1))
    for t in range(40):
        logits = together.step(ids[:, t])
        np.testing.assert_array_equal(logits[4:5], alone.step(ids[4:5, t]))
    float_stepper = Engine(config, weights).stepper(Engine(config, weights).initial_state(9))
    for t in range(40):
        other = float_stepper.step(ids[:, t])
    assert np.abs(logits - other).max() < 0.03 * np.abs(other).max()
    small = functions.EXACT.exp(np.float32([-2000, -1, 0, 3]))
    np.testing.assert_allclose(small, np.exp([-2000.0, -1, 0, 3]), rtol=1e-6)
    matrix = Matrix(rounded(weights)["head.weight"], 8)
    x = np.float32([[0.5] * matrix.values.shape[1]])
    np.testing.assert_array_equal(x @ matrix[2:5].T, (x @ matrix.T)[:, 2:5])
    step: Any = lambda self, xp, p, s, w: (xp.sin(p),)  # noqa: E731
    monkeypatch.setattr(Elementwise, "step", step)
    with pytest.raises(ConfigError, match="the cell uses sin"):
        exact.step(ids[:, 0], exact.initial_state(9))


def test_too_wide_a_layer_is_refused_and_a_wide_one_has_fewer_bits():
    config, weights = weights_of("rnn", hidden_size=9)
    assert bounds.activation_bits(config, rounded(weights)) == bounds.MOST_ACTIVATION_BITS
    wide = {name: w.copy() for name, w in weights.items()}
    wide["backbone.layers.0.weight_hh"][:] = 1
    fewer = tiny_config("rnn", hidden_size=2048)
    big = {n: np.full(s, 0.5, np.float32) for n, s in fewer.parameter_shapes(V).items()}
    assert bounds.activation_bits(fewer, rounded(big)) < bounds.MOST_ACTIVATION_BITS
    huge = tiny_config("rnn", hidden_size=9_000)
    name = "backbone.layers.0.weight_hh"
    broad = dict.fromkeys(huge.parameter_shapes(V), np.ones((1, 1), np.float32))
    broad |= {name: np.broadcast_to(np.float32(1), (1, 9_000))}
    with pytest.raises(ConfigError, match="cannot be computed in whole numbers"):
        bounds.activation_bits(huge, broad)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("backbone", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("size", [1e20, 3e38])
def test_a_huge_embedding_takes_each_gate_to_its_limit(backbone, size):
    config, weights = weights_of(backbone)
    name = "embedding.weight"
    weights |= {name: np.where(weights[name] < 0, -1, 1).astype(np.float32) * np.float32(size)}
    numbers, _ = whole(weights[name])
    np.testing.assert_array_equal(numbers, np.sign(weights[name]) * np.abs(numbers).max())
    ids = ids_of(1, 9)[:, 0]
    engines = [ExactEngine(config, weights, implementation=i) for i in ("fused", "reference")]
    fused, reference = (e.step(ids, e.initial_state(9))[0] for e in engines)
    np.testing.assert_array_equal(fused, reference)


@pytest.mark.filterwarnings("error")
def test_a_bias_beyond_all_bounds_is_refused_without_a_warning():
    config, weights = weights_of("gru")
    weights["head.bias"][0] = 3e38
    with pytest.raises(ConfigError, match="cannot be computed in whole numbers"):
        ExactEngine(config, weights)


@pytest.mark.parametrize("exponent", [-128, -101, 11, 127])
def test_a_model_file_with_a_unit_out_of_range_is_refused(tmp_path, monkeypatch, exponent):
    exact, path = lm_of("gru").exact(), tmp_path / "m.safetensors"
    forged = lambda m: (whole(m)[0], np.full_like(whole(m)[1], exponent))  # noqa: E731
    monkeypatch.setattr(quantization, "whole", forged)
    exact.save(path)
    with pytest.raises(CheckpointError, match="a unit is out of range"):
        load(path)


def test_whole_numbers_of_a_checkpoint_have_no_run():
    found = in_whole_numbers(lm_of("lstm").checkpoint)
    assert found.exact
    assert not found.optimizer
    assert not found.state


def test_the_verbs_work_with_a_model_in_whole_numbers(run, workplace):
    """And say the same of a run with ``--exact``."""
    golden = str(DATA / "golden-lstm.safetensors")
    status, _, err = run("export", golden, "small.safetensors")
    assert (status, err.startswith("wrote small.safetensors (")) == (0, True)
    asked = ("-p", "The ", "--length", "50", "--seed", "3")
    first = run("generate", golden, "--exact", *asked)
    assert run("generate", "small.safetensors", *asked)[:2] == first[:2]
    assert first[0] == 0
    Path("part.txt").write_text(first[1])
    scored = run("score", golden, "part.txt", "--exact", "--json")
    assert run("score", "small.safetensors", "part.txt", "--json")[:2] == scored[:2]
    status, out, _ = run("evaluate", "small.safetensors", "part.txt", "--json")
    bits = json.loads(scored[1])["surprisal"][1:]
    found = json.loads(out)["bits_per_char"]
    # The one reads a line end first, the other the first character of the text.
    assert (status, found) == (0, pytest.approx(sum(bits) / len(bits), rel=0.05))
    assert "in whole numbers" in run("info", "small.safetensors")[1]
    assert run("resume", "small.safetensors")[0] == 1
    assert "does not learn" in run("evaluate", "small.safetensors", "part.txt", "--dynamic")[2]
    Path("text.safetensors").write_text("a text")
    assert "is there already" in run("export", golden, "text.safetensors")[2]
    assert Path("text.safetensors").read_text() == "a text"


def test_the_bits_are_the_same_under_other_conditions():
    """A short form of ``reliability/same_bits.py``, which has many more of them."""
    program = ROOT / "tests" / "reliability" / "same_bits.py"
    found = set()
    for lanes, core in ((1, "Prescott"), (64, "Haswell")):
        words = [sys.executable, program, "--work", str(lanes), "--characters", "900"]
        variables = {"OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": str(lanes % 63 + 1)}
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        found.add(subprocess.check_output(words, env=environment, text=True).split(",")[0])
    # Of other machines and versions of numpy too: see the table in tests/README.md.
    assert len(found) == 1


@pytest.mark.parametrize("last", ["\n", ""])
def test_a_model_of_items_is_evaluated_in_whole_numbers(last):
    lm = lm_of("gru", items=True)
    text = "abc\nhg\nfedcba\na" + last
    exact = lm.exact()
    one, other = (evaluate_checkpoint(m.checkpoint, "", text) for m in (exact, lm))
    assert (one.items, one.characters) == (other.items, other.characters) == (4, len(text))
    assert one.nats_per_char == pytest.approx(other.nats_per_char, rel=0.01)
    assert one.nats_per_char == pytest.approx(exact.score(text).mean() * math.log(2), abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("backbone", ["rnn", "lstm", "gru"])
def test_a_state_that_no_text_leads_to_does_no_harm(backbone):
    config, weights = weights_of(backbone)
    exact = ExactEngine(config, weights)
    state = tuple(np.full_like(s, 1e30) for s in exact.initial_state(3))
    stepper = exact.stepper(state)
    for t in range(5):
        assert np.isfinite(stepper.step(ids_of(5, 3)[:, t])).all()
