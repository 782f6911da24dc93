"""A comparison: the same budget for all, exact after stops, and a verdict that knows the noise."""

import json
import random
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from conftest import QUICK, QUICK_FLAGS, assert_same_run, metrics, one_line, words

from charlm import checkpoint as checkpoints
from charlm.cells import CELLS
from charlm.cells.gru import GRU
from charlm.config import CompareConfig, ModelConfig
from charlm.errors import CharlmError, ConfigError, DivergenceError
from charlm.insight import gradients, memory
from charlm.training import autotune, figures
from charlm.training.comparison import Comparison
from charlm.training.comparison_plan import sized
from charlm.training.trainer import Trainer
from charlm.training.verdict import T_QUANTILES, noise, verdict

COMMAND = ["compare", "text.txt", *QUICK_FLAGS, "--out", "all"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Measure on fewer characters and for a shorter time."""
    monkeypatch.setattr(figures, "GENERATING_SECONDS", 0.01)
    monkeypatch.setattr(figures, "MOST_HELD_OUT", 300)
    monkeypatch.setattr(memory, "WINDOWS", ((1.0, 4), (0.1, 4)))
    monkeypatch.setattr(gradients, "PLACES", 2)


def compared(config=None, **options):
    """Train a comparison to its end in this process."""
    comparison = Comparison.open(
        ["text.txt"], config or CompareConfig(), **({"out": "all"} | QUICK | options)
    )
    for member in comparison.left():
        for _ in comparison.train(member):
            pass
    comparison.release()
    return comparison


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_nothing_is_chosen_for_the_cell_of_one_backbone(workplace):
    comparison = Comparison.open(["text.txt"], CompareConfig(), out="all", steps=3)
    notices = " ".join(comparison.document["notices"])
    comparison.release()
    assert "hidden_size" in notices
    assert "coupled_gates" not in notices


def test_a_backbone_that_cannot_be_computed_is_found_before_any_is_trained(workplace, monkeypatch):
    timed = autotune.seconds_per_window

    def seconds(model, *rest, **sizes):
        if model.config.backbone == "lstm":
            raise ConfigError("this machine cannot train it")
        return timed(model, *rest, **sizes)

    monkeypatch.setattr(autotune, "seconds_per_window", seconds)
    with pytest.raises(ConfigError, match="cannot train it"):
        Comparison.open(["text.txt"], CompareConfig(backbones="rnn,lstm"), out="all", **QUICK)
    assert not Path("all").exists()


def test_all_backbones_are_trained_alike_and_are_ordinary_runs(run):
    status, out, err = run(*COMMAND, "--prompt", "abc")
    assert status == 0, err
    assert all(backbone in out for backbone in CELLS)
    assert "One seed cannot tell" in " ".join(out.split())
    document = json.loads(Path("all/compare.json").read_text())
    assert [row["backbone"] for row in document["table"]] == list(CELLS)
    settings = []
    for row, entry in zip(document["table"], document["runs"], strict=True):
        folder = f"all/{row['backbone']}-1"
        facts = json.loads(run("info", folder, "--json")[1])
        assert row["parameters"] == facts["parameters"]
        assert row["nats"] == (facts["whole_loss"] or facts["best_loss"])
        assert (entry["steps"], facts["train"]["seed"]) == (facts["step"], 1)
        settings.append(facts["model"] | facts["train"] | {"precision": facts["precision"]})
        common = ("generate", folder, "--prompt", "abc", "--length", 300, "--seed", 1)
        text = run(*common)[1].removesuffix("\n")
        assert document["measured"][row["backbone"]]["sample"] == text.removeprefix("abc")
    own = {name for cell in CELLS.values() for name in cell.names()} | {"backbone"}
    for one in settings:
        assert {n: v for n, v in one.items() if n not in own} == {
            n: v for n, v in settings[0].items() if n not in own
        }
    assert len(run("list", "all")[1].splitlines()) == 1 + len(CELLS)
    assert "</html>" in Path("all/compare.html").read_text("utf-8")


def test_a_finished_comparison_prints_its_table_again(run, monkeypatch):
    first = run(*COMMAND, "--backbones", "gru,rnn")
    before = contents("all")
    monkeypatch.setattr(Trainer, "step", None)  # nothing is trained again
    monkeypatch.setattr(figures, "measure", None)
    assert run(*COMMAND, "--backbones", "gru,rnn")[:2] == first[:2]
    assert contents("all") == before
    status, out, _ = run(*COMMAND, "--backbones", "gru,rnn", "--json")
    assert status == 0
    assert json.loads(out) == json.loads(Path("all/compare.json").read_text())


def test_another_prompt_is_continued_without_measuring_again(run, monkeypatch):
    assert run(*COMMAND, "--backbones", "gru")[0] == 0
    first = json.loads(Path("all/compare.json").read_text())["measured"]["gru"]
    monkeypatch.setattr(figures, "measure_memory", None)
    assert run(*COMMAND, "--backbones", "gru", "--prompt", "abc")[0] == 0
    found = json.loads(Path("all/compare.json").read_text())["measured"]["gru"]
    assert (found["prompt"], found["memory"]) == ("abc", first["memory"])
    assert found["sample"] != first["sample"]


def test_stopped_and_continued_it_ends_as_one_that_was_not(run, monkeypatch):
    config = CompareConfig(backbones="rnn,gru")
    compared(config, out="straight")
    real, steps = Trainer.step, []

    def stopping(trainer):
        steps.append(0)
        if len(steps) in (3, 9):
            signal.raise_signal(signal.SIGINT)
        return real(trainer)

    monkeypatch.setattr(Trainer, "step", stopping)
    words = [*COMMAND, "--backbones", "rnn,gru"]
    for _ in range(2):  # in the first run, then in the second one
        status, out, err = run(*words)
        assert (status, out) == (130, "")
        words = shlex.split(re.search(r"continue with: charlm (.*)", err)[1])
    assert run(*words)[0] == 0
    for name in ("rnn-1", "gru-1"):
        assert_same_run(f"straight/{name}", f"all/{name}")


def test_a_kill_loses_nothing(workplace, monkeypatch):
    """Killed in the middle of a training, at its start, and before anything was trained."""
    config = CompareConfig(backbones="rnn,gru")
    compared(config, out="straight")
    comparison = Comparison.open(["text.txt"], config, out="all", **QUICK)
    rnn, gru = comparison.left()
    comparison.release()  # as a kill does
    comparison = Comparison.open(["text.txt"], config, out="all", **QUICK)
    steps = comparison.train(rnn)
    for _ in range(3):
        next(steps)
    steps.close()
    comparison.release()
    compared(config)
    shutil.rmtree(gru.folder)
    shutil.copytree("straight/gru-1", gru.folder)
    latest = gru.folder / "latest.safetensors"
    found = checkpoints.load(latest)
    assert found.counters.step == QUICK["steps"]
    compared(config)
    for name in ("rnn-1", "gru-1"):
        assert_same_run(f"straight/{name}", f"all/{name}")


def test_seeds_and_backbones_extend_a_comparison(workplace):
    compared(CompareConfig(backbones="rnn"))
    before = contents("all/rnn-1")
    comparison = compared(CompareConfig(backbones="rnn", seeds=2))
    assert [m.folder.name for m in comparison.members] == ["rnn-1", "rnn-2"]
    comparison = compared(CompareConfig(backbones="gru"))
    assert [m.folder.name for m in comparison.members] == ["rnn-1", "gru-1", "rnn-2", "gru-2"]
    assert comparison.left() == []
    assert contents("all/rnn-1") == before
    assert metrics("all/rnn-1") != metrics("all/rnn-2")


def test_a_cell_of_a_file_takes_part(run):
    Path("cell.py").write_text(
        "from charlm.cells import CELLS\nfrom charlm.cells.gru import GRU\n"
        "class Mine(GRU):\n    pass\nCELLS['mine'] = Mine\n"
    )
    try:
        flags = ["--backbones", "mine", "--cell-file", "cell.py"]
        assert run(*COMMAND, *flags)[0] == 0
    finally:
        CELLS.pop("mine", None)
    assert GRU in CELLS.values()
    one_line(*(result := run(*COMMAND, "--backbones", "rnn")), expected=1)
    assert "needs the cell 'mine'" in result[2]


@pytest.mark.parametrize("tied", [False, True])
def test_equal_parameters_are_within_one_percent(tied):
    sizes = {"embedding_size": 256, "hidden_size": 256, "tie_weights": tied}
    target = ModelConfig(backbone="lstm", **sizes).num_parameters(65)
    for backbone in CELLS:
        found = sized(ModelConfig(backbone=backbone, **sizes), target, 65)
        assert found.num_parameters(65) == pytest.approx(target, rel=0.01)
    assert sized(ModelConfig(backbone="lstm", **sizes), target, 65).hidden_size == 256


def test_equal_parameters_give_the_others_more_units(workplace):
    config = CompareConfig(backbones="rnn,lstm", equal="parameters")
    comparison = Comparison.open(["text.txt"], config, out="all", **(QUICK | {"hidden_size": 64}))
    models = comparison.document["models"]
    assert models["lstm"]["hidden_size"] == 64 < models["rnn"]["hidden_size"]


def test_a_divergence_is_a_result(run, monkeypatch):
    real = Trainer.step

    def diverging(trainer):
        if trainer.model.config.backbone == "rnn" and trainer.counters.step == 3:
            raise DivergenceError("the loss became nan")
        return real(trainer)

    monkeypatch.setattr(Trainer, "step", diverging)
    status, out, _ = run(*COMMAND, "--backbones", "rnn,gru")
    assert status == 0
    assert "runs that diverged" in out
    rnn, gru = json.loads(Path("all/compare.json").read_text())["table"]
    assert (rnn["nats"], rnn["diverged"], gru["diverged"]) == (None, 1, 0)
    assert run(*COMMAND, "--backbones", "rnn,gru")[1] == out


def test_false_alarms_are_as_rare_as_the_rule_says():
    """Losses that differ in the seed alone: 5 % in both directions, within four standard errors."""
    rng = random.Random(1)
    rounds = 4000
    for count in (2, 3, 5):
        alarms = 0
        for _ in range(rounds):
            one, other = ([rng.gauss(1.5, 0.01) for _ in range(count)] for _ in range(2))
            alarms += verdict({"a": one, "b": other}, {})["clear"]
        assert abs(alarms / rounds - 0.05) < 4 * (0.05 * 0.95 / rounds) ** 0.5


def test_the_noise_is_that_of_the_means():
    assert noise([1.0, 1.0], [2.0, 2.0]) == 0
    error = (2 * 0.02 / 2) ** 0.5  # variance 0.02 on both sides, of two values each
    assert noise([1.4, 1.6], [2.4, 2.6]) == pytest.approx(T_QUANTILES[0] * error)
    assert noise([1.0] * 50 + [1.1] * 50, [1.0, 1.1]) > 0


def test_the_verdict_says_what_the_figures_allow():
    rates = {"training": {"a": 10.0, "b": 2000.0}}
    one_seed = verdict({"a": [1.5], "b": [1.4]}, rates)
    assert (one_seed["best"], one_seed["clear"]) == ("b", None)
    assert any("One seed cannot tell" in sentence for sentence in one_seed["sentences"])
    assert "fastest in training is b, with 2,000" in one_seed["sentences"][-1]
    clear = verdict({"a": [1.5, 1.501], "b": [1.4, 1.401]}, {})
    assert (clear["best"], clear["clear"]) == ("b", True)
    assert verdict({"a": [1.5, 1.3], "b": [1.4, 1.39]}, {})["clear"] is False
    assert verdict({"a": [1.5], "b": []}, {})["best"] == "a"
    assert verdict({"a": [], "b": []}, {})["best"] is None


BAD = [
    (["--backbones", "lstm,gur"], "be one of rnn, lstm, gru, mingru, minlstm (got 'gur'); did you"),
    (["--backbones", "gru+coupled"], "gru has no option 'coupled': it has reset-after, each behin"),
    (["--backbones", "gru+reset-after=1"], "gru has no option 'reset-after=1': it has reset-after"),
    (["--backbones", "rnn+nonlinearity=x"], "nonlinearity must be one of tanh, relu, identity (go"),
    (["--backbones", "gru,gru+no-reset-after,gru"], "names gru twice: name it once"),
    (["--backbones", "gru,gru"], "names gru twice"),
    (["--backbones", "gru,"], "got ''"),
    (["--seeds", "0"], "--seeds must be at least 1"),
    (["--out", "text.txt"], "text.txt is a file, not a folder"),
    (["--out", "mine"], "folder mine is not empty and holds no comparison"),
    (["--prompt", "É"], "of the prompt"),
    (["--hidden-size", "0"], "--hidden-size must be at least 1"),
    (["--batch-size", "900", "--seq-length", "90"], "lower --batch-size"),
    (["--backbones", "gru", "--nonlinearity", "relu"], "goes with none of the backbones gru"),
    (["--epochs", "2"], "cannot both be given"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=str)
def test_bad_input_is_one_line_and_nothing_is_written(run, flags, message):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    before = sorted(Path().rglob("*"))
    one_line(*(result := run(*COMMAND, *flags)), expected=1)
    assert message in result[2]
    assert sorted(Path().rglob("*")) == before


def test_a_text_too_short_is_one_line(run):
    Path("short.txt").write_text("a")
    one_line(*run("compare", "short.txt", *QUICK_FLAGS), expected=1)
    assert not Path("checkpoints").exists()


def test_what_does_not_belong_is_refused_and_kept(run):
    assert run(*COMMAND, "--backbones", "rnn")[0] == 0

    def refused(*flags, message):
        before = contents("all")
        one_line(*(result := run(*COMMAND, "--backbones", "rnn", *flags)), expected=1)
        assert message in result[2]
        assert contents("all") == before

    refused("--dropout", "0.5", message="was begun without --dropout, and not with --dropout 0.5")
    refused("--steps", "7", message="was begun with --steps 6, and not with --steps 7")
    refused("--equal", "parameters", message="with --equal time")
    text = Path("text.txt").read_text()
    Path("text.txt").write_text(words(500, seed=3))
    refused(message="is of another text, or its text has changed")
    Path("text.txt").write_text(text)
    latest = Path("all/rnn-1/latest.safetensors")
    whole = latest.read_bytes()
    latest.write_bytes(whole[:-5])
    refused(message="is damaged")
    latest.write_bytes(whole)
    assert run("resume", "all/rnn-1", "--steps", 9)[0] == 0
    refused(message="run all/rnn-1 is not one of this comparison")
    for content in ("{", "[]", '{"format": 1}', '{"format": 2}'):
        Path("all/compare.json").write_text(content)
        refused(message="all/compare.json is ")


def test_a_folder_has_one_comparison_at_a_time(run):
    held = Comparison.open(["text.txt"], CompareConfig(), out="all", **QUICK)
    one_line(*(result := run(*COMMAND)), expected=1)
    assert "another process is training in run folder all" in result[2]
    held.release()


def test_a_full_disk_is_one_line_and_the_command_goes_on(run, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    assert run(*COMMAND, "--backbones", "rnn")[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *_: full(*_))
        one_line(*(result := run(*COMMAND, "--backbones", "rnn,gru")), expected=1)
        assert "No space left on device" in result[2]
    assert run(*COMMAND, "--backbones", "rnn,gru")[0] == 0


def test_without_a_name_the_folder_is_that_of_the_text(workplace):
    config = CompareConfig(backbones="rnn")
    assert str(compared(config, out=None).folder) == "checkpoints/text-compare"
    assert str(compared(config, out=None).folder) == "checkpoints/text-compare"
    Path("text.txt").write_text(words(500, seed=3))
    assert str(compared(config, out=None).folder) == "checkpoints/text-compare-2"
    shutil.rmtree("checkpoints")
    Path("checkpoints/text-compare").mkdir(parents=True)
    Path("checkpoints/text-compare/notes.txt").write_text("mine")
    assert str(compared(config, out=None).folder) == "checkpoints/text-compare-2"


def test_figures_that_are_not_whole_are_measured_again(run):
    first = run(*COMMAND, "--backbones", "rnn")
    path = Path("all/compare.json")
    whole = json.loads(path.read_text())
    for name, value in (("memory", {"reach": 3}), ("sample", None), ("gradients", 3)):
        document = json.loads(path.read_text())
        document["measured"]["rnn"][name] = value
        path.write_text(json.dumps(document))
        assert run(*COMMAND, "--backbones", "rnn")[0] == first[0] == 0
        found = json.loads(path.read_text())["measured"]["rnn"]
        assert found[name] == whole["measured"]["rnn"][name]


def test_a_list_is_compared_without_what_does_not_apply(run):
    Path("text.txt").write_text("".join(f"{i * i % 1009}\n" for i in range(800)))
    assert run(*COMMAND, "--backbones", "rnn,gru", "--items")[0] == 0
    rows = json.loads(Path("all/compare.json").read_text())["table"]
    assert [(row["memory_most"], row["half_distance_most"]) for row in rows] == [(None, None)] * 2


def test_errors_are_charlms(workplace):
    with pytest.raises(CharlmError, match="no text file was given"):
        Comparison.open([], CompareConfig())


def test_options_of_a_backbone_stand_behind_its_name(run):
    words = "rnn+nonlinearity=relu,lstm,lstm+coupled-gates"
    status, out, err = run(*COMMAND, "--backbones", words)
    assert status == 0, err
    document = json.loads(Path("all/compare.json").read_text())
    assert [row["backbone"] for row in document["table"]] == words.split(",")
    for word, options in zip(
        words.split(","),
        ({"nonlinearity": "relu"}, {"coupled_gates": False}, {"coupled_gates": True}),
        strict=True,
    ):
        assert word in out
        model = json.loads(run("info", f"all/{word}-1", "--json")[1])["model"]
        assert model.items() >= options.items()
    assert run(*COMMAND, "--backbones", words)[0] == 0
