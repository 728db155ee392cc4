"""Procedural materials: periodic tiles, and the colour of a surface at coordinates in metres."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


TILE = 256
"""Side of a material tile in texels; one tile spans one metre and repeats."""


def _noise(rng: np.random.Generator, low: float, high: float, stretch: float = 1.0) -> Floats:
    """Periodic noise (TILE, TILE), mean 0.5, mostly inside [0, 1], between `low` and `high` cycles per tile."""
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE, 1 / TILE), np.fft.rfftfreq(TILE, 1 / TILE), indexing="ij")
    radius = np.hypot(fy * stretch, fx)
    band = np.exp(-((radius / high) ** 2)) * (1 - np.exp(-((radius / low) ** 2)))
    waves = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * band)
    return np.clip(waves / waves.std() / 5 + 0.5, 0, 1).astype(np.float32)


@cache
def material_tiles() -> dict[str, Floats]:
    """Material tiles (TILE, TILE) in [0, 1], periodic; the same for every seed."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32) / TILE

    def joints(rows: int, columns: int, width: float, shift: float) -> Floats:
        across = (x * columns + np.floor(y * rows) * shift) % 1
        along = y * rows % 1
        return ((across > width * columns) & (along > width * rows)).astype(np.float32)

    grain = _noise(rng, 16, 90)
    fibre = _noise(rng, 3, 60, stretch=0.06)
    plank = rng.random(8).astype(np.float32)[(y * 8).astype(int)]
    return {
        "planks": 0.45 * plank + 0.35 * fibre.T[:, ::1] + 0.2 * joints(8, 1, 0.012, 0.37),
        "tiles": 0.75 * joints(3, 3, 0.02, 0.0) + 0.25 * _noise(rng, 4, 24),
        "bricks": 0.6 * joints(8, 4, 0.012, 0.5) + 0.4 * _noise(rng, 8, 40),
        "concrete": 0.6 * _noise(rng, 2, 10) + 0.4 * grain,
        "asphalt": 0.25 * _noise(rng, 1, 5) + 0.75 * grain,
        "plaster": 0.4 + 0.2 * _noise(rng, 1, 6) + 0.1 * grain,
        "stripes": ((x * 6) % 1 > 0.5).astype(np.float32),
        "checks": (((x * 4).astype(int) + (y * 4).astype(int)) % 2).astype(np.float32),
        "weave": (0.5 + 0.25 * np.sin(x * 2 * np.pi * 12) + 0.25 * np.sin(y * 2 * np.pi * 12)).astype(np.float32),
        "zigzag": ((y * 5 + np.abs((x * 5) % 1 - 0.5)) % 1 > 0.5).astype(np.float32),
        "blobs": np.clip((_noise(rng, 3, 7) - 0.5) * 12 + 0.5, 0, 1),
        "frame": 0.75 * ((x * 4) % 1 > 0.1).astype(np.float32) + 0.25 * fibre,
        "vents": 0.7 + 0.3 * ((y * 7) % 1 > 0.25).astype(np.float32),
        "plain": np.full((TILE, TILE), 0.5, np.float32),
    }


@dataclass(frozen=True)
class Material:
    """A surface that repeats one tile, from a dark to a bright colour.

    Args:
        tile: key of `material_tiles`.
        scale: metres per tile.
        angle: by which the tile is turned, in radians.
        dark, bright: linear RGB in [0, 1] where the tile is 0 and 1.
    """

    tile: str
    scale: float
    angle: float
    dark: tuple[float, float, float]
    bright: tuple[float, float, float]

    def colour(self, u: Floats, v: Floats, footprint: Floats | float) -> Floats:
        """Colours of points of the surface.

        Args:
            u, v: coordinates on the surface in metres.
            footprint: width of a pixel on the surface in metres; where it spans many texels the colour fades to the
                mean.

        Returns:
            (..., 3) linear RGB.
        """
        per_metre = TILE / self.scale
        cos, sin = math.cos(self.angle) * per_metre, math.sin(self.angle) * per_metre
        column = (cos * u - sin * v).astype(np.int32) & (TILE - 1)
        row = (sin * u + cos * v).astype(np.int32) & (TILE - 1)
        value = material_tiles()[self.tile].ravel()[row * TILE + column]
        mean = float(material_tiles()[self.tile].mean())
        value = mean + (value - mean) * np.clip(0.12 * self.scale / (footprint + 1e-6), 0.0, 1.0)
        dark, bright = np.asarray(self.dark, np.float32), np.asarray(self.bright, np.float32)
        return dark + (bright - dark) * value[..., None].astype(np.float32)
