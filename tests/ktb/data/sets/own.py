"""A small folder of one's own data and its configuration, for tests of `dataset=folder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.sets.folder import FolderDataModule
from tests.ktb.data.written import save

SIZE = (36, 44)
STEMS = ("a_01", "a_02", "b_01", "b_02", "b_03")


def module(root: Path, **changes: Any) -> FolderDataModule:
    settings: dict[str, Any] = {
        "modalities": {
            "rgb": {"files": "rgb/*.png"},
            "disparity": {"files": "disparity/*.png", "dtype": "uint16", "hole_value": 0},
        },
        "label": {"files": "label/*.png"},
        "classes": ["road", "pothole"],
        "splits": {"train": "train.txt", "val": "val.txt"},
        "num_workers": 0,
        "batch_size": 2,
    }
    settings |= changes
    return FolderDataModule(root, **({"streams": list(settings["modalities"])} | settings))


def ids(data: FolderDataModule, split: str) -> list[str]:
    dataset = data.dataset(split)
    return [dataset[i]["id"] for i in range(len(dataset))]


def timed(root: Path) -> dict[str, Any]:
    """Ten frames of RGB at 10 Hz from 100 s on, labels for the even ones, a thermal sensor 20 ms behind that sleeps in
    the middle; TUM-like lists for it."""
    lines = ["# timestamp filename"]
    for i in range(10):
        save(root / f"rgb/{100 + i / 10:.6f}.png", np.full((*SIZE, 3), i, np.uint8))
        if i % 2 == 0:
            save(root / f"label/{100 + i / 10:.6f}.png", np.full(SIZE, i % 4 // 2, np.uint8))
        if i not in (4, 5):
            save(root / f"thermal/{i} x.png", np.full(SIZE, 10 * i, np.uint8))
            lines.append(f"{100.02 + i / 10:.6f} thermal/{i} x.png")
    (root / "thermal.txt").write_text("\n".join(lines))
    return {
        "modalities": {"rgb": {"files": "rgb/*.png"}, "thermal": {"files": "thermal.txt"}},
        "splits": {"train": 0.5, "val": 0.5},
        "max_gap": 0.03,
    }
