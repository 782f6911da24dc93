"""Training speed: charlm against the loop that a user of torch would write.

    python tests/benchmarks/bench_training.py [--rounds 7] [--only lstm-512 ...] [--seconds 1.5]

``--only`` takes any number of units, lstm-300 too.

The other loop is nn.LSTM / nn.GRU / nn.RNN with num_layers, in float32, with AdamW, clipping and
carried state, on the same text with the same sizes. charlm trains in what its own measurement finds
fastest. The two take turns in one run. Each has a process of its own, which waits while the other
works: how memory is kept is a matter of the process, and each side has to have its own way.

Beside the speed stands the share of the matrix peak: what the matrices of the model need by
arithmetic (6 operations per weight and character), over what this machine reaches in one large
product, measured between the turns.

The last line is one JSON document.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TEXT = ROOT / "corpora" / "english.txt"
SIZES = {128: (50, 50), 256: (64, 128), 512: (64, 128)}  # hidden size: lanes, window
CASES = [f"{backbone}-{hidden}" for hidden in SIZES for backbone in ("lstm", "gru", "rnn")]
EMBEDDING, LAYERS, DROPOUT = 128, 2, 0.3
PEAK = 2048  # rows of the square matrices whose product is the peak


def case_name(word):
    """Return a word of the command line that names a backbone and its units, as in lstm-512."""
    backbone, _, hidden = word.partition("-")
    if backbone not in ("lstm", "gru", "rnn") or not hidden.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is no case; one is lstm-512")
    return word


def stock_step(backbone, hidden):
    """Return a function that does one step of the plain loop and returns how many characters."""
    import torch
    from torch import nn

    from charlm.data.batches import LaneStream
    from charlm.data.dataset import Dataset
    from charlm.data.text_files import read_text
    from charlm.data.tokenizer import CharTokenizer

    text = read_text([TEXT])
    tokenizer = CharTokenizer.from_text(text)
    ids = Dataset.from_ids(tokenizer.encode(text), tokenizer, "", 0.1).train
    lanes, window = SIZES.get(hidden, SIZES[256])
    stream = LaneStream(ids, batch_size=lanes, seq_length=window)
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[backbone]
    embedding = nn.Embedding(tokenizer.vocab_size, EMBEDDING)
    recurrent = kind(EMBEDDING, hidden, num_layers=LAYERS, dropout=DROPOUT, batch_first=True)
    head = nn.Linear(hidden, tokenizer.vocab_size)
    parameters = [p for module in (embedding, recurrent, head) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    state, number = None, 0

    def step():
        nonlocal state, number
        batch = stream.window(number)
        number += 1
        inputs = torch.from_numpy(batch.inputs.astype("int64"))
        targets = torch.from_numpy(batch.targets.astype("int64"))
        optimizer.zero_grad()
        y, state = recurrent(embedding(inputs), state)
        state = tuple(s.detach() for s in state) if backbone == "lstm" else state.detach()
        loss = nn.functional.cross_entropy(head(y).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()
        return inputs.numel()

    return step, "float32"


def charlm_step(backbone, hidden):
    """Return the same for charlm's trainer, and the precision and threads that it chose."""
    from charlm.config import ComputeConfig, ModelConfig, TrainConfig
    from charlm.data.dataset import Dataset
    from charlm.data.text_files import read_text
    from charlm.data.tokenizer import CharTokenizer
    from charlm.model.device import keep_memory, torch_threads
    from charlm.model.language_model import CharLM
    from charlm.training.autotune import fastest
    from charlm.training.trainer import Trainer

    keep_memory()
    text = read_text([TEXT])
    tokenizer = CharTokenizer.from_text(text)
    dataset = Dataset.from_ids(tokenizer.encode(text), tokenizer, "", 0.1)
    lanes, window = SIZES.get(hidden, SIZES[256])
    config = TrainConfig(steps=10**6, batch_size=lanes, seq_length=window, learning_rate=1e-3)
    model = CharLM(
        ModelConfig(
            backbone=backbone,
            embedding_size=EMBEDDING,
            hidden_size=hidden,
            num_layers=LAYERS,
            dropout=DROPOUT,
        ),
        tokenizer.vocab_size,
    )
    (precision, threads), _ = fastest(ComputeConfig(), model, batch_size=lanes, seq_length=window)
    trainer = Trainer(model, dataset, config, precision=precision, threads=threads)

    def step():
        before = trainer.counters.step
        with torch_threads(threads):
            trainer.step()
        return trainer.stream.window(before).inputs.size

    return step, precision + (f", {threads} thread" if threads else "")


