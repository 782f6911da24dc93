"""A text read once, with the states of the net after each character."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.cells.base import State
from charlm.config import ModelConfig
from charlm.data.tokenizer import Ids
from charlm.errors import ConfigError, argument
from charlm.files import ProgressCallback, no_progress
from charlm.inference.attention import AttentionKernel
from charlm.inference.chunked import read_chunked
from charlm.inference.engine import Engine
from charlm.inference.prompt_state import PromptState
from charlm.inference.sampling import check_finite, silent, surprisal
from charlm.tensor_file import Floats, Tensors

LIKELIEST = 5
BLOCK = 512  # characters for which gates are computed at a time


@dataclass(frozen=True)
class Unit:
    """One number of a net, at every character.

    Attributes:
        layer: from 1 on.
        array: ``"h"`` or another array of the state, or a gate such as ``"f"``.
        index: from 0 on.
    """

    layer: int
    array: str
    index: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.array}.{self.index}"


def unit_arrays(config: ModelConfig) -> list[str]:
    """Return the names of all that is one number for each unit: arrays of the state, then gates."""
    shapes = config.cell.state_shapes(config.hidden_size)
    states = [name for name, shape in shapes.items() if shape == (config.hidden_size,)]
    return [*states, *config.cell.gate_names]


def find_unit(word: str, config: ModelConfig) -> Unit:
    """Return the unit that a word such as ``"2.c.37"`` names.

    Raises:
        ConfigError: if there is none.
    """
    arrays = unit_arrays(config)
    layer, _, rest = word.partition(".")
    array, _, index = rest.partition(".")
    short = len(word) < 100  # else Python does not make a number of it
    numbers = short and layer.isdecimal() and index.isdecimal() and array in arrays
    if not numbers or not 1 <= int(layer) <= config.num_layers or int(index) >= config.hidden_size:
        raise ConfigError(
            f"{argument('unit', word)} names no unit of this model: write LAYER.ARRAY.NUMBER with "
            f"a layer from 1 to {config.num_layers}, an array of {', '.join(arrays)}, and a number "
            f"from 0 to {config.hidden_size - 1}, such as 1.{arrays[0]}.0"
        )
    return Unit(int(layer), array, int(index))


@dataclass
class Reading:
    """What a net computed at each of N characters.

    Attributes:
        config: what the net computes.
        weights: its parameters by name.
        ids: the text (N,).
        line_end: the id of the line end if the model is one of items: behind it all begins anew.
        before: the state before the text, arrays (L, 1, ...).
        bits: the surprisal of each character (N,), given all before it.
        likeliest: ids (N, 5) of what was expected most in its place, the likeliest first.
        probabilities: of these (N, 5).
        states: by name, the arrays of the state after each character (N, L, ...).
        attended: what the attention, if any, has put out and kept of each character, by the names
            of its state (N, D).
    """

    config: ModelConfig
    weights: Tensors
    ids: Ids
    line_end: int | None
    before: State
    bits: NDArray[np.float64]
    likeliest: NDArray[np.intp]
    probabilities: Floats
    states: dict[str, Floats] = field(repr=False)
    attended: dict[str, Floats] = field(repr=False)
    _gates: dict[int, dict[str, Floats]] = field(default_factory=dict, repr=False)

    @cached_property
    def layers(self) -> list[Tensors]:
        """The parameters of each layer by their names in the cell."""
        config = self.config
        return [
            {n: self.weights[f"backbone.layers.{k}.{n}"] for n in config.layer_parameters(k)}
            for k in range(len(config.cells))
        ]

    @property
    def arrays(self) -> list[str]:
        """See :func:`unit_arrays`."""
        return unit_arrays(self.config)

    def state_at(self, places: NDArray[np.intp]) -> State:
        """Return the state that the characters at ``places`` (B,) are read in, (L, B, ...)."""
        return (*self._recurrent_state(places), *self._attention_state(places))

    def _recurrent_state(self, places: NDArray[np.intp]) -> State:
        found = []
        for array, start in zip(self.states.values(), self.before, strict=False):
            values = np.moveaxis(array[places - 1], 0, 1).copy()  # (L, B, ...)
            values[:, places == 0] = start
            if self.line_end is not None:
                values[:, self.ids[places] == self.line_end] = 0
            found.append(values)
        return tuple(found)

    def _attention_state(self, places: NDArray[np.intp]) -> State:
        begins = np.full(len(self.ids), -self.config.attention)  # where what is remembered begins
        if self.line_end is not None:
            ends = np.flatnonzero(self.ids == self.line_end)
            begins[ends] = ends
        begins = np.maximum.accumulate(begins)[places, None]
        found = []
        starts = self.before[len(self.states) :]
        for array, start in zip(self.attended.values(), starts, strict=True):
            known = start.reshape(-1, array.shape[1])  # what was kept of the text before
            back = np.arange(-len(known), 0)
            values = np.concatenate([known, array])[places[:, None] + back + len(known)]
            values[places[:, None] + back < begins] = 0
            found.append(values.reshape(1, len(places), *start.shape[2:]))
        return tuple(found)

    def layer_inputs(self, places: NDArray[np.intp]) -> list[Floats]:
        """Return the input of each layer when the characters at ``places`` are read, (B, I)."""
        x = self.weights["embedding.weight"][self.ids[places]]
        h = next(iter(self.states.values()))[places]  # (B, L, H)
        inputs = []
        for layer in range(self.config.num_layers):
            inputs.append(x)
            x = self.config.passed_on(np, layer, x, h[:, layer])
        return inputs

    def gates(self, layer: int) -> dict[str, Floats]:
        """Return the gates of a layer (from 1 on) by name, (N, H), computed from the states."""
        if layer not in self._gates:
            self._gates[layer] = self._compute_gates(layer)
        return self._gates[layer]

    def _compute_gates(self, layer: int) -> dict[str, Floats]:
        cell, w = self.config.cell, self.layers[layer - 1]
        shape = (len(self.ids), self.config.hidden_size)
        found = {name: np.empty(shape, np.float32) for name in cell.gate_names}
        for start in range(0, len(self.ids) if found else 0, BLOCK):
            places = np.arange(start, min(start + BLOCK, len(self.ids)))
            state = tuple(s[layer - 1] for s in self._recurrent_state(places))
            x = self.layer_inputs(places)[layer - 1]
            a = cell.activations(np, cell.project(x, w), state, w)
            for name, values in found.items():
                values[places] = a[name]
        return found

    def values(self) -> Iterator[tuple[int, str, Floats]]:
        """Yield layer, array and its values (N, H), for all layers and arrays."""
        for layer in range(1, self.config.num_layers + 1):
            gates = self.gates(layer)
            for name in self.arrays:
                yield layer, name, gates[name] if name in gates else self.states[name][:, layer - 1]

    def unit(self, unit: Unit) -> Floats:
        """Return the values of one unit at each character, (N,)."""
        if unit.array in self.states:
            return self.states[unit.array][:, unit.layer - 1, unit.index]
        return self.gates(unit.layer)[unit.array][:, unit.index]


def read(
    engine: Engine,
    weights: Tensors,
    ids: Ids,
    before: PromptState,
    on_progress: ProgressCallback = no_progress,
) -> Reading:
    """Read a text.

    Args:
        engine: the model.
        weights: its parameters by name.
        ids: the text (N,), N > 0.
        before: the state before it.
        on_progress: progress callback, told the number of characters read.

    Raises:
        DivergenceError: if the model's predictions are NaN or infinite.
    """
    recorder = _Recorder(engine, ids, on_progress)
    with silent():
        recorder.note(before.logits[None], np.array([0]))
        read_chunked(recorder, len(ids), before.state, attention=engine.config.attention)
    check_finite(recorder.bits)
    return Reading(
        config=engine.config,
        weights=weights,
        ids=ids,
        line_end=engine.line_end,
        before=before.state,
        bits=recorder.bits,
        likeliest=recorder.likeliest,
        probabilities=recorder.probabilities,
        states=recorder.states,
        attended=recorder.attended,
    )


class _Recorder:
    """Reads pieces of a text and keeps what it sees at each place; see ``chunked.Reader``.

    A place may be read several times, by the warm-up of a chunk or when a chunk is read again. The
    last time is the right one.
    """

    def __init__(self, engine: Engine, ids: Ids, on_progress: ProgressCallback):
        self.engine, self.ids, self.on_progress = engine, ids, on_progress
        config, count = engine.config, len(ids)
        self.bits = np.zeros(count)
        size = min(LIKELIEST, len(engine.head_bias))
        self.likeliest = np.zeros((count, size), np.intp)
        self.probabilities = np.zeros((count, size), np.float32)
        shapes = config.cell.state_shapes(config.hidden_size)
        self.states = {
            name: np.zeros((count, config.num_layers, *shape), np.float32)
            for name, shape in shapes.items()
        }
        self.attended = {
            name: np.zeros((count, shape[-1]), np.float32)
            for head in config.cells[config.num_layers :]
            for name, shape in head.state_shapes(config.hidden_size).items()
        }

    def initial_state(self, batch_size: int) -> State:
        """See ``chunked.Reader``."""
        return self.engine.initial_state(batch_size)

    def read(self, starts: NDArray[np.intp], length: int, state: State) -> tuple[Floats, State]:
        """See ``chunked.Reader``."""
        stepper = self.engine.stepper(state)
        nats = np.zeros((len(starts), length), np.float32)
        for t in range(length):
            places = starts + t
            logits = stepper.step(self.ids[places])
            recurrent = stepper.kernels[: self.engine.config.num_layers]
            for layer, kernel in enumerate(recurrent):
                for array, values in zip(self.states.values(), kernel.state, strict=True):
                    array[places, layer] = values
            for kernel in stepper.kernels[len(recurrent) :]:
                for array, values in zip(self.attended.values(), kernel.state, strict=True):
                    array[places] = values if values.ndim == 2 else values[:, -1]
            inside = places + 1 < len(self.ids)
            nats[inside, t] = self.note(logits[inside], places[inside] + 1)
            if t % 64 == 63 or t == length - 1:
                self.on_progress((t % 64 + 1) * len(starts))
        return nats, stepper.state

    def note(self, logits: Floats, places: NDArray[np.intp]) -> Floats:
        """Keep what was expected at ``places`` (B,), and return the surprisal there in nats."""
        size = self.likeliest.shape[1]
        best = np.argpartition(-logits, size - 1, axis=1)[:, :size]
        top = np.take_along_axis(logits, best, axis=1)
        order = np.argsort(-top, axis=1, kind="stable")
        self.likeliest[places] = np.take_along_axis(best, order, axis=1)
        nats: Floats = surprisal(logits, self.ids[places]).astype(np.float32)
        chosen = np.take_along_axis(logits, self.ids[places][:, None].astype(np.intp), axis=1)
        log_chances = np.take_along_axis(top, order, axis=1) - chosen - nats[:, None]
        self.probabilities[places] = np.exp(log_chances)
        self.bits[places] = nats / np.log(2)
        return nats


def clamped_bits(
    reading: Reading,
    clamps: list[tuple[Unit, float]],
    starts: NDArray[np.intp],
    length: int,
    *,
    warm_up: int = 64,
    on_progress: ProgressCallback = no_progress,
) -> NDArray[np.float64]:
    """Return the surprisal of a text if one unit is held at a value.

    A gate is held within the step. A number of the state is held as the step hands it on, to the
    next step and to what reads it.

    Args:
        reading: the text as it was read.
        clamps: units and the value for each, K of them; each is clamped alone.
        starts: places (C,) from which characters are scored, all >= 1.
        length: how many from each.
        warm_up: characters before each start that are read with the unit clamped already.
        on_progress: progress callback, told the number of characters read.

    Returns:
        Bits for each character, (K, C, length).
    """
    together = max(1, reading.config.most_lanes() // len(starts))
    if len(clamps) > together:
        groups = [clamps[k : k + together] for k in range(0, len(clamps), together)]
        parts = [
            clamped_bits(reading, group, starts, length, warm_up=warm_up, on_progress=on_progress)
            for group in groups
        ]
        return np.concatenate(parts)
    starts = np.maximum(starts, 1)
    begin = np.maximum(starts - warm_up - 1, 0)
    count, chunks = len(clamps), len(starts)
    state = tuple(np.concatenate([s] * count, axis=1) for s in reading.state_at(begin))
    rows = [np.arange(k * chunks, (k + 1) * chunks) for k in range(count)]
    lanes = [(unit, value, r) for (unit, value), r in zip(clamps, rows, strict=True)]
    step = _ClampedStep(reading, state, lanes)
    bits = np.zeros((count, chunks, length))
    for t in range(int((starts + length - 1 - begin).max())):
        places = np.minimum(begin + t, len(reading.ids) - 1)
        logits = step(np.tile(reading.ids[places], count))
        following = np.minimum(begin + t + 1, len(reading.ids) - 1)
        nats = surprisal(logits, np.tile(reading.ids[following], count)).reshape(count, chunks)
        offset = following - starts
        scored = (offset >= 0) & (offset < length) & (begin + t + 1 < len(reading.ids))
        bits[:, scored, offset[scored]] = nats[:, scored] / np.log(2)
        on_progress(count * chunks)
    return bits


class _ClampedStep:
    """Moves lanes by one character each, with one unit of some lanes clamped."""

    def __init__(self, reading: Reading, state: State, clamps: list[tuple[Unit, float, Any]]):
        self.reading, self.clamps = reading, clamps
        config = reading.config
        self.states = config.layer_states(state)
        w = [AttentionKernel.prepared(w, upper=True) for w in reading.layers[config.num_layers :]]
        self.attention = [AttentionKernel(config.cells[-1], one, self.states.pop()) for one in w]

    def __call__(self, ids: Ids) -> Floats:
        """Read a character of each lane (B,); return the logits of the next (B, V)."""
        reading, config = self.reading, self.reading.config
        x = reading.weights["embedding.weight"][ids]
        if reading.line_end is not None:
            begins = ids == reading.line_end
            for array in (array for state in self.states for array in state):
                array[begins] = 0
            for kernel in self.attention:
                kernel.reset(begins)
        for layer, before in enumerate(self.states):
            self.states[layer] = self._step(layer, x, before)
            x = config.passed_on(np, layer, x, self.states[layer][0])
        for kernel in self.attention:
            kernel.feed(x)
            x = config.passed_on(np, config.num_layers, x, kernel.output)
        tied = config.tie_weights
        head = reading.weights["embedding.weight" if tied else "head.weight"]
        return x @ head.T + reading.weights["head.bias"]

    def _step(self, layer: int, x: Floats, state: State) -> State:
        cell, w = self.reading.config.cell, self.reading.layers[layer]
        clamps = [clamp for clamp in self.clamps if clamp[0].layer == layer + 1]
        projected = cell.project(x, w)
        if cell.gate_names:
            a = cell.activations(np, projected, state, w)
            for unit, value, rows in clamps:
                if unit.array in a:
                    a[unit.array][rows, unit.index] = value
            state = cell.update(np, a, state, w)
        else:
            state = cell.step(np, projected, state, w)
        for array, values in zip(self.reading.states, state, strict=True):
            for unit, value, rows in clamps:
                if unit.array == array:
                    values[rows, unit.index] = value
        return state
