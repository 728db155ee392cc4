"""A procedural room → RGB, depth and label of a pinhole camera (y up, z forward, metres)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Bytes
from ktb.data.scenes.material import Floats
from ktb.data.scenes.scene import BALL, FLOOR, PIT, PRINT, RUG, SCREEN, WALL, Scene, Thing

MIN_SIZE = 32
NEAR = 1.2
"""Distance in metres that depth codes as 255."""


class Rendering(NamedTuple):
    """One rendered view.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) uint8, inverse depth 255 · NEAR / z (so planes are linear ramps): larger is nearer, 0 is no
            measurement.
        label: (H, W) uint8, index into `CLASSES`.
    """

    rgb: Bytes
    depth: Bytes
    label: Bytes


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
) -> tuple[NDArray[np.bool_], Floats, Floats]:
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
) -> tuple[NDArray[np.bool_], Floats, Floats]:
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


def draw(scene: Scene, height: int, width: int) -> Rendering:
    """A scene as a picture; the geometry does not depend on the size.

    Args:
        scene: what stands where.
        height, width: in pixels, each at least `MIN_SIZE`.

    Raises:
        ValueError: a smaller size.
    """
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"size {height}x{width}: at least {MIN_SIZE} pixels per side")
    view = _View(scene, height, width)
    canvas = _empty_room(view, scene)
    _lay_rugs(canvas, view, scene)
    _cast_shadows(canvas, view, scene)
    _place_things(canvas, view, scene)
    return Rendering(_expose(scene, canvas.rgb), _measure(scene, canvas.inverse, canvas.measured), canvas.label)


@dataclass
class _Canvas:
    """A picture while it is drawn, all (H, W).

    Attributes:
        rgb: (H, W, 3), linear.
        inverse: inverse depth in 1/m.
        label: class ids.
        measured: where depth returns to the sensor.
        on_floor: where the empty room shows its floor.
        t, x, z: depth, and floor coordinates, in metres, in the empty room.
    """

    rgb: Floats
    inverse: Floats
    label: Bytes
    measured: NDArray[np.bool_]
    on_floor: NDArray[np.bool_]
    t: Floats
    x: Floats
    z: Floats


def _empty_room(view: _View, scene: Scene) -> _Canvas:
    """Floor and walls."""
    dx, dy, dz = view.dx, view.dy, view.dz
    ahead = (math.sin(scene.wall_yaw), math.cos(scene.wall_yaw))
    floor_inverse = np.broadcast_to(-dy / view.eye, (view.height, view.width))
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
    return _Canvas(rgb, inverse, label, np.ones((view.height, view.width), bool), on_floor, t, x, z)


def _lay_rugs(canvas: _Canvas, view: _View, scene: Scene) -> None:
    """Rugs on the floor, which change colour and label only."""
    for thing in scene.rugs:
        if (window := view.window(thing)) is not None:
            lx, lz = _local(thing, canvas.x[window], canvas.z[window])
            mask = (np.abs(lx) < thing.a) & (np.abs(lz) < thing.c) & canvas.on_floor[window]
            border = np.maximum(np.abs(lx) / thing.a, np.abs(lz) / thing.c) > 0.88
            colour = thing.material.colour(lx, lz, canvas.t[window] / view.focal * 4)
            colour = np.where(border[..., None], np.asarray(thing.material.dark, np.float32), colour)
            canvas.rgb[window][mask] = (colour * _shade(scene.sun[1]))[mask]
            canvas.label[window][mask] = RUG


def _cast_shadows(canvas: _Canvas, view: _View, scene: Scene) -> None:
    """The shadows that things stand in, real and printed ones alike."""
    for thing in scene.things:
        if thing.kind != PIT and (window := view.window(thing, 0.25)) is not None:
            lx, lz = _local(thing, canvas.x[window], canvas.z[window])
            gap = np.maximum(np.maximum(np.abs(lx) - thing.a, np.abs(lz) - thing.c), 0)
            if thing.kind == BALL:
                gap = np.maximum(np.hypot(lx, lz) - 0.6 * thing.a, 0)
            shadow = 1 - 0.55 * np.exp(-((gap / 0.1) ** 2)) * canvas.on_floor[window]
            canvas.rgb[window] *= shadow[..., None].astype(np.float32)


def _place_things(canvas: _Canvas, view: _View, scene: Scene) -> None:
    """Everything else; nearer things hide farther ones, a print changes no depth."""
    background = canvas.inverse.copy()
    # Pits lie below the floor and prints on it, so they come first; the others are drawn from far to near.
    for thing in sorted(scene.things, key=lambda o: (not (o.kind == PIT and not o.printed), not o.printed, -o.z)):
        if (window := view.window(thing)) is None:
            continue
        hit, depth, colour = (_ball if thing.kind == BALL else _box)(view, scene, thing, *window)
        if thing.kind == PIT:
            hit = hit & canvas.on_floor[window]
        else:
            hit = hit & (1 / np.maximum(depth, 0.1) > (background if thing.printed else canvas.inverse)[window])
        if thing.printed or thing.kind == PIT:
            hit = hit & (canvas.inverse[window] == background[window])
        canvas.rgb[window][hit] = colour[hit]
        canvas.label[window][hit] = PRINT if thing.printed else thing.kind
        if not thing.printed:
            canvas.inverse[window][hit] = 1 / depth[hit]
            canvas.measured[window][hit] = thing.kind != SCREEN


def _local(thing: Thing, x: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Floor coordinates → those along a thing's own axes, from its centre."""
    cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
    return cos * (x - thing.x) - sin * (z - thing.z), sin * (x - thing.x) + cos * (z - thing.z)


def _bell(length: int, centre: float, spread: float) -> Floats:
    """A Gaussian over positions -1…1."""
    at = (np.arange(length, dtype=np.float32) + 0.5) / length * 2 - 1
    return np.exp(-(((at - centre) / spread) ** 2)).astype(np.float32)


def _expose(scene: Scene, rgb: Floats) -> Bytes:
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


def _measure(scene: Scene, inverse: Floats, measured: NDArray[np.bool_]) -> Bytes:
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
