"""The number of threads follows the load, and nothing else does."""

import pytest
import torch
from conftest import B, T, dataset_of, tiny_config, words

from charlm.config import TrainConfig
from charlm.model.language_model import CharLM
from charlm.training import threads
from charlm.training.threads import ThreadChoice, cores_are_free, thread_counts
from charlm.training.trainer import Trainer

ALONE = {0: 1.0, 1: 1.7}  # times of a step by the number of threads
BUSY = {0: 6.0, 1: 1.7}


def lived_through(choice, loads, step=0.05):
    """Let ``choice`` live through loads, each of so many seconds; return the time lost in each."""
    lost = []
    for times, seconds, free in loads:
        choice.are_free = lambda *_, free=free: free
        now, gone = 0.0, 0.0
        while now < seconds:
            spent = step * times[choice.count]
            gone += spent - step * min(times.values())
            now += spent
            if not choice.is_proven((1,)):
                choice.prove((1,), True)
            else:
                choice.note(spent)
        lost.append(gone / seconds)
    return lost


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("step", [0.004, 0.05, 0.4])
def test_little_is_lost_under_any_load(first, step):
    choice = ThreadChoice([first, 1 - first])
    loads = [(ALONE, 300, True), (BUSY, 300, False), (ALONE, 300, True), (BUSY, 300, False)]
    assert max(lived_through(choice, loads, step)) < 0.04


def test_where_the_probe_is_wrong_the_trials_become_rare():
    """That cores are free is believed, though they are not."""
    choice = ThreadChoice([1, 0])
    assert lived_through(choice, [(BUSY, 600, True)])[0] < 0.02


def test_with_one_number_there_is_no_choice():
    choice = ThreadChoice([3])
    lived_through(choice, [({3: 1.0}, 60, True)])
    assert (choice.count, choice.counts) == (3, [3])


def test_a_number_that_changes_bits_is_never_used():
    choice = ThreadChoice([0, 1], are_free=lambda *_: False)
    for _ in range(400):
        if choice.count == 1:
            choice.prove((1,), False)
        choice.note(0.1)
        assert choice.usual == 0
    assert choice.counts == [0]


def test_half_of_many_threads_is_tried_too(monkeypatch):
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 16)
    choice = ThreadChoice(thread_counts(), are_free=lambda *_: False)
    lived_through(choice, [({0: 3.0, 8: 1.0, 1: 5.0}, 60, False)])
    assert choice.usual == 8


def test_one_thread_always_gets_its_core():
    before = torch.get_num_threads()
    assert cores_are_free(1)
    assert cores_are_free(0) in (True, False)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("other", [0, 2])
def test_a_run_whose_threads_change_is_the_run_whose_threads_do_not(monkeypatch, other):
    """Bit for bit; the step that proves it is done twice, with dropout, and counts once."""
    dataset = dataset_of(words(400))

    def trained(choice):
        model = CharLM(tiny_config(dropout=0.3), dataset.tokenizer.vocab_size, seed=1)
        trainer = Trainer(model, dataset, TrainConfig(steps=12, batch_size=B, seq_length=T))
        trainer.thread_choice = choice
        losses = [progress.train_loss for progress in trainer.run()]
        return losses, trainer.checkpoint().tensors()

    changing = ThreadChoice([1, other], are_free=lambda *_: True)
    monkeypatch.setattr(threads, "LEAST_REST", 0.0)
    changing.rest = 0.0
    steps = []
    note = changing.note
    monkeypatch.setattr(changing, "note", lambda s: (steps.append(changing.count), note(s)))
    losses, tensors = trained(changing)
    assert set(steps) == {1, other}
    expected_losses, expected = trained(ThreadChoice([1]))
    assert losses == expected_losses
    assert all((tensors[name] == expected[name]).all() for name in expected)
