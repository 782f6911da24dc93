"""A user's program in strict types: install.py checks it with mypy, and runs it.

A line with "type: ignore" is one that mypy must refuse: it warns of one that it need not ignore.
"""

import sys
from typing import assert_type

import numpy as np
import numpy.typing as npt

import charlm


def until_the_third(progress: charlm.Progress) -> bool:
    """Stop a training after three steps."""
    return progress.step < 3


def trained(text: str) -> charlm.LanguageModel:
    """Train, stop, resume, evaluate and save."""
    small: charlm.TrainSettings = {"hidden_size": 8, "steps": 4, "precision": "float32"}
    lm = charlm.train(text, out="run", on_progress=until_the_third, **small)
    lm = charlm.resume("run", threads=1, on_evaluation=print, verbose=False)
    result = charlm.evaluate(lm, dynamic=True)
    assert_type(result, charlm.Evaluation)
    assert result.dynamic is not None
    assert result.perplexity > 1
    lm.save("model.safetensors")
    return charlm.load("model.safetensors")


def written(lm: charlm.LanguageModel) -> list[str]:
    """Generate in all ways, and score."""
    state: charlm.PromptState = lm.read("a")
    settings: charlm.SampleSettings = {"length": 5, "num_samples": 2, "stop": ("\n",), "seed": 1}
    samples: list[charlm.Sample] = list(lm.samples(state=state, **settings))
    lines: charlm.Lines = lm.lines(0, unique=True, temperature=0.5)
    assert lm.score("a\na").shape == (3,)
    texts = ["".join(sample) for sample in samples] + [line for line, _ in lines]
    return [*texts, lm.generate("a", length=5), "".join(lm.stream("a", length=5, seed=None))]


def played(lm: charlm.LanguageModel) -> list[str]:
    """Draw several texts, look at what may follow, embed a text."""
    settings: charlm.TextSettings = {"length": 5, "temperature": 0.5, "seed": 1}
    assert_type(lm.generate("a", **settings), str)
    texts = lm.generate("a", num_samples=3, **settings)
    assert_type(texts, list[str])
    following = lm.next("a", top=2)
    assert_type(following, charlm.NextCharacters)
    likeliest: charlm.NextCharacter = following[0]
    assert_type(likeliest.character, str)
    assert_type(likeliest.probability, float)
    assert_type(dict(following), dict[str, float])
    assert_type(lm.embed("a"), npt.NDArray[np.float32])
    return [*texts, lm.best_of("a", 2, **settings)]


def refused(lm: charlm.LanguageModel, text: str) -> list[charlm.CharlmError]:
    """Return the errors of calls that are wrong."""
    calls = (
        lambda: lm.generate("a", temprature=0.5),  # type: ignore[call-overload]
        lambda: lm.generate("a", length="5"),  # type: ignore[call-overload]
        lambda: lm.generate(3),  # type: ignore[call-overload]
        lambda: lm.best_of("a", 2, temprature=0.5),  # type: ignore[call-arg]
        lambda: lm.best_of("a", "2"),  # type: ignore[arg-type]
        lambda: lm.next("a", top="3"),  # type: ignore[arg-type]
        lambda: lm.embed("a", state="b"),  # type: ignore[arg-type]
        lambda: charlm.load(None),  # type: ignore[arg-type]
        lambda: charlm.train(text, hiden_size=3),  # type: ignore[call-arg]
        lambda: charlm.resume("run", step=3),  # type: ignore[call-arg]
    )
    errors = []
    for call in calls:
        try:
            call()
        except charlm.CharlmError as error:
            errors.append(error)
    assert len(errors) == len(calls)
    return errors


if __name__ == "__main__":
    model = trained(sys.argv[1])
    print(
        len(written(model) + played(model)), "texts,", len(refused(model, sys.argv[1])), "refusals"
    )
