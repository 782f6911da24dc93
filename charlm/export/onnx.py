"""One step of the network as an ONNX model, which other programs run without charlm.

    inputs     ids (B,)           int64, a character for each lane
               <name> (L, B, ...) float32, each array of the state
    outputs    logits (B, V)      float32, of the next character
               next_<name>        the state behind that character, in the order of the inputs

The state before any character is zeros. B is free. The operations of a layer are those of its cell,
see :mod:`charlm.export.trace`; weights have the names and values that they have in a checkpoint. In
a model of items a line end is read in the initial state: the graph sees to that.

The metadata are ``vocabulary``, ``unknown`` (the symbol that unknown characters are read as, or
null) and ``settings``, each as JSON.

The operator set is 13, the oldest that has all operators in the form used here, so that old
programs read the file too.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm import __version__
from charlm.cells.attention import SIZE
from charlm.checkpoint import Checkpoint
from charlm.config import ModelConfig
from charlm.data.items import line_end
from charlm.data.tokenizer import UNKNOWN
from charlm.errors import ConfigError, PackageError
from charlm.export.trace import Op, trace
from charlm.files import check_replaced, install_command, write_atomically
from charlm.tensor_file import Tensors

OPSET, IR_VERSION = 13, 7  # of ONNX 1.8, from 2020
MOST_BYTES = 2**31 - 2**20  # of weights: an ONNX file is below 2 GiB
PRODUCER = "charlm"
MARK = b"\x12\x06charlm"  # the producer, as it stands near the beginning of the file
OPERATORS = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "maximum": "Max",
    "minimum": "Min", "negative": "Neg", "abs": "Abs", "tanh": "Tanh", "exp": "Exp", "log": "Log",
    "sqrt": "Sqrt",
}  # fmt: skip


def save(run: Checkpoint, path: Path) -> None:
    """Write the network of a run to an ONNX file, wholly or not at all.

    >>> save(checkpoint.load(checkpoint.locate("english"), model_only=True), Path("model.onnx"))

    Raises:
        CheckpointError: if it cannot be written, or something else than such a file would be lost.
        CharlmError: as for :func:`to_bytes`.
    """
    path = check_replaced(path, MARK, "an ONNX file of charlm")
    write_atomically(path, to_bytes(run))


def to_bytes(run: Checkpoint) -> bytes:
    """Return the content of an ONNX file with the network of a run.

    Raises:
        PackageError: if the package onnx is not installed.
        ConfigError: if the cell cannot be exported, or the model is too large for the format.
    """
    try:
        import onnx
    except ImportError:
        raise PackageError(
            "ONNX files need the package onnx, which is not installed: "
            + install_command("charlm[onnx]")
        ) from None
    if sum(array.nbytes for array in run.weights.values()) > MOST_BYTES:
        raise ConfigError("the model is too large for an ONNX file, which holds less than 2 GiB")
    model = onnx.helper.make_model(
        _graph_of(run),
        producer_name=PRODUCER,
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    onnx.helper.set_model_props(model, _metadata(run))
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:  # such as a state of the name "ids"
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the model cannot be written as ONNX: {reason}") from None
    return bytes(model.SerializeToString())


def _metadata(run: Checkpoint) -> dict[str, str]:
    """Return what a program needs to know of a model beside its numbers."""
    values = {
        "vocabulary": run.tokenizer.vocabulary,
        "unknown": UNKNOWN if run.tokenizer.unknown else None,
        "settings": run.model_config.to_dict(),
    }
    return {name: json.dumps(value) for name, value in values.items()}


def _graph_of(run: Checkpoint) -> Any:
    """Return the graph of one step."""
    from onnx import TensorProto, helper

    config, vocab_size = run.model_config, run.tokenizer.vocab_size
    graph = _Graph(run.weights)
    shapes = {name: (n, "B", *rest) for name, (n, _, *rest) in config.state_shapes(1).items()}
    before = list(shapes)
    if config.items:
        begins = graph.node("Equal", "ids", graph.whole(line_end(run.tokenizer)))
        rows = {  # by the number of its dimensions but the first: (B, 1, ...)
            count: graph.node("Unsqueeze", begins, graph.whole([*range(1, count)]))
            for count in {len(shape) - 1 for shape in shapes.values()}
        }
        before = [
            graph.node("Where", rows[len(shape) - 1], graph.number(0.0), name)
            for name, shape in shapes.items()
        ]
    x, after = _layers(graph, config, before)
    for name, arrays in zip(shapes, after, strict=True):
        graph.node("Concat", *arrays, out=f"next_{name}", axis=0)
    head = graph.parameter("embedding.weight" if config.tie_weights else "head.weight")
    graph.node("Gemm", x, head, graph.parameter("head.bias"), out="logits", transB=1)

    def of_type(kind: int, shapes: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, s) for name, s in shapes.items()]

    return helper.make_graph(
        graph.nodes,
        "charlm",
        of_type(TensorProto.INT64, {"ids": ("B",)}) + of_type(TensorProto.FLOAT, shapes),
        of_type(
            TensorProto.FLOAT,
            {"logits": ("B", vocab_size)} | {f"next_{name}": s for name, s in shapes.items()},
        ),
        initializer=list(graph.constants.values()),
    )


def _layers(
    graph: "_Graph", config: ModelConfig, before: list[str]
) -> tuple[str, Iterable[tuple[str, ...]]]:
    """Write all layers.

    Args:
        graph: to write to.
        config: of the model.
        before: the arrays of the state (L, B, ...).

    Returns:
        The output of the last layer, and for each array of the state its parts (1, B, ...) behind
        the step.
    """
    x = graph.node("Gather", graph.parameter("embedding.weight"), "ids")
    parts = []
    own = len(config.recurrent_state(tuple(before)))
    for layer in range(config.num_layers):
        state = [graph.node("Gather", name, graph.whole(layer), axis=0) for name in before[:own]]
        program = trace(config.cell, config.input_size(layer), config.hidden_size)
        registers = {program.x: x, **dict(zip(program.state, state, strict=True))}
        for op in (*program.project, *program.step):
            registers[op.out] = graph.operation(op, registers, f"backbone.layers.{layer}.")
        state = [registers[number] for number in program.outputs]
        x = graph.node("Add", x, state[0]) if config.residual and layer > 0 else state[0]
        parts.append([graph.node("Unsqueeze", s, graph.whole([0])) for s in state])
    arrays = list(zip(*parts, strict=True))
    if config.attention:
        prefix = f"backbone.layers.{config.num_layers}."
        parameters = [graph.parameter(prefix + name) for name in ("weight", "bias")]
        y, *after = _attention(graph, x, parameters, before[own + 1 :])
        x = graph.node("Concat", x, y, axis=1)
        arrays += [(graph.node("Unsqueeze", s, graph.whole([0])),) for s in (y, *after)]
    return x, arrays


def _attention(
    graph: "_Graph", x: str, parameters: list[str], before: list[str]
) -> tuple[str, str, str]:
    """Write the attention, see ``cells.Attention``.

    Args:
        graph: to write to.
        x: its input (B, H).
        parameters: its weight and its bias.
        before: keys and values (1, B, N, D).

    Returns:
        Its output (B, D), keys and values (B, N, D).
    """
    weight, bias = parameters
    one = graph.whole([1])
    projected = graph.node("Unsqueeze", graph.node("Gemm", x, weight, transB=1), one)
    q, k, v = (  # (B, 1, D)
        graph.node("Slice", projected, *(graph.whole([n]) for n in (start, start + SIZE, 2)))
        for start in range(0, 3 * SIZE, SIZE)
    )
    keys, values = (graph.node("Squeeze", name, graph.whole([0])) for name in before)

    def pushed(rows: str, row: str) -> str:
        rest = graph.node("Slice", rows, one, graph.whole([np.iinfo(np.int64).max]), one)
        return graph.node("Concat", rest, row, axis=1)

    values = pushed(values, v)
    scores = graph.node("MatMul", q, graph.node("Transpose", keys, perm=[0, 2, 1]))  # (B, 1, N)
    scores = graph.node("Add", graph.node("Mul", scores, graph.number(SIZE**-0.5)), bias)
    y = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), values)
    return graph.node("Squeeze", y, one), pushed(keys, k), values


class _Graph:
    """The nodes and constants of a graph; every method returns the name of a value.

    Args:
        weights: the parameters of the model by name.
    """

    def __init__(self, weights: Tensors):
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def node(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node; its output gets a name of its own unless ``out`` names it.

        The node has that name too: some programs take nodes without names for one and the same.
        """
        from onnx import helper

        out = out or f"{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [out], name=out, **attributes))
        return out

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add an array, once."""
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def number(self, value: float) -> str:
        """Add a number."""
        return self.constant(f"number.{value}", np.array(value, np.float32))

    def whole(self, value: int | list[int]) -> str:
        """Add a whole number or a list of them."""
        return self.constant(f"whole.{value}", np.array(value, np.int64))

    def parameter(self, name: str, rows: slice | None = None) -> str:
        """Add a parameter or some rows of a matrix; one of one dimension as a row (1, width)."""
        array = np.atleast_2d(self.weights[name])
        if rows is None or (rows.start, rows.stop) == (0, len(array)):
            return self.constant(name, array)
        return self.constant(f"{name}[{rows.start}:{rows.stop}]", array[rows])

    def operation(self, op: Op, registers: dict[int, str], prefix: str) -> str:
        """Add an operation of a layer whose parameters have names that begin with ``prefix``."""

        def value(operand: int | float | str) -> str:
            if isinstance(operand, str):
                return self.parameter(prefix + operand)
            return registers[operand] if isinstance(operand, int) else self.number(operand)

        part = slice(op.start, op.start + op.width)
        if op.name == "matmul":
            x, matrix = op.inputs
            return self.node("Gemm", value(x), self.parameter(f"{prefix}{matrix}", part), transB=1)
        if op.name == "slice":
            ends = (self.whole([part.start]), self.whole([part.stop]), self.whole([1]))
            return self.node("Slice", value(op.inputs[0]), *ends)
        return self.node(OPERATORS[op.name], *map(value, op.inputs))
