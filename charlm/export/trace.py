"""The equations of a cell as a list of operations.

A cell states its equations once, in Python. Here they are run on symbols in place of arrays, and
what is done with the symbols is noted down. So any cell, also one that a user has registered, can
be written in another language, with its operations in the order in which the cell states them.

    >>> program = trace(RNN(), input_size=5, hidden_size=11)
    >>> for op in program.project:
    ...     print(op)
    Op(out=2, name='matmul', inputs=(0, 'weight_ih'), width=11, start=0)
    Op(out=3, name='add', inputs=(2, 'bias_ih'), width=11, start=0)

Registers
    A register is a number that stands for an array (B, width) of float32. Each is written once.
    ``Program.x`` is the input of the layer, ``Program.state`` are the arrays of the state in the
    order of ``Cell.state_shapes``: these are given. ``Program.project`` computes the register
    ``Program.projected`` from ``x``. ``Program.step`` computes the registers ``Program.outputs``,
    the next state in the same order, from ``projected`` and ``state``. The first of them is the
    output of the layer. What no result needs is left out, so some numbers are missing.

Operations
    ``matmul``     x @ W.T for a register x and a matrix W, which is the rows ``start`` to
                   ``start + width`` of a parameter: for the whole parameter ``start`` is 0
    ``slice``      the columns ``start`` to ``start + width`` of its input
    all others     elementwise, as the function of that name in numpy: ``add``, ``subtract``,
                   ``multiply``, ``divide``, ``maximum``, ``minimum`` of two inputs; ``negative``,
                   ``abs``, ``tanh``, ``exp``, ``log``, ``sqrt`` of one

Inputs
    An ``int`` is a register, a ``str`` the name of a parameter, a ``float`` a number, which is
    rounded to float32. A parameter of one dimension is the same row for every lane. An input of
    width 1 is used for every column of the other one. A register that is computed from parameters
    alone is a row too.

As JSON (:meth:`Program.to_json`) an input is ``3``, ``"bias_ih"`` or ``{"number": 0.5}``.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from charlm.cells import Cell
from charlm.errors import ConfigError

Operand = int | float | str
UNARY = ("tanh", "exp", "log", "sqrt", "abs")
BINARY = ("maximum", "minimum")


@dataclass(frozen=True)
class Op:
    """One operation; see the module.

    Attributes:
        out: the register that it writes.
        name: what it does.
        inputs: what it reads.
        width: of the register that it writes.
        start: of ``matmul`` the first row, of ``slice`` the first column.
    """

    out: int
    name: str
    inputs: tuple[Operand, ...]
    width: int
    start: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the operation as JSON can hold it; see the module."""
        inputs = [{"number": i} if isinstance(i, float) else i for i in self.inputs]
        return asdict(self) | {"inputs": inputs}


