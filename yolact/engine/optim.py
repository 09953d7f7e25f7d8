"""What moves the weights: the optimiser, the learning-rate schedule, and the moving average of the
weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from data.schema import TrainConfig


def build_optimizer(
    parameters: Iterable[nn.Parameter], train: TrainConfig
) -> torch.optim.Optimizer:
    """SGD with weight decay on every parameter, as published; or AdamW, which leaves biases and
    normalisation weights undecayed.

    Both are the fused kernels: those alone can be told by a tensor, `optimizer.found_inf`, to leave
    the weights as they are, so that a bad step is skipped without asking the device. Parameters
    that need no gradient (frozen batch norm) are left out.
    """
    trained = [p for p in parameters if p.requires_grad]
    if train.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            trained,
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            fused=True,
        )
        for p in trained if train.momentum else ():
            # The fused kernel leaves these uninitialised when the very first step is skipped. From
            # zero, step one is the same sum.
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return optimizer
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=train.lr, betas=(train.momentum, 0.999), fused=True
    )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict) -> None:
    """Puts back the moments saved by optimizer.state_dict(); rates and decays stay those of the
    present config.

    Raises ValueError where the saved moments belong to other parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {i: tuple(p.shape) for i, p in enumerate(parameters)}
    misfits = [
        i
        for i, moments in saved["state"].items()
        for t in moments.values()
        if torch.is_tensor(t) and t.ndim and tuple(t.shape) != shapes.get(i)
    ]
    adamw = isinstance(optimizer, torch.optim.AdamW)
    if (
        misfits
        or len(saved["state"]) > len(parameters)
        or any(("exp_avg" in moments) != adamw for moments in saved["state"].values())
    ):
        raise ValueError(
            "the checkpoint's optimiser state belongs to another set of parameters: resume with "
            "the model, optimizer and freeze_bn that the run was started with, or start a new run "
            "with train.init_from=<checkpoint>"
        )
    optimizer.load_state_dict(
        {"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]}
    )
    # the fused kernels need the memory layout of the parameter, whatever layout was saved
    for p in parameters:
        for name, moment in optimizer.state[p].items():
            if (
                torch.is_tensor(moment)
                and moment.shape == p.shape
                and moment.stride() != p.stride()
            ):
                optimizer.state[p][name] = torch.empty_like(p).copy_(moment)


def load_scaler(scaler: torch.amp.GradScaler, saved: dict[str, Any]) -> None:
    """Puts back the loss scale saved by scaler.state_dict(). ValueError where a number in it makes
    no sense."""
    wrong = {
        key: saved.get(key)
        for key in scaler.state_dict()
        if not isinstance(saved.get(key), (int, float)) or not 0 <= saved[key] < math.inf
    }
    if wrong:
        raise ValueError(f"{', '.join(f'{key}={value}' for key, value in wrong.items())}")
    scaler.load_state_dict(saved)


def lr_factor(train: TrainConfig) -> Callable[[int], float]:
    """step -> learning rate of that (0-based) step as a fraction of train.lr: linear warm-up, then
    steps or cosine."""

    def after_warmup(step: int) -> float:
        if train.schedule == "steps":
            return train.lr_gamma ** sum(step >= drop for drop in train.lr_steps)
        length = max(1, train.iterations - train.warmup_iterations)
        progress = min(1.0, max(0, step - train.warmup_iterations) / length)
        return 0.5 * (1 + math.cos(math.pi * progress))

    def factor(step: int) -> float:
        if step >= train.warmup_iterations:
            return after_warmup(step)
        start = train.warmup_lr / train.lr
        return start + (after_warmup(step) - start) * step / train.warmup_iterations

    return factor


def build_scheduler(optimizer: torch.optim.Optimizer, train: TrainConfig) -> LambdaLR:
    """The schedule as a LambdaLR; call its step() once after every optimiser step."""
    return LambdaLR(optimizer, lr_factor(train))


def set_step(scheduler: LambdaLR, step: int) -> None:
    """Moves a fresh schedule to `step`. It is a function of the step alone, so nothing else needs
    saving."""
    scheduler.last_epoch = step
    for group, base, factor in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(step)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


ModelT = TypeVar("ModelT", bound=nn.Module)


class Ema(Generic[ModelT]):
    """Exponential moving average of a model's weights: w <- d w + (1 - d) w_model with d =
    min(decay, (1+n)/(10+n)).

    n is the number of updates so far, so the average forgets the initial weights quickly. Buffers
    (batch-norm statistics) are copied, not averaged. `.module` is a model of its own, for
    validation.
    """

    def __init__(self, model: ModelT, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(model).requires_grad_(False)
        # on the host: a counter on the device would have to be waited for in every step
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module, unless: Tensor | None = None) -> None:
        """One update. unless: 0-d on the device; where it is not 0 the weights stay as they are."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for averaged, current in zip(
            _by_type(self.module.parameters()), _by_type(model.parameters()), strict=True
        ):
            if unless is not None:  # towards itself
                current = [
                    torch.where(unless > 0, own, new)
                    for own, new in zip(averaged, current, strict=True)
                ]
            torch._foreach_lerp_(averaged, current, 1 - decay)
        self.copy_buffers(model)
        self.updates += 1

    def copy_buffers(self, model: nn.Module) -> None:
        """Statistics and counters of batch norm, as the model has them."""
        for copied, current in zip(
            _by_type(self.module.buffers()), _by_type(model.buffers()), strict=True
        ):
            torch._foreach_copy_(copied, current)

    def restore(self, weights: dict[str, Tensor], updates: int) -> None:
        """Puts back a saved `.module.state_dict()` and the number of updates it had seen."""
        self.module.load_state_dict(weights)
        self.updates = updates


def _by_type(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The tensors in one list for each type: the foreach kernels take one type at a time."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())
