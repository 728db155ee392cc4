"""The optimiser of what is trained: its parameters, how it steps, and where its schedule stands after a restart."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, OneCycleLR, StepLR

from ktb.engine.optim import Optimisation, SteppedSchedule, build_optimizer, published
from ktb.engine.schedules import Constant, Cosine, Poly, Schedule, TorchSchedule

EPOCHS, STEPS = 3, 4


def test_one_group_with_decay_on_everything_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    model[0].weight.requires_grad_(False)
    optimizer, _ = build_optimizer(model, published(0.1, 0.01), epochs=2, steps_per_epoch=3)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == 3
    assert group["weight_decay"] == 0.01
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    assert isinstance(optimizer, torch.optim.AdamW)


class Shares(nn.Module):
    """A model whose PEFT method gives a part of the backbone a share of the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
        self.peft = self

    def lr_factors(self, backbone: nn.Module) -> dict[str, float]:
        return {"weight": 0.1}


@pytest.mark.parametrize(
    "schedule",
    [Poly(1), Cosine(1), TorchSchedule(OneCycleLR, {"max_lr": None, "total_steps": None}, "step")],
)
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.NAdam])
def test_shares_of_the_learning_rate(schedule: Schedule, kind: type[Optimizer]) -> None:
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    config = Optimisation(partial(kind, lr=0.5, **settings), schedule)
    optimizer, stepped = build_optimizer(Shares(), config, epochs=EPOCHS, steps_per_epoch=STEPS)
    for _ in range(6):
        new, shared = (group["lr"] for group in optimizer.param_groups)
        assert shared == pytest.approx(0.1 * new, rel=1e-9)
        optimizer.step()
        stepped.step()
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 1]


def stepped(optimizer: Optimizer, model: nn.Module, seed: int) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_one_call_for_all_parameters_steps_as_one_for_each(kind: type[Optimizer]) -> None:
    """On a CPU; also in a training that goes on from a checkpoint of a version, or a machine, that did otherwise."""
    settings: dict[str, Any] = {"weight_decay": 0.01} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    config = Optimisation(partial(kind, lr=0.1, **settings), Poly(10))
    torch.manual_seed(0)
    ours = nn.Linear(3, 2).double()
    plain = nn.Linear(3, 2).double()
    plain.load_state_dict(ours.state_dict())
    optimizer, _ = build_optimizer(ours, config, epochs=2, steps_per_epoch=3)
    reference = kind(plain.parameters(), lr=optimizer.param_groups[0]["lr"], fused=False, **settings)  # type: ignore[call-arg]
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


def test_how_it_steps_is_left_to_the_user() -> None:
    config = Optimisation(partial(torch.optim.AdamW, lr=0.1, foreach=True), Constant())
    optimizer, _ = build_optimizer(nn.Linear(2, 2), config, epochs=1, steps_per_epoch=1)
    assert (optimizer.param_groups[0]["foreach"], optimizer.param_groups[0]["fused"]) == (True, None)


SCHEDULES: dict[str, tuple[Schedule | TorchSchedule, int]] = {
    "poly": (Poly(1), 1),
    "cosine": (Cosine(0.5), 1),
    "constant": (Constant(2), 1),
    "step": (TorchSchedule(StepLR, {"step_size": 2, "gamma": 0.1}), STEPS),
    "exponential": (TorchSchedule(ExponentialLR, {"gamma": 0.9}, "step"), 1),
    "annealing": (TorchSchedule(CosineAnnealingLR, {"T_max": None}, "step"), 1),
    "annealing by epoch": (TorchSchedule(CosineAnnealingLR, {"T_max": None}), STEPS),
    "onecycle": (TorchSchedule(OneCycleLR, {"max_lr": None, "total_steps": None}, "step"), 1),
}
"""Schedule, and how many optimiser steps one of its own is."""


def built(name: str, lr: float = 0.3) -> tuple[nn.Module, Optimizer, SteppedSchedule]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    config = Optimisation(partial(torch.optim.AdamW, lr=lr, weight_decay=0.01), SCHEDULES[name][0])
    return model, *build_optimizer(model, config, epochs=EPOCHS, steps_per_epoch=STEPS)


