"""Procedural rooms for tests of what their sensors see."""

from __future__ import annotations

from ktb.data.scenes.draw import Rendering, draw
from ktb.data.scenes.scene import sample_scene

SIZE = (96, 128)


def render(seed: int, index: int, height: int, width: int) -> Rendering:
    return draw(sample_scene(seed, index), height, width)
