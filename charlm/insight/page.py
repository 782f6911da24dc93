"""Pages: one self-contained HTML file with its data, its script and its style.

The skeletons, scripts and styles are in the folder ``pages``, or in that of another package. A page
needs no network and no other file. A browser runs nothing in it but its own script: the
Content-Security-Policy names the script and the style by their digests, and the data are JSON that
no browser takes for markup.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.files import has_mark

PAGES = Path(__file__).parent / "pages"
MARK = b'name="generator" content="charlm'  # what a page of ours holds near its beginning
SHORT = 1000  # an array of one axis with at most so many numbers stays a list
EXCERPT_NUMBERS = 1 << 19  # an excerpt with more numbers is packed to 4 bits
INTEGER_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
# As \\uXXXX they mean the same in JSON, and nothing in HTML.
ESCAPED = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})


def render(
    name: str, data: Mapping[str, Any], folder: Path = PAGES, *, more_policy: str = ""
) -> str:
    r"""Return a whole page as HTML.

    The skeleton ``pages/NAME.html`` names the files of its style and its script in double braces,
    and has a place for the policy and the data.

    Args:
        name: the page, such as ``"inspect"`` or ``"compare"``.
        data: what it shows: dicts, lists, texts, numbers and numpy arrays. See :func:`pack`.
        folder: where its files are; what is not there is in the folder ``pages`` here.
        more_policy: what the page may do besides, such as ``"connect-src 'self'"``.

    Returns:
        The page. All of it is ASCII but for the texts of the skeleton.

    Example::

        Path("page.html").write_text(render("inspect", report), encoding="utf-8")
    """

    def read(file: str) -> str:
        path = folder / file
        return (path if path.exists() else PAGES / file).read_text(encoding="utf-8")

    skeleton = read(f"{name}.html")
    digests: dict[str, str] = {}

    def insert(match: re.Match[str]) -> str:
        tag, files = match.groups()
        content = "\n".join(map(read, files.split()))
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        digests[tag] = f"'sha256-{digest}'"
        return f"<{tag}>{content}</{tag}>"

    page = re.sub(r"<(style|script)>\{\{([^}]+)\}\}</\1>", insert, skeleton)
    policy = (
        f"default-src 'none'; script-src {digests['script']}; style-src {digests['style']}; "
        "base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
        + (more_policy and f"; {more_policy}")
    )
    packed = json.dumps(pack(data), allow_nan=False, separators=(",", ":")).translate(ESCAPED)
    return page.replace("{{policy}}", policy).replace("{{data}}", packed)


def is_page(path: Path) -> bool:
    """Return whether a file is a page that charlm wrote, which may be replaced."""
    return has_mark(path, MARK)


def repr_html(page: str) -> str:
    """Return a page as the frame that a notebook shows.

    The frame may run the page's script, and reach nothing of the notebook.

    Args:
        page: a page of :func:`render`.

    Example::

        repr_html(render("inspect", report))[:7]   # '<iframe'
    """
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" title="charlm" width="100%" '
        'height="820" style="border: 0"></iframe>'
    )


def pack(value: Any, bits: int = 16) -> Any:
    """Return data in the form that the page reads, with large arrays packed.

    A packed array is ``{"packed": base64, "type": ..., "shape": ..., "low": ..., "step": ...}``:
    its values, row by row and little-endian, are low + step * level for each whole level.

    - Integers and booleans are exact, in the smallest type that holds them.
    - Floats are rounded to 65,536 evenly spaced levels from the smallest to the largest (uint16).
    - Units that are painted (below ``"painted"``) are rounded to 256 levels (uint8); those of the
      ``"excerpt"`` to 256, or to 16 (uint4, two levels a byte, the low half first) if the excerpt
      has more than 524,288 numbers.
    - An array of one axis with at most 1,000 numbers stays a list of numbers, so that curves on
      logarithmic axes keep their precision.

    Args:
        value: dicts, lists, texts, numbers, None and numpy arrays. NaN and infinity outside packed
            arrays become null.
        bits: of a level of floats: 4, 8 or 16.

    Raises:
        ValueError: if an array to be packed holds NaN or infinity.

    Example::

        pack({"loss": np.array([2.5, 2.0])})   # {"loss": [2.5, 2.0]}
    """
    if isinstance(value, np.ndarray) and (value.ndim != 1 or len(value) > SHORT):
        return _pack_array(value, bits)
    if isinstance(value, np.ndarray | np.generic):
        return pack(value.tolist())
    if isinstance(value, Mapping):
        return {key: pack(item, _bits_of(key, item, bits)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item, bits) for item in value]
    if isinstance(value, float):
        # Seven digits are what float32 has.
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def _bits_of(key: str, value: Any, bits: int) -> int:
    """Return the number of bits for the floats below a key."""
    if key == "painted":
        return 8
    if key == "excerpt" and "arrays" in value:
        count = sum(np.size(array["values"]) for array in value["arrays"])
        return 8 if count <= EXCERPT_NUMBERS else 4
    return bits


def _pack_array(array: NDArray[Any], bits: int) -> dict[str, Any]:
    """Return an array packed as :func:`pack` says."""
    low, step = 0.0, 1.0
    if array.dtype.kind in "bui":
        ends = (int(array.min()), int(array.max())) if array.size else (0, 0)
        name = next(
            name
            for name in INTEGER_TYPES
            if np.iinfo(name).min <= ends[0] and ends[1] <= np.iinfo(name).max
        )
        levels = array
    else:
        name = f"uint{bits}"
        values = array.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("an array to be packed holds NaN or infinity")
        if array.size:
            low = float(values.min())
            step = float(values.max() - low) / (2**bits - 1)
        levels = np.rint((values - low) / (step or 1.0))
    if name == "uint4":
        flat = np.append(levels.ravel(), [0] * (levels.size % 2)).astype(np.uint8)
        data = (flat[::2] | flat[1::2] << 4).tobytes()
    else:
        data = levels.astype(np.dtype(name).newbyteorder("<")).tobytes()
    packed = base64.b64encode(data).decode()
    return {"packed": packed, "type": name, "shape": list(array.shape), "low": low, "step": step}