def peak(dtype):
    """Return the operations per second of one large product, by the faster of torch's libraries.

    On some CPUs the convolution of width 1 (oneDNN) is twice as fast in float32 as matmul (MKL).
    """
    import torch

    a = torch.ones(1, PEAK, PEAK, dtype=getattr(torch, dtype))
    best = 0.0
    with torch.no_grad():
        for product in (torch.matmul, lambda x, y: torch.conv1d(x, y.transpose(0, 2))):
            product(a, a)
            began = time.perf_counter()
            for _ in range(3):
                product(a, a)
            best = max(best, 3 * 2 * PEAK**3 / (time.perf_counter() - began))
    return best


def work(side, pipe):
    """Answer what the parent asks for until it asks for nothing."""
    step, case, compute = None, None, None
    while (asked := pipe.recv()) is not None:
        if asked in ("float32", "bfloat16"):
            pipe.send(peak(asked))
            continue
        wanted, seconds = asked
        if wanted != case:
            backbone, _, hidden = wanted.partition("-")
            step, compute = (charlm_step if side == "charlm" else stock_step)(backbone, int(hidden))
            case = wanted
            for _ in range(3):
                step()
        characters, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            characters += step()
        pipe.send((characters / spent, compute))


def operations(case):
    """Return the operations per character of a training step in the matrices of a case."""
    from charlm.config import ModelConfig

    backbone, _, hidden = case.partition("-")
    config = ModelConfig(
        backbone=backbone, hidden_size=int(hidden), num_layers=LAYERS, embedding_size=EMBEDDING
    )
    shapes = config.parameter_shapes(75)
    return 6 * sum(a[0] * a[1] for name, a in shapes.items() if len(a) == 2 and "layers" in name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--only", nargs="+", default=CASES, type=case_name, metavar="CASE")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for side in ("stock", "charlm"):
        pipes[side], theirs = context.Pipe()
        context.Process(target=work, args=(side, theirs), daemon=True).start()

    def ask(side, what):
        pipes[side].send(what)
        return pipes[side].recv()

    print("case       stock float32     charlm            ratio  share of peak: stock  charlm")
    results = {}
    for case in arguments.only:
        speeds, peaks = {"stock": [], "charlm": []}, {"float32": [], "bfloat16": []}
        compute = ""
        for _ in range(arguments.rounds):
            for side, found in speeds.items():
                speed, compute = ask(side, (case, arguments.seconds))
                found.append(speed)
            for dtype, found in peaks.items():
                found.append(ask("charlm", dtype))
        stock, ours = (statistics.median(speeds[side]) for side in ("stock", "charlm"))
        ratios = [b / a for a, b in zip(speeds["stock"], speeds["charlm"], strict=True)]
        float32, bfloat16 = (statistics.median(peaks[d]) for d in ("float32", "bfloat16"))
        best = bfloat16 if compute.startswith("bfloat16") else float32
        results[case] = {
            "stock_chars_per_second": round(stock),
            "charlm_chars_per_second": round(ours),
            "ratio": round(statistics.median(ratios), 2),
            "compute": compute,
            "stock_share_of_float32_peak": round(stock * operations(case) / float32, 2),
            "charlm_share_of_peak": round(ours * operations(case) / best, 2),
            "float32_peak_gflops": round(float32 / 1e9),
            "bfloat16_peak_gflops": round(bfloat16 / 1e9),
        }
        row = results[case]
        print(
            f"{case:10} {stock / 1000:8.1f}k char/s {ours / 1000:8.1f}k char/s  {row['ratio']:5.2f}"
            f"  {row['stock_share_of_float32_peak']:20.2f}  {row['charlm_share_of_peak']:6.2f}"
            f"  {compute}",
            flush=True,
        )
    for pipe in pipes.values():
        pipe.send(None)
    print(json.dumps({"benchmark": "training", "rounds": arguments.rounds, "results": results}))


if __name__ == "__main__":
    main()
