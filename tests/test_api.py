import doctest
import importlib
import inspect
import json
import re
import signal
from pathlib import Path

import pytest
from conftest import DATA, QUICK, ROOT, assert_same_run, one_line

import charlm
from charlm import checkpoint as checkpoints
from charlm.cli import VERBS
from charlm.cli.parser import make_parser
from charlm.config import ComputeConfig

LSTM = DATA / "golden-lstm.safetensors"


def test_train_load_generate_stream(workplace):
    seen = []
    lm = charlm.train("text.txt", on_progress=seen.append, **QUICK)
    assert [p.step for p in seen] == [1, 2, 3, 4, 5, 6]
    assert "step 6/6, epoch" in str(seen[-1])
    again = charlm.load("checkpoints/text")
    text = lm.generate("abc", length=30, seed=3)
    assert len(text) == 30
    assert text == again.generate("abc", length=30, seed=3)
    assert text == "".join(charlm.load("text").stream("abc", length=30, seed=3))


def test_train_takes_paths_and_lists(workplace):
    Path("more.txt").write_text("abc\n")
    lm = charlm.train([Path("text.txt"), "more.txt"], out=Path("run"), **QUICK)
    assert lm.tokenizer.vocab_size == 13
    charlm.train(Path("text.txt"), **QUICK)


def test_stream_yields_while_it_draws():
    stream = charlm.load(LSTM).stream("The ", length=10**9, seed=1)
    assert len([next(stream) for _ in range(25)]) == 25


def test_samples_share_one_reading_of_the_prompt_and_differ():
    lm = charlm.load(LSTM)
    settings = {"seed": 1, "length": 50}
    five = ["".join(sample) for sample in lm.samples("The ", num_samples=5, **settings)]
    two = ["".join(sample) for sample in lm.samples("The ", num_samples=2, **settings)]
    assert five[:2] == two
    assert len(set(five)) == 5
    assert two[0] == lm.generate("The ", seed=1, length=50)


def test_the_prompt_matters_and_may_be_empty_or_long():
    lm = charlm.load(LSTM)
    texts = {lm.generate(p, seed=1, length=80) for p in ("", "The ", "She said: ", "x" * 3000)}
    assert len(texts) == 4


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ("naïve", {}, r"character 'ï' \(U\+00EF\) at position 2 of the prompt is not in the vocab"),
        ("a", {"temperature": -1}, "temperature must be at least 0"),
        ("a", {"lenght": 3}, "unknown setting 'lenght'; did you mean 'length'"),
        ("a", {"num_samples": 0}, "num_samples must be at least 1"),
    ],
)
def test_bad_input_raises(prompt, settings, message):
    with pytest.raises(charlm.CharlmError, match=message):
        charlm.load(LSTM).generate(prompt, **settings)


def test_an_unknown_symbol_reads_anything_and_is_never_written(workplace):
    lm = charlm.train("text.txt", min_count=60, **QUICK)
    assert lm.tokenizer.unknown
    text = lm.generate("漢\U0001f600é", length=500, temperature=5.0, seed=1)
    assert "\ufffd" not in text


def test_a_text_of_one_symbol_without_a_newline(workplace):
    Path("a.txt").write_text("a" * 500)
    assert charlm.train("a.txt", **QUICK).generate(length=5) == "aaaaa"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda lm: lm.generate("x", temprature=0.5),
            "unknown setting 'temprature'; did you mean ",
        ),
        (lambda lm: lm.samples("x", sate=None), "unknown setting 'sate'; did you mean 'state'"),
        (lambda lm: lm.lines(3, uniqe=True), "unknown setting 'uniqe'; did you mean 'unique'"),
        (lambda lm: lm.lines(3, length=9), r"length does not go with lines\(\)"),
        (lambda lm: lm.lines(None), "lines must be of type int"),
        (lambda lm: lm.lines(3, known="abc"), "known must be lines"),
        (lambda lm: lm.generate(3), r"the prompt must be a text \(got 3\)"),
        (lambda lm: lm.samples(None), "the prompt must be a text"),
        (lambda lm: lm.generate(state="x"), "the state must be a PromptState"),
        (lambda lm: lm.score(b"abc"), "the text must be a text"),
        (lambda lm: lm.read("a", on_progress=3), "on_progress must be a function"),
        (lambda lm: lm.save(None), "the path of the model must be a path"),
        (lambda lm: lm.save("no/such/folder"), "there is no folder"),
        (lambda lm: lm.save(""), "the path of the model must not be an empty text"),
        (lambda lm: lm.save_state(lm.read("a"), 3), "the path of the state must be a path"),
        (lambda lm: lm.load_state(None), "the path of the state must be a path"),
        (lambda lm: charlm.load(None), r"the run must be a path, a str or a Path \(got None\)"),
        (lambda lm: charlm.load(lm), "the run must be a path"),
        (lambda lm: charlm.train(None), "files must be a path or several"),
        (lambda lm: charlm.train(b"text.txt"), "files must be a path or several"),
        (lambda lm: charlm.train([3]), "a file must be a path"),
        (lambda lm: charlm.train("text.txt", hiden_size=3), "did you mean 'hidden_size'"),
        (lambda lm: charlm.train("text.txt", on_progres=print), "did you mean 'on_progress'"),
        (lambda lm: charlm.train("text.txt", out=3), "out must be a path"),
        (lambda lm: charlm.train("text.txt", on_evaluation=3), "on_evaluation must be a function"),
        (lambda lm: charlm.resume(None), "the run must be a path"),
        (lambda lm: charlm.resume("run", step=3), "unknown setting 'step'; did you mean 'steps'"),
        (lambda lm: charlm.evaluate(lm, 3), "files must be a path or several"),
        (lambda lm: charlm.evaluate(3), "the run must be a path"),
        (lambda lm: charlm.evaluate(lm, "text.txt", device="gpu"), "device must be one of"),
    ],
)
def test_a_wrong_argument_is_named(workplace, call, message):
    Path("text.txt").write_text("The sea. " * 9)
    with pytest.raises(charlm.CharlmError, match=message):
        call(charlm.load(LSTM))
    assert [path.name for path in workplace.iterdir()] == ["text.txt"]


