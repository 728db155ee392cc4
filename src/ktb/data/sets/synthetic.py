"""Procedural RGB + depth scenes in which neither modality alone suffices; nothing is read from disk.

A room seen by a pinhole camera (y up, z forward, metres): floor, walls, and large objects standing on the floor.
What a sensor cannot tell is built in, exactly:

- `rug` lies in the floor's plane: depth equals the floor's to the last bit, only RGB shows it.
- `crate` and `locker` are boxes of one size distribution: only RGB tells them apart.
- `print` is a flat, trompe-l'œil picture of one of the other objects on floor and walls: its RGB is that of the real
  object, shadow included; only depth tells a print from the object. Depth alone cannot tell it from floor and wall.
- `step` and `pit` wear the floor's own material.
- `screen` is black and returns no depth; other things lose their depth in patches too, and pictures have dark parts
  (light "dark") and blinding ones (light "glare").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.image import ImageReader
from ktb.data.samples import RawSample, Reader
from ktb.data.spec import RGB, DatasetSpec, ModalitySpec
from ktb.errors import ConfigError

CLASSES = ("floor", "wall", "rug", "print", "crate", "locker", "ball", "step", "pit", "screen")
PALETTE = (
    (84, 92, 110), (176, 184, 196), (238, 130, 98), (245, 200, 80), (166, 110, 60),
    (58, 134, 196), (224, 78, 120), (120, 190, 120), (70, 52, 120), (20, 24, 30),
)  # fmt: skip
FLOOR, WALL, RUG, PRINT, CRATE, LOCKER, BALL, STEP, PIT, SCREEN = range(len(CLASSES))
LIGHTS = ("day", "dark", "glare")
MIN_SIZE = 32
NEAR = 1.2
"""Distance in metres that depth codes as 255."""

Array = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]


class Frame(NamedTuple):
    """One rendered view.

    rgb: (H, W, 3) uint8. depth: (H, W) uint8, inverse depth 255 · NEAR / z (so planes are linear ramps), larger is
    nearer, 0 = no measurement. label: (H, W) uint8, index into `CLASSES`.
    """

    rgb: Bytes
    depth: Bytes
    label: Bytes


# --- materials ------------------------------------------------------------------------------------------------------

TILE = 256
"""Side of a material tile in texels; one tile spans one metre and repeats."""


def _noise(rng: np.random.Generator, low: float, high: float, stretch: float = 1.0) -> Array:
    """Periodic noise (TILE, TILE), mean 0.5, mostly inside [0, 1], between `low` and `high` cycles per tile."""
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE, 1 / TILE), np.fft.rfftfreq(TILE, 1 / TILE), indexing="ij")
    radius = np.hypot(fy * stretch, fx)
    band = np.exp(-((radius / high) ** 2)) * (1 - np.exp(-((radius / low) ** 2)))
    waves = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * band)
    return np.clip(waves / waves.std() / 5 + 0.5, 0, 1).astype(np.float32)


@cache
def material_tiles() -> dict[str, Array]:
    """Material tiles (TILE, TILE) in [0, 1], periodic; the same for every seed."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32) / TILE

    def joints(rows: int, columns: int, width: float, shift: float) -> Array:
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
    """A tile, metres per tile, turned by `angle`, running from colour `dark` to `bright` (linear RGB in [0, 1])."""

    tile: str
    scale: float
    angle: float
    dark: tuple[float, float, float]
    bright: tuple[float, float, float]

    def colour(self, u: Array, v: Array, footprint: Array | float) -> Array:
        """Albedo (..., 3) at surface coordinates in metres; fades to the mean where a pixel spans many texels."""
        per_metre = TILE / self.scale
        cos, sin = math.cos(self.angle) * per_metre, math.sin(self.angle) * per_metre
        column = (cos * u - sin * v).astype(np.int32) & (TILE - 1)
        row = (sin * u + cos * v).astype(np.int32) & (TILE - 1)
        value = material_tiles()[self.tile].ravel()[row * TILE + column]
        mean = float(material_tiles()[self.tile].mean())
        value = mean + (value - mean) * np.clip(0.12 * self.scale / (footprint + 1e-6), 0.0, 1.0)
        dark, bright = np.asarray(self.dark, np.float32), np.asarray(self.bright, np.float32)
        return dark + (bright - dark) * value[..., None].astype(np.float32)


