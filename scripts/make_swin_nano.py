"""Make the weights of the bundled backbone swin_nano: pretrain a small Swin on procedural RGB pictures, nothing else.

Half of the pictures are collages: random materials (`FAMILIES`: grain, stripes, tiles, cracks, wood, ...) on random
regions and shapes, with random relief, light, shadow, glare, blur, noise and JPEG damage; a part of them is grey and
smooth or stepped, as a range map shown as a picture would be. The other half are rooms from the renderer of
dataset=synthetic, from scenes that none of its splits holds, half of them in random materials. No photograph, no depth
map, no other data set is used.

One network learns several dense tasks at once, and every stage has to solve them from its own, LayerNormed output,
because that is what the frozen backbone hands to the fusion later: local statistics (colour, contrast per band,
orientation), region edges; in collages the material family, the kind of relief, surface normal and unlit colour; in
rooms what each thing looks like.

    python scripts/make_swin_nano.py                  # the shipped file, about 25 minutes on two CPU cores
    python scripts/make_swin_nano.py --steps 50 --out /tmp/nano.safetensors
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ktb.data.scenes.draw import draw
from ktb.data.scenes.material import Material, material_tiles
from ktb.data.scenes.scene import CLASSES, CRATE, LOCKER, PIT, STEP, sample_scene
from ktb.data.spec import RGB
from ktb.models.backbones.swin import FrozenSwin, SwinArch

OUT = Path(__file__).parents[1] / "src/ktb/weights/swin_nano.safetensors"
ARCH = SwinArch(embed_dim=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), window_size=8, mlp_ratio=2.0, drop_path=0.0)
SIZES = ((8, 96, 128), (4, 128, 192), (8, 128, 96), (2, 192, 256))
"""Pictures, height and width of the batches, in turn."""
MAX_BYTES = 4_000_000
ROOM_SEED = 1 << 40
"""Added to the seed of the rooms: far from the scenes of the synthetic data set's own splits."""

FAMILIES = (
    "plain", "gradient", "grain", "clouds", "blotches", "stripes", "checks", "tiles", "dots", "cells", "wood",
    "cracks", "speckles", "waves", "brushed", "print",
)  # fmt: skip
KINDS = ("flat", "raised", "dome", "dent", "ramp")
UNASKED = 255
TILE = 256
TILES_PER_FAMILY = 10

Array = NDArray[np.floating[Any]]


class Picture(NamedTuple):
    """A training picture and what is asked about it.

    image (H, W, 3) uint8; family, kind, thing, edge (H, W) uint8, `UNASKED` where a task does not apply; normal, albedo
    (H, W, 3) float, asked where `asked` (H, W) is 1.
    """

    image: NDArray[np.uint8]
    family: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    thing: NDArray[np.uint8]
    edge: NDArray[np.uint8]
    normal: Array
    albedo: Array
    asked: NDArray[np.uint8]


# --- materials ------------------------------------------------------------------------------------------------------


def spectral_noise(rng: np.random.Generator, low: float, high: float, stretch: float = 1.0) -> Array:
    """Periodic noise (TILE, TILE) in [0, 1] with power between `low` and `high` cycles per tile."""
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE, 1 / TILE), np.fft.rfftfreq(TILE, 1 / TILE), indexing="ij")
    radius = np.hypot(fy * stretch, fx)
    band = np.exp(-((radius / high) ** 2)) * (1 - np.exp(-((radius / low) ** 2)))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * band)
    field = field / (field.std() + 1e-9)
    return np.clip(field / 5 + 0.5, 0, 1).astype(np.float32)


