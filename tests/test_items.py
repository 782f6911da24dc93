"""Lists: what is recognised, how it is split and read, and that each item is read by itself."""

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BACKBONES, QUICK, ROOT, tiny_config, words

from charlm import checkpoint as checkpoints
from charlm.api import LanguageModel
from charlm.checkpoint import Checkpoint
from charlm.config import TrainConfig
from charlm.data.batches import IGNORED
from charlm.data.dataset import Dataset
from charlm.data.items import ItemStream, is_list, line_end, split_items
from charlm.data.text_files import survey
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import ConfigError, CorpusError
from charlm.evaluation.loss import evaluate
from charlm.evaluation.texts import text_to_score
from charlm.model.language_model import CharLM
from charlm.training.start import start
from charlm.training.trainer import Trainer


def names(count, seed=0, longest=13):
    """Return so many distinct lines of letters and spaces, in no order."""
    rng = random.Random(seed)
    found = {}
    while len(found) < count:
        letters = "".join(rng.choices("abcdefg", k=rng.randint(1, longest)))
        found[f"{letters} {rng.choice('hij')}"] = None
    return list(found)


VERSE = "\n".join(words(6, seed).replace("\n", " ") for seed in range(300))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (sorted(names(200)), True),
        (sorted(names(200), key=str.swapcase), True),
        ([line.title() for line in sorted(names(200))], True),
        (names(200), False),  # two words a line, in no order: verse looks like this
        (
            [line.split()[0] for line in names(50) * 9],
            False,
        ),  # words of a text, one below the other
        (list(dict.fromkeys(line.split()[0] for line in names(2000))), True),
        (sorted(names(200))[:99], False),
        (["the same line"] * 200, False),
        ([*itertools.chain.from_iterable((line, "") for line in sorted(names(200)))], False),
        ([f"{line} " + "long " * 20 for line in sorted(names(200))], False),
        (VERSE.split("\n"), False),
    ],
)
def test_a_list_is_recognised(lines, expected):
    assert is_list("\n".join(lines) + "\n") is expected


@pytest.mark.parametrize("path", [*sorted(Path("corpora").glob("*.txt")), Path(__file__)])
def test_a_text_is_no_list(path, pytestconfig):
    text = (pytestconfig.rootpath / path).read_text()
    assert not is_list(text)
    assert not is_list(text[:10_000])


