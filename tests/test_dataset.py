import numpy as np
from conftest import dataset_of
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import CorpusError


@given(st.text(min_size=1), st.floats(0.01, 0.99))
def test_the_parts_of_a_dataset_are_the_whole(text, share):
    try:
        dataset = dataset_of(text, share)
    except CorpusError as error:
        assert "needs at least 2" in str(error)
        return
    ids = np.concatenate([dataset.train, dataset.validation])
    assert dataset.tokenizer.decode(ids) == text
    assert dataset.characters == len(text)


def test_the_split_is_that_of_the_literature():
    # Tiny Shakespeare: the first int(0.9 * N) characters train, as in nanoGPT.
    assert len(dataset_of("ab" * (1_115_394 // 2), 0.1).train) == int(0.9 * 1_115_394)
