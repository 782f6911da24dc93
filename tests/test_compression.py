"""Compressed texts: each byte comes back, and a file that is not as it was written is refused."""

import hashlib
import io
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, GOLDEN, ROOT, one_line, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

import charlm
from charlm.api import LanguageModel
from charlm.checkpoint import Checkpoint
from charlm.data.text_files import read_text
from charlm.data.tokenizer import CharTokenizer
from charlm.errors import CharlmError, CorpusError, DivergenceError
from charlm.integer import text_coder
from charlm.integer.compression import CHECKSUM_BYTES, check, compress, decompress
from charlm.integer.text_coder import TextCoder

LSTM = DATA / "golden-lstm.safetensors"
ENGLISH = read_text([ROOT / "corpora" / "english.txt"])


def tiny(vocabulary, *, unknown=False, scale=0.7, **changes):
    """Return a model in whole numbers with random weights of a size."""
    config = tiny_config(**changes)
    rng = np.random.default_rng(1)
    shapes = config.parameter_shapes(len(vocabulary))
    weights = {n: rng.normal(0, scale, s).astype(np.float32) for n, s in shapes.items()}
    tokenizer = CharTokenizer(vocabulary, unknown=unknown)
    checkpoint = Checkpoint(model_config=config, tokenizer=tokenizer, weights=weights)
    return LanguageModel(checkpoint).exact()


MODELS = {
    "golden": lambda: charlm.load(LSTM).exact(),
    "relu": lambda: tiny("\n abc", backbone="rnn", nonlinearity="relu", scale=0.1),
    "unknown symbol": lambda: tiny("\n ab\ufffd", unknown=True),
    "only an unknown symbol": lambda: tiny("\ufffd", unknown=True),
    "items": lambda: tiny("\nabc", backbone="gru", items=True),
    "one character": lambda: tiny("a"),
}
TEXTS = [
    "", "a", "b", "\n", "\r", "\0",
    "é", "\U0001f600", "\ufeff", "\ufffd", "a\ufffd\ufffd b漢", "\r\n",
    "\ufeffabc\r\ncab\r\n", "a\r\nb\nc\r\n", "a\rb", "\r\r\n", "\n\r", "ab\0\0c\0", "no line end",
    "abcab cab\n" * 30, "漢字かなabc\n" * 20, "".join(map(chr, range(0x250))), "a" * 500,
]  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def lm(request):
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def golden():
    return charlm.load(LSTM).exact()


@pytest.fixture
def many_lanes(monkeypatch):
    monkeypatch.setattr(text_coder, "LANE", 7)


def compressed(lm, data, block=1 << 20):
    blocks = [data[start : start + block] for start in range(0, len(data), block)]
    target = io.BytesIO()
    summary = compress(blocks, target, TextCoder(lm.engine, lm.tokenizer), lm.fingerprint())
    assert summary.compressed == len(target.getvalue())
    assert summary.size == len(data)
    return target.getvalue()


def decompressed(lm, data):
    source, target = io.BytesIO(data), io.BytesIO()
    check(source, lm.fingerprint(), "it")
    size = decompress(source, target, TextCoder(lm.engine, lm.tokenizer))
    assert size == len(target.getvalue())
    return target.getvalue()


def signed(data):
    """Return the bytes of a compressed text with the right checksum, as a stranger could."""
    body = data[:-CHECKSUM_BYTES]
    return body + hashlib.sha256(body).digest()[:CHECKSUM_BYTES]


# ---- every byte comes back


def test_all_that_is_utf8_comes_back(lm):
    for text in TEXTS:
        data = text.encode()
        for block in (1 << 20, 5):
            assert decompressed(lm, compressed(lm, data, block)) == data, text


def test_the_code_of_a_text_gives_it_back(lm, many_lanes):
    """Without a look at whether LZMA would be smaller, which it is for such texts."""
    coder = TextCoder(lm.engine, lm.tokenizer)
    for text in TEXTS[1:]:
        assert coder.decode(coder.encode(text), len(text)) == text


@given(st.text(max_size=60), st.integers(1, 9))
@settings(max_examples=60)
def test_any_text_comes_back(golden, text, block):
    data = text.encode()
    assert decompressed(golden, compressed(golden, data, block)) == data
    coder = TextCoder(golden.engine, golden.tokenizer)
    assert not text or coder.decode(coder.encode(text), len(text)) == text


