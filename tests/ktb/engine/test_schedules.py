"""Schedules of the learning rate: values at their corners, and beside those of PyTorch and timm."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from ktb.engine.schedules import Constant, Cosine, Poly


def test_poly_at_its_corners() -> None:
    factor = [Poly(10).factor(s, epochs=400, steps_per_epoch=198) for s in range(400 * 198)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[990] == pytest.approx(0.55)  # half of the warm-up
    assert factor[1980] == 1.0
    assert factor[-1] == pytest.approx((1 - (79199 - 1980) / (401 * 198 - 1980)) ** 0.9)
    assert all(a >= b for a, b in pairwise(factor[1980:]))


@pytest.mark.parametrize(("schedule", "end"), [(Poly(10), 0.0), (Cosine(10), 0.0), (Constant(10), 1.0)])
def test_a_training_shorter_than_its_warmup_stays_finite(schedule: Poly, end: float) -> None:
    assert schedule.factor(5, epochs=1, steps_per_epoch=2) == pytest.approx(0.1 + 0.9 * 5 / 20)
    assert schedule.factor(99, epochs=1, steps_per_epoch=2) == end


def test_cosine_is_pytorchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = CosineAnnealingLR(optimizer, T_max=30, eta_min=0.2)
    for step in range(31):
        ours = Cosine(min_ratio=0.2).factor(step, epochs=3, steps_per_epoch=10)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        schedule.step()


def test_cosine_with_warmup_is_timms() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = CosineLRScheduler(
        optimizer, t_initial=25, warmup_t=5, warmup_lr_init=0.1, warmup_prefix=True, t_in_epochs=False
    )
    for step in range(30):
        schedule.step_update(step)
        ours = Cosine(warmup_epochs=0.5, warmup_ratio=0.1).factor(step, epochs=3, steps_per_epoch=10)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step


@pytest.mark.parametrize("schedule", [Poly(2), Cosine(2, min_ratio=0.1), Constant(2)])
def test_the_share_of_the_epoch_decides(schedule: Poly) -> None:
    for quarter in range(4 * 10):
        few, many = (schedule.factor(quarter * n, epochs=10, steps_per_epoch=4 * n) for n in (1, 25))
        assert few == pytest.approx(many, rel=1e-12)
