import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.corpus import Corpus, LaneStream, fingerprint, read_text
from charlm.errors import CorpusError
from charlm.tokenizer import CHUNK, CharTokenizer


def written(folder, *contents):
    paths = [folder / f"{i}.txt" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_bom_and_line_ends(tmp_path):
    paths = written(tmp_path, b"\xef\xbb\xbfone\r\ntwo\rthree\n", b"\xef\xbb\xbf\r\nfour\r")
    assert read_text(paths) == "one\ntwo\nthree\n\nfour\n"


@pytest.mark.parametrize("offset", [-3, -2, -1, 0, 1])
@pytest.mark.parametrize("inset", ["\r\n", "漢", "\U0001f600"])
def test_nothing_is_cut_at_the_border_of_two_reads(tmp_path, offset, inset):
    content = b"x" * (CHUNK + offset) + inset.encode() + b"y"
    expected = "x" * (CHUNK + offset) + inset.replace("\r\n", "\n") + "y"
    assert read_text(written(tmp_path, content)) == expected


@pytest.mark.parametrize("start", [0, 5, CHUNK - 1, CHUNK + 3])
@pytest.mark.parametrize("prefix", ["", "é"])
def test_an_invalid_byte_is_named_with_its_offset(tmp_path, start, prefix):
    content = (prefix + "x" * start).encode() + b"\xff\xfe"
    with pytest.raises(CorpusError, match=f"byte 0xff at offset {len(content) - 2}: convert it"):
        read_text(written(tmp_path, content))


def test_a_character_cut_off_at_the_end_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="byte 0xe6 at offset 2"):
        read_text(written(tmp_path, b"ab" + "漢".encode()[:2]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"a\0b", "binary"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, message):
    with pytest.raises(CorpusError, match=message):
        read_text(written(tmp_path, b"fine", content))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="does not exist"):
        read_text([tmp_path / "none.txt"])
    with pytest.raises(CorpusError, match="is a folder"):
        read_text([tmp_path])


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 400))
def test_the_windows_rebuild_the_lanes(batch_size, seq_length, count):
    ids = np.random.default_rng(count).integers(0, 250, count, dtype=np.uint8)
    try:
        stream = LaneStream(ids, batch_size=batch_size, seq_length=seq_length)
    except CorpusError:
        assert (count - 1) // batch_size < seq_length
        return
    windows = [stream.window(step) for step in range(2 * stream.windows_per_epoch)]
    first, second = windows[: len(windows) // 2], windows[len(windows) // 2 :]
    for epoch in (first, second):
        assert [w.fresh for w in epoch] == [True] + [False] * (len(epoch) - 1)
        lanes = np.concatenate([w.inputs for w in epoch], axis=1)
        shifted = np.concatenate([w.targets for w in epoch], axis=1)
        # Lanes end to end are the text; the targets are the same text one character on.
        assert np.array_equal(lanes.ravel(), ids[: lanes.size])
        assert np.array_equal(shifted.ravel(), ids[1 : lanes.size + 1])
        assert len(ids) - 1 - lanes.size < batch_size  # the documented tail
    lengths = {w.inputs.shape[1] for w in windows}
    assert max(lengths) <= seq_length
    assert max(lengths) - min(lengths) <= 1
    assert stream.epoch(stream.windows_per_epoch) == 1


def test_a_text_shorter_than_a_window_of_all_lanes_names_the_flags():
    with pytest.raises(CorpusError, match="7 characters in each of 3 lanes: lower --batch-size"):
        LaneStream(np.zeros(21, np.uint8), batch_size=3, seq_length=7)


def corpus_of(text, share):
    return Corpus.from_text(text, CharTokenizer.from_text(text), validation_fraction=share)


@given(st.text(min_size=1), st.floats(0.01, 0.99))
def test_the_parts_of_a_corpus_are_the_whole(text, share):
    try:
        corpus = corpus_of(text, share)
    except CorpusError as error:
        assert "needs at least 2" in str(error)
        return
    ids = np.concatenate([corpus.train, corpus.validation])
    assert corpus.tokenizer.decode(ids) == text
    assert corpus.characters == len(text)


def test_the_split_is_that_of_the_literature():
    # Tiny Shakespeare: the first int(0.9 * N) characters train, as in nanoGPT.
    assert len(corpus_of("ab" * (1_115_394 // 2), 0.1).train) == int(0.9 * 1_115_394)


def test_a_fingerprint_is_that_of_the_text_alone():
    import hashlib

    text = "añ漢\U0001f600" * (CHUNK // 3)
    assert fingerprint(text) == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint("ab") != fingerprint("ba")