# --- scenes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """An object on the floor at (x, z), turned by `yaw`: half sizes (a, c), height (below the floor for a pit)."""

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
    """The scene number `index` of a seed."""
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


# --- drawing --------------------------------------------------------------------------------------------------------


class _View:
    """The camera's rays for a picture size: direction (dx[column], dy[row], dz[row]) per metre of depth."""

    def __init__(self, scene: Scene, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.focal = 1.4 * (height / 2)  # pixels; the vertical field of view is the same at every size
        v = ((np.arange(height, dtype=np.float32) + 0.5) - height / 2)[:, None] / self.focal
        u = ((np.arange(width, dtype=np.float32) + 0.5) - width / 2)[None, :] / self.focal
        self.sin, self.cos = math.sin(scene.pitch), math.cos(scene.pitch)
        self.eye = scene.camera_height
        self.dx = u.astype(np.float32)
        self.dy = (-self.sin - v * self.cos).astype(np.float32)
        self.dz = (self.cos - v * self.sin).astype(np.float32)

    def window(self, thing: Thing, margin: float = 0.0) -> tuple[slice, slice] | None:
        """Rows and columns that a thing (grown by `margin` metres) can touch; None when it is out of sight."""
        low, high = (-thing.height, 0.0) if thing.kind == PIT else (0.0, thing.height)
        a, c = thing.a + margin, thing.c + margin
        corners = np.array([(i * a, y, k * c) for i in (-1, 1) for y in (low, high) for k in (-1, 1)])
        cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
        x = thing.x + cos * corners[:, 0] + sin * corners[:, 2]
        z = thing.z - sin * corners[:, 0] + cos * corners[:, 2]
        y = corners[:, 1] - self.eye
        depth = np.maximum(-self.sin * y + self.cos * z, 0.2)
        column = x / depth * self.focal + self.width / 2
        row = -(self.cos * y + self.sin * z) / depth * self.focal + self.height / 2
        top, bottom = max(int(row.min()) - 1, 0), min(int(row.max()) + 2, self.height)
        left, right = max(int(column.min()) - 1, 0), min(int(column.max()) + 2, self.width)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def _box(
    view: _View, scene: Scene, thing: Thing, rows: slice, columns: slice
) -> tuple[NDArray[np.bool_], Array, Array]:
    """Box, step, screen or pit in a window: (hit, depth in metres, shaded colour)."""
    cos, sin = np.float32(math.cos(thing.yaw)), np.float32(math.sin(thing.yaw))
    dx, dy, dz = view.dx[:, columns], view.dy[rows], view.dz[rows]
    lx, lz = cos * dx - sin * dz, sin * dx + cos * dz
    ox, oz = -cos * thing.x + sin * thing.z, -sin * thing.x - cos * thing.z
    low, high = (-thing.height, 0.0) if thing.kind == PIT else (0.0, thing.height)
    with np.errstate(divide="ignore"):
        ix, iy, iz = 1 / lx, 1 / dy, 1 / lz
    x_near, x_far = (-np.sign(ix) * thing.a - ox) * ix, (np.sign(ix) * thing.a - ox) * ix
    z_near, z_far = (-np.sign(iz) * thing.c - oz) * iz, (np.sign(iz) * thing.c - oz) * iz
    y_first, y_second = (low - view.eye) * iy, (high - view.eye) * iy
    y_near, y_far = np.minimum(y_first, y_second), np.maximum(y_first, y_second)
    side_near, side_far = np.maximum(x_near, z_near), np.minimum(x_far, z_far)
    near, far = np.maximum(side_near, y_near), np.minimum(side_far, y_far)
    hit = (near < far) & (near > 0.3)
    if thing.kind == PIT:
        hit &= (side_near <= y_near) & (dy < 0)
        t, on_y, on_x = far, y_far <= side_far, x_far <= z_far
        facing = -1.0
    else:
        t, on_y, on_x = near, y_near >= side_near, x_near >= z_near
        facing = 1.0
    px, py, pz = ox + t * lx, view.eye + t * dy, oz + t * lz
    u = np.where(on_y | ~on_x, px, pz)
    v = np.where(on_y, pz, py)
    colour = thing.material.colour(u, v, t / view.focal * 4)
    sx, sz = cos * scene.sun[0] - sin * scene.sun[2], sin * scene.sun[0] + cos * scene.sun[2]
    faces = [_shade(abs(scene.sun[1])), _shade(facing * -np.sign(lx) * sx), _shade(facing * -np.sign(lz) * sz)]
    shade = np.where(on_y, faces[0], np.where(on_x, faces[1], faces[2]))
    if thing.kind == PIT:
        shade = shade * 0.62
    return hit, t.astype(np.float32), colour * shade[..., None].astype(np.float32)


def _ball(
    view: _View, scene: Scene, thing: Thing, rows: slice, columns: slice
) -> tuple[NDArray[np.bool_], Array, Array]:
    """Sphere in a window: (hit, depth in metres, shaded colour)."""
    dx, dy, dz = view.dx[:, columns], view.dy[rows], view.dz[rows]
    radius = thing.a
    cx, cy, cz = thing.x, radius - view.eye, thing.z
    a = dx * dx + (dy * dy + dz * dz)
    b = dx * cx + (dy * cy + dz * cz)
    inside = b * b - a * (cx * cx + cy * cy + cz * cz - radius * radius)
    hit = inside > 0
    t = (b - np.sqrt(np.maximum(inside, 0))) / a
    nx, ny, nz = (t * dx - cx) / radius, (t * dy - cy) / radius, (t * dz - cz) / radius
    cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
    colour = thing.material.colour(cos * nx + sin * ny, cos * ny - sin * nx + 0.5 * nz, t / view.focal * 4)
    lambert = nx * scene.sun[0] + ny * scene.sun[1] + nz * scene.sun[2]
    shine = np.clip(lambert, 0, 1) ** 24 * 0.35
    return hit, t.astype(np.float32), colour * _shade(lambert)[..., None] + shine[..., None]


def _shade(lambert: Any) -> Any:
    """Ambient and diffuse light on a surface that meets the sun under the cosine `lambert`."""
    return np.float32(0.45) + np.float32(0.6) * np.maximum(lambert, 0).astype(np.float32)


def draw(scene: Scene, height: int, width: int) -> Frame:
    """A scene as a picture of height × width pixels (each at least 32); the geometry does not depend on the size."""
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"size {height}x{width}: at least {MIN_SIZE} pixels per side")
    view = _View(scene, height, width)
    dx, dy, dz = view.dx, view.dy, view.dz

    ahead = (math.sin(scene.wall_yaw), math.cos(scene.wall_yaw))
    floor_inverse = np.broadcast_to(-dy / view.eye, (height, width))
    back_inverse = (ahead[0] * dx + ahead[1] * dz) / scene.wall_distance
    side_inverse = scene.side * (ahead[1] * dx - ahead[0] * dz) / scene.side_distance
    wall_inverse = np.maximum(back_inverse, side_inverse)
    inverse = np.maximum(np.maximum(floor_inverse, wall_inverse), 0.02).astype(np.float32)
    on_floor = floor_inverse >= wall_inverse
    t = 1 / inverse
    label = np.where(on_floor, np.uint8(FLOOR), np.uint8(WALL))

    x, z = dx * t, dz * t
    along = np.where(back_inverse >= side_inverse, ahead[1] * x - ahead[0] * z, ahead[0] * x + ahead[1] * z)
    up = view.eye + dy * t
    rgb = np.where(
        on_floor[..., None],
        scene.floor.colour(x, z, t / view.focal * 4) * _shade(scene.sun[1]),
        scene.wall.colour(along, up, t / view.focal * 4)
        * np.where(back_inverse >= side_inverse, _shade(-scene.sun[2]), _shade(-scene.side * scene.sun[0]))[..., None],
    ).astype(np.float32)

    for thing in scene.rugs:
        if (window := view.window(thing)) is not None:
            lx, lz = _local(thing, x[window], z[window])
            mask = (np.abs(lx) < thing.a) & (np.abs(lz) < thing.c) & on_floor[window]
            border = np.maximum(np.abs(lx) / thing.a, np.abs(lz) / thing.c) > 0.88
            colour = thing.material.colour(lx, lz, t[window] / view.focal * 4)
            colour = np.where(border[..., None], np.asarray(thing.material.dark, np.float32), colour)
            rgb[window][mask] = (colour * _shade(scene.sun[1]))[mask]
            label[window][mask] = RUG

    for thing in scene.things:  # the shadow a thing stands in, real or printed
        if thing.kind != PIT and (window := view.window(thing, 0.25)) is not None:
            lx, lz = _local(thing, x[window], z[window])
            gap = np.maximum(np.maximum(np.abs(lx) - thing.a, np.abs(lz) - thing.c), 0)
            if thing.kind == BALL:
                gap = np.maximum(np.hypot(lx, lz) - 0.6 * thing.a, 0)
            shadow = 1 - 0.55 * np.exp(-((gap / 0.1) ** 2)) * on_floor[window]
            rgb[window] *= shadow[..., None].astype(np.float32)

    background = inverse.copy()
    measured = np.ones((height, width), bool)
    # pits lie below the floor and prints on it, so they come first; the rest hide each other by distance
    for thing in sorted(scene.things, key=lambda o: (not (o.kind == PIT and not o.printed), not o.printed, -o.z)):
        if (window := view.window(thing)) is None:
            continue
        hit, depth, colour = (_ball if thing.kind == BALL else _box)(view, scene, thing, *window)
        if thing.kind == PIT:
            hit = hit & on_floor[window]
        else:
            hit = hit & (1 / np.maximum(depth, 0.1) > (background if thing.printed else inverse)[window])
        if thing.printed or thing.kind == PIT:
            hit = hit & (inverse[window] == background[window])
        rgb[window][hit] = colour[hit]
        label[window][hit] = PRINT if thing.printed else thing.kind
        if not thing.printed:
            inverse[window][hit] = 1 / depth[hit]
            measured[window][hit] = thing.kind != SCREEN
    return Frame(_expose(scene, rgb), _measure(scene, inverse, measured), label)


