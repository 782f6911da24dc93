from dataclasses import replace
from pathlib import Path

import pytest
from conftest import DATA, QUICK

import charlm

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
    config = charlm.SampleConfig(seed=1, length=50, num_samples=5)
    five = ["".join(sample) for sample in lm.samples("The ", config)]
    two = ["".join(sample) for sample in lm.samples("The ", replace(config, num_samples=2))]
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
        ("a", {"num_samples": 2}, "is for samples"),
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
