"""The optimizer, the learning rate step by step, and the scale of the loss in float16."""

import inspect
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config import MOST_LOGIT_SCALE, TrainConfig, has_basis
from charlm.model.device import torch_threads

FINAL_RATE = 0.01  # what the rate falls to, as a share of its peak
# The numbers of float16 go from 6e-8 to 65,504: the gradients by the logits, of about 1e-5, become
# 1e-3, and there is room for a norm of 512. Where that is too much or too little, it is changed.
FLOAT16_SCALE = 128.0
# Of SOAP: the decay of the mean of covariances, and steps between two corrections of a basis.
COVARIANCE_BETA, BASIS_EVERY = 0.95, 10


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of ``step``, counted from 0: a rise, a plateau, a straight fall to near 0.

    Where a run in minutes has moved its end, the rate falls from where it is then to the new end.

    Source: Hu et al. (2024), MiniCPM, arXiv:2404.06395, section 4; with a plateau, the end of the
    run need not be known before the rate begins to fall.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    left = 1.0  # of the fall: 1 on the plateau, 0 at the end
    decay = [*config.decay, (math.inf, 0)]
    for (start, end), (following, _) in itertools.pairwise(decay):
        if step > start:
            left *= (end - min(step, following)) / (end - start)
    return config.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * left)


def logit_scale(readings: float, config: TrainConfig) -> float:
    """Return the factor of the logits in the loss after the text was read so often.

    A model that reads a text again and again becomes surer of its predictions than it is right. One
    whose logits are multiplied in training, and not afterwards, is less sure by that factor.

    Source: Guo et al. (2017), arXiv:1706.04599, who divide the logits after training, by what is
    best on text held out; with a factor in training, nothing held out is looked at.
    """
    return min(MOST_LOGIT_SCALE, 1 + config.logit_growth * math.floor(readings))


# The methods of torch.optim import torch's compiler when they are first called. It is not used, and
# its import takes as long as that of torch. What their decorators have wrapped does without.
_adamw_step = inspect.unwrap(torch.optim.AdamW.step)
_sgd_step = inspect.unwrap(torch.optim.SGD.step)


class _Uncompiled(torch.optim.Optimizer):
    """An optimizer that does not import the compiler."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(_Uncompiled, torch.optim.AdamW):
    """AdamW; weight decay is decoupled.

    Source: Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Do one update."""
        return _adamw_step(self, closure)


class SGDW(_Uncompiled, torch.optim.SGD):
    """SGD with momentum and decoupled weight decay.

    torch's own adds the decay to the gradient, from where it goes on through the momentum. Here the
    weights shrink by ``lr * weight_decay`` in every step, whatever the gradient was.

    Source: Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 1.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Do one update."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            for parameter in group["params"] if decay else ():
                parameter.mul_(1 - group["lr"] * decay)
            group["weight_decay"] = 0.0
        try:
            return _sgd_step(self, closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


class SOAP(_Uncompiled):
    """Adam in the basis in which the columns of the gradient are uncorrelated; one-sided.

    Of a matrix W (R, C) with gradient G, and with U the update that Adam makes of what it is given,

        S = 0.95 S + 0.05 G^T G                 (C, C)
        Q = the eigenvectors of S               (C, C)
        W = W - rate * (U(G Q) Q^T + weight_decay * W)

    Q is corrected every few steps, by one step of orthogonal iteration. The mean of gradients that
    Adam keeps goes over to the new basis. What has more columns than ``config.MOST_COLUMNS``, and
    all that is no matrix, is updated as by AdamW.

    Source: Vyas et al. (2024), SOAP: improving and stabilizing Shampoo using Adam,
    arXiv:2409.11321, with a basis of one side alone; Adam of Kingma and Ba (2015), arXiv:1412.6980.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Do one update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._update(parameter.grad, self.state[parameter], group)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"])

    def _update(self, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """Return the step that goes against a gradient, and note the gradient."""
        beta1, beta2 = group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
            if has_basis(grad.shape):
                state["covariance"] = (grad.T @ grad).float()
                with torch_threads(1):  # the last bits depend on their number
                    _, vectors = torch.linalg.eigh(state["covariance"].cpu())
                state["basis"] = vectors.contiguous().to(grad.device)
        state["step"] = state["step"].cpu() + 1  # where reading it does not wait for a GPU
        step, basis = int(state["step"]), state.get("basis")
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        seen = grad if basis is None else (grad @ basis).float()
        mean.lerp_(seen, 1 - beta1)
        square.mul_(beta2).addcmul_(seen, seen, value=1 - beta2)
        scale = square.div(1 - beta2**step).sqrt_().add_(group["eps"]).mul_(1 - beta1**step)
        update = mean / scale
        if basis is None:
            return update
        update = (update @ basis.T).float()
        state["covariance"].lerp_((grad.T @ grad).float(), 1 - COVARIANCE_BETA)
        if step % BASIS_EVERY == 0:
            with torch.autocast(grad.device.type, enabled=False), torch_threads(1):
                vectors, _ = torch.linalg.qr((state["covariance"] @ basis).cpu())
                state["basis"] = vectors.contiguous().to(grad.device)
                state["exp_avg"] = mean @ (basis.T @ state["basis"])
        return update


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW, SOAP or SGD with momentum. Weight decay is decoupled, and on matrices only.

    With windows as small as ours, means over few steps (low betas) learn faster: see the log in
    tests/benchmarks/results.

    Source: Loshchilov and Hutter (2019), Decoupled weight decay regularization, arXiv:1711.05101.
    """
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return SGDW(groups, lr=config.learning_rate, momentum=config.momentum)
    betas = config.beta1, config.beta2
    if config.optimizer == "soap":
        return SOAP(groups, lr=config.learning_rate, betas=betas)
    return AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def make_scaler(device: torch.device, *, enabled: bool) -> torch.amp.GradScaler:
    """Return what scales the loss in float16 and, if not ``enabled``, does nothing.

    A step with an infinite gradient is left out and the scale halved; after 2,000 steps without one
    it is doubled.

    Source: Micikevicius et al. (2018), Mixed precision training, arXiv:1710.03740.
    """
    return torch.amp.GradScaler(device.type, init_scale=FLOAT16_SCALE, enabled=enabled)


def scale_of(scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """Return the ``checkpoint.Counters`` of a scaler; none of one that does nothing."""
    found = scaler.state_dict()
    names = {"loss_scale": "scale", "scaled_steps": "_growth_tracker"}
    return {name: found[theirs] for name, theirs in names.items()} if found else {}


def restore_scale(scaler: torch.amp.GradScaler, loss_scale: float, scaled_steps: int) -> None:
    """Let a scaler go on from the counters of a checkpoint; 0 is the scale at the beginning."""
    if scaler.is_enabled() and loss_scale:
        counters = {"scale": loss_scale, "_growth_tracker": scaled_steps}
        scaler.load_state_dict(scaler.state_dict() | counters)
