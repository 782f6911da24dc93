"""An attention head over what the recurrent layers put out before."""

from dataclasses import dataclass
from typing import Any

from charlm.cells.base import Array, Cell, Parameter, Shape, State, Weights, split
from charlm.settings import setting

SIZE = 64  # numbers of a query, a key and a value (D)


@dataclass(frozen=True, kw_only=True)
class Attention(Cell):
    """A layer that looks up what followed where things were like now.

        q, k, v  = W x                                  query, key and value of this input
        a        = softmax(K q / sqrt(D) + b)           over the last inputs, N of them
        y        = V' a

    K (N, D) are the keys of the N inputs before this one, V' (N, D) the values of as many that end
    with this one. So a key stands for what was there before a character came, the value beside it
    for what was there then. b (N,) tells how much it counts how long ago that is, the oldest first.
    Where there is no input yet, keys and values are 0.

    x (B, H), W (3D, H), y (B, D). It is put on top of the recurrent layers, and the head of the
    model reads y beside their output.

    Source: a single head, as in Merity (2019), Single headed attention RNN, arXiv:1911.11423. That
    a key is one character older than its value is what Olsson et al. (2022), In-context learning
    and induction heads, arXiv:2209.11895, found that transformers need two layers for.
    """

    window: int = setting(512, "inputs that are looked at (N)", minimum=1)

    def parameters(self, input_size: int, hidden_size: int) -> dict[str, Parameter]:
        """See :class:`charlm.cells.base.Cell`."""
        return {
            "weight": Parameter((3 * SIZE, input_size), ("xavier_uniform",) * 3),
            "bias": Parameter((self.window,)),
        }

    def state_shapes(self, hidden_size: int) -> dict[str, Shape]:
        """See :class:`charlm.cells.base.Cell`; its output is (D,)."""
        of_all = (self.window, SIZE)
        return {"y": (SIZE,), "keys": of_all, "values": of_all}

    def project(self, x: Array, w: Weights) -> Array:
        """Return q, k, v: (..., H) -> (..., 3D)."""
        return x @ w["weight"].T

    def step(self, xp: Any, projected: Array, state: State, w: Weights) -> State:
        """See the class."""
        _, keys, values = state  # (B, N, D)
        q, k, v = split(projected, 3)
        values = xp.concatenate([values[:, 1:], v[:, None]], 1)
        scores = (keys @ q[..., None])[..., 0] * SIZE**-0.5 + w["bias"]  # (B, N)
        a = xp.exp(scores - xp.amax(scores, -1, keepdims=True))
        y = (a[:, None] @ values)[:, 0] / a.sum(-1, keepdims=True)
        return y, xp.concatenate([keys[:, 1:], k[:, None]], 1), values