def cells(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Periodic Voronoi cells: a random grey value per cell, and the distance to the nearest wall (both in [0, 1])."""
    points = rng.random((count, 2)) * TILE
    yx = np.moveaxis(np.mgrid[:TILE, :TILE], 0, -1)[:, :, None] - points
    distance = np.hypot(*np.moveaxis(np.minimum(np.abs(yx), TILE - np.abs(yx)), -1, 0))
    nearest = np.sort(distance, axis=-1)[..., :2]
    wall = np.clip((nearest[..., 1] - nearest[..., 0]) / (TILE / np.sqrt(count)) * 1.5, 0, 1)
    return rng.random(count)[distance.argmin(-1)].astype(np.float32), wall.astype(np.float32)


def make_tile(family: str, rng: np.random.Generator) -> Array:
    """One periodic tile (TILE, TILE) in [0, 1] of a family."""
    y, x = np.mgrid[:TILE, :TILE] / TILE * 2 * np.pi
    n = int(rng.integers(6, 20))
    if family == "plain":
        return np.full((TILE, TILE), rng.random(), np.float32)
    if family == "gradient":
        return spectral_noise(rng, 0.5, 2.0)
    if family == "grain":
        return spectral_noise(rng, 20, rng.uniform(60, 200))
    if family == "clouds":
        octaves = [spectral_noise(rng, k, 2 * k) / i for i, k in enumerate((4, 8, 16, 32), 1)]
        return np.asarray(octaves, np.float32).sum(0) / np.float32(25 / 12)
    if family == "blotches":
        return (spectral_noise(rng, 3, rng.uniform(8, 16)) > rng.uniform(0.4, 0.6)).astype(np.float32)
    if family == "stripes":
        wave = np.sin(x * n)
        return (
            (wave > rng.uniform(-0.5, 0.5)).astype(np.float32) if rng.random() < 0.6 else (wave / 2 + 0.5).astype("f4")
        )
    if family == "checks":
        return (np.sin(x * n) * np.sin(y * n) > 0).astype(np.float32)
    if family == "tiles":
        rows = rng.choice([n, max(n // 2, 3)])
        offset = np.floor(y / (2 * np.pi) * 2 * (rows // 2)) % 2 * np.pi * (rng.random() < 0.5)
        joint = np.maximum(np.cos(x * n + offset), np.cos(y * 2 * (rows // 2)))
        return np.clip((joint - 0.9) * 20, 0, 1).astype(np.float32)
    if family == "dots":
        return np.clip((np.sin(x * n) * np.sin(y * n)) ** 2 * 6 - rng.uniform(2, 4), 0, 1).astype(np.float32)
    if family == "cells":
        grey, wall = cells(rng, int(rng.integers(30, 120)))
        return grey * 0.6 + 0.4 * np.clip(wall * 3, 0, 1)
    if family == "wood":
        warp = spectral_noise(rng, 1, 3, stretch=0.25) * rng.uniform(8, 20)
        return (np.sin(x * n + warp) / 2 + 0.5).astype(np.float32) * (
            0.7 + 0.3 * spectral_noise(rng, 10, 60, stretch=0.1)
        )
    if family == "cracks":
        return np.clip(1 - np.abs(spectral_noise(rng, 2, rng.uniform(5, 12)) - 0.5) * rng.uniform(15, 40), 0, 1)
    if family == "speckles":
        return np.clip((spectral_noise(rng, 10, rng.uniform(25, 60)) - rng.uniform(0.72, 0.85)) * 20, 0, 1)
    if family == "waves":
        bend = rng.integers(2, 8)
        return (np.sin(x * n + rng.uniform(1, 3) * np.sin(y * bend)) > 0).astype(np.float32)
    if family == "brushed":
        return spectral_noise(rng, 8, 80, stretch=rng.uniform(0.04, 0.1))
    assert family == "print", family
    page = np.zeros((TILE, TILE), np.float32)
    for row in range(4, TILE, int(rng.integers(9, 18))):
        for left in range(int(rng.integers(20)), TILE, int(rng.integers(8, 30))):
            cv2.rectangle(page, (left, row), (left + int(rng.integers(3, 20)), row + int(rng.integers(3, 8))), 1.0, -1)
    return page


@cache
def bank(seed: int) -> Array:
    """The material tiles (families, TILES_PER_FAMILY, TILE, TILE) of one seed."""
    rng = np.random.default_rng([seed, 7])
    return np.stack([[make_tile(family, rng) for _ in range(TILES_PER_FAMILY)] for family in FAMILIES]).astype("f4")


# --- pictures -------------------------------------------------------------------------------------------------------


def material(rng: np.random.Generator, tiles: Array, family: int, y: Array, x: Array) -> Array:
    """An albedo (H, W, 3) in [0, 1]: a tile, turned, scaled and coloured at random, at the coordinates (H, W)."""
    tile = tiles[family, rng.integers(tiles.shape[1])]
    angle, scale = rng.uniform(0, 2 * np.pi), TILE / 128 * np.exp(rng.uniform(-0.4, 0.6))
    cos, sin = np.float32(np.cos(angle) * scale), np.float32(np.sin(angle) * scale)
    u, v = rng.uniform(0, TILE, 2).astype("f4")
    value = cv2.remap(tile, (cos * x - sin * y + u) % TILE, (sin * x + cos * y + v) % TILE, cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_WRAP)  # fmt: skip
    first = rng.random(3) if rng.random() < 0.7 else np.full(3, rng.random())
    contrast = rng.uniform(0.1, 0.45) * rng.choice([-1, 1])
    second = np.clip(first + contrast + rng.normal(0, 0.15 if rng.random() < 0.5 else 0.01, 3), 0, 1)
    return (first + (second - first) * value[..., None]).astype("f4")


def outline(rng: np.random.Generator, height: int, width: int, tiles: Array) -> NDArray[np.uint8]:
    """A random shape as a mask (H, W) of 0 and 1."""
    mask = np.zeros((height, width), np.uint8)
    centre = rng.random(2) * (width, height)
    size = rng.uniform(0.08, 0.3, 2) * min(height, width) + 3
    form = rng.integers(5)
    if form == 0:
        box = cv2.boxPoints((centre.tolist(), (2 * size).tolist(), float(rng.uniform(0, 180))))
        cv2.fillPoly(mask, [box.astype(np.int32)], 1)
    elif form == 1:
        cv2.rectangle(mask, (centre - size).astype(int).tolist(), (centre + size).astype(int).tolist(), 1, -1)
    elif form == 2:
        cv2.ellipse(
            mask, centre.astype(int).tolist(), size.astype(int).tolist(), float(rng.uniform(0, 180)), 0, 360, 1, -1
        )
    elif form == 3:
        angle = np.sort(rng.random(rng.integers(3, 8))) * 2 * np.pi
        corner = centre + size.max() * np.stack([np.cos(angle), np.sin(angle)], -1)
        cv2.fillPoly(mask, [corner.astype(np.int32)], 1)
    else:
        y, x = np.mgrid[:height, :width].astype("f4")
        wobble = tiles[1, rng.integers(tiles.shape[1])]
        wobble = np.roll(wobble, rng.integers(TILE, size=2).tolist(), (0, 1))
        wobble = cv2.resize(wobble, (max(width, height),) * 2)[:height, :width]
        mask[np.hypot((x - centre[0]) / size[0], (y - centre[1]) / size[1]) + 3 * (wobble - 0.5) < 1] = 1
    return mask


def relief(rng: np.random.Generator, kind: str, mask: NDArray[np.uint8], rough: Array) -> Array:
    """Height (H, W) in pixels that a shape adds to the ground."""
    if kind == "flat" or not mask.any():
        return np.zeros(mask.shape, np.float32)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    top = float(inside.max())
    if kind == "raised":
        return np.minimum(inside, rng.uniform(1.5, 4)) * np.float32(rng.uniform(0.7, 2))
    if kind == "ramp":
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        angle = rng.uniform(0, 2 * np.pi)
        plane = np.cos(angle) * x + np.sin(angle) * y
        return (mask * (plane - plane[mask > 0].min()) * rng.uniform(0.3, 0.9)).astype("f4")
    round_top = top * np.sqrt(1 - (1 - np.minimum(inside / top, 1)) ** 2 + 1e-6)
    if kind == "dome":
        return (mask * round_top * rng.uniform(0.5, 1.0)).astype("f4")
    return (-mask * round_top * rng.uniform(0.15, 0.5) + mask * (rough - 0.5) * rng.uniform(0, 6)).astype("f4")


def collage(seed: int, index: int, height: int, width: int) -> Picture:
    """A collage and its targets, a function of (seed, index) alone."""
    rng = np.random.default_rng([seed, index])
    tiles = bank(seed)
    y, x = np.mgrid[:height, :width].astype("f4")
    if rng.random() < 0.4:  # the ground recedes: texture grows finer towards a horizon above the picture
        far = 1 + rng.uniform(0.3, 1.5) * (1 - y / height)
        y, x = far * y, far * (x - width / 2)
    range_like = rng.random() < 0.25

    kind = np.zeros((height, width), np.uint8)
    part = np.zeros((height, width), np.int32)
    ground = int(rng.integers(len(FAMILIES)))
    family = np.full((height, width), ground, np.uint8)
    albedo = material(rng, tiles, ground, y, x)
    if rng.random() < 0.6:  # a second ground: half plane or wall
        turn, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.75)
        side = np.cos(turn) * (x - x.mean()) / width + np.sin(turn) * (y / y.max() - offset) > 0
        second = int(rng.integers(len(FAMILIES)))
        family[side], part[side] = second, 1
        albedo[side] = material(rng, tiles, second, y, x)[side]
    rough = cv2.resize(tiles[3, rng.integers(TILES_PER_FAMILY)], (max(height, width),) * 2)[:height, :width]
    surface = rough * np.float32(rng.uniform(0, 3) * (rng.random() < 0.3))
    shadow = np.zeros((height, width), np.float32)
    shift = rng.uniform(-5, 5, 2).astype(int)
    for number in range(int(rng.integers(2, 7))):
        mask = outline(rng, height, width, tiles)
        here = mask > 0
        form = int(rng.integers(len(KINDS)))
        surface = surface + relief(rng, KINDS[form], mask, rough)
        kind[here], part[here] = form, number + 2
        if KINDS[form] in ("raised", "dome"):
            shadow = np.maximum(shadow, np.roll(mask, shift.tolist(), (0, 1)) * (1 - mask))
        if form == 0 or rng.random() < 0.6:  # otherwise it keeps the ground's look, and only relief tells
            choice = int(rng.integers(len(FAMILIES)))
            family[here] = choice
            albedo[here] = material(rng, tiles, choice, y, x)[here]

    slope_y, slope_x = np.gradient(surface)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(surface)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    if range_like:
        family[:] = UNASKED
        tilt = rng.uniform(-1, 1, 2) * (0.3, 1.0)
        level = tilt[1] * np.linspace(0, 1, height)[:, None] + tilt[0] * np.linspace(0, 1, width)
        value = level * rng.uniform(0.2, 1) + surface * rng.uniform(0.01, 0.04) * rng.choice([-1, 1])
        value = value + part % 7 * rng.uniform(0, 0.06)
        value = (value - value.mean()) * min(1.0, rng.uniform(0.15, 0.25) / (value.std() + 1e-6))
        value = np.clip(value + rng.uniform(0.3, 0.7), 0, 1)
        if rng.random() < 0.4:
            steps = rng.integers(16, 64)
            value = np.round(value * steps) / steps
        if rng.random() < 0.5:  # places without a value
            value[rough > rng.uniform(0.6, 0.75)] = 0
        image = np.repeat(value[..., None], 3, -1)
    else:
        # light mostly comes from above, in pictures as in the world
        light = np.array([rng.normal(0, 0.5), -abs(rng.normal(0.8, 0.4)), rng.uniform(0.6, 1.2)])
        lambert = np.clip(normal @ (light / np.linalg.norm(light)), 0, None)[..., None]
        ambient = rng.uniform(0.2, 0.5)
        image = albedo * (ambient + 1.3 * (1 - ambient) * lambert * (1 - rng.uniform(0.4, 0.9) * shadow[..., None]))
        if rng.random() < 0.2:
            image = image + lambert**20 * rng.uniform(0.1, 0.5)
        if rng.random() < 0.3:  # uneven light, glare
            lamp = cv2.resize(tiles[1, rng.integers(TILES_PER_FAMILY)], (width, height))[..., None] - 0.5
            image = image * (1 + lamp * rng.uniform(0, 2)) + np.clip(lamp, 0, 1) * rng.uniform(0, 1)
        image = image * (1 + rng.normal(0, 0.05, 3)) * np.exp(rng.uniform(-0.5, 0.3))
        if rng.random() < 0.15:
            image = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    image = image.astype("f4")
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.0))
    grain = rng.standard_normal((height, width, 1 if range_like else 3), dtype="f4")
    stored = (np.clip(image + grain * rng.uniform(0, 0.05) ** 1.3, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.2:
        code = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])[1]
        stored = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    asked = np.full((height, width), not range_like, np.uint8)
    nothing = np.full((height, width), UNASKED, np.uint8)
    return Picture(stored, family, kind, nothing, edges(part), normal.astype("f4"), albedo, asked)


def room(seed: int, index: int, height: int, width: int) -> Picture:
    """A room of the synthetic data set in which nothing is a print, so that RGB tells what each thing is."""
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(ROOM_SEED + seed, index)
    things = tuple(replace(thing, printed=False) for thing in scene.things)
    if rng.random() < 0.5:
        things = tuple(t if t.kind in (STEP, PIT) else replace(t, material=dressing(rng)) for t in things)
        rugs = tuple(replace(t, material=dressing(rng)) for t in scene.rugs)
        scene = replace(scene, rugs=rugs, wall=dressing(rng))
        # in random clothes a locker is a crate
        things = tuple(replace(t, kind=CRATE) if t.kind == LOCKER else t for t in things)
    frame = draw(replace(scene, things=things), height, width)
    nothing = np.full((height, width), UNASKED, np.uint8)
    blank = np.zeros((height, width, 3), np.float32)
    asked = np.zeros((height, width), np.uint8)
    return Picture(frame.rgb, nothing, nothing, frame.label, edges(frame.label), blank, blank, asked)


def dressing(rng: np.random.Generator) -> Material:
    """A random material of the renderer."""
    first = rng.random(3)
    second = np.clip(first + rng.choice([-1, 1]) * rng.uniform(0.1, 0.5) + rng.normal(0, 0.1, 3), 0, 1)
    dark, bright = ((float(r), float(g), float(b)) for r, g, b in (first, second))
    return Material(str(rng.choice(list(material_tiles()))), rng.uniform(0.6, 1.6), rng.uniform(0, np.pi), dark, bright)


def edges(part: NDArray[Any]) -> NDArray[np.uint8]:
    """1 where a pixel's region differs from its upper or left neighbour's."""
    edge = np.zeros(part.shape, np.uint8)
    edge[:, 1:] |= part[:, 1:] != part[:, :-1]
    edge[1:] |= part[1:] != part[:-1]
    return edge


def picture(seed: int, index: int, height: int, width: int) -> Picture:
    """Training picture `index`: collages and rooms in turn."""
    return (collage, room)[index % 2](seed, index, height, width)


class Pictures(IterableDataset[dict[str, NDArray[Any]]]):
    """`batches` batches, their (pictures, height, width) taken in turn from `sizes`."""

    def __init__(self, seed: int, batches: int, sizes: Sequence[tuple[int, int, int]]) -> None:
        self.seed, self.batches, self.sizes = seed, batches, sizes

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        index = 0
        for batch in range(self.batches):
            count, height, width = self.sizes[batch % len(self.sizes)]
            drawn = [picture(self.seed, index + i, height, width) for i in range(count)]
            index += count
            yield {name: np.stack([getattr(p, name) for p in drawn]) for name in Picture._fields}


# --- network --------------------------------------------------------------------------------------------------------


class Backbone(FrozenSwin):
    """swin_nano with the windowed attention it will be used with, all of it trained."""

    def __init__(self) -> None:
        super().__init__(ARCH)
        self.requires_grad_(True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W), normalised → per stage the LayerNormed output (B, C_i, H_i, W_i), as the fusion will see it."""
        tokens = self.embed(x)
        maps = []
        for i in range(len(self.arch.depths)):
            tokens = self.stage(i, self.enter(i, tokens) if i else tokens)
            maps.append(F.layer_norm(tokens.map, tokens.map.shape[-1:]).permute(0, 3, 1, 2))
        return maps


OUTPUTS = {"family": len(FAMILIES), "kind": len(KINDS), "thing": len(CLASSES), "edge": 1, "normal": 3, "albedo": 3}
STATISTICS = 9


class Pretext(nn.Module):
    """The backbone, a linear read-out per stage, and a small read-out of all stages together at stride 4."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        total = sum(OUTPUTS.values()) + STATISTICS
        self.backbone = Backbone()
        self.single = nn.ModuleList(nn.Conv2d(c, total, 1) for c in ARCH.channels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in ARCH.channels)
        self.joint = nn.Sequential(nn.GELU(), nn.Conv2d(width, total, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Read-outs (B, outputs, H_i, W_i): of the four stages, then of all together."""
        maps = self.backbone(x)
        resized = [
            F.interpolate(conv(m), size=maps[0].shape[-2:], mode="bilinear")
            for conv, m in zip(self.lateral, maps, strict=True)
        ]
        alone = [conv(m) for conv, m in zip(self.single, maps, strict=True)]
        return [*alone, self.joint(torch.stack(resized).sum(0))]


def statistics(x: Tensor, size: tuple[int, int]) -> Tensor:
    """What a patch looks like: mean colour, log contrast in three bands and overall, orientation: (B, 9, *size)."""
    grey = x.mean(1, keepdim=True) * 0.225

    def pool(v: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(v, size)

    out, previous = [pool(x)], grey
    for kernel in (3, 5, 9):
        smooth = F.avg_pool2d(previous, kernel, 1, kernel // 2, count_include_pad=False)
        out.append(torch.log(pool((previous - smooth) ** 2) + 1e-5) / 2 + 3)
        previous = smooth
    out.append(torch.log(F.relu(pool(grey**2) - pool(grey) ** 2) + 1e-4) / 2 + 2.5)
    gx, gy = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1)), F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    xx, yy, xy = pool(gx * gx), pool(gy * gy), pool(gx * gy)
    out += [1.5 * (xx - yy) / (xx + yy + 1e-4), 3 * xy / (xx + yy + 1e-4)]
    return torch.cat(out, 1)


def loss_of(prediction: Tensor, image: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Sum of the tasks at the read-out's own resolution; class targets nearest, the others averaged."""
    size = (prediction.shape[-2], prediction.shape[-1])
    *parts, guessed = prediction.split([*OUTPUTS.values(), STATISTICS], 1)
    part = dict(zip(OUTPUTS, parts, strict=True))

    def mean(name: str) -> Tensor:
        return F.adaptive_avg_pool2d(targets[name], size)

    def classes(name: str) -> Tensor:
        truth = F.interpolate(targets[name], size=size, mode="nearest-exact")[:, 0].long()
        total = F.cross_entropy(part[name], truth, ignore_index=UNASKED, reduction="sum")
        return total / (truth != UNASKED).sum().clamp(min=1)

    asked = F.interpolate(targets["asked"], size=size, mode="nearest-exact")
    share = 3 * asked.sum().clamp(min=1)
    return (
        classes("family")
        + classes("kind")
        + 2 * classes("thing")
        + F.binary_cross_entropy_with_logits(part["edge"], mean("edge"))
        + 3 * ((part["normal"] - mean("normal")).abs() * asked).sum() / share
        + 3 * ((part["albedo"] - mean("albedo")).abs() * asked).sum() / share
        + 3 * F.smooth_l1_loss(guessed, statistics(image, size))
    )


def normalized(image: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 with ImageNet mean and standard deviation."""
    return RGB.normalize(image.permute(0, 3, 1, 2)).contiguous()


def target_tensors(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Collated targets → (B, C, H, W) float32."""
    maps = {name: batch[name].float() for name in (*OUTPUTS, "asked")}
    return {name: m.permute(0, 3, 1, 2) if m.ndim == 4 else m.unsqueeze(1) for name, m in maps.items()}


def pretrain(seed: int, steps: int, lr: float) -> Backbone:
    """Pretext training, deterministic in its arguments (one thread computes, one process draws)."""
    torch.manual_seed(seed)
    model = Pretext()
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=min(0.1, 300 / steps), cycle_momentum=False
    )
    loader = DataLoader(Pictures(seed, steps, SIZES), batch_size=None, num_workers=1, prefetch_factor=8)
    average = 0.0
    for step, batch in enumerate(track(loader, total=steps, description="pretraining")):
        image, targets = normalized(batch["image"]), target_tensors(batch)
        *single, joint = [loss_of(out, image, targets) for out in model(image)]
        loss = joint + 0.25 * torch.stack(single).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        average += (joint.item() - average) / min(step + 1, 100)
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: loss {average:.3f}", flush=True)
    return model.backbone.eval()


@torch.no_grad()
def probe(backbone: Backbone, seed: int, pictures: int = 400) -> dict[str, float]:
    """Mean per-class recall of a ridge-regression probe on frozen features of pictures that no training saw.

    Material family and relief in collages, things in rooms. Half of the pictures fits, the other half scores.
    """
    per_picture = 150
    features: list[Tensor] = []
    labels: dict[str, list[Tensor]] = {"family": [], "kind": [], "thing": []}
    generator = torch.Generator().manual_seed(0)
    for index in range(pictures):
        drawn = picture(seed + 1, index, 128, 160)
        maps = backbone(normalized(torch.from_numpy(drawn.image)[None]))
        joined = torch.cat([F.interpolate(m, size=maps[0].shape[-2:], mode="bilinear") for m in maps], 1)[0]
        take = torch.randperm(joined[0].numel(), generator=generator)[:per_picture]
        features.append(joined.flatten(1)[:, take].T)
        for name, parts in labels.items():
            parts.append(torch.from_numpy(getattr(drawn, name)[2::4, 2::4].astype(np.int64)).flatten()[take])
    x = torch.cat([torch.cat(features), torch.ones(per_picture * pictures, 1)], 1).double()
    fit = torch.arange(len(x)) < len(x) // 2
    scores = {}
    for name, parts in labels.items():
        y = torch.cat(parts)
        known = y != UNASKED
        a, b = x[fit & known], F.one_hot(y[fit & known], 16).double()
        weight = 1 / b.sum(0)[y[fit & known], None]
        ridge = 0.01 * torch.eye(a.shape[1], dtype=torch.float64)
        solution = torch.linalg.solve(a.T @ (a * weight) + ridge, a.T @ (b * weight))
        guess, truth = (x[~fit & known] @ solution).argmax(1), y[~fit & known]
        scores[name] = float(np.mean([(guess[truth == k] == k).double().mean() for k in truth.unique()]))
    return scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="file to write (default: the one in the package)")
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=3407, help="seed of pictures and weights (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    started = time.monotonic()
    backbone = pretrain(args.seed, args.steps, args.lr)
    seconds = time.monotonic() - started
    torch.manual_seed(args.seed)
    scores, chance = probe(backbone, args.seed), probe(Backbone().eval(), args.seed)

    state = {name: tensor.half().contiguous() for name, tensor in backbone.state_dict().items()}
    metadata = {
        "format": "pt",
        "name": "swin_nano",
        "architecture": json.dumps(ARCH.to_dict()),
        "made_by": "scripts/make_swin_nano.py",
        "data": "procedural RGB pictures drawn by the script; no photograph, no depth map, no other data",
        "steps": str(args.steps),
        "pictures": str(sum(SIZES[i % len(SIZES)][0] for i in range(args.steps))),
        "seed": str(args.seed),
        "wall_seconds": f"{seconds:.0f}",
        "date": datetime.date.today().isoformat(),
        "versions": json.dumps({"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__}),
        "probe": json.dumps({k: round(v, 4) for k, v in scores.items()}),
        "probe_random_init": json.dumps({k: round(v, 4) for k, v in chance.items()}),
        "license": "Apache-2.0",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_suffix(".tmp")
    save_file(state, temporary, metadata)
    size = temporary.stat().st_size
    if size > MAX_BYTES:
        temporary.unlink()
        raise SystemExit(f"{args.out.name} would be {size} bytes, at most {MAX_BYTES} are allowed")
    temporary.replace(args.out)
    print(f"{args.out}: {size} bytes, {seconds / 60:.1f} min")
    print("probe (mean recall, held-out tiles): " + ", ".join(
        f"{name} {scores[name]:.3f} (random init {chance[name]:.3f})" for name in scores
    ))  # fmt: skip


if __name__ == "__main__":
    main()
