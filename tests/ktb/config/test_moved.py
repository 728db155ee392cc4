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


def test_every_older_name_has_a_name_now() -> None:
    cfg = composed("run_dir=x")
    for then, now in RENAMED.items():
        assert OmegaConf.select(cfg, then) is None
        assert OmegaConf.select(cfg, now) is not None
