"""Pages: how their data are packed, that nothing in them can run, and matching spans."""

import base64
import hashlib
import html
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspection import HOSTILE, HOSTILE_NAME, inspection

from charlm.errors import ConfigError
from charlm.insight.matching import matches
from charlm.insight.page import PAGES, SHORT, pack, render, repr_html


def unpacked(value):
    """Return the values of a packed array, as the script of the page reads them."""
    data = base64.b64decode(value["packed"])
    if value["type"] == "uint4":
        levels = np.array([half for byte in data for half in (byte & 15, byte >> 4)])
        levels = levels[: int(np.prod(value["shape"]))]
    else:
        levels = np.frombuffer(data, np.dtype(value["type"]).newbyteorder("<"))
    return (value["low"] + value["step"] * levels).reshape(value["shape"])


def data_of(page):
    return re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        (0, 255, "uint8"), (-128, 127, "int8"), (0, 256, "uint16"), (-129, 0, "int16"),
        (0, 65536, "uint32"), (-40_000, 5, "int32"),
    ],
)  # fmt: skip
def test_integers_are_packed_exactly_in_the_smallest_type(low, high, name):
    array = np.linspace(low, high, 12).astype(np.int64).reshape(3, 4)
    packed = pack(array)
    assert packed["type"] == name
    assert np.array_equal(unpacked(packed), array)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("size", [(5, 7), (0, 3), (2, 1)])
def test_floats_are_off_by_half_a_level_at_most(bits, size):
    array = np.random.default_rng(1).normal(size=size).astype(np.float32)
    packed = pack(array, bits)
    assert packed["type"] == f"uint{bits}"
    error = np.abs(unpacked(packed) - array)
    assert (error <= 0.5001 * packed["step"] + 1e-7).all()


def test_equal_numbers_are_packed_exactly():
    assert (unpacked(pack(np.full((2, 3), 0.1))) == 0.1).all()


def test_units_are_packed_to_fewer_bits_than_probabilities():
    figures = inspection("ab" * SHORT)
    packed = pack(figures)
    assert packed["surprise"]["probabilities"]["type"] == "uint16"
    assert packed["neurons"]["painted"][0]["values"]["type"] == "uint8"
    arrays = packed["neurons"]["excerpt"]["arrays"]
    assert {one["values"]["type"] for one in arrays} == {"uint8"}
    large = pack(inspection("ab" * 100, hidden=700, excerpt=100))["neurons"]["excerpt"]["arrays"]
    assert {one["values"]["type"] for one in large} == {"uint4"}
    values = figures["neurons"]["excerpt"]["arrays"][0]["values"]
    assert np.abs(unpacked(arrays[0]["values"]) - values).max() <= 0.51 / 255


def test_short_lists_keep_their_precision():
    norms = 10.0 ** -np.arange(20.0)
    assert pack({"norms": norms})["norms"] == pytest.approx(norms.tolist(), rel=1e-6)


def test_what_is_not_finite_becomes_null_or_is_refused():
    assert pack([np.nan, np.inf, np.float32(2)]) == [None, None, 2]
    with pytest.raises(ValueError, match="NaN or infinity"):
        pack(np.full((2, 2), np.nan))


@given(st.text(alphabet=st.characters(codec=None), max_size=40))
def test_any_text_comes_back_and_is_no_markup(text):
    data = data_of(render("inspect", {"text": text}))
    assert data.isascii()
    assert not set("<>&") & set(data)
    assert json.loads(data)["text"] == text


def test_a_hostile_inspection_adds_no_markup():
    plain = render("inspect", inspection("abc"))
    figures = inspection(HOSTILE)
    figures["model"]["name"] = figures["text"]["source"] = HOSTILE_NAME
    page = render("inspect", figures)
    assert page.replace(data_of(page), "") == plain.replace(data_of(plain), "")
    page.encode("utf-8")  # though the name of the file holds a lone surrogate


def test_the_policy_names_the_script_and_the_style_and_nothing_else():
    page = render("inspect", inspection("abc"))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
        assert "<!--" not in content
    for part in ("default-src 'none'", "base-uri 'none'", "form-action 'none'"):
        assert part in policy
    assert not re.search(r"unsafe|https?:|\*|data:", policy)


def test_a_page_names_no_other_file_and_no_address():
    page = render("inspect", inspection("abc"))
    page = page.replace('"http://www.w3.org/2000/svg"', "")  # a name, which nothing fetches
    assert not re.search(r"https?://|\bsrc=|url\(|@import|innerHTML|outerHTML|eval\(", page)
    assert "{{" not in page.replace(data_of(page), "")


def test_a_large_inspection_stays_under_3_mb():
    text = ("To be, or not to be: that is the question.\n" * 500)[:20_000]
    left_out = {"left_out": "It is computed for texts up to 2,000 characters."}
    figures = inspection(text, hidden=512, units=28, excerpt=195, connectivity=left_out)
    numbers = sum(one["values"].size for one in figures["neurons"]["excerpt"]["arrays"])
    assert numbers > 0.8 * 1_200_000
    assert len(render("inspect", figures).encode()) < 3e6


def test_a_notebook_gets_the_page_in_a_frame_that_is_locked_up():
    page = render("inspect", inspection(HOSTILE))
    frame = repr_html(page)
    source = re.fullmatch(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts" .*></iframe>', frame)
    assert html.unescape(source[1]) == page


def test_the_folder_of_the_pages_is_part_of_the_package():
    assert {"inspect.html", "common.js", "common.css"} <= {path.name for path in PAGES.iterdir()}


def slow_matches(codes, start, end, count):
    """The same by its definition: means, one window at a time."""
    length = end - start
    mean = codes[start:end].mean(axis=0)
    similar = []
    for place in range(len(codes) - length + 1):
        other = codes[place : place + length].mean(axis=0)
        size = np.linalg.norm(mean) * np.linalg.norm(other)
        similar.append((float(mean @ other / size) if size else 0.0, place))
    taken = [start]
    for _, place in sorted(similar, key=lambda one: (-one[0], one[1])):
        if all(abs(place - other) >= length for other in taken):
            taken.append(place)
    return [(place, similar[place][0]) for place in taken[1 : count + 1]]


@pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 8), (40, 61), (0, 61), (20, 50)])
def test_matches_are_what_their_definition_says(start, end):
    codes = np.random.default_rng(5).integers(-127, 128, (61, 16)).astype(np.int8)
    expected = slow_matches(codes.astype(float), start, end, 10)
    found = matches(codes, start, end)
    assert [place for place, _ in found] == [place for place, _ in expected]
    assert [s for _, s in found] == pytest.approx([s for _, s in expected])


def test_a_copy_of_the_span_matches_best():
    codes = np.random.default_rng(6).integers(-9, 9, (100, 16)).astype(np.int8)
    codes[70:80] = codes[20:30]
    place, similarity = matches(codes, 20, 30)[0]
    assert (place, similarity) == (70, pytest.approx(1.0))


def test_states_that_are_all_alike_match_at_0_or_1():
    assert matches(np.zeros((9, 2), np.int8), 0, 3, 5) == [(3, 0.0), (6, 0.0)]
    assert matches(np.ones((4, 1), np.int8), 3, 4, 2) == [(0, 1.0), (1, 1.0)]


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 2), (0, 10), (5, 3)])
def test_a_span_that_is_not_there_is_refused(start, end):
    with pytest.raises(ConfigError, match="span from"):
        matches(np.zeros((9, 2), np.int8), start, end)
