"""The programs in tests/benchmarks run; what they measure is looked at by people."""

import json
import subprocess
import sys

import pytest
from conftest import DATA, ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"


def last_line(*words):
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_benchmark_of_training_ends_with_its_figures():
    program = BENCHMARKS / "bench_training.py"
    found = last_line(program, "--rounds", 1, "--seconds", 0.01, "--only", "gru-128")
    row = found["results"]["gru-128"]
    assert row["ratio"] > 0
    assert 0 < row["charlm_share_of_peak"] < 1


def test_the_benchmark_of_generation_ends_with_its_figures():
    program = BENCHMARKS / "bench_generation.py"
    found = last_line(program, "--rounds", 1, "--seconds", 0.01, "--only", "gru-24")
    row = found["results"]["gru-24"]
    assert min(row["ratio_1"], row["ratio_64"]) > 0
    assert 0 <= row["share_of_limit"] < 2  # on a busy machine it is rounded to nothing
    assert found["results"]["first character"]["megabytes"] < 100


def test_the_benchmark_of_exported_models_ends_with_its_figures(monkeypatch, capsys):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_onnx

    words = ["bench_onnx.py", "--rounds", "1", "--seconds", "0.01", "--only", "gru-24"]
    monkeypatch.setattr(sys, "argv", words)
    bench_onnx.main()
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["gru-24"]
    assert min(row["ratio_1"], row["ratio_64"]) > 0
    assert row["megabytes"] > 0


def test_the_benchmark_of_whole_numbers_ends_with_its_figures(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_exact

    monkeypatch.setattr(bench_exact, "SECONDS", 0.01)
    pair = [str(DATA / "golden-gru.safetensors"), str(ROOT / "corpora" / "english.txt")]
    monkeypatch.setattr(sys, "argv", ["x", *pair, "--rounds", "1", "--characters", "300"])
    bench_exact.main()
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert min(row["ratio 1"], row["ratio 64"]) > 0
    assert abs(row["gap"]) < 0.01
    assert row["whole bytes"] < row["float bytes"]


def test_the_benchmark_of_texts_ends_with_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_texts

    (tmp_path / "few.txt").write_text("ab" * 300, encoding="utf-8")
    (tmp_path / "many.txt").write_text("".join(map(chr, range(256, 456))) * 3, encoding="utf-8")
    monkeypatch.setattr(bench_texts, "TIMED_STEPS", 2)
    words = [str(tmp_path), "--seconds", "1e-6", "--set", "hidden_size=4", "--only", "many"]
    bench_texts.main(words)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    ((name, characters, vocabulary, _, old, new, difference),) = found["rows"]
    assert (name, characters, vocabulary) == ("many", 600, 200)
    assert 0 < new < 10
    assert difference == pytest.approx(new - old, abs=2e-4)
    monkeypatch.setattr(bench_texts, "train", None)  # nothing is measured again
    bench_texts.main(words)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found


def test_the_benchmark_of_compression_ends_with_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_compression

    file = tmp_path / "few.txt"
    file.write_text("The sea was calm, and the ship lay still.\n" * 9, encoding="utf-8")
    bench_compression.main([str(DATA / "golden-gru.safetensors"), str(file)])
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"].values()
    assert row["bytes"] == 378
    assert row["within_goal"]
    assert row["megabytes"] > 0  # here it is that of the whole suite


def test_the_benchmark_of_the_server_ends_with_its_figures(monkeypatch, capsys):
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_server

    monkeypatch.setattr(bench_server, "LENGTH", 40)
    run = str(DATA / "golden-lstm.safetensors")
    monkeypatch.setattr(sys, "argv", ["bench_server.py", run, "--rounds", "1"])
    bench_server.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert min(found[f"ratio_{count}"] for count in (1, 8, 64)) > 0
    assert len(found["milliseconds_beside_32"]) == 10
