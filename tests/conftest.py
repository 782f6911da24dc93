"""Shared by all tests: sizes that are pairwise different, and one small run trained for real."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# The same cases every time, however slow the machine is.
settings.register_profile("charlm", derandomize=True, deadline=None)
settings.load_profile("charlm")

# Nets this small are faster on one thread; the processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# Exactness is promised on the CPU: where there is a GPU, the tests do not see it.
if os.environ.get("CHARLM_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"

# Lanes, window, embedding, hidden, layers, vocabulary: no two are equal, so a swapped axis fails.
B, T, E, H, L, V = 3, 7, 5, 11, 2, 13

# Options of a backbone by the name that they have in the tests.
VARIANTS = {
    "plain": {},
    "relu": {"nonlinearity": "relu"},
    "identity": {"nonlinearity": "identity"},
    "peepholes": {"peepholes": True},
    "coupled": {"coupled_gates": True},
    "both": {"peepholes": True, "coupled_gates": True},
    "before": {"reset_after": False},
    "attention": {"attention": 9},
}
PLAIN = [("rnn", "plain"), ("lstm", "plain"), ("gru", "plain"), ("mingru", "plain")]
LINEAR = ("mingru", "minlstm")
BACKBONES = [
    *PLAIN,
    ("rnn", "relu"),
    ("lstm", "peepholes"),
    ("lstm", "coupled"),
    ("lstm", "both"),
    ("gru", "before"),
    ("minlstm", "plain"),
    ("lstm", "attention"),
    ("mingru", "attention"),
]
# A linear network adds up all that it reads, and its first predictions are as large: it stands
# under the laws of cells, layers and trainings, not under bounds on its predictions.
EVERY = [*BACKBONES, ("rnn", "identity")]
GOLDEN = ["rnn", "lstm", "gru"]  # the backbones of the frozen checkpoints in tests/data


def is_unbounded(backbone, variant):
    """Return whether outputs of a backbone may be beyond -1 and 1."""
    return backbone in LINEAR or variant in ("relu", "identity")


def tiny_config(backbone="lstm", variant="plain", **changes):
    from charlm.config import ModelConfig

    sizes = {"embedding_size": E, "hidden_size": H, "num_layers": L, "dropout": 0.0, **changes}
    return ModelConfig.from_dict({"backbone": backbone} | VARIANTS[variant] | sizes)


def dataset_of(text, validation_fraction=0.1):
    """Return the dataset of a text with a vocabulary of its own."""
    from charlm.data.dataset import Dataset
    from charlm.data.text_files import fingerprint
    from charlm.data.tokenizer import CharTokenizer

    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    return Dataset.from_ids(ids, tokenizer, fingerprint(text), validation_fraction)


def probabilities(logits, config):
    """Return the distribution (V,) that a character with these logits (V,) is drawn from."""
    from charlm.inference.sampling import unnormalized

    w = unnormalized(np.asarray(logits)[None], config)[0]
    return w / w.sum()


def random_ids(seed, *shape):
    return np.random.default_rng(seed).integers(0, V, shape)


def words(count, seed=0):
    """Return a text of ``count`` made-up words, of 13 characters with space and newline."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 8, count)
    return "".join(
        "".join(rng.choice(list("abcdefghijk"), n)) + " \n"[rng.random() < 0.1] for n in lengths
    )


@pytest.fixture(autouse=True)
def _no_accelerator(monkeypatch):
    import torch

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def _known_speed(monkeypatch):
    """Do not measure for each run in minutes how fast this machine trains the reference model."""
    from charlm.training import autotune

    monkeypatch.setattr(autotune, "reference_speed", lambda *_, **__: 20_000.0)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, which holds ``text.txt``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(words(600), encoding="utf-8")
    return tmp_path


@pytest.fixture
def windows(monkeypatch):
    """Let charlm take this system for Windows."""
    from charlm import files

    monkeypatch.setattr(files, "WINDOWS", True)


@pytest.fixture
def run(workplace, capsys, monkeypatch):
    """Run a command in this process: exit status, stdout, stderr."""
    from charlm.cli import main

    monkeypatch.setenv("COLUMNS", "80")

    def run(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as leaving:
            status = leaving.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


# Settings of a run that trains in a moment.
QUICK = {
    "embedding_size": E,
    "hidden_size": H,
    "num_layers": L,
    "batch_size": B,
    "seq_length": T,
    "steps": 6,
    "eval_every": 2,
    "precision": "float32",
    "threads": 1,  # else their number is measured
    "device": "cpu",
}
QUICK_FLAGS = [
    word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value))
]


def metrics(folder):
    """Return the metrics of a run, all that tells time left out."""
    lines = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "chars_per_second")}
        for line in lines
    ]


def assert_same_run(one, other):
    """Assert that two run folders hold the same, bit for bit."""
    from charlm import checkpoint as checkpoints

    assert metrics(one) == metrics(other)
    for name in ("latest", "best"):
        a, b = (checkpoints.load(checkpoints.locate(folder, name)) for folder in (one, other))
        assert a.tensors().keys() == b.tensors().keys()
        for key, tensor in a.tensors().items():
            assert np.array_equal(tensor, b.tensors()[key]), key


def one_line(status, out, err, expected):
    """Assert that a command failed with one line that says what, where and what to do."""
    assert status == expected
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert re.match(r"charlm( \w+)?: error: ", err)
