"""Text on its way to a terminal: wrapped at words, held back no more than needed, delayed."""

import re
import sys

import pytest
from conftest import DATA
from hypothesis import given
from hypothesis import strategies as st

from charlm.cli.terminal import columns_of
from charlm.cli.text_writer import TextWriter, WordWrap

LSTM = str(DATA / "golden-lstm.safetensors")
TEXTS = st.text("ab  \n山水-", max_size=60)


def wrapped(text, columns):
    wrap = WordWrap(columns)
    return "".join([*map(wrap.feed, text), wrap.end()])


@given(TEXTS, st.integers(2, 12))
def test_lines_fit_and_nothing_but_spaces_and_line_ends_differs(text, columns):
    out = wrapped(text, columns)
    assert all(columns_of(line) <= columns for line in out.split("\n"))
    assert re.sub(r"\s", "", out) == re.sub(r"\s", "", text)
    assert out.count("\n") >= text.count("\n")
    assert WordWrap(columns).feed(text) == out[: len(WordWrap(columns).feed(text))]


@given(TEXTS, st.integers(2, 12))
def test_a_word_is_broken_only_if_it_is_longer_than_a_line(text, columns):
    words = set(re.findall(r"[ab-]+", text))
    for piece in re.findall(r"[ab-]+", wrapped(text, columns)):
        assert piece in words or any(len(word) > columns for word in words)


@given(TEXTS, st.integers(2, 12))
def test_what_is_held_back_is_one_word_that_may_not_fit(text, columns):
    wrap, out = WordWrap(columns), ""
    for end in range(1, len(text) + 1):
        out += wrap.feed(text[end - 1])
        assert text[:end].endswith(wrap.held)
        assert re.fullmatch(r"[ab-]*", wrap.held)
        assert columns_of((out + wrap.held).rpartition("\n")[2]) <= columns


def test_a_text_that_is_known():
    assert wrapped("the sea was calm", 8) == "the sea \nwas calm"
    assert wrapped("a longer-than-that word", 6) == "a \nlonger\n-than-\nthat \nword"
    assert wrapped("山高水长云", 5) == "山高\n水长\n云"
    assert wrapped("caf\u0301e\u0301", 4) == "caf\u0301e\u0301"
    assert wrapped("a\tb", 9) == "a\tb"


def test_a_terminal_gets_wrapped_text_and_a_file_the_text_itself(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "21")
    command = ["generate", LSTM, "-p", "The sea ", "-l", 300, "--seed", 1]
    plain = run(*command)[1]
    assert max(map(len, plain.splitlines())) > 20
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = run(*command)[1]
    assert max(map(len, shown.splitlines())) <= 20
    assert shown.split() == plain.split()


def test_a_delay_changes_nothing_but_the_time(run, monkeypatch):
    naps = []
    monkeypatch.setattr("charlm.cli.text_writer.time.sleep", naps.append)
    monkeypatch.setattr("charlm.cli.text_writer.time.monotonic", lambda: sum(naps))
    for more in (["-l", 40], ["--lines", 2, "--max-length", 50]):
        command = ["generate", LSTM, "--seed", 1, *more]
        plain = run(*command)
        naps.clear()
        assert run(*command, "--delay", 0.25) == plain
        characters = len(plain[1].replace("\n", "")) if "--lines" in more else 40
        assert sum(naps) == pytest.approx(0.25 * characters)
        assert max(naps) <= 0.05 + 1e-9  # a request to stop is not kept waiting


def test_a_request_to_stop_ends_the_delay(capsys):
    writer = TextWriter(delay=3600.0, stopping=lambda: True)
    writer.write("abc")
    writer.end()
    assert capsys.readouterr().out == "abc\n"


@pytest.mark.parametrize("word", ["-1", "nan", "inf", "x", ""])
def test_a_delay_that_is_none_is_refused(run, word):
    status, _, err = run("generate", LSTM, f"--delay={word}")
    assert status == 2
    assert "argument --delay: expected a number of seconds from 0 on" in err
