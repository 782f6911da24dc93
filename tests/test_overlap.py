from hypothesis import given
from hypothesis import strategies as st

from charlm.evaluation.overlap import LENGTHS, find_overlap

TEXTS = st.lists(st.text("abc", max_size=30), min_size=1, max_size=3)


@given(TEXTS, st.text("ab", max_size=60))
def test_the_longest_run_and_the_shares_are_those_of_a_plain_search(texts, training_text):
    result = find_overlap(texts, training_text)
    runs = {t[i:j] for t in texts for i in range(len(t)) for j in range(i + 1, len(t) + 1)}
    longest = max((len(run) for run in runs if run in training_text), default=0)
    assert len(result.longest) == longest
    assert training_text[result.place :].startswith(result.longest)
    assert not longest or any(result.longest in text for text in texts)
    for length in LENGTHS:
        pieces = [t[i : i + length] for t in texts for i in range(len(t) - length + 1)]
        new = [piece not in training_text for piece in pieces]
        assert result.new_share[length] == (sum(new) / len(new) if new else None)


def test_a_copy_is_found_whole():
    training_text = "".join(chr(300 + i % 997) + str(i * i) for i in range(20_000))
    copy = training_text[31_415:32_000]
    result = find_overlap(["#" * 100, f"#{copy}#"], training_text)
    assert result.longest == copy
    assert result.place == 31_415
    assert 0 < result.new_share[32] < 1


def test_nothing_in_common():
    result = find_overlap(["abc" * 20], "xyz" * 20)
    assert (result.longest, result.place) == ("", 0)
    assert set(result.new_share.values()) == {1.0}
