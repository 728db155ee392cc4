"""Names of classes and settings in files and on command lines of earlier versions."""

from __future__ import annotations

from importlib import import_module

import pytest
from omegaconf import OmegaConf

from ktb.config import moved
from ktb.config.checks import check
from ktb.config.moved import RENAMED, current_target, with_current_settings, with_current_targets
from tests.ktb.config.composed import composed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ktb.engine.losses.PixelLoss", "ktb.losses.pixel.PixelLoss"),
        ("ktb.engine.losses.SelfTeachingLoss", "ktb.losses.self_teaching.SelfTeachingLoss"),
        ("ktb.losses.pixel.SelfTeachingLoss", "ktb.losses.self_teaching.SelfTeachingLoss"),
        ("ktb.losses.pixel.PixelLoss", "ktb.losses.pixel.PixelLoss"),
        ("ktb.engine.metrics_file.MetricsFile", "ktb.engine.callbacks.metrics_file.MetricsFile"),
        ("my_lab.losses.Own", "my_lab.losses.Own"),
    ],
)
def test_a_name_of_any_version_is_that_of_today(old: str, new: str) -> None:
    assert current_target(old) == new
    if new.startswith("ktb."):
        module, _, name = new.rpartition(".")
        assert getattr(import_module(module), name).__module__ == module
    assert with_current_targets({"a": [{"_target_": old, "x": old}]}) == {"a": [{"_target_": new, "x": old}]}


def test_no_entry_leads_to_another_entry() -> None:
    assert not set(moved._MOVED) & set(moved._MOVED.values()) - {"ktb.losses.pixel"}


def test_older_settings_of_the_model_are_those_of_its_parts() -> None:
    older = ["model.fusion=sum", "model.prompts=false", "model.head_dim=24", "model.side_head_dim=12"]
    cfg = composed("run_dir=x", *older, "model.head_init=small")
    check(cfg)
    assert cfg.fusion == {"name": "sum", "_target_": "ktb.models.fusion.simple.PlainSum"}
    assert (cfg.peft.prompts, cfg.peft.adapters) == (False, True)
    assert (cfg.head.width, cfg.head.side.width, cfg.head.init) == (24, 12, "small")
    assert {cfg.model[key] for key in ("fusion", "prompts", "head_dim", "side_head_dim", "head_init")} == {None}


def test_a_run_of_before_the_groups_has_them() -> None:
    model = {"fusion": "sum", "prompts": True, "head_dim": 64, "side_head_dim": 32, "recompute": False}
    config = with_current_settings({"model": model, "backbone": {"name": "own", "embed_dim": 16}})
    assert config["fusion"] == {"name": "sum", "_target_": "ktb.models.fusion.simple.PlainSum"}
    assert config["peft"] == {"name": "mapa", "_target_": "ktb.models.peft.mapa.MAPA", "prompts": True}
    assert (config["head"]["width"], config["head"]["side"]) == (64, {"width": 32})
    assert config["model"] == {"recompute": False}
    assert config["backbone"]["_target_"] == "ktb.models.backbones.swin.FrozenSwin"
    assert with_current_settings(config) == config


def test_older_settings_of_the_schedule_are_those_of_its_group() -> None:
    older = ["optim.warmup_epochs=3", "optim.warmup_ratio=0.5"]
    cfg = composed("run_dir=x", *older, "schedule=cosine")
    check(cfg)
    assert (cfg.schedule.name, cfg.schedule.warmup_epochs, cfg.schedule.warmup_ratio) == ("cosine", 3, 0.5)
    assert set(cfg.optim) == {"name", "_target_", "lr", "weight_decay", "betas", "eps"}
    assert OmegaConf.is_interpolation(cfg.optim, "lr"), "references stay"
    plain = composed("run_dir=x")
    check(plain)
    assert (plain.schedule.warmup_epochs, plain.schedule.warmup_ratio, plain.schedule.power) == (1, 0.1, 0.9)


def test_a_run_of_before_optimisers_were_a_group_has_them() -> None:
    optim = {"lr": 1e-4, "weight_decay": 0.1, "warmup_epochs": 5, "warmup_ratio": 0.2, "power": 2.0}
    config = with_current_settings({"optim": optim, "seed": 1})
    assert config == {
        "optim": {"name": "adamw", "_target_": "torch.optim.AdamW", "lr": 1e-4, "weight_decay": 0.1},
        "schedule": {
            "name": "poly",
            "_target_": "ktb.engine.schedules.Poly",
            "warmup_epochs": 5,
            "warmup_ratio": 0.2,
            "power": 2.0,
        },
        "seed": 1,
    }
    assert with_current_settings(config) == config
    assert with_current_settings({"dataset": {}}) == {"dataset": {}}, "an evaluation has neither"


def test_every_older_name_has_a_name_now() -> None:
    cfg = composed("run_dir=x")
    for then, now in RENAMED.items():
        assert OmegaConf.select(cfg, then) is None
        assert OmegaConf.select(cfg, now) is not None