def test_the_number_of_lanes_follows_from_the_length_and_is_in_the_file(golden, monkeypatch):
    coder, text = TextCoder(golden.engine, golden.tokenizer), ENGLISH[:3000]
    sizes = []
    for least in (5000, 1000, 10, 1):
        monkeypatch.setattr(text_coder, "LANE", least)
        data = coder.encode(text)
        monkeypatch.setattr(text_coder, "LANE", 777)
        assert coder.decode(data, len(text)) == text
        sizes.append(len(data))
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]  # 1, 3, and 128 at most


def test_progress_comes_to_the_whole(golden):
    text, seen = "日本 the end\r\n" * 90, []
    coder = TextCoder(golden.engine, golden.tokenizer)
    data = coder.encode(text, seen.append)
    assert sum(seen) == len(text.encode())
    seen.clear()
    coder.decode(data, len(text), seen.append)
    assert sum(seen) == len(data)


def test_files_of_this_version_open_for_ever_and_are_written_alike_everywhere(golden):
    """The one file that the tests keep; it is read by the model, not as LZMA."""
    packed = (DATA / "golden-lstm.clm").read_bytes()
    text = "It was a quiet day, and the sea lay still. Nobody came; the old man waited for us.\r\n"
    data = f"{text}Café, he said: 3 x 4.\r\n".encode()
    assert decompressed(golden, packed) == data
    assert compressed(golden, data) == packed


# ---- the size


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("length", [1, 100, 30_000])
def test_the_size_is_what_score_says(name, length):
    lm = charlm.load(DATA / f"golden-{name}.safetensors").exact()
    text = ENGLISH[-length:]
    goal = lm.score(text).sum() / 8
    assert len(compressed(lm, text.encode())) <= 1.005 * goal + 64


def test_few_unknown_characters_cost_little(golden):
    text = ENGLISH[:6000]
    assert not set("é漢") & set(golden.tokenizer.vocabulary)
    rare = f"{text[:2000]}é{text[2000:4000]}漢{text[4000:]}"
    more = len(compressed(golden, rare.encode())) - len(compressed(golden, text.encode()))
    assert 4 <= more <= 20


def test_line_ends_of_windows_cost_nothing(golden):
    text = ENGLISH[:3000]
    assert len(compressed(golden, text.replace("\n", "\r\n").encode())) <= len(
        compressed(golden, text.encode())
    )


def test_no_text_is_larger_than_with_lzma(golden):
    rng = np.random.default_rng(3)
    for points in (range(0x4E00, 0x5E00), range(128)):
        data = "".join(map(chr, rng.choice(points, 2000))).encode()
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
        other = len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))
        assert len(compressed(golden, data)) <= other + 60


# ---- what is refused


@pytest.mark.parametrize(
    ("data", "offset"),
    [(b"\xff", 0), (b"abc\xc3", 3), (b"ab\xed\xa0\x80", 2), (b"abcdef\xc0\x80", 6),
     (b"a" * 9 + b"\x80", 9)],
)  # fmt: skip
def test_what_is_not_utf8_is_refused_with_the_offset(golden, data, offset):
    for block in (1, 4, 100):
        with pytest.raises(CorpusError, match=rf"is not UTF-8 text: byte 0x.. at offset {offset}:"):
            compressed(golden, data, block)


def test_damaged_files_are_refused(golden):
    data = compressed(golden, b"The sea was calm, and the ship lay still.\n" * 3, block=50)
    wrong = [data[:length] for length in range(len(data))] + [data + b"\0", data + data, b"x" * 99]
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        wrong.append(bytes(changed))
    for one in wrong:
        with pytest.raises(CorpusError, match=r"^it (is|was) "):
            decompressed(golden, one)


