"""Names that scripts import from where they were before the rooms."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("ktb.data.readers", "ImageReader", "ktb.data.readers.image"),
        ("ktb.data.readers", "LabelReader", "ktb.data.readers.label"),
        ("ktb.data.folder", "FolderDataModule", "ktb.data.sets.folder"),
        ("ktb.data.folder", "FolderModality", "ktb.data.sets.folder_settings"),
    ],
)
def test_they_are_the_same_classes(module: str, name: str, now: str) -> None:
    assert getattr(import_module(module), name) is getattr(import_module(now), name)


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Reader'"):
        _ = import_module("ktb.data.readers").Reader
