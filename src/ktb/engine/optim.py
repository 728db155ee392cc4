"""Optimiser and learning-rate schedule of the published recipe (METHOD §7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (0.9, 0.999, 1e-8), one parameter group, weight decay on all; warm-up then polynomial decay.

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
    """
    total = (epochs + 1) * steps_per_epoch
    warmup = int(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.warmup_ratio + (1 - config.warmup_ratio) * step / warmup
    return max(0.0, 1 - (step - warmup) / max(1, total - warmup)) ** config.power


def build_optimizer(
    model: nn.Module, config: OptimConfig, *, epochs: int, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over what is trained, and its schedule, to be stepped once per iteration."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: poly_with_warmup(step, epochs=epochs, steps_per_epoch=steps_per_epoch, config=config),
    )
    return optimizer, schedule
