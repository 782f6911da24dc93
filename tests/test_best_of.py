"""``generate --best-of``: of several samples the likeliest, as the package finds it too."""

import json

import pytest
from conftest import DATA, one_line

import charlm
from charlm.cli.terminal import Stop

LSTM = DATA / "golden-lstm.safetensors"
SETTINGS = {"length": 19, "seed": 6, "temperature": 1.3}
FLAGS = ["-l", 19, "--seed", 6, "-t", 1.3]


def test_the_best_is_that_of_the_package(run):
    lm = charlm.load(LSTM)
    status, out, err = run("generate", LSTM, "-p", "The ", "--best-of", 5, *FLAGS)
    assert (status, err) == (0, "seed 6\n")
    assert out == f"The {lm.best_of('The ', 5, **SETTINGS)}\n"
    assert run("generate", LSTM, *FLAGS, "--best-of", 1) == run("generate", LSTM, *FLAGS)


def test_each_of_several_is_the_best_of_its_own(run):
    """The first of three groups is that of one group; the others are of the samples behind it."""
    lines = run("generate", LSTM, *FLAGS, "-n", 12, "--json")[1].splitlines()
    drawn = [json.loads(line) for line in lines]
    groups = [drawn[k : k + 4] for k in range(0, 12, 4)]
    best = [min(group, key=lambda sample: sample["bits_per_char"]) for group in groups]
    command = ["generate", LSTM, *FLAGS, "-n", 3, "--best-of", 4]
    assert [json.loads(line) for line in run(*command, "--json")[1].splitlines()] == best
    assert len({sample["sample"] % 4 for sample in best}) > 1
    texts = [f"--- sample {k + 1} ---\n{sample['text']}\n" for k, sample in enumerate(best)]
    assert run(*command)[1] == "".join(texts)
    (one,) = run("generate", LSTM, *FLAGS, "--best-of", 4, "--json")[1].splitlines()
    assert json.loads(one) == best[0]


def test_the_state_that_is_saved_is_that_of_the_best(run, workplace):
    lm = charlm.load(LSTM)
    command = ["generate", LSTM, *FLAGS, "-n", 2, "--best-of", 4]
    texts = [json.loads(line)["text"] for line in run(*command, "--json")[1].splitlines()]
    assert "saved s-1, s-2" in run(*command, "--save-state", "s")[2]
    for number, text in enumerate(texts, 1):
        state = lm.load_state(f"s-{number}")
        assert dict(lm.next(state=state)) == pytest.approx(
            dict(lm.next(text, state=lm.read())), rel=1e-3
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--best-of", 0], "--best-of must be from 1 to 1,000,000,000 (got 0)"),
        (["--best-of", 3, "-l", 0], "--length 0, without end, does not go with --best-of"),
        (["--best-of", 3, "--lines", 2], "--best-of does not go with --lines"),
    ],
)
def test_what_does_not_go_with_it_is_refused(run, flags, message):
    status, out, err = run("generate", LSTM, *flags)
    one_line(status, out, err, expected=1)
    assert message in err


def test_of_a_model_of_items_it_needs_a_length(run, workplace):
    text = "\n".join(sorted(f"item {a}{b}" for a in "abcdefg" for b in "hijkl")) + "\n"
    (workplace / "items.txt").write_text(text)
    assert run("train", "items.txt", "--items", "--steps", 2, "--hidden-size", 8)[0] == 0
    status, out, err = run("generate", "items", "--best-of", 3)
    one_line(status, out, err, expected=1)
    assert "--best-of does not go with items: give --length, or --stop" in err
    assert run("generate", "items", "--best-of", 3, "--stop", "\n")[0] == 0


@pytest.mark.parametrize("looks", [1, 60, 100])
def test_a_request_to_stop_leaves_no_half_of_a_choice(run, monkeypatch, looks):
    """Four texts of 19 characters are drawn for each one that is written."""
    left = iter(range(looks))

    class LateStop(Stop):
        signal = property(lambda _: None if next(left, None) is not None else 2, lambda *_: None)

    monkeypatch.setattr("charlm.cli.generate.Stop", LateStop)
    whole = "--- sample 1 ---\n"
    status, out, err = run("generate", LSTM, *FLAGS, "--best-of", 4, "-n", 2)
    assert status == 130
    assert err.splitlines() == ["seed 6", "charlm: stopped"]
    assert out.startswith(whole) if looks == 100 else out == ""
    assert out.count("---") <= 2