@dataclass(frozen=True)
class Program:
    """One step of a layer as operations; see the module for the fields."""

    x: int
    state: tuple[int, ...]
    project: tuple[Op, ...]
    projected: int
    step: tuple[Op, ...]
    outputs: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the program as JSON can hold it; see the module."""
        return {
            "x": self.x,
            "state": list(self.state),
            "project": [op.to_json() for op in self.project],
            "projected": self.projected,
            "step": [op.to_json() for op in self.step],
            "outputs": list(self.outputs),
        }


def trace(cell: Cell, input_size: int, hidden_size: int) -> Program:
    """Return the operations of one layer of a cell; see the module.

    Args:
        cell: the recurrence.
        input_size: of the layer (I).
        hidden_size: of the layer (H).

    Raises:
        ConfigError: if the cell uses what cannot be written as one of the operations.
    """
    tracer = _Tracer(type(cell).__name__)
    parameters = cell.parameters(input_size, hidden_size)
    w = {name: tracer.parameter(name, p.shape) for name, p in parameters.items()}
    x = tracer.register(input_size)
    state = tuple(
        tracer.register(tracer.width_of_state(name, shape))
        for name, shape in cell.state_shapes(hidden_size).items()
    )
    try:
        projected = tracer.result(cell.project(x, w))
        count = len(tracer.ops)
        after = [tracer.result(s) for s in cell.step(_Functions(tracer), projected, state, w)]
    except ConfigError:
        raise
    except Exception as error:  # what Python itself refuses, such as the operator of a power
        raise tracer.refusal(f"this: {error}") from None
    outputs = tuple(s.register for s in after)
    return Program(
        x=x.register,
        state=tuple(s.register for s in state),
        project=_needed(tracer.ops[:count], {projected.register}),
        projected=projected.register,
        step=_needed(tracer.ops[count:], set(outputs)),
        outputs=outputs,
    )


def _needed(ops: list[Op], wanted: set[int]) -> tuple[Op, ...]:
    """Return the operations of which the registers ``wanted`` are made."""
    kept = []
    for op in reversed(ops):
        if op.out in wanted:
            wanted = wanted | {i for i in op.inputs if isinstance(i, int)}
            kept.append(op)
    return tuple(reversed(kept))


class _Tracer:
    """Notes down the operations of the cell with some name."""

    def __init__(self, cell: str):
        self.cell = cell
        self.ops: list[Op] = []
        self.registers = 0

    def refusal(self, what: str) -> ConfigError:
        """Return the error for what the cell uses."""
        return ConfigError(
            f"the cell {self.cell} cannot be exported, as it uses {what}; what it may use is said "
            "in charlm/export/README.md"
        )

    def register(self, width: int) -> "_Symbol":
        """Return a symbol with a register of its own."""
        self.registers += 1
        return _Symbol(self, self.registers - 1, width)

    def parameter(self, name: str, shape: tuple[int, ...]) -> "_Symbol | _Matrix":
        """Return what stands for a parameter of one or two dimensions."""
        if len(shape) == 1:
            return _Symbol(self, name, shape[0])
        if len(shape) == 2:
            return _Matrix(self, name, 0, *shape)
        raise self.refusal(f"the parameter {name} of {len(shape)} dimensions")

    def width_of_state(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the width of an array of the state."""
        if len(shape) != 1:
            raise self.refusal(f"the state {name}, which has {len(shape)} dimensions for each lane")
        return shape[0]

    def result(self, value: object) -> "_Symbol":
        """Return what the cell has returned, which must have a register."""
        if isinstance(value, _Symbol) and isinstance(value.operand, int):
            return value
        raise self.refusal(f"{_described(value)} as a result")

    def places(self, part: object, count: int) -> range:
        """Return the places, among ``count``, of a slice without steps."""
        places = range(count)[part] if isinstance(part, slice) else range(0)
        if not places or places.step != 1:
            raise self.refusal(f"the part {part!r} of an array, where a slice i:j is known")
        return places

    def note(self, name: str, *inputs: object, width: int, start: int = 0) -> "_Symbol":
        """Note an operation down, and return its result."""
        out = self.register(width)
        operands = tuple(self.operand(value) for value in inputs)
        self.ops.append(Op(out.register, name, operands, width, start))
        return out

    def operand(self, value: object) -> Operand:
        """Return an input of an operation."""
        if isinstance(value, _Symbol):
            return value.operand
        if type(value) in (int, float):  # a number of numpy would make numpy compute in its type
            return float(value)  # type: ignore[arg-type]
        raise self.refusal(f"{_described(value)} in an elementwise operation")

    def elementwise(self, name: str, *values: object) -> "_Symbol":
        """Note an operation on every entry down, and return its result."""
        widths = {value.width for value in values if isinstance(value, _Symbol)}
        if not widths:
            raise self.refusal(f"{name} of plain numbers")
        if len(widths - {1}) > 1:
            raise self.refusal(
                f"{name} of arrays of widths {' and '.join(map(str, sorted(widths)))}"
            )
        return self.note(name, *values, width=max(widths))


def _described(value: object) -> str:
    """Return what a message calls a value that is not supported."""
    if isinstance(value, _Matrix):
        return f"the matrix {value.name}"
    if isinstance(value, _Symbol):
        return f"the parameter {value.operand}" if isinstance(value.operand, str) else "an array"
    return f"a value of type {type(value).__name__}"


def _operator(name: str, *, swapped: bool = False) -> "Callable[[_Symbol, object], _Symbol]":
    def operation(self: "_Symbol", other: object) -> "_Symbol":
        return self.tracer.elementwise(name, *((other, self) if swapped else (self, other)))

    return operation


