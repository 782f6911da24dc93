"""The operations of a cell: run one by one they give the bits that the cell gives."""

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from conftest import B, E, H

from charlm.cells import GRU, LSTM, RNN, Cell, Parameter
from charlm.errors import ConfigError
from charlm.export.trace import trace

WIDTH = 4  # of the second state of the cell below, unlike all other sizes


@dataclass(frozen=True, kw_only=True)
class Everything(Cell):
    """Not a useful recurrence, but one with all that can be exported."""

    def parameters(self, input_size, hidden_size):
        return {
            "w": Parameter((2 * hidden_size, input_size)),
            "u": Parameter((2 * hidden_size, hidden_size)),
            "v": Parameter((hidden_size, WIDTH)),
            "gain": Parameter((2 * hidden_size,)),
            "one": Parameter((1,)),
        }

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,), "slow": (WIDTH,), "level": (1,)}

    def project(self, x, w):
        unused = x @ w["w"].T * 3  # noqa: F841
        return (x - 0.25) @ w["w"].T

    def step(self, xp, projected, state, w):
        h, slow, level = state
        size = h.shape[-1]
        gain = w["gain"] + w["gain"]
        gate = 1 / (1 + xp.exp(-(projected[..., :size] + h @ w["u"][:size].T)))
        g = xp.log(1 + abs(projected[:, -size:])) * gain[..., size:] + (gate * h) @ w["u"][size:].T
        g = (2 - g / 4).clip(min=-1, max=1.5) * w["gain"][:size]
        h = xp.maximum(gate * h + (1 - gate) * g, xp.abs(h) * -0.5) + slow @ w["v"].T
        norm = xp.sqrt(h * h + 0.125).clip(max=3.0)
        slow = slow + (h[..., 1 : 1 + WIDTH] - slow) / 8
        return xp.minimum(xp.tanh(h) * level, norm), slow, level * 0.5 + w["one"]


CELLS = [RNN(), RNN(nonlinearity="relu"), LSTM(), GRU(), Everything()]


def arrays(cell, lanes):
    """Return an input, a state that is not zero, and parameters."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    w = {name: draw(*p.shape) for name, p in cell.parameters(E, H).items()}
    state = tuple(draw(lanes, *shape) for shape in cell.state_shapes(H).values())
    return draw(lanes, E), state, w


def run_program(program, x, state, w):
    """Return the next state."""
    registers = {program.x: x, **dict(zip(program.state, state, strict=True))}
    for op in (*program.project, *program.step):
        kinds = {int: registers.get, str: w.get, float: np.float32}
        values = [kinds[type(i)](i) for i in op.inputs]
        part = slice(op.start, op.start + op.width)
        if op.name == "slice":
            registers[op.out] = values[0][..., part]
        elif op.name == "matmul":
            registers[op.out] = values[0] @ values[1][part].T
        else:
            registers[op.out] = getattr(np, op.name)(*values)
    return tuple(registers[i] for i in program.outputs)


@pytest.mark.parametrize("lanes", [1, B])
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_the_program_gives_the_bits_of_the_cell(cell, lanes):
    x, state, w = arrays(cell, lanes)
    found = run_program(trace(cell, E, H), x, state, w)
    expected = cell.step(np, cell.project(x, w), state, w)
    assert [a.tobytes() for a in found] == [np.asarray(a).tobytes() for a in expected]
    assert all(np.isfinite(a).all() for a in found)
    assert all(a.dtype == np.float32 for a in found)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_every_register_has_its_width_and_is_written_once_before_it_is_read(cell):
    program = trace(cell, E, H)
    sizes = [shape[0] for shape in cell.state_shapes(H).values()]
    widths = dict(zip((program.x, *program.state), (E, *sizes), strict=True))
    rows = {name: p.shape[0] for name, p in cell.parameters(E, H).items()}
    for op in (*program.project, *program.step):
        assert op.out not in widths
        read = [widths[i] for i in op.inputs if isinstance(i, int)]
        assert len(read) == sum(isinstance(i, int) for i in op.inputs)
        if op.name == "matmul":
            assert op.start + op.width <= rows[op.inputs[1]]
        elif op.name == "slice":
            assert op.start + op.width <= (read or [rows[op.inputs[0]]])[0]
        else:
            assert set(read) <= {1, op.width}
        widths[op.out] = op.width
    assert [widths[i] for i in program.outputs] == sizes


def test_what_no_result_needs_is_left_out_and_the_rest_keeps_its_order():
    program = trace(Everything(), E, H)
    assert [op.name for op in program.project] == ["subtract", "matmul"]
    assert [op.name for op in trace(RNN(), E, H).step] == ["matmul", "add", "add", "tanh"]


def test_a_program_is_the_same_after_json():
    program = trace(Everything(), E, H)
    found = json.loads(json.dumps(program.to_json()))
    for part in ("project", "step"):
        operations = [
            replace(op, inputs=tuple(_read(i) for i in line["inputs"]))
            for op, line in zip(getattr(program, part), found[part], strict=True)
        ]
        assert operations == list(getattr(program, part))
    assert (found["x"], found["projected"]) == (program.x, program.projected)
    assert (found["state"], found["outputs"]) == ([*program.state], [*program.outputs])


def _read(value):
    return value["number"] if isinstance(value, dict) else value


REFUSED = {
    "xp.where(h, h, h)": "the function where",
    "xp.tanh(2.0)": "tanh of plain numbers",
    "xp.tanh(h, h)": "tanh of 2 arrays",
    "h.sum(-1)": ".sum of an array",
    "h ** 2": "unsupported operand type",
    "h @ h": "a matrix product with an array",
    "h @ w['u']": "a matrix product with the matrix u",
    "w['gain'] @ w['u'].T": "a matrix product of the parameter gain",
    "h + w['u']": "the matrix u in an elementwise operation",
    "w['u'].sum()": ".sum of the matrix u",
    "h[..., ::2]": "the part slice(None, None, 2)",
    "h[..., 3]": "the part 3 of an array",
    "h[2:3]": "the part slice(2, 3, None) of an array",
    "h + np.ones(11, np.float32)": "a value of type ndarray",
    "np.float64(2) * h": "a value of type float64",
    "h + slow": "add of arrays of widths 4 and 11",
    "h if h else h": "the numbers of an array in a condition",
    "w['gain']": "the parameter gain as a result",
    "None": "a value of type NoneType as a result",
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_cannot_be_written_is_named(code):
    class Odd(Everything):
        def step(self, xp, projected, state, w):
            h, slow, level = state
            after = eval(code, {"np": np}, {"xp": xp, "h": h, "slow": slow, "w": w})
            return after, slow, level

    with pytest.raises(ConfigError, match=re.escape(REFUSED[code])) as error:
        trace(Odd(), E, H)
    assert str(error.value).startswith("the cell Odd cannot be exported")
    assert "\n" not in str(error.value)


def test_a_state_and_a_parameter_of_more_dimensions_are_named():
    class Odd(Everything):
        def state_shapes(self, hidden_size):
            return {"h": (hidden_size,), "memory": (2, 3), "level": (1,)}

    with pytest.raises(ConfigError, match="the state memory, which has 2 dimensions"):
        trace(Odd(), E, H)

    class Cube(Everything):
        def parameters(self, input_size, hidden_size):
            return super().parameters(input_size, hidden_size) | {"cube": Parameter((2, 3, 4))}

    with pytest.raises(ConfigError, match="the parameter cube of 3 dimensions"):
        trace(Cube(), E, H)
