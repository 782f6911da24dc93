"""Gradient flow: how much of a loss reaches the states before it, and what clipping does to a step.

The chain rule through time multiplies one Jacobian for each step,

    d loss(t)   d loss(t)    d h(t)           d h(t-k+1)
    --------- = --------- . -------- . ... . -----------
    d h(t-k)     d h(t)     d h(t-1)          d h(t-k)

so the norm shrinks or grows by about the same factor at every step: gradients vanish or explode.

Source: Bengio, Simard and Frasconi (1994), Learning long-term dependencies with gradient descent is
difficult; Pascanu, Mikolov and Bengio (2013), On the difficulty of training recurrent neural
networks, arXiv:1211.5063.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from charlm.cells.base import State
from charlm.config import ModelConfig, TrainConfig
from charlm.data.tokenizer import Ids
from charlm.files import ProgressCallback, no_progress
from charlm.model.device import torch_threads
from charlm.model.language_model import CharLM
from charlm.tensor_file import Tensors

DISTANCE = 100  # characters back
PLACES = 16  # of a text, over which norms are averaged
WARM_UP = 100  # characters read before
REST = 0.01  # share of a norm at which it is taken for vanished
WINDOWS = 2  # of the size that training used, for the norm of the whole gradient


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The norm of the gradient by distance, for one array of the state of one layer.

    Attributes:
        layer: from 1 on.
        array: its name.
        trained: mean norm of d loss(t) / d array(t-k), (K,), k from 0 on.
        untrained: the same for the net before its training.
    """

    layer: int
    array: str
    trained: NDArray[np.float64]
    untrained: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """What the bound on the gradient does to steps of training.

    Attributes:
        bound: on the norm of the whole gradient; 0 is none.
        norms: of the gradient of some windows, for the trained net.
        untrained_norms: for the net before its training.
    """

    bound: float
    norms: NDArray[np.float64]
    untrained_norms: NDArray[np.float64]

    @property
    def clipped(self) -> float:
        """The share of the windows whose gradient is clipped."""
        return float((self.norms > self.bound).mean()) if self.bound else 0.0

    @property
    def factor(self) -> float:
        """What clipping multiplies the gradient by, in the mean."""
        if not self.bound:
            return 1.0
        return float(np.minimum(1.0, self.bound / np.maximum(self.norms, 1e-12)).mean())


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """How gradients reach back.

    Attributes:
        flows: one for each layer and array of the state.
        clipping: what the bound on the gradient does.
    """

    flows: tuple[Flow, ...]
    clipping: Clipping

    @property
    def half_distance(self) -> float | None:
        """That of the output of the top layer, trained; see :func:`half_distance`."""
        top = max(flow.layer for flow in self.flows)
        return half_distance(next(flow.trained for flow in self.flows if flow.layer == top))


def half_distance(norms: NDArray[np.float64]) -> float | None:
    """Return over how many characters the norm halves, in the mean.

    Measured from one character back, the first place behind a step of the recurrence, to where the
    norm stays below ``REST`` of what it was there, or to the largest distance measured. None if the
    norm does not fall.

    >>> half_distance(np.array([5.0, 8.0, 4.0, 2.0, 1.0, 0.5]))
    1.0
    """
    if len(norms) < 3 or not norms[-1] < norms[1]:
        return None
    above = np.flatnonzero(norms >= REST * norms[1])
    end = min(int(above[-1]) + 1, len(norms) - 1)
    fallen = np.log2(norms[1] / max(float(norms[end]), 1e-300))
    return round(float((end - 1) / fallen), 1)


def measure_gradients(
    config: ModelConfig,
    weights: Tensors,
    ids: Ids,
    training: TrainConfig,
    *,
    on_progress: ProgressCallback = no_progress,
) -> Gradients:
    """Measure how far gradients reach back on a text.

    Args:
        config: what the net computes.
        weights: its parameters by name.
        ids: the text (N,), N >= 2.
        training: how it was trained; its seed gives the net before the training.
        on_progress: progress callback, told 1 for each of four parts.
    """
    vocab_size = len(weights["head.bias"])
    nets = [CharLM(config, vocab_size, seed=training.seed) for _ in range(2)]
    nets[0].load_weights(weights)
    for net in nets:
        net.eval()
    flows, norms = [], []
    with torch_threads(1):  # steps this small gain little from more, and wait on a busy machine
        for net in nets:
            flows.append(gradient_norms(net, ids))
            on_progress(1)
        for net in nets:
            norms.append(whole_norms(net, ids, training))
            on_progress(1)
    names = list(config.cell.state_shapes(config.hidden_size))
    return Gradients(
        flows=tuple(
            Flow(layer=k + 1, array=name, trained=flows[0][k][i], untrained=flows[1][k][i])
            for k in range(config.num_layers)
            for i, name in enumerate(names)
        ),
        clipping=Clipping(bound=training.grad_clip, norms=norms[0], untrained_norms=norms[1]),
    )