def run(model: nn.Module, optimizer: Optimizer, schedule: SteppedSchedule, steps: range) -> list[Any]:
    seen = []
    for seed in steps:
        stepped(optimizer, model, seed)
        schedule.step()
        (group,) = optimizer.param_groups
        seen.append((group["lr"], tuple(group["betas"]), [p.tolist() for p in model.parameters()]))
    return seen


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_restart_changes_nothing_to_the_last_bit(name: str) -> None:
    expected = run(*built(name), range(EPOCHS * STEPS))
    for stop in (1, 4, 7):
        model, optimizer, schedule = built(name)
        run(model, optimizer, schedule, range(stop))
        kept = model.state_dict(), optimizer.state_dict(), schedule.state_dict()
        model, optimizer, schedule = built(name)
        for restored, state in zip((model, optimizer, schedule), kept, strict=True):
            restored.load_state_dict(state)
        schedule.resume()
        assert run(model, optimizer, schedule, range(stop, EPOCHS * STEPS)) == expected[stop:], stop


@pytest.mark.parametrize("name", SCHEDULES)
def test_after_a_restart_the_configuration_of_today_holds(name: str) -> None:
    """The rates are those of a training that had the new settings from its start."""
    expected = run(*built(name, lr=0.07), range(EPOCHS * STEPS))
    model, optimizer, schedule = built(name)
    run(model, optimizer, schedule, range(6))
    kept = optimizer.state_dict(), schedule.state_dict()
    model, optimizer, schedule = built(name, lr=0.07)
    optimizer.load_state_dict(kept[0])
    schedule.load_state_dict({**kept[1], "base_lrs": [0.3], "lr_lambdas": [None]})  # as older versions wrote it
    schedule.resume()
    assert [seen[:2] for seen in run(model, optimizer, schedule, range(6, 12))] == [seen[:2] for seen in expected[6:]]


@pytest.mark.parametrize("name", [name for name, (kind, _) in SCHEDULES.items() if isinstance(kind, TorchSchedule)])
def test_a_schedule_of_pytorch_is_stepped_as_it_counts(name: str) -> None:
    kind, every = SCHEDULES[name]
    assert isinstance(kind, TorchSchedule)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.3, weight_decay=0.01)
    length = EPOCHS * STEPS // every
    whole = {"max_lr": 0.3, "total_steps": length, "T_max": length}
    plain: LRScheduler = kind.kind(optimizer, **{k: whole.get(k) if v is None else v for k, v in kind.settings.items()})
    rates = []
    for step in range(1, EPOCHS * STEPS + 1):
        optimizer.step()
        if step % every == 0:
            plain.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert [seen[0] for seen in run(*built(name), range(EPOCHS * STEPS))] == rates
    assert len(set(rates)) > 1


class Learner(torch.optim.SGD):
    """Keeps what it has learned in its groups, as optimisers without a learning rate do."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["distance"] = group.get("distance", 0) + 1
        super().step(closure)


def test_what_an_optimiser_has_learned_is_no_setting() -> None:
    config = Optimisation(partial(Learner, lr=0.1), Constant())
    optimizer, schedule = build_optimizer(nn.Linear(3, 2).double(), config, epochs=1, steps_per_epoch=9)
    optimizer.load_state_dict({**optimizer.state_dict(), "param_groups": [
        {**optimizer.state_dict()["param_groups"][0], "distance": 5, "momentum": 0.9}
    ]})  # fmt: skip
    schedule.resume()
    assert (optimizer.param_groups[0]["distance"], optimizer.param_groups[0]["momentum"]) == (5, 0)


def test_an_optimiser_without_learning_rate() -> None:
    class Odd(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

    with pytest.raises(ValueError, match="Odd has no learning rate lr that a schedule could change"):
        build_optimizer(nn.Linear(2, 2), Optimisation(Odd, Constant()), epochs=1, steps_per_epoch=1)
