"""Models and their script, for the tests of the page that writes."""

import base64
import json
import zlib
from dataclasses import dataclass

import numpy as np
from conftest import BACKBONES, is_unbounded, tiny_config

from charlm.api import LanguageModel
from charlm.cells.base import Cell, Parameter, sigmoid
from charlm.checkpoint import Checkpoint
from charlm.config import Source
from charlm.data.tokenizer import UNKNOWN, CharTokenizer
from charlm.export.html import PAGES, script_model
from charlm.insight.page import PAGES as SHARED
from charlm.insight.page import pack
from charlm.settings import setting

SYMBOLS = "\n abcdefghij'"
CASES = [*BACKBONES, ("uneven", "plain")]
# How texts are drawn in Python, and with which settings in the script.
SETTINGS = [
    {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "seed": 1},
    {"temperature": 1.3, "top_k": 5, "top_p": 0.8, "seed": 2**32 - 1},
    {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 2},
]


@dataclass(frozen=True, kw_only=True)
class Uneven(Cell):
    """A cell with every operation that a script knows, a second state of another size, and outputs
    beyond 1.
    """

    leak: float = setting(1 / 3, "share of the state that is replaced", above=0, maximum=1)

    def parameters(self, input_size, hidden_size):
        return {
            "weight": Parameter((2 * hidden_size, input_size), ("xavier_uniform",) * 2),
            "recurrent": Parameter((hidden_size, hidden_size), ("orthogonal",)),
            "bias": Parameter((2 * hidden_size,), (1.0, 0.0)),
            "decay": Parameter((hidden_size,), (0.7,)),
        }

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,), "slow": (3,)}

    def project(self, x, w):
        return x @ w["weight"].T + w["bias"]

    def step(self, xp, projected, state, w):
        h, slow = state
        size = h.shape[-1]
        f = sigmoid(xp, projected[..., :size])
        g = xp.tanh(projected[..., size:] - h @ w["recurrent"].T)
        g = g * xp.exp(-xp.abs(h * w["decay"])) * xp.sqrt(xp.abs(g) + 1.1)
        slow = 0.9 * slow + xp.log(xp.maximum(h[..., :3], 0.01) + 1.0) / 3.0
        return 0.9 * h + self.leak * f * (xp.minimum(5 * g, 4.0) - h) + slow[..., :1], slow


def model(backbone="lstm", variant="plain", *, unknown=False, seed=1, **changes):
    """Return a model with random weights, large enough that its texts are no noise."""
    symbols = SYMBOLS + UNKNOWN if unknown else SYMBOLS
    config = tiny_config(backbone, variant, **changes)
    rng = np.random.default_rng(seed)
    size = 0.3 if is_unbounded(backbone, variant) else 1.0
    weights = {
        name: (size * rng.normal(size=shape)).astype(np.float32)
        for name, shape in config.parameter_shapes(len(symbols)).items()
    }
    tokenizer = CharTokenizer(symbols, unknown=unknown)
    source = Source(files=("play.txt",), characters=12_345)
    return Checkpoint(model_config=config, tokenizer=tokenizer, weights=weights, source=source)


def exact(checkpoint):
    """Return the language model in whole numbers, in Python."""
    return LanguageModel(checkpoint).exact()


def script_settings(settings):
    """Return sampling settings as the script calls them."""
    names = {"top_k": "topK", "top_p": "topP"}
    return {names.get(name, name): value for name, value in settings.items()}


# What a page gives to the script, and what a program needs that is no browser.
HARNESS = """
function engineOf(description, bytes) {
  return new Engine(unpack(JSON.parse(description)), Uint8Array.from(JSON.parse(bytes)));
}
function written(engine, prompt, settings, isDone) {
  const writer = new Writer(engine, prompt);
  while (!isDone(writer)) writer.next(settings);
  return writer;
}
"""


class Script:
    """The script of a page, without the page, in the engine QuickJS."""

    def __init__(self, checkpoint):
        import quickjs

        self.context = quickjs.Context()
        self.tokenizer = checkpoint.tokenizer
        own = [PAGES / f"{name}.js" for name in ("engine", "attention", "writer")]
        files = [SHARED / "common.js", *own]
        self.context.eval("\n".join(file.read_text("utf-8") for file in files) + HARNESS)
        description, data = script_model(checkpoint)
        self.define("description", json.dumps(pack(description)))
        self.define("bytes", json.dumps(list(data)))
        self.context.eval("const engine = engineOf(description, bytes)")

    def define(self, name, value):
        self.context.eval(f"globalThis.{name} = {json.dumps(value)}")

    def run(self, code):
        """Return what an expression gives, by way of JSON."""
        return json.loads(self.context.eval(f"JSON.stringify({code})"))

    def text(self, prompt, count, settings):
        """Return ``count`` characters that follow a prompt."""
        self.define("prompt", self.tokenizer.encode(prompt).tolist())
        self.define("settings", script_settings(settings))
        ids = self.run(
            "((w) => w.ids.slice(w.samples[0].start))(written(engine, prompt, settings, "
            f"(w) => w.ids.length >= w.samples[0].start + {count}))"
        )
        return self.tokenizer.decode(ids)


def bytes_of(facts):
    """Return the bytes of the weights of a page, given its data."""
    return zlib.decompress(base64.b64decode(facts["weights"]))
