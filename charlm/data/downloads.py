"""Sample texts to train on.

``english`` and ``chinese`` come with charlm. ``python`` gathers the standard library of the running
interpreter, which is on every machine, and ``words`` the words in it. ``shakespeare`` downloads the
text that most character-level models are compared on.
"""

import hashlib
import os
import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from charlm.errors import CorpusError

SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class SampleText:
    """A text that ``charlm corpus`` writes.

    Attributes:
        file_name: the file that it becomes, in ``corpora/``.
        description: what it is, in a few words.
        fetch: returns the text.
    """

    file_name: str
    description: str
    fetch: Callable[[], str]


def shipped(file_name: str) -> str:
    """Return a text that comes with charlm.

    >>> shipped("english.txt")[:17]

    Raises:
        CorpusError: if this installation lacks it.
    """
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):  # as a wheel installs it, and in a checkout
        path = folder / "corpora" / file_name
        if path.is_file():
            return path.read_bytes().decode("utf-8")
    raise CorpusError(f"this installation of charlm lacks {file_name}: install charlm again")


def python_library() -> str:
    """Return the sources of the standard library, tests left out, in the order of their paths."""
    import tokenize

    root = Path(sysconfig.get_path("stdlib"))
    texts = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - LEFT_OUT)
        for name in sorted(name for name in names if name.endswith(".py")):
            try:
                with tokenize.open(Path(folder) / name) as file:  # in the encoding that it declares
                    texts.append(file.read())
            except (OSError, SyntaxError, UnicodeDecodeError):
                continue
    if not texts:
        raise CorpusError(f"there are no sources of the standard library in {root}")
    return "\n".join(texts).replace("\0", "")


def words() -> str:
    """Return the words of the standard library, of 3 to 20 small letters, sorted, one a line."""
    found = set(re.findall(r"\b[a-z]{3,20}\b", python_library()))
    return "".join(f"{word}\n" for word in sorted(found))


def shakespeare() -> str:
    """Return Tiny Shakespeare (1,115,394 characters), downloaded and checked.

    Raises:
        CorpusError: without a network, or if what comes is another text.
    """
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=30) as answer:
            data: bytes = answer.read(2_000_000)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CorpusError(
            f"cannot download {SHAKESPEARE_URL}: {reason}; try again with a network, or train on "
            "a text of your own"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != SHAKESPEARE_SHA256:
        raise CorpusError(
            f"the text at {SHAKESPEARE_URL} has changed: its sha256 is {found}, not "
            f"{SHAKESPEARE_SHA256}; nothing was written"
        )
    return data.decode("utf-8")


SAMPLE_TEXTS = {
    "english": SampleText(
        "english.txt", "English stories, letters and poems", lambda: shipped("english.txt")
    ),
    "chinese": SampleText(
        "chinese.txt", "Chinese stories, essays and poems", lambda: shipped("chinese.txt")
    ),
    "python": SampleText("python.txt", "the standard library of this Python", python_library),
    "words": SampleText("words.txt", "a list: the words in it, one a line", words),
    "shakespeare": SampleText(
        "tiny-shakespeare.txt", "Tiny Shakespeare, downloaded (1.1 MB)", shakespeare
    ),
}
