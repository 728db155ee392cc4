"""What stands in a procedural room, drawn at random from a seed: floor, walls, objects, light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ktb.data.scenes.material import Material

CLASSES = ("floor", "wall", "rug", "print", "crate", "locker", "ball", "step", "pit", "screen")
FLOOR, WALL, RUG, PRINT, CRATE, LOCKER, BALL, STEP, PIT, SCREEN = range(len(CLASSES))
LIGHTS = ("day", "dark", "glare")


@dataclass(frozen=True)
class Thing:
    """An object on the floor.

    Args:
        kind: index into `CLASSES`.
        x, z: position on the floor in metres, to the right and ahead.
        yaw: in radians.
        a, c: half width and half length in metres.
        height: in metres; of a pit, its depth below the floor.
        material: of its surface.
        printed: it is only a picture of the object, on floor and walls.
    """

    kind: int
    x: float
    z: float
    yaw: float
    a: float
    c: float
    height: float
    material: Material
    printed: bool = False


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn, in metres and radians; independent of the picture's size."""

    seed: int
    index: int
    camera_height: float
    pitch: float
    wall_yaw: float
    wall_distance: float
    side_distance: float
    side: int
    floor: Material
    wall: Material
    rugs: tuple[Thing, ...]
    things: tuple[Thing, ...]
    sun: tuple[float, float, float]
    light: str
    spot: tuple[float, float, float, float]
    """Centre (x, y) and spread (x, y) of the lit or blinding spot, in half picture widths and heights."""
    dropouts: tuple[tuple[float, float, float, float], ...]
    """Patches without depth: centre (x, y) and half axes (x, y), as `spot`."""


