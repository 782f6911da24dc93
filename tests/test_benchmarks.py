"""The programs in tests/benchmarks run; what they measure is looked at by people."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"


def test_the_benchmarks_of_speed_end_with_their_figures():
    words = ["--rounds", "1", "--seconds", "0.01", "--only", "gru-128"]
    processes = [  # at once: what they measure does not matter here
        subprocess.Popen(
            [sys.executable, str(BENCHMARKS / name), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for name in ("bench_training.py", "bench_generation.py")
    ]  # fmt: skip
    found = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        found.append(json.loads(out.splitlines()[-1])["results"])
    training, generation = (results["gru-128"] for results in found)
    assert min(training[f"{side}_chars_per_second"] for side in ("stock", "charlm")) > 0
    assert {"ratio", "charlm_share_of_peak"} <= training.keys()
    assert min(generation[name] for name in ("stock_1", "charlm_1", "stock_64", "charlm_64")) > 0
    assert {"ratio_1", "ratio_64", "share_of_limit"} <= generation.keys()
    assert found[1]["first character"]["megabytes"] < 100


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    metrics = BENCHMARKS / "results" / "tiny-shakespeare-3-minutes.jsonl"
    words = [tmp_path / "out.png", f"mine={metrics}", "--line", "theirs=1.5"]
    command = [sys.executable, str(BENCHMARKS / "plot_curves.py"), *map(str, words)]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