def _local(thing: Thing, x: Array, z: Array) -> tuple[Array, Array]:
    """Floor coordinates → those along a thing's own axes, from its centre."""
    cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
    return cos * (x - thing.x) - sin * (z - thing.z), sin * (x - thing.x) + cos * (z - thing.z)


def _bell(length: int, centre: float, spread: float) -> Array:
    """A Gaussian over positions -1…1."""
    at = (np.arange(length, dtype=np.float32) + 0.5) / length * 2 - 1
    return np.exp(-(((at - centre) / spread) ** 2)).astype(np.float32)


def _expose(scene: Scene, rgb: Array) -> Bytes:
    """Light, glare, sensor noise and gamma: linear RGB → uint8."""
    height, width = rgb.shape[:2]
    x, y, wide, high = scene.spot
    bell = (_bell(height, y, high)[:, None] * _bell(width, x, wide))[..., None]
    if scene.light == "dark":
        rgb = rgb * (0.02 + 0.9 * bell)
    elif scene.light == "glare":
        rgb = rgb * 0.9 + 2.5 * bell**2
    noise = np.random.default_rng([scene.seed, scene.index, 1]).standard_normal((height, width), dtype=np.float32)
    rgb = np.sqrt(np.clip(rgb, 0, 1)) + 0.02 * noise[..., None]
    return (np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _measure(scene: Scene, inverse: Array, measured: NDArray[np.bool_]) -> Bytes:
    """Noise, patches without return and quantisation: inverse depth in 1/m → uint8."""
    height, width = inverse.shape
    rng = np.random.default_rng([scene.seed, scene.index, 2])
    code = inverse * (255 * NEAR) + 0.7 * rng.standard_normal((height, width), dtype=np.float32)
    stored = np.clip(np.round(code), 1, 255).astype(np.uint8)
    for x, y, wide, high in scene.dropouts:
        at_x = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1 - x) / wide
        at_y = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1 - y) / high
        stored[(at_y[:, None] ** 4 + at_x**4) < 1] = 0
    stored[~measured] = 0
    return stored


