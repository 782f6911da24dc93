import gzip
import hashlib
import re
import shlex
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.data.text_files import (
    CHUNK,
    find_texts,
    fingerprint,
    listed,
    read_text,
    text_reader,
)
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
    offset = len(content) - 2
    like = "it looks like UTF-16: " if offset == 0 else ""
    with pytest.raises(CorpusError, match=f"byte 0xff at offset {offset}: {like}convert it"):
        read_text(written(tmp_path, content))


def test_a_character_cut_off_at_the_end_is_an_error_that_says_how_to_mend_it(tmp_path):
    (path,) = written(tmp_path, b"ab" + "漢".encode()[:2])
    with pytest.raises(CorpusError, match="byte 0xe6 at offset 2: it was cut there; ") as caught:
        read_text([path])
    command = re.search("; (head .*) > whole.txt", str(caught.value))[1]
    whole = subprocess.run(shlex.split(command), capture_output=True, check=True).stdout
    assert whole == b"ab"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("naïve".encode("utf-16-le"), "looks like UTF-16LE: convert it .* iconv -f utf-16le"),
        ("naïve".encode("utf-16-be"), "looks like UTF-16BE"),
        ("naïve".encode("utf-16"), "iconv -f utf-16 "),
        ("naïve".encode("utf-32"), "iconv -f utf-32 "),
        ("naïve text".encode("utf-32-be"), "iconv -f utf-32be "),
        ("“naïve”".encode("cp1252"), "iconv -f cp1252 "),
        ("naïve!".encode("latin1"), "iconv -f latin1 "),
        (gzip.compress(b"text", mtime=0), "looks like gzip: unpack"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "looks like a PDF: .* pdftotext"),
        (b"%PDF-1.4\n1 0 obj\n<< >>\n", "is not plain text: it looks like a PDF: .* pdftotext"),
        (b"%!PS-Adobe-3.0\nshowpage\n", "looks like PostScript: make a text of it first"),
        (b"{\\rtf1\\ansi text}", "looks like an RTF document: save it as plain text"),
        (b"PK\x03\x04\x14\0word/document.xml\xff", "looks like a Word document: save it"),
        (b"PK\x03\x04\x14\0a.txt\xff", "looks like a zip archive: unpack"),
        (b"one\0two", "NUL bytes, the first at offset 3: it is a binary file, or was damaged"),
    ],
)
def test_what_a_file_looks_like_is_said(tmp_path, content, message):
    with pytest.raises(CorpusError, match=message):
        read_text(written(tmp_path, content))


@pytest.mark.parametrize("text", ["<!doctype html>\n<p>", "<?xml?>", "% PDF", "{\\it x}", "%!x"])
def test_what_only_resembles_a_document_is_text(tmp_path, text):
    assert read_text(written(tmp_path, text.encode())) == text


@given(st.lists(st.text(max_size=3), min_size=1, max_size=4))
@example(["a", "", "b\r", "c\r\n", ""])
def test_files_are_joined_with_a_line_end_between_them(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("joined")
    clean = [
        text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        for text in (text.replace("\0", "0") for text in texts)
    ]
    expected = ""
    for text in filter(None, clean):
        expected += ("\n" if expected and not expected.endswith("\n") else "") + text
    paths = written(folder, *(text.replace("\0", "0").encode() for text in texts))
    if expected:
        assert read_text(paths) == expected
        assert "".join(text_reader(paths)()) == expected
    else:
        with pytest.raises(CorpusError, match="empty"):
            read_text(paths)


def test_a_folder_stands_for_its_texts_in_order(tmp_path):
    shown = ["B.TXT", "a.md", "sub/c.txt", "z.txt"]
    hidden = [".h.txt", ".git/x.txt", "image.png", "sub/.y.md", "folder.txt/image.png"]
    for name in shown + hidden:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    files, notices = find_texts([tmp_path, tmp_path / "z.txt"])
    assert files == [*(tmp_path / name for name in shown), tmp_path / "z.txt"]
    assert notices == [f"empty and left out: {tmp_path / 'empty.txt'}"]
    assert read_text([tmp_path]) == "x\nx\nx\nx"


def test_of_many_names_only_the_first_are_listed():
    assert listed(["a", "b"]) == "a, b"
    assert listed([f"{i}.txt" for i in range(1_008)], most=2) == "0.txt, 1.txt and 1,006 more"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\0b", "binary"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_what_is_not_text_is_refused(tmp_path, content, message):
    with pytest.raises(CorpusError, match=message):
        read_text(written(tmp_path, b"fine", content))


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_text_is_refused(tmp_path, content):
    for contents, message in (([content], "is empty"), ([b"", content], "are all empty")):
        with pytest.raises(CorpusError, match=message):
            read_text(written(tmp_path, *contents))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="does not exist"):
        read_text([tmp_path / "none.txt"])
    with pytest.raises(CorpusError, match=r"has no \.txt or \.md files"):
        read_text([tmp_path])


def test_a_fingerprint_is_that_of_the_text_alone():
    text = "añ漢\U0001f600" * (CHUNK // 3)
    assert fingerprint(text) == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint("ab") != fingerprint("ba")
