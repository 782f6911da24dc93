"""The verbs that write and measure texts, as a person meets them."""

import contextlib
import io
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DATA, QUICK_FLAGS, ROOT, one_line

import charlm
from charlm.cli import score, terminal
from charlm.cli.generate import _until
from charlm.cli.progress import ProgressBar
from charlm.cli.terminal import Stop, cut
from charlm.data.text_files import read_text

LSTM = str(DATA / "golden-lstm.safetensors")
GRU = str(DATA / "golden-gru.safetensors")
CHARLM = [sys.executable, "-m", "charlm"]
ENGLISH = str(ROOT / "corpora" / "english.txt")


@pytest.fixture
def stdin(monkeypatch):
    """Put a text on stdin."""

    def put(data):
        data = data if isinstance(data, bytes) else data.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


def objects(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_prompt_from_a_flag_a_file_and_stdin(run, stdin):
    Path("prompt.txt").write_bytes("\ufeffThe sea,\r\n".encode())
    stdin("The sea,\n")
    texts = {
        run("generate", LSTM, *how, "-l", 40, "--seed", 1)[1]
        for how in (["-p", "The sea,\n"], ["--prompt-file", "prompt.txt"], ["--prompt-file", "-"])
    }
    assert len(texts) == 1
    assert texts.pop().startswith("The sea,\n")


@pytest.fixture
def pipe(monkeypatch):
    """Open a real pipe as stdin; return what writes to it and closes it."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stream, contextlib.ExitStack() as stack:
        monkeypatch.setattr(sys, "stdin", stream)
        file = stack.enter_context(os.fdopen(writing, "wb"))

        def write(data):
            file.write(data)
            file.close()

        yield write


@pytest.mark.parametrize(
    ("data", "prompt"),
    [(b"The sea\n", "The sea"), (b"The sea", "The sea"), (b"a\n\n", "a\n"), (b"", ""), (b"\n", "")],
)
def test_a_prompt_comes_through_a_pipe_without_the_line_end_of_echo(run, pipe, data, prompt):
    pipe(data)
    flags = ["-l", 30, "--seed", 1]
    assert run("generate", LSTM, *flags) == run("generate", LSTM, *flags, "-p", prompt)


def test_a_prompt_comes_from_a_file_on_stdin(run, monkeypatch):
    Path("prompt.txt").write_text("The sea\n")
    with Path("prompt.txt").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert run("generate", LSTM, "-l", 3, "--seed", 1)[1].startswith("The sea")
    with Path("/dev/null").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        expected = run("generate", LSTM, "-p", "", "-l", 30, "--seed", 1)
        assert run("generate", LSTM, "-l", 30, "--seed", 1) == expected


def test_a_pipe_that_stays_silent_is_not_waited_for_for_ever(run, pipe, monkeypatch):
    monkeypatch.setattr(terminal, "STDIN_PATIENCE", 0.01)
    monkeypatch.setattr(terminal, "STDIN_NOTICE", 0.01)
    status, out, err = run("generate", LSTM, "-l", 3)
    assert (status, out) == (1, "")
    said, error = err.splitlines()
    assert said.startswith("reading the prompt from stdin")
    assert error.startswith("charlm: error: nothing came from stdin in 0.01 seconds: ")
    for flags in (["-p", ""], ["-p", "a"], ["--lines", 1]):  # these do not ask for one
        assert run("generate", LSTM, *flags, "--seed", 1)[0] == 0


@pytest.mark.parametrize(
    "command",
    ["score", "score --rank", "evaluate", "generate -l 5 --seed 1 --prompt-file"],
)
def test_unknown_characters_are_read_as_the_nearest_and_counted(run, command):
    Path("odd.txt").write_text("Éven 漢naïve\n")
    Path("plain.txt").write_text("Even naive\n")
    verb, *flags = command.split()
    one_line(*run(verb, LSTM, *flags, "odd.txt"), expected=1)
    status, out, err = run(verb, LSTM, *flags, "odd.txt", "--unknown", "nearest")
    assert status == 0
    said = "unknown characters: 2 read as others: É to E (1), ï to i (1); 1 left out: 漢 (1)"
    assert err.count(said) == 1
    assert out.replace("odd.txt", "plain.txt") == run(verb, LSTM, *flags, "plain.txt")[1]


def test_a_text_of_unknown_characters_alone_has_no_score(run):
    Path("odd.txt").write_text("漢")
    status, out, err = run("score", LSTM, "odd.txt", "--unknown", "skip")
    assert (status, out) == (1, "")
    assert "nothing is left of odd.txt" in err


def test_json_tells_text_seed_surprisal_and_why_it_stopped(run):
    flags = ["-p", "The ", "-n", 3, "-l", 60, "--stop", "th", "--stop", "\n", "--seed", 5]
    status, out, err = run("generate", LSTM, *flags, "--json")
    assert (status, err) == (0, "seed 5\n")
    plain = run("generate", LSTM, *flags)[1]
    lm = charlm.load(LSTM)
    for index, found in enumerate(objects(out)):
        assert (found["sample"], found["seed"]) == (index, 5)
        assert f"--- sample {index + 1} ---\nThe {found['text']}\n" in plain
        assert found["stopped"] == ("length" if len(found["text"]) == 60 else "stop")
        assert not re.search("th|\n", found["text"])
        if found["stopped"] == "length":
            bits = lm.score(found["text"], state=lm.read("The "))
            assert found["bits_per_char"] == pytest.approx(bits.mean(), abs=1e-3)


def test_only_allowed_characters(run):
    out = run("generate", LSTM, "--allow", "abc \n", "--forbid", "b", "-l", 99, "--seed", 1)[1]
    assert set(out) <= set("ac \n")
    flags = ["--allow", "ab", "--allow", "c", "-l", 50, "--seed", 1, "--json"]
    (found,) = objects(run("generate", LSTM, *flags)[1])
    assert set(found["text"]) == set("abc")
    lm = charlm.load(LSTM)
    bits = lm.score(found["text"])  # the model's own surprisal, not that of what was allowed
    assert found["bits_per_char"] == pytest.approx(bits.mean(), abs=1e-3)


def test_a_state_goes_on_where_it_was_saved(run):
    whole = run("generate", LSTM, "-p", "The sea ", "-l", 0 + 90, "-t", 0)[1]
    first = run("generate", LSTM, "-p", "The sea ", "-l", 40, "-t", 0, "--save-state", "s")[1]
    assert Path("s").stat().st_size < 5000
    second = run("generate", LSTM, "-l", 50, "-t", 0, "--load-state", "s")[1]
    assert first[:-1] + second == whole
    before = Path("s").read_bytes()
    forks = run("generate", LSTM, "-l", 30, "-n", 3, "--seed", 1, "--load-state", "s", "--json")[1]
    assert len({found["text"] for found in objects(forks)}) == 3
    assert Path("s").read_bytes() == before
    then = run("generate", LSTM, "-p", " She ", "-l", 9, "-t", 0, "--load-state", "s")[1]
    whole = run("generate", LSTM, "-p", first[:-1] + " She ", "-l", 9, "-t", 0)[1]
    assert whole.endswith(then)


def test_each_sample_has_a_state_of_its_own(run):
    flags = ["-p", "The ", "-l", 30, "--stop", "n", "--seed", 1, "-n", 4]
    status, out, err = run("generate", LSTM, *flags, "--json", "--save-state", "s.state")
    assert status == 0
    names = [f"s-{number}.state" for number in (1, 2, 3, 4)]
    assert err == f"seed 1\nsaved {', '.join(names)}\n"
    lm = charlm.load(LSTM)
    for found, name in zip(objects(out), names, strict=True):
        text = f"The {found['text']}{'n' * (found['stopped'] == 'stop')}"
        after = lm.read(text)
        for one, other in zip(after.state, lm.load_state(name).state, strict=True):
            assert abs(one - other).max() < 1e-4
    assert len({Path(name).read_bytes() for name in names}) == 4


def test_lines_are_as_they_are_wanted(run):
    known = set(read_text([ENGLISH]).split("\n"))
    flags = ["--lines", 12, "--min-length", 3, "--max-length", 60, "--starts-with", "The"]
    flags += ["--unique", "--novel", ENGLISH, "--seed", 2]
    status, out, err = run("generate", LSTM, *flags)
    assert (status, err) == (0, "seed 2\n")
    lines = out.splitlines()
    assert len(lines) == len(set(lines)) == 12
    assert all(line.startswith("The") and 3 <= len(line) <= 60 for line in lines)
    assert not set(lines) & known
    fewer = run("generate", LSTM, "--lines", 5, *flags[2:])[1]
    assert out.startswith(fewer)
    assert [o["text"] for o in objects(run("generate", LSTM, *flags, "--json")[1])] == lines


def test_lines_are_those_that_follow_the_end_of_a_line_and_their_beginning(run):
    flags = ["--lines", 40, "--max-length", 7, "--tries", 4000, "--seed", 3]
    lines = run("generate", LSTM, *flags, "--starts-with", "Th")[1].splitlines()
    lm = charlm.load(LSTM)
    samples = lm.samples("\nTh", length=6, stop="\n", num_samples=4000, seed=3)
    drawn = [("".join(s), s.reason) for s in samples]
    wanted = ["Th" + text for text, reason in drawn if reason == "stop"]
    assert lines == wanted[: len(lines)]
    assert max(map(len, lines)) == 7


def test_lines_that_run_out_are_counted_honestly(run):
    flags = ["--lines", 50, "--max-length", 2, "--allow", "aI", "--unique", "--tries", 200]
    status, out, err = run("generate", LSTM, *flags, "--seed", 1)
    assert status == 1
    found = len(out.splitlines())
    assert 2 <= found <= 6
    assert f"charlm: {found} of 50 lines found in 200 tries (left out: " in err
    assert sum(map(int, re.findall(r"(\d+) (?:too|twice|known)", err))) == 200 - found


def test_score_ranks_texts_and_adds_up(run):
    Path("good.txt").write_text(read_text([ENGLISH])[:900])
    Path("odd.txt").write_text("zqx" * 100)
    status, out, _ = run("score", LSTM, "odd.txt", "good.txt", "--json")
    assert status == 0
    good, odd = objects(out)
    assert (good["file"], odd["file"]) == ("good.txt", "odd.txt")
    assert good["bits_per_char"] < odd["bits_per_char"]
    bits = charlm.load(LSTM).score(good["text"])
    assert good["characters"] == len(good["surprisal"]) == len(bits) == 900
    assert good["bits"] == pytest.approx(bits.sum())
    lines = objects(run("score", LSTM, "good.txt", "--by-line", "--json")[1])
    assert "".join(line["text"] for line in lines) == good["text"]
    assert sum(line["bits"] for line in lines) == pytest.approx(good["bits"])
    assert [line["line"] for line in lines] == list(range(1, len(lines) + 1))
    table = run("score", LSTM, "odd.txt", "good.txt")[1].splitlines()
    assert re.fullmatch(r" +[\d.]+ +[\d.]+ +900  good.txt", table[1])


def test_flags_may_stand_anywhere(run):
    Path("one.txt").write_text("The sea\n")
    Path("two.txt").write_text("was calm\n")
    words = [LSTM, "one.txt", "two.txt"]
    expected = run("score", *words, "--by-line", "--json")
    assert expected[0] == 0
    assert len(objects(expected[1])) == 2
    for places in itertools.product(range(4), repeat=2):
        command = list(words)
        for place, flag in zip(places, ("--by-line", "--json"), strict=True):
            command.insert(place, flag)
        assert run("score", *command) == expected, command
    one_line(*run("score", LSTM, "--by-line", "one.txt", "--by"), expected=2)
    one_line(*run("score", "--by-line"), expected=2)


def test_score_ranks_lines_each_by_itself(run, stdin):
    stdin("The sea was calm\nqqzzxxkk\nThe sea was calm\n")
    status, out, _ = run("score", LSTM, "--rank", "--json")
    assert status == 0
    first, second, third = objects(out)
    assert first["bits"] == second["bits"]
    assert third["text"] == "qqzzxxkk"
    assert first["bits"] == pytest.approx(charlm.load(LSTM).score("The sea was calm").sum())


def test_the_coloured_text_is_the_text(run, stdin):
    text = "The sea was calm,\n\nand zqxj\n"
    stdin(text)
    out = run("score", LSTM, "--color", "always")[1]
    shown = re.sub(r"\033\[[\d;]+m", "", out)
    assert shown.startswith(text)
    assert len(set(re.findall(r"\033\[[\d;]+m", out))) >= 3
    stdin(text)
    assert "\033" not in run("score", LSTM)[1]  # stdout is no terminal


def test_a_coloured_text_holds_no_control_sequences_of_its_own():
    shown = score.colored(score.Scored("any", None, "a\x1b[31m\tb", [1.0] * 8))
    assert re.sub(r"\033\[[\d;]+m", "", shown) == "a\ufffd[31m\tb\n"


def test_a_long_line_is_cut_to_the_terminal():
    assert cut("a long line", 11) == "a long line"
    assert cut("a long line", 7) == "a long…"
    assert cut("山高水长云", 7) == "山高水…"


def test_the_name_of_a_file_leaves_room_for_the_figures_of_a_bar():
    assert ProgressBar(1, "scoring a.txt").what == "scoring a.txt"
    what = ProgressBar(1, f"scoring \x1b[31m{'a' * 200}").what
    assert what.startswith("scoring \\x1b[31maa")
    assert len(what) <= 40


def test_evaluate_with_its_comparisons(run):
    Path("english.txt").write_text(read_text([ENGLISH])[:30_000])
    run("train", "english.txt", *QUICK_FLAGS)
    before = Path("checkpoints/english/best.safetensors").read_bytes()
    flags = ["english", "english.txt", "--held-out", "--dynamic"]
    status, out, _ = run("evaluate", *flags, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["characters"] == found["dynamic"]["characters"] == 2999
    assert found["dynamic"]["bits_per_char"] < found["bits_per_char"]
    assert list(found["baselines"]) == ["unigram", "5-gram", "xz"]
    assert found["baselines"]["5-gram"] < found["baselines"]["xz"] < found["baselines"]["unigram"]
    assert Path("checkpoints/english/best.safetensors").read_bytes() == before
    head, *rows = run("evaluate", *flags)[1].splitlines()
    assert "n-grams and xz have read the training text and what comes before" in rows
    mixed, names = ", mixed with an 8-gram", ["this model", "this model, learning as it reads"]
    names = [*found["baselines"], *(name + end for name in names for end in ("", mixed))]
    assert [row[34:] for row in rows[:7]] == names
    shown = [
        one["bits_per_char"] for both in (found, found["dynamic"]) for one in (both, both["mixed"])
    ]
    assert shown[1] < shown[0]
    for row, bits in zip(rows, [*found["baselines"].values(), *shown], strict=False):
        figures = [float(figure) for figure in row[:32].split()]
        expected = [bits, bits * math.log(2), 2**bits]
        assert figures == pytest.approx(expected, abs=1e-3)
        ends = [match.end() for match in re.finditer(r"\S+", row[:32])]
        assert ends == [match.end() for match in re.finditer(r"\S+", head)]
    # The same characters under another name: the training text is found by the run.
    Path("end.txt").write_text(read_text(["english.txt"])[-3000:])
    other = json.loads(run("evaluate", "english", "end.txt", "--json")[1])
    assert other["baselines"] == found["baselines"]
    Path("english.txt").unlink()
    assert "only what comes before" in run("evaluate", "english", "end.txt")[1]


def test_overlap(run):
    flags = ["overlap", LSTM, ENGLISH, "-n", 5, "-l", 200, "--seed", 1]
    found = json.loads(run(*flags, "--json")[1])
    assert found["characters"] == 1000
    assert found["longest"] == len(found["longest_text"]) >= 4
    assert read_text([ENGLISH])[found["place"] :].startswith(found["longest_text"])
    assert 0 <= found["new_share"]["8"] <= found["new_share"]["16"] <= found["new_share"]["32"] <= 1
    status, out, _ = run(*flags)
    assert status == 0
    assert f"longest verbatim overlap with the text: {found['longest']} characters, at" in out
    assert "substrings of 16 characters: " in out


def write_states():
    lm = charlm.load(GRU)
    lm.save_state(lm.read("The"), "gru.state")
    Path("cut.state").write_bytes(Path("gru.state").read_bytes()[:-1])
    Path("latin1.txt").write_bytes("naïve".encode("latin-1"))
    Path("one-line.txt").write_text("abc" * 300)
    Path("gru-2.txt").write_text("something else")


BAD = [
    (["generate", LSTM, "--load-state", "gru.state"], "is of another model"),
    (
        ["generate", GRU, "--load-state", "cut.state"],
        "saved state cut.state is damaged: it should have",
    ),
    (["generate", GRU, "--load-state", "none"], "saved state none does not exist"),
    (["generate", GRU, "-l", "3", "--save-state", "gru.txt", "-n", "2"], "gru-2.txt is there al"),
    (["generate", LSTM, "-l", "3", "--delay", "1", "--json"], "--delay does not go with --json"),
    (["generate", LSTM, "--prompt-file", "none"], "text file none does not exist"),
    (["generate", LSTM, "--prompt-file", "latin1.txt"], "latin1.txt is not UTF-8"),
    (["generate", LSTM, "--stop", ""], "--stop must not be an empty text"),
    (["generate", LSTM, "-l", "0", "-n", "2"], "--length 0, without end, goes with one sample"),
    (["generate", LSTM, "--allow", "a漢"], "character '漢' (U+6F22) at position 1 of --allow"),
    (["generate", LSTM, "--stop", "漢"], "at position 0 of --stop"),
    (["generate", LSTM, "--allow", "a", "--forbid", "ab"], "leave no character"),
    (["generate", LSTM, "--allow", ""], "--allow must not be an empty text"),
    (["generate", LSTM, "-l", "0", "--json"], "needs a --stop"),
    (["generate", LSTM, "--seed", str(2**64)], "--seed must be at most 4294967295"),
    (["generate", LSTM, "--prompt-file", "-"], "stdin is empty"),
    (["generate", LSTM, "--save-state", "text.txt"], "is there already, and not a saved state"),
    (["generate", LSTM, "--save-state", "none/s"], "there is no folder none"),
    (["overlap", LSTM, "text.txt", "-l", "0"], "does not go with overlap"),
    (["generate", LSTM, "--min-p", "1.5"], "--min-p must be at most 1"),
    (["generate", LSTM, "--unique"], "--unique goes with --lines"),
    (["generate", LSTM, "--novel", "text.txt"], "--novel goes with --lines"),
    (["generate", LSTM, "--lines", "3", "-l", "9"], "--length does not go with --lines"),
    (["generate", LSTM, "--lines", "3", "-p", "x"], "--prompt does not go with --lines"),
    (["generate", LSTM, "--lines", "3", "--forbid", "\n"], "without which no line ends"),
    (["generate", LSTM, "--lines", "3", "--min-length", "300"], "is above --max-length"),
    (["generate", LSTM, "--lines", "3", "--starts-with", "ï"], "character 'ï'"),
    (["generate", LSTM, "--lines", "-1"], "--lines must be at least 0"),
    (["score", LSTM, "none"], "text file none does not exist"),
    (["score", LSTM, "latin1.txt"], "is not UTF-8"),
    (["score", LSTM], "stdin is empty"),
    (["overlap", LSTM, "none"], "text file none does not exist"),
]


@pytest.mark.parametrize(("command", "message"), BAD, ids=str)
def test_bad_input_is_one_line_and_nothing_is_written(run, stdin, command, message):
    write_states()
    stdin("")
    before = sorted(Path().rglob("*"))
    status, out, err = run(*command)
    one_line(status, out, err.removeprefix("seed 1\n"), expected=1)
    assert message in err
    assert sorted(Path().rglob("*")) == before


def test_a_model_without_lines(run):
    write_states()
    run("train", "one-line.txt", *QUICK_FLAGS)
    one_line(*run("generate", "one-line", "--lines", 3), expected=1)


@pytest.mark.parametrize("more", [[], ["--json", "--stop", "zzz"], ["--save-state", "state"]])
def test_without_end_until_ctrl_c(workplace, more):
    process = subprocess.Popen(
        [*CHARLM, "generate", LSTM, "-l", "0", "--seed", "1", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(1.0)
    if "--json" not in more:
        assert len(process.stdout.read(3000)) == 3000
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "seed 1\ncharlm: stopped\n"
    if "--json" in more:  # what was drawn until then
        assert json.loads(out)["stopped"] == "signal"
    if "--save-state" in more:
        lm = charlm.load(LSTM)
        assert lm.generate(state=lm.load_state("state"), length=20)


def test_a_state_that_was_saved_at_a_signal_is_that_of_what_was_printed(run, workplace):
    """Also of what might have been the beginning of a stop text: with all letters, most is."""
    stops = [word for c in "abcdefghijklmnopqrstuvwxyz ,\n" for word in ("--stop", f"{c}@")]
    vocabulary = charlm.load(LSTM).tokenizer.vocabulary
    stops = [word.replace("@", vocabulary[-1] * 3) for word in stops]
    command = [*CHARLM, "generate", LSTM, "-l", "0", "-t", "0.5", "--save-state", "s", *stops]
    with subprocess.Popen([*command, "--seed", "1"], stdout=subprocess.PIPE, text=True) as process:
        begin = process.stdout.read(2000)
        process.send_signal(signal.SIGTERM)
        text = begin + process.stdout.read()  # communicate would lose what read has buffered
    assert process.returncode == 143
    lm = charlm.load(LSTM)
    whole = lm.generate(length=len(text) - 1, temperature=0.5, seed=1)
    assert text == whole + "\n"
    again = lm.read(whole, state=lm.read())
    for one, other in zip(again.state, lm.load_state("s").state, strict=True):
        assert abs(one - other).max() < 1e-4


@pytest.mark.parametrize("length", [1, 7, 20])
def test_a_signal_at_any_moment_loses_nothing_and_doubles_nothing(length):
    """Every letter may be the beginning of a stop text, so something is held back all the time."""
    lm = charlm.load(LSTM)
    whole = lm.generate(length=20, seed=1)
    stops = [f"{character}{lm.tokenizer.vocabulary[-1] * 3}" for character in set(whole)]
    for moment in range(1, 25):
        (sample,) = lm.samples("", length=length, seed=1, stop=stops)
        stop, text = Stop(), ""
        for count, piece in enumerate(_until(stop, sample), start=1):
            text += piece
            if count == moment:
                stop.signal = signal.SIGINT
        assert text == whole[: sample.count]
        assert sample.count == min(length, moment + 1)


def test_a_closed_pipe_ends_quietly(workplace):
    command = f"{' '.join(CHARLM)} generate {LSTM} -l 0 --seed 1 2>err | head -c 20"
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=30)
    assert Path("err").read_text() == "seed 1\n"
