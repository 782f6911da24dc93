"""A page that writes with a model: one HTML file that needs no Python and no network.

It holds the model in whole numbers, and a script that computes what :mod:`charlm.integer` does, bit
for bit: the equations of its cell as :mod:`charlm.export.trace` notes them down, tables of plain
arithmetic, exact sums. So a text of the page is the text that Python draws in whole numbers with
the same prompt, seed and settings.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from charlm.checkpoint import Checkpoint
from charlm.config import LinesConfig, SampleConfig
from charlm.data.items import line_end
from charlm.data.tokenizer import code_points
from charlm.errors import ConfigError
from charlm.export.trace import trace
from charlm.files import check_name, write_atomically
from charlm.insight.page import is_page, render
from charlm.integer.engine import ExactEngine
from charlm.quantization import BIAS_BITS, whole
from charlm.tensor_file import Floats

PAGES = Path(__file__).parent / "pages"


def save(
    model: Checkpoint,
    path: Path,
    *,
    run: str,
    title: str = "",
    prompt: str = "",
    description: str = "",
) -> None:
    """Write the page of a model to a file.

    Args:
        model: its weights are rounded to whole numbers if they are not yet.
        path: the file. A page of charlm is replaced, anything else is left alone.
        run: what a command calls the model.
        title: of the page, in place of the name of the run.
        prompt: what stands in the field for the prompt at first.
        description: a paragraph below the title.

    Raises:
        ConfigError: if something else is at ``path``, or the model cannot be computed in whole
            numbers in a script.
        CheckpointError: if the file cannot be written.

    Example::

        save(checkpoint.load(Path("english.safetensors")), Path("demo.html"), run="english")
    """
    check_name(path)
    if path.exists() and not is_page(path):
        raise ConfigError(f"{path} is there already, and is no page of charlm: choose another name")
    words = {
        "title": title or Path(run).resolve().stem,
        "prompt": prompt,
        "description": description,
    }
    page = render("demo", facts(model, run) | words, PAGES)
    write_atomically(path, page.encode("utf-8"))


def facts(model: Checkpoint, run: str) -> dict[str, Any]:
    """Return what the page says of a model, and the model itself, see :func:`script_model`."""
    config, sampling = model.model_config, SampleConfig()
    described, weights = script_model(model)
    return {
        "run": run,
        "backbone": config.backbone,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "attention": config.attention,
        "parameters": config.num_parameters(model.tokenizer.vocab_size),
        "files": list(model.source.files),
        "characters": model.source.characters,
        "settings": {name: getattr(sampling, name) for name in ("length", "temperature")},
        "model": described,
        "weights": base64.b64encode(zlib.compress(weights, 9)).decode(),
    }


def script_model(model: Checkpoint) -> tuple[dict[str, Any], bytes]:
    """Return a model as ``pages/engine.js`` reads it: a description, and all its matrices.

    A matrix is its whole numbers (R, C) and the exponents of its rows (R,), one byte each; the
    description tells where among the bytes. Other parameters are multiples of ``2 ** -BIAS_BITS``.
    Programs are JSON text, as their numbers must keep all digits.

    Raises:
        ConfigError: see :func:`save`.
    """
    data = bytearray()

    def described(array: Floats) -> Any:
        if array.ndim == 1:
            return np.rint(array * np.float32(2**BIAS_BITS)).astype(np.int64).tolist()
        start = len(data)
        data.extend(b"".join(part.tobytes() for part in whole(array)))
        return {"rows": array.shape[0], "columns": array.shape[1], "start": start}

    def of_layer(layer: int) -> dict[str, Any]:
        prefix = f"backbone.layers.{layer}."
        found = {name: weights[prefix + name] for name in config.layer_parameters(layer)}
        vectors = {name: array for name, array in found.items() if array.ndim == 1}
        program = programs[min(layer, len(programs) - 1)]
        parts = {  # a cell may multiply with some rows of a matrix
            f"{op.inputs[1]}:{op.start}": found[str(op.inputs[1])][op.start : op.start + op.width]
            for op in (*program.project, *program.step)
            if op.name == "matmul"
        }
        return {name: described(array) for name, array in (vectors | parts).items()}

    config, tokenizer, weights = model.model_config, model.tokenizer, model.weights
    engine = ExactEngine(config, weights)
    sizes = [config.embedding_size, config.hidden_size][: config.num_layers]
    programs = [trace(config.cell, size, config.hidden_size) for size in sizes]
    description = {
        "vocabulary": code_points(tokenizer.vocabulary),
        "unknown": tokenizer.unknown_id,
        "lineStart": tokenizer.vocabulary.index(tokenizer.line_start),
        "lineEnd": line_end(tokenizer) if config.items else None,
        "longestItem": LinesConfig().max_length,
        "residual": config.residual,
        "hiddenSize": config.hidden_size,
        "stateSizes": [shape[0] for shape in config.cell.state_shapes(config.hidden_size).values()],
        "bits": engine.bits,
        "bounded": engine.bounded,
        "embedding": described(weights["embedding.weight"]),
        "head": None if config.tie_weights else described(weights["head.weight"]),
        "headBias": described(weights["head.bias"]),
        "layers": [of_layer(layer) for layer in range(config.num_layers)],
        "attention": [
            described(weights[f"backbone.layers.{config.num_layers}.{name}"])
            for name in ("weight", "bias")
        ]
        if config.attention
        else None,
        "programs": [json.dumps(program.to_json()) for program in programs],
    }
    return description, bytes(data)