def render(seed: int, index: int, height: int, width: int) -> Frame:
    """Scene `index` of `seed` as a picture; a pure function of its arguments."""
    return draw(sample_scene(seed, index), height, width)


# --- data module ----------------------------------------------------------------------------------------------------

CACHE_BYTES = 256 * 2**20
"""At most this much of a split is kept in memory once drawn (per process)."""


class SyntheticSamples:
    """`count` scenes of one seed, drawn when asked for and then kept as bytes."""

    def __init__(self, split: str, seed: int, count: int, size: tuple[int, int]) -> None:
        self.split, self.seed, self.count, self.size = split, seed, count, size
        self._kept: dict[int, tuple[Frame, str]] = {}
        self._room = CACHE_BYTES // (5 * size[0] * size[1])

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, streams: Sequence[str]) -> RawSample:
        """As `ktb.data.samples.Samples`; id "<split>/<index>", condition {"light": "day" | "dark" | "glare"}."""
        if index not in self._kept:
            scene = sample_scene(self.seed, index)
            drawn = draw(scene, *self.size), scene.light
            if len(self._kept) >= self._room:
                return self._sample(index, streams, *drawn)
            self._kept[index] = drawn
        return self._sample(index, streams, *self._kept[index])

    def _sample(self, index: int, streams: Sequence[str], frame: Frame, light: str) -> RawSample:
        images = {"rgb": frame.rgb, "depth": frame.depth[..., None]}
        return RawSample(
            images={name: images[name] for name in streams},
            label=frame.label.copy(),  # the sample's own: what is kept must not change
            id=f"{self.split}/{index:05d}",
            condition={"light": light},
            valid={"depth": frame.depth > 0} if "depth" in streams else {},
        )


