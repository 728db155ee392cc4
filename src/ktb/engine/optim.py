"""Optimiser and learning-rate schedule of the published recipe (docs/method.md#recipe)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (0.9, 0.999, 1e-8), weight decay on all; warm-up then polynomial decay.

    Args:
        lr: peak learning rate.
        weight_decay: on every trained parameter.
        warmup_epochs: epochs of linear warm-up, starting at `warmup_ratio · lr`.
        power: of the polynomial decay.
    """

    lr: float
    weight_decay: float
    warmup_epochs: float = 10
    warmup_ratio: float = 0.1
    power: float = 0.9


def poly_with_warmup(step: int, *, epochs: int, steps_per_epoch: int, config: OptimConfig) -> float:
    """Factor on the peak learning rate at iteration `step` (from 0).

    The published schedule ends one epoch after training does: total = (epochs + 1) · steps_per_epoch.

    Args:
        step: iteration, from 0.
        epochs: of the whole training.
        steps_per_epoch: optimiser steps.
        config: warm-up and power.
    """
    total = (epochs + 1) * steps_per_epoch
    warmup = int(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.warmup_ratio + (1 - config.warmup_ratio) * step / warmup
    return max(0.0, 1 - (step - warmup) / max(1, total - warmup)) ** config.power


def build_optimizer(
    model: nn.Module, config: OptimConfig, *, epochs: int, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over what is trained, and its schedule, to be stepped once per iteration.

    Args:
        model: its parameters that require gradients are trained.
        config: learning rate, weight decay and schedule.
        epochs: of the whole training.
        steps_per_epoch: optimiser steps.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = parameter_groups(model, config.lr)
    # One call for all parameters instead of a dozen for each. On a GPU PyTorch chooses; there it does not go together
    # with the clipping of scaled gradients.
    fused = True if all(p.device.type == "cpu" for p in trained) else None
    optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)

    def keep_form(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        # How the step is computed belongs to this machine and version, not to those that wrote the checkpoint.
        return {
            **state,
            "param_groups": [{**group, "fused": fused, "foreach": None} for group in state["param_groups"]],
        }

    optimizer.register_load_state_dict_pre_hook(keep_form)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: poly_with_warmup(step, epochs=epochs, steps_per_epoch=steps_per_epoch, config=config),
    )
    return optimizer, schedule


def parameter_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Trained parameters by learning rate: what is new first, then what a PEFT method gives a share of it.

    Args:
        model: a `KTBSegmentor`, or any other module, whose parameters all have the same rate.
        lr: of what is new.
    """
    factors: Mapping[str, float] = {}
    if (peft := getattr(model, "peft", None)) is not None:
        factors = {f"backbone.{name}": factor for name, factor in peft.lr_factors(model.backbone).items()}
    by_factor: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_factor.setdefault(factors.get(name, 1.0), []).append(parameter)
    return [{"params": found, "lr": factor * lr} for factor, found in by_factor.items() if found]


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What each parameter group was configured with: learning rate, weight decay and all else but the parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def apply_settings(
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    settings: Sequence[Mapping[str, Any]],
) -> None:
    """Let a restored optimiser and its schedule follow the configuration, not what the checkpoint says of it.

    Restoring brings back the settings of the time of saving along with moments and position. The learning rate becomes
    that of the schedule's position; nothing changes, to the last bit, when nothing was configured anew.

    Args:
        settings: `settings_of` the optimiser as it was built, with its schedule.
    """
    schedule.base_lrs = [group["initial_lr"] for group in settings]
    # A schedule has no public way to say at which rate it stands.
    schedule._last_lr = [
        base * factor(schedule.last_epoch) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, own, lr in zip(optimizer.param_groups, settings, schedule._last_lr, strict=True):
        group.update({**own, "lr": lr})