def test_without_torch_one_line_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setattr("charlm.model.find_spec", lambda name: None)
    for call in (charlm.train, charlm.resume, charlm.evaluate):
        with pytest.raises(charlm.PackageError, match="pip install torch"):
            call("text.txt")
    for words in (["train", "text.txt"], ["resume", LSTM], ["evaluate", LSTM, "text.txt"]):
        one_line(*run(*words), 1)
    assert not Path("checkpoints").exists()
    assert run("generate", LSTM, "-l", 5)[0] == 0


def test_lines_are_those_of_the_settings():
    lm = charlm.load(LSTM)
    drawn = lm.lines(5, max_length=300, unique=True, seed=1, known={"\n"})
    lines = [line for line, _ in drawn]
    assert len(set(lines)) == len(lines) == 5
    assert drawn.tried >= 5


def test_what_a_user_prints_is_short():
    lm = charlm.load(LSTM)
    (sample,) = lm.samples("The ", length=10, seed=4)
    begun = repr(sample)
    text = "".join(sample)
    assert begun == "Sample(0, seed 4, 0 characters, not at its end)"
    assert repr(sample) == f"Sample(0, seed 4, {len(text)} characters, ended by length)"
    assert repr(lm.lines(0)) == "Lines(0 drawn, 0 left out)"
    for thing in (lm, lm.tokenizer, lm.read("The ")):
        assert re.fullmatch(rf"{type(thing).__name__}\(.*symbols.*\)", repr(thing))
        assert len(repr(thing)) < 80


def test_false_from_on_progress_saves_and_stops_and_resume_ends_as_if_it_had_not(workplace):
    charlm.train("text.txt", out="whole", **QUICK)
    seen, evaluated = [], []

    def until_the_third(progress):
        seen.append(progress.step)
        return progress.step < 3  # None or True go on

    lm = charlm.train("text.txt", out="run", on_progress=until_the_third, **QUICK)
    assert seen == [1, 2, 3]
    found = checkpoints.load(Path("run/latest.safetensors"))
    assert found.counters.step == 3
    assert lm.fingerprint() == charlm.load("run/best.safetensors").fingerprint()
    lm = charlm.resume("run", on_evaluation=lambda progress: evaluated.append(progress))
    assert [progress.step for progress in evaluated] == [4, 6]
    assert all(progress.validation_loss is not None for progress in evaluated)
    assert_same_run("run", "whole")
    assert lm.fingerprint() == charlm.load("whole").fingerprint()


def test_a_run_that_ctrl_c_hits_can_be_resumed_in_the_same_process(workplace):
    charlm.train("text.txt", out="whole", **QUICK)

    def interrupt(progress):
        if progress.step == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as kept:  # its traceback holds the frames of the training
        charlm.train("text.txt", out="run", on_progress=interrupt, **QUICK)
    charlm.resume("run")
    assert_same_run("run", "whole")
    assert kept.tb is not None


def test_verbose_tells_of_each_evaluation_on_stderr(workplace, capsys):
    lm = charlm.train("text.txt", verbose=True, **QUICK)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines() if line.startswith("step")] == [
        "step 2/6", "step 4/6", "step 6/6",
    ]  # fmt: skip
    assert "run checkpoints/text" in err
    with pytest.raises(charlm.ConfigError, match="finished"):
        charlm.resume("text")
    charlm.resume("text", steps=8)
    assert capsys.readouterr() == ("", "")
    assert lm.generate(length=3)