def unrolled(net: CharLM, x: Tensor, state: State) -> tuple[list[list[State]], Tensor]:
    """Run the equations of a net, and keep the state of each layer after each step.

    Args:
        net: the model.
        x: embedded characters (B, T, E).
        state: before them, (L, B, ...).

    Returns:
        The states of the recurrent layers, [t][layer] -> arrays (B, ...), and the logits (B, V)
        after the last step.
    """
    config, cell = net.config, net.config.cell
    layers = [dict(layer.named_parameters()) for layer in net.backbone.layers]
    states = config.layer_states(state)
    kept, outputs = [], []
    for t in range(x.shape[1]):
        y = x[:, t]
        for k, w in enumerate(layers[: config.num_layers]):
            states[k] = cell.step(torch, cell.project(y, w), states[k], w)
            y = config.passed_on(torch, k, y, states[k][0])
        kept.append(states[: config.num_layers])
        outputs.append(y)
    y = torch.stack(outputs, 1)
    for k in range(config.num_layers, len(layers)):  # the attention, of all steps at once
        found, _ = net.backbone.layers[k](y, states[k], 0.0, None)
        y = config.passed_on(torch, k, y, found)
    return kept, net.head(y[:, -1])


def gradient_norms(
    net: CharLM, ids: Ids, *, distance: int = DISTANCE, places: int = PLACES
) -> list[list[NDArray[np.float64]]]:
    """Return the mean norm of d loss(t) / d array(t-k), by layer and array, (K,) each.

    Args:
        net: the model.
        ids: a text (N,).
        distance: the most steps back, fewer on a short text (K).
        places: how many characters are predicted, evenly spread over the text.
    """
    distance = min(distance, len(ids) - 1)
    warm_up = min(WARM_UP, len(ids) - 1 - distance)
    starts = np.linspace(0, len(ids) - 1 - distance - warm_up, places).astype(np.intp)
    window = torch.from_numpy(
        ids[np.unique(starts)[:, None] + np.arange(warm_up + distance + 1)].astype(np.int64)
    )
    state = net.initial_state(len(window))
    if warm_up:
        with torch.no_grad():
            _, state = net(window[:, :warm_up], state)
    gradients = state_gradients(net, window[:, warm_up:], state)
    norms = [[list(map(_norm, layer)) for layer in step] for step in reversed(gradients)]
    return [
        [np.array([step[k][i] for step in norms]) for i in range(len(norms[0][0]))]
        for k in range(net.config.num_layers)
    ]


def state_gradients(net: CharLM, window: Tensor, state: State) -> list[list[State]]:
    """Return d loss / d state after each character, for the loss of the last character.

    Args:
        net: the model.
        window: characters (B, T + 1), of which the last one is predicted.
        state: before them, (L, B, ...).

    Returns:
        By step and layer, [T][L], arrays (B, ...) as in the state. That of an array from which
        another one of the same step follows, as h from the c of an LSTM, counts both ways.
    """
    state = tuple(s.detach().requires_grad_() for s in state)
    kept, logits = unrolled(net, net.embedding(window[:, :-1]).detach(), state)
    loss = cross_entropy(logits, window[:, -1], reduction="sum")
    arrays = [array for step in kept for layer in step for array in layer]
    gradients = torch.autograd.grad(loss, arrays, allow_unused=True)
    found = iter(
        torch.zeros_like(array) if gradient is None else gradient
        for array, gradient in zip(arrays, gradients, strict=True)
    )
    return [[tuple(next(found) for _ in layer) for layer in step] for step in kept]


def _norm(gradient: Tensor) -> float:
    """Return the mean over lanes of the norm of a gradient (B, ...)."""
    return float(gradient.flatten(1).double().norm(dim=1).mean())


def whole_norms(net: CharLM, ids: Ids, training: TrainConfig) -> NDArray[np.float64]:
    """Return the norm of the gradient of all parameters for some windows of a text.

    Windows are of the size that training used, or as large as the text allows; they begin in the
    initial state.
    """
    length = min(training.seq_length, len(ids) - 1)
    lanes = max(1, min(training.batch_size, (len(ids) - 1) // length))
    norms = []
    for number in range(WINDOWS):
        last = len(ids) - 1 - length
        offset = number * length // WINDOWS
        starts = np.minimum(np.linspace(0, last, lanes).astype(np.intp) + offset, last)
        window = torch.from_numpy(ids[starts[:, None] + np.arange(length + 1)].astype(np.int64))
        logits, _ = net(window[:, :-1], net.initial_state(lanes))
        loss = cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
    return np.array(norms)