class _Symbol:
    """Stands for an array (..., width), or for a parameter of one dimension."""

    __array_ufunc__ = None  # numpy leaves an operation with a symbol to the symbol

    def __init__(self, tracer: _Tracer, operand: int | str, width: int):
        self.tracer = tracer
        self.operand = operand
        self.width = width

    @property
    def register(self) -> int:
        """The register, of a symbol that is no parameter."""
        assert isinstance(self.operand, int)
        return self.operand

    @property
    def shape(self) -> tuple[None, int]:
        """The shape; how many lanes there are is not known."""
        return None, self.width

    def __getattr__(self, name: str) -> Any:
        raise self.tracer.refusal(f".{name} of an array")

    def __bool__(self) -> bool:
        raise self.tracer.refusal("the numbers of an array in a condition")

    __add__, __radd__ = _operator("add"), _operator("add", swapped=True)
    __sub__, __rsub__ = _operator("subtract"), _operator("subtract", swapped=True)
    __mul__, __rmul__ = _operator("multiply"), _operator("multiply", swapped=True)
    __truediv__, __rtruediv__ = _operator("divide"), _operator("divide", swapped=True)

    def __neg__(self) -> "_Symbol":
        return self.tracer.elementwise("negative", self)

    def __abs__(self) -> "_Symbol":
        return self.tracer.elementwise("abs", self)

    def __matmul__(self, other: object) -> "_Symbol":
        if not isinstance(other, _Transposed):
            raise self.tracer.refusal(
                f"a matrix product with {_described(other)}, where x @ w.T is known"
            )
        if isinstance(self.operand, str):
            raise self.tracer.refusal(f"a matrix product of the parameter {self.operand}")
        matrix = other.matrix
        return self.tracer.note(
            "matmul", self, matrix.as_row(), width=matrix.rows, start=matrix.start
        )

    def __getitem__(self, key: object) -> "_Symbol":
        *others, last = key if isinstance(key, tuple) else (key,)
        is_row = isinstance(self.operand, str)
        if others not in ([Ellipsis], [slice(None)]) and not (is_row and not others):
            raise self.tracer.refusal(f"the part {key!r} of an array, where a[..., i:j] is known")
        places = self.tracer.places(last, self.width)
        if len(places) == self.width:
            return self
        return self.tracer.note("slice", self, width=len(places), start=places.start)

    def clip(self, min: object = None, max: object = None) -> "_Symbol":
        """Return what both libraries do: the maximum with one bound, then the minimum."""
        result = self if min is None else self.tracer.elementwise("maximum", self, min)
        return result if max is None else self.tracer.elementwise("minimum", result, max)


@dataclass(frozen=True)
class _Matrix:
    """Stands for a parameter of two dimensions, or for some of its rows."""

    tracer: _Tracer
    name: str
    start: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape."""
        return self.rows, self.columns

    @property
    def T(self) -> "_Transposed":  # noqa: N802
        """The matrix with its rows as columns."""
        return _Transposed(self)

    def as_row(self) -> _Symbol:
        """Return a symbol with the name of the parameter, to be an input."""
        return _Symbol(self.tracer, self.name, self.columns)

    def __getitem__(self, key: object) -> "_Matrix":
        rows = self.tracer.places(key, self.rows)
        return _Matrix(self.tracer, self.name, self.start + rows.start, len(rows), self.columns)

    def __getattr__(self, name: str) -> Any:
        raise self.tracer.refusal(f".{name} of the matrix {self.name}")


@dataclass(frozen=True)
class _Transposed:
    """Stands for the transpose of a matrix."""

    matrix: _Matrix


class _Functions:
    """Stands for the array library that a cell is given."""

    def __init__(self, tracer: _Tracer):
        self.tracer = tracer

    def __getattr__(self, name: str) -> Callable[..., _Symbol]:
        if name not in (*UNARY, *BINARY):
            raise self.tracer.refusal(f"the function {name}")
        count = 1 if name in UNARY else 2

        def function(*values: object) -> _Symbol:
            if len(values) != count:
                raise self.tracer.refusal(f"{name} of {len(values)} arrays")
            return self.tracer.elementwise(name, *values)

        return function
