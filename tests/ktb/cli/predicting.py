"""Pictures for ktb-predict, and calls of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ktb.cli.predict import main
from ktb.data.scenes.draw import draw
from ktb.data.scenes.scene import sample_scene

SIZES = {"a": (40, 52), "sub/b": (33, 70), "sub/deep/c.1": (96, 64)}


def write_pairs(root: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    for i, (name, size) in enumerate(sizes.items()):
        frame = draw(sample_scene(7, i), *size)
        for modality, image in (("rgb", frame.rgb), ("depth", frame.depth)):
            path = root / modality / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def call(checkpoint: Path, pairs: Path, out: Path, *more: str) -> int:
    folders = [f"--rgb={pairs / 'rgb'}", "--depth", str(pairs / "depth")]
    return main([str(checkpoint), *folders, "--out", str(out), "--device", "cpu", *more])


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
