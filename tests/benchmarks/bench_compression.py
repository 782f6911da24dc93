"""Compression of texts: size and speed, against xz, zstd and the entropy that ``score`` finds.

    python tests/benchmarks/bench_compression.py RUN FILE [FILE ...]

Both directions run as whole commands, each in a process of its own, whose wall time and peak memory
are taken; the time of compressing includes the comparison with xz and zstd that the command makes.
So the same is also timed without the start and without that comparison: ``coder``. Every byte that
comes back is compared. The goal for the size is what the model in whole numbers says of the text,
0.5 % and 64 bytes more; it is known for texts whose characters the model knows.

The last line is one JSON document.
"""

import argparse
import io
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import charlm
from charlm.cli.compress import model_size, sizes_of_others
from charlm.errors import CharlmError
from charlm.integer.compression import check, compress, decompress, read_blocks
from charlm.integer.text_coder import TextCoder


def measured(*words):
    """Run a command; return the seconds it took and its peak memory in MB."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "charlm", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def coder_seconds(lm, data):
    """Return the seconds that compressing and decompressing take in this process."""
    coder, packed, text = TextCoder(lm.engine, lm.tokenizer), io.BytesIO(), io.BytesIO()
    began = time.perf_counter()
    compress(read_blocks(io.BytesIO(data), "it"), packed, coder, lm.fingerprint())
    middle = time.perf_counter()
    packed.seek(0)
    check(packed, lm.fingerprint(), "it")
    decompress(packed, text, coder)
    assert text.getvalue() == data
    return middle - began, time.perf_counter() - middle


def goal(lm, data):
    """Return the bytes that a text costs by ``score``, None if the model does not know it all."""
    try:
        return lm.score(data.decode().replace("\r\n", "\n")).sum() / 8
    except CharlmError:
        return None


def row_of(run, lm, file):
    """Return the figures of one file."""
    data = file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        packed, back = Path(folder) / "packed.clm", Path(folder) / "back"
        seconds, megabytes = measured("compress", run, file, "-o", packed)
        seconds_back, megabytes_back = measured("decompress", packed, "--model", run, "-o", back)
        assert back.read_bytes() == data
        size = packed.stat().st_size
    compressing, decompressing = coder_seconds(lm, data)
    began = time.perf_counter()
    lzma.compress(data, preset=9)
    seconds_xz = time.perf_counter() - began
    score = goal(lm, data)
    return {
        "bytes": len(data),
        "clm": size,
        "bits_per_char": 8 * size / max(1, len(data.decode())),
        "score": score,
        "over_score": None if score is None else size / score - 1,
        "within_goal": None if score is None else bool(size <= 1.005 * score + 64),
        **sizes_of_others(file),
        "with_model": size + model_size(lm),
        "kB_s": len(data) / compressing / 1000,
        "kB_s_back": len(data) / decompressing / 1000,
        "kB_s_xz": len(data) / seconds_xz / 1000,
        "command_seconds": [seconds, seconds_back],
        "megabytes": max(megabytes, megabytes_back),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    lm = charlm.load(arguments.run).exact()
    print(lm)
    print(
        "     bytes       clm     score    over     xz -9  zstd -19  bits  kB/s  back    MB  file"
    )
    rows = {}
    for file in arguments.files:
        row = rows[str(file)] = row_of(arguments.run, lm, file)
        score = "" if row["score"] is None else f"{row['score']:,.0f}"
        over = "" if row["score"] is None else f"{row['over_score']:.2%}"
        zstd = f"{row['zstd -19']:,}" if "zstd -19" in row else ""
        print(
            f"{row['bytes']:10,}{row['clm']:10,}{score:>10}{over:>8}{row['xz -9']:10,}{zstd:>10}"
            f"{row['bits_per_char']:6.2f}{row['kB_s']:6.1f}{row['kB_s_back']:6.1f}"
            f"{row['megabytes']:6.0f}  {file.name}",
            flush=True,
        )
    print(json.dumps({"benchmark": "compression", "model": repr(lm), "rows": rows}))


if __name__ == "__main__":
    main()
