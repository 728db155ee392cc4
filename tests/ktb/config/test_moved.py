"""Names of classes in files of earlier versions."""

from __future__ import annotations

from importlib import import_module

import pytest

from ktb.config import moved
from ktb.config.moved import current_target, with_current_targets


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