def test_damage_that_is_signed_again_is_refused_too(golden):
    original = b"The sea was calm, \xc3\xa9\xe6\xbc\xa2 and the ship lay still.\r\n" * 2
    data = compressed(golden, original, block=44)
    rng = np.random.default_rng(4)
    for _ in range(150):
        changed = bytearray(data)
        for place in rng.integers(0, len(data) - CHECKSUM_BYTES, rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        try:
            assert decompressed(golden, signed(bytes(changed))) == original
        except CharlmError as error:
            assert "\n" not in str(error)


def test_another_model_and_a_newer_version_are_named(golden):
    data = compressed(golden, b"abc")
    with pytest.raises(CorpusError, match=r"it was compressed with another model"):
        decompressed(charlm.load(DATA / "golden-gru.safetensors").exact(), data)
    with pytest.raises(CorpusError, match=r"it was written by a newer charlm"):
        decompressed(golden, signed(b"CLM\x02" + data[4:]))


def test_a_model_that_has_diverged_is_an_error():
    lm = tiny("\nab", backbone="rnn", nonlinearity="relu", scale=9)
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        compressed(lm, b"ab" * 500)


# ---- the verbs


def test_compress_and_decompress(run):
    data = f"\ufeff{ENGLISH[:2000]}\r\n漢".encode()
    Path("a.txt").write_bytes(data)
    status, out, err = run("compress", LSTM, "a.txt")
    assert (status, out) == (0, "")
    packed = Path("a.txt.clm").read_bytes()
    assert err.startswith(f"a.txt.clm: {len(packed):,} bytes of {len(data):,}, ")
    assert "\nxz -9 " in err
    assert "\nzstd -19 " in err
    charlm.load(LSTM).exact().save("whole.safetensors")
    model = Path("whole.safetensors").stat().st_size
    assert f"{len(packed) + model:,} bytes: whoever opens the file needs the model" in err
    assert run("decompress", "a.txt.clm", "--model", LSTM, "-o", "b.txt")[0] == 0
    assert Path("a.txt").read_bytes() == Path("b.txt").read_bytes() == data
    Path("a.txt").unlink()
    assert run("decompress", "a.txt.clm", "--model", LSTM)[2] == f"a.txt: {len(data):,} bytes\n"
    assert Path("a.txt").read_bytes() == data


def test_the_file_opens_with_the_saved_model_in_whole_numbers(run):
    charlm.load(LSTM).exact().save("whole.safetensors")
    assert run("compress", LSTM, "text.txt")[0] == 0
    status, _, err = run("decompress", "text.txt.clm", "--model", "whole.safetensors", "-o", "b")
    assert status == 0, err
    assert Path("b").read_bytes() == Path("text.txt").read_bytes()


def test_an_empty_text_has_no_bits_per_character(run):
    Path("a.txt").touch()
    status, _, err = run("compress", LSTM, "a.txt")
    assert status == 0
    assert "of 0\n" in err
    assert run("decompress", "a.txt.clm", "--model", LSTM, "-o", "b.txt")[0] == 0
    assert Path("b.txt").read_bytes() == b""


def test_a_text_that_the_model_does_not_fit_is_said_so(run):
    Path("a.txt").write_text("漢字" * 99, encoding="utf-8")
    status, _, err = run("compress", LSTM, "a.txt")
    assert status == 0
    assert "the model does not fit 1 of its 1 blocks: they are compressed with LZMA" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["compress", LSTM, "none.txt"], "cannot read none.txt: No such file"),
        (["compress", LSTM, "."], "cannot read .: Is a directory"),
        (["compress", LSTM, "pipe"], "pipe is not a regular file"),
        (["compress", LSTM, "latin1.txt"], "latin1.txt is not UTF-8 text: byte 0xe9 at offset 1:"),
        (["compress", LSTM, "text.txt", "-o", "latin1.txt"], "latin1.txt is there already"),
        (["compress", LSTM, "text.txt", "-o", "no/where"], "cannot write no/where: No such file"),
        (["compress", "none", "text.txt"], "none"),
        (["decompress", "text.txt", "--model", LSTM], "text.txt does not end in .clm: name the"),
        (["decompress", "text.clm", "--model", LSTM], "text.clm is not a compressed text"),
        (["decompress", "cut.clm", "--model", LSTM], "cut.clm is damaged"),
        (["decompress", "b.clm", "--model", LSTM], "b.clm was compressed with another model"),
        (["decompress", "b.clm", "--model", LSTM, "-o", "text.txt"], "text.txt is there already"),
        (["decompress", "pipe", "--model", LSTM, "-o", "new"], "pipe is not a regular file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(run, words, expected):
    os.mkfifo("pipe")
    Path("latin1.txt").write_bytes(b"b\xe9")
    Path("text.clm").write_text("abc")
    Path("few.txt").write_text("The sea was calm.")
    assert run("compress", DATA / "golden-gru.safetensors", "few.txt", "-o", "b.clm")[0] == 0
    Path("cut.clm").write_bytes(Path("b.clm").read_bytes()[:-1])
    before = {path: path.stat().st_mtime_ns for path in Path().iterdir()}
    status, out, err = run(*words)
    one_line(status, out, err, expected=1)
    assert expected in err
    assert {path: path.stat().st_mtime_ns for path in Path().iterdir()} == before


def test_a_failure_on_the_way_leaves_nothing_behind(run, monkeypatch):
    Path("text.txt").write_text(ENGLISH[:3000], encoding="utf-8")
    assert run("compress", LSTM, "text.txt")[0] == 0
    before = sorted(Path().iterdir())
    monkeypatch.setattr(TextCoder, "decode", lambda *_: "another text")
    one_line(*run("decompress", "text.txt.clm", "--model", LSTM, "-o", "b"), expected=1)
    assert sorted(Path().iterdir()) == before
