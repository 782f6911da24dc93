"""SOAP: what it does to a matrix does not depend on the axes in which its columns are written."""

import numpy as np
import pytest
import torch
from torch import nn

from charlm.config import TrainConfig, training
from charlm.training.optim import AdamW, make_optimizer

R, C, STEPS = 7, 5, 43  # rows, columns, updates: the basis is corrected four times


def gradients(seed=1):
    """Return gradients (STEPS, R, C) whose columns are correlated, as those of inputs are."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(STEPS, R, C)) @ rng.normal(size=(C, C))


def updated(optimizer, start, grads):
    """Return a parameter after an update by each of some gradients, and its optimizer."""
    model = nn.ParameterList([torch.from_numpy(start).float()])
    settings = {"learning_rate": 0.01, "weight_decay": 0.0, "optimizer": optimizer}
    made = make_optimizer(model, TrainConfig(**settings))
    for grad in grads:
        model[0].grad = torch.from_numpy(grad).float()
        made.step()
    return model[0].detach().numpy(), made


def rotated_difference(optimizer):
    """Return how far rotating the columns, then training is from training, then rotating."""
    rng = np.random.default_rng(2)
    rotation, _ = np.linalg.qr(rng.normal(size=(C, C)))
    start = rng.normal(size=(R, C))
    one, _ = updated(optimizer, start, gradients())
    other, _ = updated(optimizer, start @ rotation, gradients() @ rotation)
    return np.abs(one @ rotation - other).max()


def test_the_axes_of_the_columns_do_not_matter():
    assert rotated_difference("soap") < 1e-3
    assert rotated_difference("adamw") > 0.05  # to whom they do


@pytest.mark.parametrize("shape", [(R,), (R, C)])
def test_what_has_no_basis_is_updated_as_by_adamw(monkeypatch, shape):
    monkeypatch.setattr(training, "MOST_COLUMNS", C - 1)
    grads = gradients().reshape(STEPS, -1)[:, : np.prod(shape)].reshape(STEPS, *shape)
    (one, made), (other, theirs) = (
        updated(kind, np.ones(shape), grads) for kind in ("soap", "adamw")
    )
    assert isinstance(theirs, AdamW)
    assert not isinstance(made, AdamW)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_the_basis_is_that_of_the_eigenvectors():
    """Of gradients that do not change it makes their covariance diagonal."""
    grads = np.repeat(gradients()[:1], 400, axis=0)
    _, made = updated("soap", np.zeros((R, C)), grads)
    (state,) = made.state.values()
    basis, covariance = (state[name].numpy() for name in ("basis", "covariance"))
    np.testing.assert_allclose(basis.T @ basis, np.eye(C), atol=1e-5)
    np.testing.assert_allclose(covariance, grads[0].T @ grads[0], rtol=1e-3, atol=1e-3)
    turned = basis.T @ covariance @ basis
    off = turned - np.diag(np.diag(turned))
    assert np.abs(off).max() < 1e-4 * np.abs(turned).max()
