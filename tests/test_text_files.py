import hashlib

import pytest

from charlm.data.text_files import CHUNK, fingerprint, read_text
from charlm.errors import CorpusError


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
def test_what_is_not_text_is_refused(tmp_path, content, message):
    with pytest.raises(CorpusError, match=message):
        read_text(written(tmp_path, b"fine", content))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="does not exist"):
        read_text([tmp_path / "none.txt"])
    with pytest.raises(CorpusError, match="is a folder"):
        read_text([tmp_path])


def test_a_fingerprint_is_that_of_the_text_alone():
    text = "añ漢\U0001f600" * (CHUNK // 3)
    assert fingerprint(text) == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint("ab") != fingerprint("ba")
