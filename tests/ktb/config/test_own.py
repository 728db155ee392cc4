"""A class of the user's own in the place of a group's member has its own settings, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from ktb.config.overrides import overridden
from ktb.config.own import settle_own_classes
from ktb.errors import PartError
from ktb.models.fusion.dscf import DSCF
from tests.ktb.config.composed import composed


class Mine:
    def __init__(self, channels: Any, num_classes: int, *, depth: int = 3, width: int = 4) -> None: ...


class Finer(DSCF):
    def __init__(self, *, alpha: float = 1.0, **rest: Any) -> None: ...


def settled(*overrides: str) -> Any:
    cfg = composed(*overrides, "run_dir=r")
    settle_own_classes(cfg, overridden(overrides))
    return OmegaConf.to_container(cfg, resolve=True)


def test_settings_of_the_member_are_left_out_unless_the_class_has_them() -> None:
    head = settled(f"head._target_={__name__}.Mine", "+head.depth=7", "head.side.width=9")["head"]
    assert head == {"name": "Mine", "_target_": f"{__name__}.Mine", "width": 128, "depth": 7, "side": {"width": 9}}
    fusion = settled(f"fusion._target_={__name__}.Finer", "+fusion.alpha=2", "fusion.name=finer")["fusion"]
    assert fusion.keys() == {"name", "_target_", "alpha", "ratio", "point_stride", "groups", "heads", "table"}
    assert fusion["name"] == "finer"
    wrong = settled(f"fusion._target_={__name__}.Mine", "fusion.ratio=1")["fusion"]
    assert wrong == {"name": "Mine", "_target_": f"{__name__}.Mine", "ratio": 1}  # what the user has written stays


def test_so_are_those_of_another_optimiser_and_schedule() -> None:
    cfg = settled("optim._target_=torch.optim.RMSprop", "+optim.momentum=0.5", "optim.lr=0.1")
    assert cfg["optim"] == {
        "name": "RMSprop", "_target_": "torch.optim.RMSprop", "lr": 0.1, "weight_decay": 0.01, "eps": 1e-8,
        "momentum": 0.5,
    }  # fmt: skip
    assert cfg["schedule"]["name"] == "poly"
    target = "torch.optim.lr_scheduler.ExponentialLR"
    cfg = settled(f"schedule._target_={target}", "+schedule.gamma=0.9", "+schedule.interval=epoch")
    assert cfg["schedule"] == {"name": "ExponentialLR", "_target_": target, "gamma": 0.9, "interval": "epoch"}


def test_a_backbone_keeps_what_the_rest_asks_for() -> None:
    cfg = settled(f"backbone._target_={__name__}.Mine", "backbone.weights=random")
    assert cfg["backbone"] == {
        "name": "Mine", "_target_": f"{__name__}.Mine", "timm_name": None, "weights": "random", "head_dim": 128,
        "side_head_dim": 64, "lr": 2e-3,
    }  # fmt: skip
    assert cfg["head"]["width"] == 128


def test_members_are_as_they_are() -> None:
    before = OmegaConf.to_container(composed("fusion=cmx", "run_dir=r"), resolve=True)
    assert settled("fusion=cmx") == before
    with pytest.raises(PartError, match="there is no module my_missing_lab"):
        settled("fusion._target_=my_missing_lab.Mine")