def test_what_is_held_out_is_the_same_wherever_rare_characters_are_one_symbol(tmp_path):
    lines = [name + chr(0xC0 + k % 60) * (k % 4 == 0) for k, name in enumerate(names(400))]
    path = tmp_path / "names.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    trainer = start([path], out=tmp_path / "run", items=True, min_count=10, **QUICK).trainer
    assert trainer.dataset.tokenizer.unknown
    parts = text_to_score(trainer.checkpoint(), None, held_out=True)
    found = map(trainer.dataset.tokenizer.encode, parts)
    for one, other in zip(found, (trainer.dataset.train, trainer.dataset.validation), strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_files_tell_whether_a_text_is_a_list():
    words = "".join(f"{one}{other}\n" for one in "abcdefghijkl" for other in "mnopqrstuvwxyz")
    half = words.index("g")
    assert survey([words]).is_list
    assert survey([words[:half], words[half:], ""]).is_list
    assert not survey([words[:half]]).is_list  # too few
    assert not survey([words, (ROOT / "corpora" / "english.txt").read_text("utf-8")]).is_list


def test_items_are_held_out_whole_and_stay_where_they_are():
    lines = names(1000)
    lines += lines[:50]  # some are there twice
    train, held_out = (part.splitlines() for part in split_items("\n\n".join(lines), 0.2))
    assert sorted(train + held_out) == sorted(lines)
    assert not set(train) & set(held_out)
    # A share of 0.2 of 1,000 items: the standard error is 13, false alarms 1 in 15,000.
    assert 148 < len(set(held_out)) < 252
    more = split_items("\n".join([*lines, *names(500, seed=1)]), 0.2)
    assert set(train) <= set(more[0].splitlines())
    assert set(held_out) <= set(more[1].splitlines())
    assert held_out != sorted(held_out)  # so that the first ones are like the others


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_a_part_without_items_is_refused(fraction):
    with pytest.raises(CorpusError, match="part of a list of 5 items is empty"):
        split_items("\n".join(names(5)), fraction)


def test_a_text_of_one_line_has_no_items():
    with pytest.raises(ConfigError, match="items needs line ends"):
        line_end(CharTokenizer("ab"))


@pytest.mark.parametrize(("batch_size", "seq_length"), [(3, 20), (5, 7), (64, 4), (7, 1), (4, 5)])
def test_every_epoch_reads_every_item_once_from_its_beginning(batch_size, seq_length):
    lines = names(61)
    text = "\n".join(lines) + "\n"
    tokenizer = CharTokenizer.from_text(text)
    end = line_end(tokenizer)
    stream = ItemStream(
        tokenizer.encode(text), end, batch_size=batch_size, seq_length=seq_length, seed=3
    )
    orders = []
    for epoch in range(2):
        read, lanes = [], []
        for place in range(stream.windows_per_epoch):
            window = stream.window(epoch * stream.windows_per_epoch + place)
            assert window.inputs.shape == window.targets.shape
            assert window.inputs.shape[0] == batch_size
            assert window.inputs.shape[1] <= seq_length
            assert window.scored == (window.targets != IGNORED).sum()
            if window.restart:
                read += lanes
                lanes = [""] * batch_size
                assert set(window.inputs[:, 0]) == {end}
            for lane, targets in enumerate(window.targets):
                before = lanes[lane]
                lanes[lane] += tokenizer.decode(targets[targets != IGNORED])
                scored = window.targets[lane] != IGNORED
                joined = "\n" + lanes[lane]
                shown = tokenizer.decode(window.inputs[lane][scored])
                assert joined[len(before) : len(before) + len(shown)] == shown
        read += lanes
        assert sorted(item for item in read if item) == sorted(f"{line}\n" for line in lines)
        orders.append(read)
    assert orders[0] != orders[1]
    assert (stream.window(2).inputs == stream.window(2).inputs).all()
    assert stream.epoch(stream.windows_per_epoch) == 1


def model_of_items(name="lstm", variant="plain", text=None, **changes):
    text = text or "\n".join(names(300)) + "\n"
    tokenizer = CharTokenizer.from_text(text)
    config = tiny_config(name, variant, items=True, **changes)
    return CharLM(config, tokenizer.vocab_size, seed=2), tokenizer, text


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_scoring_evaluating_and_generating_begin_every_item_afresh(name, variant):
    """A text of items is scored as each item alone, by both engines, in any order."""
    model, tokenizer, text = model_of_items(name, variant)
    lm = LanguageModel(
        Checkpoint(model_config=model.config, tokenizer=tokenizer, weights=model.weights())
    )
    lines = [f"{line}\n" for line in text.splitlines()][:80]
    alone = [lm.score(line) for line in lines]
    np.testing.assert_allclose(lm.score("".join(lines)), np.concatenate(alone), atol=2e-5)
    result = evaluate(model, tokenizer.encode("".join(lines)), line_end=line_end(tokenizer))
    bits = sum(float(one.sum()) for one in alone)
    assert result.items == 80
    assert result.nats_per_item == pytest.approx(bits * math.log(2) / 80, rel=1e-5)
    assert result.characters == len("".join(lines))
    state, again = lm.read("".join(lines)), lm.read()
    np.testing.assert_array_equal(state.logits, again.logits)
    drawn = lm.generate(length=300, seed=4, temperature=1.0)
    _, second, *_ = drawn.split("\n")
    start = drawn.index("\n") + 1
    inside = lm.score(drawn)[start : start + len(second) + 1]
    assert inside == pytest.approx(lm.score(f"{second}\n"), abs=2e-5)


def test_a_text_of_items_without_its_last_line_end_is_scored_to_its_end():
    model, tokenizer, _ = model_of_items()
    lm = LanguageModel(
        Checkpoint(model_config=model.config, tokenizer=tokenizer, weights=model.weights())
    )
    np.testing.assert_allclose(lm.score("ab h\ncd"), lm.score("ab h\ncd\n")[:-1], atol=2e-6)
    ids = tokenizer.encode("ab h\ncd")
    assert evaluate(model, ids, line_end=line_end(tokenizer)).characters == 7
    assert lm.score("").shape == (0,)


def test_probabilities_of_all_items_sum_to_one():
    """Of a small model that knows two letters: all items up to a length, and the rest."""
    model, tokenizer, _ = model_of_items(text="a\nb\n")
    lm = LanguageModel(
        Checkpoint(model_config=model.config, tokenizer=tokenizer, weights=model.weights())
    )
    total = 0.0
    for length in range(9):
        for letters in itertools.product("ab", repeat=length):
            total += 2.0 ** -float(lm.score("".join(letters) + "\n").sum())
    longer = map("".join, itertools.product("ab", repeat=9))
    unfinished = sum(2.0 ** -float(lm.score(letters).sum()) for letters in longer)
    assert total + unfinished == pytest.approx(1, abs=1e-5)


def dataset(text, **changes):
    tokenizer = CharTokenizer.from_text(text)
    return Dataset.from_ids(tokenizer.encode(text), tokenizer, "", 0.1, items=True, **changes)


def test_training_on_items_resumes_bit_exactly_and_learns_the_set():
    text = "\n".join(sorted(names(400, longest=6))) + "\n"
    found = dataset(text)
    assert found.characters == len(text)

    def trainer():
        config = TrainConfig(steps=60, batch_size=8, seq_length=6, learning_rate=0.02)
        model = CharLM(tiny_config(items=True, dropout=0.2), found.tokenizer.vocab_size, seed=1)
        return Trainer(model, found, config)

    straight = trainer()
    losses = [progress.validation_loss for progress in straight.run()]
    assert losses[-1] < 0.8 * losses[5]
    first, second = trainer(), trainer()
    for progress in first.run():
        if progress.step == 23:
            break
    second.restore(first.checkpoint())
    assert [progress.validation_loss for progress in second.run()] == losses[23:]
    for name, value in straight.model.weights().items():
        assert np.array_equal(value, second.model.weights()[name]), name


def test_the_loss_of_a_step_is_the_mean_over_what_is_predicted():
    found = dataset("\n".join(names(100)))
    config = TrainConfig(steps=9, batch_size=8, seq_length=20)
    trainer = Trainer(
        CharLM(tiny_config(items=True, dropout=0.0), found.tokenizer.vocab_size), found, config
    )
    window = trainer.stream.window(0)
    loss, _ = trainer.step()
    logits, _ = CharLM(tiny_config(items=True, dropout=0.0), found.tokenizer.vocab_size)(
        torch.from_numpy(window.inputs.astype(np.int64)), trainer.model.initial_state(8)
    )
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(window.targets).flatten(), ignore_index=IGNORED
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


# ---- on the command line

LIST_FLAGS = ["--steps", 40, "--embedding-size", 5, "--hidden-size", 11, "--learning-rate", 0.02]
LIST_FLAGS += ["--precision", "float32", "--threads", 1]


@pytest.fixture
def trained(run):
    """Train on a list; return the function that runs commands."""
    Path("names.txt").write_text("\n".join(sorted(names(300))) + "\n", encoding="utf-8")
    status, _, err = run("train", "names.txt", "--out", "run", *LIST_FLAGS)
    assert status == 0, err
    assert "a list of 300 items" in " ".join(err.split())
    assert "per item" in err
    return run


def test_the_command_line_writes_ranks_and_evaluates_items(trained):
    status, out, _ = trained("generate", "run", "--seed", 1)
    assert (status, len(out.splitlines())) == (0, 10)
    assert out == trained("generate", "run", "--seed", 1, "--lines", 10)[1]
    _, out, _ = trained("generate", "run", "--seed", 1, "-p", "ab", "-n", 3)
    assert [line[:2] for line in out.splitlines()] == ["ab"] * 3
    _, out, _ = trained("generate", "run", "--seed", 1, "--length", 200)
    assert len(out) == 201
    status, out, _ = trained("score", "run", "names.txt", "--rank", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 300
    chances = [item["probability"] for item in found]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) < 1
    assert all(item["text"].endswith("\n") for item in found)
    _, out, _ = trained("evaluate", "run", "names.txt", "--held-out")
    assert "items, " in out
    _, out, _ = trained("overlap", "run", "names.txt", "--json", "-n", 50)
    assert json.loads(out)["items"] == 50


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["generate", "run", "-p", "ab", "--starts-with", "a"], "leave one out"),
        (["generate", "run", "-p", "a\nb"], "the prompt of an item must be one line"),
        (["generate", "run", "-p", "az"], "character 'z' (U+007A) at position 1 of the prompt"),
        (["evaluate", "run", "names.txt", "--dynamic"], "dynamic evaluation reads one long text"),
        (["overlap", "run", "names.txt", "--length", "9"], "--length does not go with a model of"),
    ],
)
def test_what_makes_no_sense_with_items_is_refused(trained, words, expected):
    status, out, err = trained(*words)
    assert (status, out) == (1, "")
    assert expected in err.splitlines()[-1]


def test_a_list_is_resumed_repeated_and_fine_tuned(trained):
    status, _, err = trained("resume", "run", "--steps", 60)
    assert status == 0, err
    Path("verse.txt").write_text(VERSE, encoding="utf-8")
    words = ["train", "verse.txt", "--out", "verse", "--init-from", "run", "--steps", 2]
    status, _, err = trained(*words)
    assert status == 0, err
    assert not checkpoints.load(Path("verse/latest.safetensors")).model_config.items
    first, *_ = json.loads(trained("info", "run", "--json")[1])["repeat"]
    assert "--items" in first.split()
