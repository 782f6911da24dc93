"""Sample texts to train on.

``python_library`` gathers the standard library of the running interpreter, which is on every
machine; ``shakespeare`` downloads the text that most character-level models are compared on.
"""

import hashlib
import http.client
import os
import sysconfig
import tokenize
import urllib.request
from pathlib import Path

from charlm.errors import CorpusError

SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def python_library() -> str:
    """Return the sources of the standard library, tests left out, in the order of their paths."""
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


def shakespeare() -> str:
    """Return Tiny Shakespeare (1,115,394 characters), downloaded and checked.

    Raises:
        CorpusError: without a network, or if what comes is another text.
    """
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


# By name: how to get the text, and the file that it becomes.
SAMPLE_TEXTS = {
    "python": (python_library, "python.txt"),
    "shakespeare": (shakespeare, "tiny-shakespeare.txt"),
}
