import copy
import time

import pytest
import torch
from conftest import QUICK_FLAGS, B, T, V, dataset_of, random_ids, tiny_config, words
from torch.utils._python_dispatch import TorchDispatchMode

from charlm.config import TrainConfig
from charlm.errors import ConfigError, CorpusError
from charlm.evaluation.dynamic import evaluate_dynamic
from charlm.evaluation.loss import evaluate
from charlm.model.device import autocast, find_device, keep_memory, torch_threads
from charlm.model.language_model import CharLM
from charlm.model.layers import drop_connect
from charlm.training.trainer import Trainer


@pytest.fixture
def there(monkeypatch):
    """Return a function that lets accelerators be there; those that are ``broken`` say so."""

    def make(*names, broken=(), count=4):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)
        ones = torch.ones

        def imitated(*size, device="cpu", **options):
            if torch.device(device).type in broken:
                raise RuntimeError("no kernel image is available\nCompile with TORCH_USE_CUDA_DSA")
            return ones(*size, **options)

        monkeypatch.setattr(torch, "ones", imitated)

    return make


def test_auto_is_the_first_accelerator_and_else_the_cpu(there, monkeypatch):
    there()
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    there("mps")
    assert find_device("auto") == find_device("mps") == torch.device("mps")
    there("mps", "cuda")
    assert find_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")  # of several processes each has its own
    assert find_device("cuda") == torch.device("cuda", 3)
    assert find_device("cpu") == torch.device("cpu")


def test_auto_leaves_out_an_accelerator_that_cannot_compute_and_says_so(there, workplace, run):
    there("cuda", "mps", broken=["cuda", "mps"])
    notices = []
    assert find_device("auto", notices) == torch.device("cpu")
    assert notices == [
        f"{name} is there but cannot compute (no kernel image is available): not used"
        for name in ("cuda", "mps")
    ]
    status, _, err = run("train", "text.txt", *QUICK_FLAGS, "--device", "auto", "--out", "made")
    assert (status, notices[0] in " ".join(err.split())) == (0, True)
    status, _, err = run("resume", "made", "--steps", "14")
    assert (status, notices[0] in " ".join(err.split())) == (0, True)
    assert run("evaluate", "made", "text.txt")[0] == 0
    assert find_device("cuda") == torch.device("cuda", 0)  # who asks for it gets its own error


def test_more_processes_than_gpus_are_refused(there, monkeypatch):
    there("cuda", count=2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name in ("auto", "cuda"):
        with pytest.raises(ConfigError, match="has 2 GPUs, and process 3 on it has none left"):
            find_device(name)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device '{name}' is not there on this machine: choose"):
        find_device(name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_autocast_is_on_for_half_precision_alone_and_ends(precision):
    with autocast(torch.device("cpu"), precision):
        assert torch.is_autocast_enabled("cpu") == (precision != "float32")
        if precision != "float32":
            assert torch.get_autocast_dtype("cpu") == getattr(torch, precision)
    assert not torch.is_autocast_enabled("cpu")


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with torch_threads(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_memory_is_kept_and_all_goes_on():
    keep_memory()
    began = time.perf_counter()
    for _ in range(5):
        assert torch.ones(3_000_000).sum() == 3_000_000
    assert time.perf_counter() > began


def trainer_of():
    dataset = dataset_of(words(90))
    model = CharLM(tiny_config(), dataset.tokenizer.vocab_size, seed=1)
    return Trainer(model, dataset, TrainConfig(batch_size=B, seq_length=T))


class AppleTensor(torch.Tensor):
    """A tensor that has no float64 until it is on the CPU, as on a GPU of Apple."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.double:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        result = super().__torch_function__(function, types, args, kwargs)
        return result.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else result


@pytest.mark.parametrize("line_end", [None, 1])
def test_losses_are_added_up_in_float64_only_on_the_cpu(monkeypatch, line_end):
    cross_entropy = torch.nn.functional.cross_entropy
    model, ids = CharLM(tiny_config(), V, seed=1), random_ids(1, 300)
    expected = evaluate(model, ids, line_end=line_end), evaluate_dynamic(copy.deepcopy(model), ids)
    monkeypatch.setattr(
        torch.nn.functional,
        "cross_entropy",
        lambda *a, **options: cross_entropy(*a, **options).as_subclass(AppleTensor),
    )
    assert (evaluate(model, ids, line_end=line_end), evaluate_dynamic(model, ids)) == expected


def test_evaluation_is_in_full_float32_and_training_as_torch_has_it(monkeypatch):
    """cuDNN computes recurrent layers in TF32, with 10 bits, if it is allowed to."""
    seen, forward = [], CharLM.forward

    def looking(*arguments, **options):
        seen.append(torch.backends.cudnn.allow_tf32)
        return forward(*arguments, **options)

    monkeypatch.setattr(CharLM, "forward", looking)
    model, ids = CharLM(tiny_config(), V, seed=1), random_ids(1, 300)
    for function in (evaluate, evaluate_dynamic):
        function(model, ids)
        assert set(seen) == {False}, function
        assert torch.backends.cudnn.allow_tf32
        seen.clear()
    with pytest.raises(CorpusError):
        evaluate(model, ids[:1])
    assert torch.backends.cudnn.allow_tf32
    trainer_of().step()
    assert seen == [True]


def test_nothing_is_copied_to_a_gpu_of_apple_behind_our_back(monkeypatch):
    """There a copy that does not wait reads memory that is free again, and ids become random."""
    trainer, copies = trainer_of(), []
    monkeypatch.setattr(torch.Tensor, "to", lambda _, *a, **options: copies.append((a, options)))
    trainer.device = torch.device("mps")
    trainer._tensor(random_ids(B, T))
    assert copies == [((trainer.device,), {})]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_dropped_weights_are_drawn_elsewhere_in_a_range_that_apple_has(share):
    """On the device ``meta``, which computes nothing but tells what it was asked for."""
    asked = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            asked.append(function)
            return function(*args, **(kwargs or {}))

    with Recorder():
        dropped = drop_connect(torch.ones(7, 5, device="meta"), share, None)
    assert dropped.shape == (7, 5)
    assert not [op for op in asked if "random_" in str(op)]
    assert [op for op in asked if "bernoulli_" in str(op)]