def test_resume_takes_from_python_what_it_takes_on_the_command_line():
    flags = {action.dest for action in make_parser(VERBS)[1]["resume"]._actions}
    arguments = set(inspect.signature(charlm.resume).parameters) | set(ComputeConfig.names())
    of_python = {"on_progress", "on_evaluation", "verbose", "compute"}
    assert arguments - of_python == flags - {"help", "cell_file"}


def test_evaluate_returns_what_the_verb_prints(run):
    lm = charlm.train("text.txt", **QUICK)
    Path("other.txt").write_text("abc\n" * 30)
    for result, words in (
        (charlm.evaluate("text", "other.txt", dynamic=True), ["other.txt", "--dynamic"]),
        (charlm.evaluate(lm), ["text.txt", "--held-out"]),
        (charlm.evaluate(lm, Path("text.txt"), held_out=True), ["text.txt", "--held-out"]),
    ):
        assert isinstance(result, charlm.Evaluation)
        assert result.to_dict() == json.loads(run("evaluate", "text", *words, "--json")[1])
    found = checkpoints.load(checkpoints.locate("text"), model_only=True)
    assert charlm.evaluate(lm).nats_per_char == pytest.approx(found.counters.best_loss, rel=1e-6)
    Path("text.txt").write_text("abc\n" * 30)
    with pytest.raises(charlm.CorpusError, match="is not the text of the model any more"):
        charlm.evaluate(lm)
    Path("text.txt").unlink()
    with pytest.raises(charlm.CorpusError, match="is not there"):
        charlm.evaluate(lm)


def test_a_model_file_opens_everywhere_but_for_resume(run):
    lm = charlm.train("text.txt", **QUICK)
    lm.save("alone")
    lm.save(Path("alone"))  # over a model file, but over nothing else
    assert charlm.load("alone").fingerprint() == lm.fingerprint()
    assert Path("alone").stat().st_size < Path("checkpoints/text/best.safetensors").stat().st_size
    assert run("generate", "alone", "-l", 5, "--seed", 1)[0] == 0
    assert run("score", "alone", "text.txt")[0] == 0
    assert run("info", "alone")[0] == 0
    assert run("evaluate", "alone", "text.txt")[0] == 0
    assert run("train", "text.txt", "--init-from", "alone", "--steps", 2, "--out", "next")[0] == 0
    one_line(*run("resume", "alone"), 1)
    Path("folder").mkdir()
    charlm.load("alone").save("folder/latest.safetensors")  # of a model that came from such a file
    with pytest.raises(charlm.CheckpointError, match="holds a model without its run"):
        charlm.resume("folder")
    assert charlm.load("folder").fingerprint() == lm.fingerprint()
    for taken in ("text.txt", "checkpoints/text/latest.safetensors", "folder"):
        before = Path(taken).stat().st_mtime_ns
        with pytest.raises(charlm.CheckpointError, match=r"not a model|is a folder"):
            lm.save(taken)
        assert Path(taken).stat().st_mtime_ns == before


def test_a_damaged_model_file_is_refused(workplace):
    lm = charlm.load(LSTM)
    lm.save("model")
    data = bytearray(Path("model").read_bytes())
    data[-1] ^= 1
    Path("model").write_bytes(data)
    with pytest.raises(charlm.CheckpointError, match="damaged"):
        charlm.load("model")


@pytest.mark.parametrize(
    "name",
    ["api.reading_model", "api.language_model", "api.notebook", "api.next_characters", "runs"],
)
def test_the_examples_of_the_docstrings_run(workplace, name):
    text = (ROOT / "corpora" / "english.txt").read_text("utf-8")[:20_000]
    Path("corpora").mkdir()
    Path("corpora/english.txt").write_text(text)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_layers": 1, "steps": 30}
    lm = charlm.train("corpora/english.txt", batch_size=8, seq_length=32, **sizes)
    module = importlib.import_module(f"charlm.{name}")
    failed, tried = doctest.testmod(
        module, extraglobs={"charlm": charlm, "lm": lm}, optionflags=doctest.ELLIPSIS
    )
    assert tried > 0
    assert failed == 0


def test_every_public_function_has_an_example():
    public = [charlm.load, charlm.train, charlm.resume, charlm.evaluate, charlm.LanguageModel]
    methods = inspect.getmembers(charlm.LanguageModel, inspect.isfunction)
    for thing in public + [method for name, method in methods if not name.startswith("_")]:
        assert ">>> " in thing.__doc__, thing
