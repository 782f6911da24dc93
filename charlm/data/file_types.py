"""What the bytes of a file are that is no plain text, and how to make a text of it.

>>> advice(b"%PDF-1.7 ...")
'it looks like a PDF: make a text of it first, for example with pdftotext'
"""

import codecs

HEAD = 4096  # bytes at the start of a file that tell what it is

# The first bytes of a file, what it then looks like, and what to do. Documents may hold nothing but
# ASCII, and would pass for a text, which they are not. The first match counts.
DOCUMENTS = (
    (b"%PDF-", "a PDF", "make a text of it first, for example with pdftotext"),
    (b"%!PS-Adobe", "PostScript", "make a text of it first, for example with ps2ascii"),
    (b"{\\rtf1", "an RTF document", "save it as plain text, in UTF-8"),
)
SIGNATURES = (
    *DOCUMENTS,
    (b"\x1f\x8b", "gzip", "unpack it first, with gunzip"),
    (b"BZh", "bzip2", "unpack it first, with bunzip2"),
    (b"\xfd7zXZ\0", "xz", "unpack it first, with unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unpack it first, with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first, and name the texts in it"),
    (b"PK\x03\x04", "a zip archive", "unpack it first, and name the texts in it"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "save it as plain text, in UTF-8"),
    (b"SQLite format 3\0", "a database", "export the texts in it first"),
    (b"\x89PNG", "an image", "it has no text in it"),
    (b"\xff\xd8\xff", "an image", "it has no text in it"),
)
# Documents are zip archives. What only their first entries hold, by what they look like.
ZIPPED = {
    "a Word document": (b"word/", b"[Content_Types].xml"),
    "an OpenDocument file": (b"mimetypeapplication/vnd.oasis",),
    "an EPUB book": (b"mimetypeapplication/epub",),
}
UTF_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def advice(head: bytes) -> str:
    """Return what a file looks like and what to do, or nothing if its first bytes do not tell."""
    if head.startswith(b"PK\x03\x04"):
        for what, parts in ZIPPED.items():
            if any(part in head for part in parts):
                return f"it looks like {what}: save it as plain text, in UTF-8"
    for start, what, remedy in SIGNATURES:
        if head.startswith(start):
            return f"it looks like {what}: {remedy}"
    encoding = _wide_encoding(head)
    if encoding:
        return f"it looks like {encoding.upper()}: {convert(encoding)}"
    return ""


def is_document(head: bytes) -> bool:
    """Return whether a file is a document in a format of its own, even if all of it is ASCII."""
    return head.startswith(tuple(start for start, _, _ in DOCUMENTS))


def is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are UTF-8 text, which may end in a character."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(head) and "\0" not in text


def convert(encoding: str) -> str:
    """Return how to make UTF-8 of a text in another encoding."""
    return f"convert it first, for example with iconv -f {encoding} -t utf-8"


def _wide_encoding(head: bytes) -> str:
    """Return which encoding of two or four bytes a character the head of a text seems to be in.

    Without a mark at the start, the zeros of plain letters tell: in UTF-32 three of four bytes are
    zero, in UTF-16 one of two, and always at the same places.
    """
    for mark, encoding in UTF_MARKS:
        if head.startswith(mark):
            return encoding
    zeros = [head[place : len(head) // 4 * 4 : 4].count(0) for place in range(4)]
    most, least = 0.7 * (len(head) // 4), 0.1 * (len(head) // 4)
    many, few = [z > most for z in zeros], [z <= least for z in zeros]
    for encoding, wanted in (
        ("utf-32le", (False, True, True, True)),
        ("utf-32be", (True, True, True, False)),
        ("utf-16le", (False, True, False, True)),
        ("utf-16be", (True, False, True, False)),
    ):
        if all(many[i] if zero else few[i] for i, zero in enumerate(wanted)):
            return encoding
    return ""
