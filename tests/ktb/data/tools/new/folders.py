"""Folders of pictures and labels as people have them, and what `ktb-data new` finds in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.sets.folder import FolderDataModule
from ktb.data.tools.new.found import Survey, module_settings
from ktb.data.tools.new.survey import survey
from tests.ktb.data.written import save

SIZE = (40, 56)


def rgb(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def label(*ids: int, dtype: Any = np.uint8) -> np.ndarray:
    """Stripes of these ids."""
    return np.repeat(np.array(ids, dtype), -(-SIZE[1] // len(ids)))[None, : SIZE[1]].repeat(SIZE[0], axis=0)


def depth(seed: int = 0, low: int = 600, high: int = 8000, hole: int | None = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(low, high, SIZE).astype(np.uint16)
    if hole is not None:
        values[:8, :8] = hole
    return values


def look(root: Path) -> Survey:
    return survey(root, workers=1)


def modalities(found: Survey) -> dict[str, dict[str, Any]]:
    return {guess.name: guess.settings for guess in found.modalities}


def opened(found: Survey) -> FolderDataModule:
    return FolderDataModule(**module_settings(found), num_workers=0)


def guessed(root: Path, files: dict[str, list[np.ndarray]], suffix: str = ".png") -> Survey:
    for name, images in files.items():
        for i, image in enumerate(images):
            save(root / f"{name}/{i}{suffix}", image)
    for i in range(len(next(iter(files.values())))):
        save(root / f"label/{i}.png", label(0, 1))
    return look(root)
