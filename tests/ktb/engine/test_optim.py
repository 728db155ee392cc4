from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from ktb.engine.optim import OptimConfig, build_optimizer, poly_with_warmup


def test_schedule_at_its_corners() -> None:
    config = OptimConfig(lr=1.0, weight_decay=0.0, warmup_epochs=10)
    factor = [poly_with_warmup(s, epochs=400, steps_per_epoch=198, config=config) for s in range(400 * 198)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[990] == pytest.approx(0.55)  # half of the warm-up
    assert factor[1980] == 1.0
    assert factor[-1] == pytest.approx((1 - (79199 - 1980) / (401 * 198 - 1980)) ** 0.9)
    assert all(a >= b for a, b in pairwise(factor[1980:]))


def test_a_training_shorter_than_its_warmup_stays_finite() -> None:
    config = OptimConfig(lr=1.0, weight_decay=0.0, warmup_epochs=10)
    assert poly_with_warmup(5, epochs=1, steps_per_epoch=2, config=config) == pytest.approx(0.1 + 0.9 * 5 / 20)
    assert poly_with_warmup(99, epochs=1, steps_per_epoch=2, config=config) == 0.0


def test_one_group_with_decay_on_everything_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    model[0].weight.requires_grad_(False)
    optimizer, _ = build_optimizer(model, OptimConfig(0.1, 0.01), epochs=2, steps_per_epoch=3)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == 3
    assert group["weight_decay"] == 0.01
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    assert isinstance(optimizer, torch.optim.AdamW)


def test_one_call_for_all_parameters_steps_as_one_for_each() -> None:
    """On a CPU; also in a training that goes on from a checkpoint of a version, or a machine, that did otherwise."""
    config = OptimConfig(0.1, 0.01)

    def stepped(optimizer: torch.optim.Optimizer, model: nn.Module, seed: int) -> None:
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    ours = nn.Linear(3, 2).double()
    plain = nn.Linear(3, 2).double()
    plain.load_state_dict(ours.state_dict())
    optimizer, _ = build_optimizer(ours, config, epochs=2, steps_per_epoch=3)
    reference = torch.optim.AdamW(
        plain.parameters(), lr=optimizer.param_groups[0]["lr"], weight_decay=0.01, fused=False
    )
    for seed in range(2):
        stepped(optimizer, ours, seed)
        stepped(reference, plain, seed)
    resumed, _ = build_optimizer(plain, config, epochs=2, steps_per_epoch=3)
    resumed.load_state_dict(reference.state_dict())
    assert resumed.param_groups[0]["fused"] is optimizer.param_groups[0]["fused"] is True
    assert resumed.param_groups[0]["lr"] == reference.param_groups[0]["lr"]
    stepped(optimizer, ours, 2)
    stepped(resumed, plain, 2)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
