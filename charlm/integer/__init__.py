"""The network in whole numbers: the same bits on every machine.

Floating-point numbers are exact as long as nothing has to be rounded, and what is rounded is
rounded alike everywhere, if it is a single addition, subtraction, multiplication or division. What
differs from machine to machine is the order in which a matrix product adds, and library functions
such as tanh and exp. So here

    weights are whole numbers of 8 bits times a power of two for each row,
    what goes into a matrix product is a whole number of a few bits times a power of two,
    so that every sum of a product is exact, in any order: that is checked for each model,
    tanh and exp are tables made of plain arithmetic,
    random numbers are a function of seed, sample and place in whole numbers.

All else, the elementwise operations of a cell, is plain arithmetic in the order in which the cell
states it. What is drawn and scored is then a function of model, text and seed alone: of no CPU, no
library, no number of threads, and of nothing that is computed side by side.

Source: Jacob et al. (2018), Quantization and training of neural networks for efficient
integer-arithmetic-only inference, arXiv:1712.05877.
"""

from charlm.checkpoint import Checkpoint
from charlm.data.items import line_end
from charlm.inference.engine import Engine


def engine_of(checkpoint: Checkpoint) -> Engine:
    """Return the engine that computes a model: in whole numbers if it is one of them."""
    config = checkpoint.model_config
    end = line_end(checkpoint.tokenizer) if config.items else None
    if not checkpoint.exact:
        return Engine(config, checkpoint.weights, line_end=end)
    from charlm.integer.engine import ExactEngine  # whose tables others need not wait for

    return ExactEngine(config, checkpoint.weights, line_end=end)