def _hue(rng: np.random.Generator, hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """HSV with a little jitter → RGB in [0, 1]."""
    h = (hue + rng.normal(0, 0.015)) % 1.0 * 6
    rgb = [value * (1 - saturation * (1 - float(np.clip(abs((h + s) % 6 - 3) - 1, 0, 1)))) for s in (0, 4, 2)]
    return (rgb[0], rgb[1], rgb[2])


def _material(rng: np.random.Generator, names: tuple[str, ...], scale: tuple[float, float], hue: tuple[float, float],
              saturation: tuple[float, float], value: tuple[float, float], contrast: float) -> Material:  # fmt: skip
    tint, strength, level = rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    return Material(
        tile=str(rng.choice(names)),
        scale=rng.uniform(*scale),
        angle=float(rng.choice([0.0, 0.5])) * math.pi,
        dark=_hue(rng, tint, strength, level * (1 - contrast)),
        bright=_hue(rng, tint, strength * 0.8, min(level * (1 + contrast), 1.0)),
    )


PRINTED = 0.42
"""Probability that an object is only a print of one."""


def sample_scene(seed: int, index: int) -> Scene:
    """A room drawn at random.

    Args:
        seed: 0 or more.
        index: number of the scene of that seed.
    """
    rng = np.random.default_rng([seed, index])
    distance = rng.uniform(3.7, 4.7)
    floor = _material(
        rng, ("planks", "tiles", "concrete", "asphalt"), (1.0, 1.6), (0.02, 0.14), (0.05, 0.35), (0.35, 0.6), 0.4
    )
    wall = _material(rng, ("bricks", "plaster", "concrete"), (1.0, 1.8), (0.0, 1.0), (0.02, 0.22), (0.55, 0.85), 0.22)
    drawn = rng.permutation([RUG, CRATE, CRATE, LOCKER, LOCKER, BALL, BALL, STEP, PIT, SCREEN])[: rng.integers(5, 8)]
    kinds = sorted(drawn.tolist(), key=lambda kind: kind not in (RUG, STEP, PIT))  # the large ones while there is room
    rugs: list[Thing] = []
    things: list[Thing] = []
    taken: list[tuple[float, float, float]] = []
    for kind in kinds:
        a, c, height = _size(rng, kind)
        radius = math.hypot(a, c)
        for _ in range(20):
            z = rng.uniform(1.6, distance - 0.5 - c)
            x = rng.uniform(-0.6, 0.6) * (z + 0.2)
            if all(math.hypot(x - tx, z - tz) > 0.75 * (radius + tr) for tx, tz, tr in taken):
                break
        else:
            continue
        taken.append((x, z, radius))
        yaw = rng.uniform(-0.7, 0.7) if kind == SCREEN else rng.uniform(0, math.pi)
        thing = Thing(kind, x, z, yaw, a, c, height, _coat(rng, kind, floor),
                      kind != RUG and bool(rng.random() < PRINTED))  # fmt: skip
        (rugs if kind == RUG else things).append(thing)
    light = str(rng.choice(LIGHTS, p=(0.5, 0.25, 0.25)))
    wide = (0.6, 0.9) if light == "dark" else (0.22, 0.4)
    sun = np.array([rng.uniform(-0.8, 0.8), 1.0, rng.uniform(-0.9, -0.2)])
    sun /= np.linalg.norm(sun)
    return Scene(
        seed, index, rng.uniform(1.4, 1.8), rng.uniform(0.48, 0.6), rng.uniform(-0.35, 0.35), distance,
        rng.uniform(2.2, 4.0), int(rng.choice([-1, 1])), floor, wall, tuple(rugs), tuple(things),
        (float(sun[0]), float(sun[1]), float(sun[2])), light,
        (rng.uniform(-0.6, 0.6), rng.uniform(-0.3, 0.6), rng.uniform(*wide), rng.uniform(*wide)),
        tuple((rng.uniform(-1, 1), rng.uniform(-0.6, 1), rng.uniform(0.08, 0.28), rng.uniform(0.08, 0.28))
              for _ in range(rng.integers(1, 4))),
    )  # fmt: skip


def _size(rng: np.random.Generator, kind: int) -> tuple[float, float, float]:
    """Half width, half length, height in metres; crates and lockers share one distribution."""
    if kind in (CRATE, LOCKER):
        return rng.uniform(0.28, 0.45), rng.uniform(0.28, 0.45), rng.uniform(0.45, 1.0)
    if kind == BALL:
        radius = rng.uniform(0.32, 0.5)
        return radius, radius, 2 * radius
    if kind == SCREEN:
        return rng.uniform(0.45, 0.65), 0.06, rng.uniform(0.7, 1.1)
    if kind == STEP:
        return rng.uniform(0.5, 0.8), rng.uniform(0.45, 0.65), rng.uniform(0.18, 0.3)
    if kind == PIT:
        return rng.uniform(0.5, 0.8), rng.uniform(0.45, 0.65), rng.uniform(0.25, 0.5)
    return rng.uniform(0.55, 0.9), rng.uniform(0.5, 0.7), 0.0


def _coat(rng: np.random.Generator, kind: int, floor: Material) -> Material:
    """What a kind of object looks like."""
    if kind == CRATE:
        return _material(rng, ("frame", "planks"), (0.6, 0.9), (0.06, 0.11), (0.5, 0.75), (0.45, 0.7), 0.35)
    if kind == LOCKER:
        return _material(rng, ("vents", "plain", "frame"), (0.6, 0.9), (0.45, 0.62), (0.25, 0.6), (0.4, 0.75), 0.25)
    if kind == BALL:
        return _material(
            rng, ("stripes", "checks", "plain", "blobs"), (0.8, 1.4), (0.8, 1.03), (0.5, 0.9), (0.5, 0.85), 0.5
        )
    if kind == RUG:
        return _material(
            rng, ("weave", "zigzag", "stripes", "checks"), (0.7, 1.2), (0.0, 1.0), (0.4, 0.8), (0.35, 0.8), 0.45
        )
    if kind == SCREEN:
        return Material("plain", 1.0, 0.0, (0.02, 0.02, 0.03), (0.05, 0.05, 0.07))
    return floor