class SyntheticDataModule(RGBXDataModule):
    """Procedural scenes; every split has scenes of its own.

    Args:
        size: (height, width) of the pictures in pixels, each 32 or more.
        train, val, test: number of scenes per split.
        scene_seed: which scenes; independent of `seed`, so runs with several seeds train on the same ones.
        **loading: see `RGBXDataModule`.

    Raises:
        ConfigError: a size or a number of scenes that cannot work.
    """

    def __init__(
        self,
        *,
        size: Sequence[int] = (96, 128),
        train: int = 400,
        val: int = 40,
        test: int = 120,
        scene_seed: int = 0,
        **loading: Unpack[Loading],
    ) -> None:
        if len(size) != 2 or min(size) < MIN_SIZE:
            raise ConfigError(f"dataset.size is {list(size)}; expected [height, width], both {MIN_SIZE} or more")
        counts = {"train": train, "val": val, "test": test}
        for split, count in counts.items():
            if count < 1:
                raise ConfigError(f"dataset.{split} is {count}; expected the number of its scenes, 1 or more")
        if scene_seed < 0:
            raise ConfigError(f"dataset.scene_seed is {scene_seed}; expected 0 or more")
        self.size = (int(size[0]), int(size[1]))
        self.scene_seed = scene_seed
        spec = DatasetSpec(
            name="synthetic",
            classes=CLASSES,
            palette=PALETTE,
            modalities={"rgb": RGB, "depth": ModalitySpec("depth", title="depth")},
            counts=counts,
        )
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        """RGB as 8 bits, depth as the 8 bits of `Frame.depth`."""
        return {"rgb": ImageReader(channels=3, colour=True), "depth": ImageReader(channels=1, hole_value=0)}

    def open_split(self, split: str) -> SyntheticSamples:
        # One seed per split: no scene can stand in two of them, however many there are.
        splits = list(self.spec.counts)
        seed = len(splits) * self.scene_seed + splits.index(split)
        return SyntheticSamples(split, seed, self.spec.counts[split], self.size)
