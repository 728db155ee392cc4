"""Make the weights of the bundled backbone swin_nano: pretrain a small Swin on procedural RGB images, nothing else.

The images are drawn by this file: random materials (`FAMILIES`: grain, stripes, tiles, cracks, wood, ...) on random
regions and shapes, with random relief, light, shadow, glare, blur, noise and JPEG damage; a part of them is grey and
smooth or stepped, as a range map shown as a picture would be. No photograph, no depth input, no other data set.

One network learns several dense tasks at once, and every stage has to solve them from its own, LayerNormed output,
because that is what the frozen backbone hands to the fusion later:
material family, kind of relief (flat print, raised, dome, dent, ramp), region edges, surface normal, unlit colour.

    python scripts/make_swin_nano.py                  # the shipped file, about 25 minutes on two CPU cores
    python scripts/make_swin_nano.py --steps 50 --out /tmp/nano.safetensors
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

OUT = Path(__file__).parents[1] / "src/ktb/weights/swin_nano.safetensors"
ARCHITECTURE = {"embed_dim": 32, "depths": [2, 2, 4, 2], "num_heads": [1, 2, 4, 8], "window_size": 8, "mlp_ratio": 2.0}
MAX_BYTES = 4_000_000

FAMILIES = (
    "plain", "gradient", "grain", "clouds", "blotches", "stripes", "checks", "tiles", "dots", "cells", "wood",
    "cracks", "speckles", "waves", "brushed", "print",
)  # fmt: skip
KINDS = ("flat", "raised", "dome", "dent", "ramp")
TILE = 256
TILES_PER_FAMILY = 10

Array = NDArray[np.float32]


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
    yx = np.stack(np.mgrid[:TILE, :TILE], -1)[:, :, None] - points
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
        return sum(spectral_noise(rng, k, 2 * k) / i for i, k in enumerate((4, 8, 16, 32), 1)) / np.float32(25 / 12)
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
    angle, scale = rng.uniform(0, 2 * np.pi), TILE / 128 * np.exp(rng.uniform(-0.7, 0.7))
    cos, sin = np.float32(np.cos(angle) * scale), np.float32(np.sin(angle) * scale)
    u, v = rng.uniform(0, TILE, 2).astype("f4")
    value = cv2.remap(tile, (cos * x - sin * y + u) % TILE, (sin * x + cos * y + v) % TILE, cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_WRAP)  # fmt: skip
    first = rng.random(3) if rng.random() < 0.7 else np.full(3, rng.random())
    contrast = rng.uniform(0.1, 0.6) * rng.choice([-1, 1])
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


def picture(seed: int, index: int, height: int, width: int) -> dict[str, NDArray[np.generic]]:
    """One training picture and its targets, a function of (seed, index) alone.

    image (H, W, 3) uint8; family, kind, edge (H, W) uint8 (family 255: not asked); normal, albedo (H, W, 3) float32.
    """
    rng = np.random.default_rng([seed, index])
    tiles = bank(seed)
    y, x = np.mgrid[:height, :width].astype("f4")
    if rng.random() < 0.4:  # the ground recedes: texture grows finer towards a horizon above the picture
        far = 1 + rng.uniform(0.3, 2.0) * (1 - y / height)
        y, x = far * y, far * (x - width / 2)
    range_like = rng.random() < 0.25

    family = np.zeros((height, width), np.uint8)
    kind = np.zeros((height, width), np.uint8)
    part = np.zeros((height, width), np.int32)
    ground = int(rng.integers(len(FAMILIES)))
    family[:] = ground
    albedo = material(rng, tiles, ground, y, x)
    if rng.random() < 0.6:  # a second ground: half plane or wall
        normal_angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.75)
        side = np.cos(normal_angle) * (x - x.mean()) / width + np.sin(normal_angle) * (y / y.max() - offset) > 0
        second = int(rng.integers(len(FAMILIES)))
        family[side], part[side] = second, 1
        albedo[side] = material(rng, tiles, second, y, x)[side]
    rough = tiles[3, rng.integers(TILES_PER_FAMILY)]
    rough = cv2.resize(rough, (max(height, width),) * 2)[:height, :width]
    surface = rough * np.float32(rng.uniform(0, 3) * (rng.random() < 0.4))
    shadow = np.zeros((height, width), np.float32)
    shift = rng.uniform(-6, 6, 2).astype(int)
    for number in range(int(rng.integers(3, 10))):
        mask = outline(rng, height, width, tiles)
        here = mask > 0
        form = int(rng.integers(len(KINDS)))
        lift = relief(rng, KINDS[form], mask, rough)
        surface = surface + lift
        kind[here], part[here] = form, number + 2
        if KINDS[form] in ("raised", "dome"):
            shadow = np.maximum(shadow, np.roll(mask, shift.tolist(), (0, 1)) * (1 - mask))
        if form == 0 or rng.random() < 0.6:  # otherwise it keeps the ground's look, and only relief tells
            choice = int(rng.integers(len(FAMILIES)))
            family[here] = choice
            albedo[here] = material(rng, tiles, choice, y, x)[here]

    edge = np.zeros((height, width), np.uint8)
    edge[:, 1:] |= part[:, 1:] != part[:, :-1]
    edge[1:] |= part[1:] != part[:-1]
    slope_y, slope_x = np.gradient(surface)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(surface)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)

    if range_like:
        family[:] = 255
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
        albedo = np.full_like(albedo, 0.5)
    else:
        light = np.append(rng.normal(0, 1, 2), rng.uniform(0.5, 1.5))
        light /= np.linalg.norm(light)
        ambient = rng.uniform(0.15, 0.6)
        shade = ambient + (1 - ambient) * np.clip(normal @ light, 0, None) * (1 - rng.uniform(0.4, 0.9) * shadow) * 1.2
        image = albedo * shade[..., None]
        if rng.random() < 0.3:
            image = image + np.clip(normal @ light, 0, 1)[..., None] ** 20 * rng.uniform(0.1, 0.6)
        if rng.random() < 0.4:  # uneven light, glare
            lamp = cv2.resize(tiles[1, rng.integers(TILES_PER_FAMILY)], (width, height))[..., None] - 0.5
            image = image * (1 + lamp * rng.uniform(0, 2)) + np.clip(lamp, 0, 1) * rng.uniform(0, 1)
        image = image * (1 + rng.normal(0, 0.1, 3)) * np.exp(rng.uniform(-0.9, 0.4))
        if rng.random() < 0.15:
            image = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    image = image.astype("f4")
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    image = (
        image + rng.standard_normal((height, width, 1 if range_like else 3), dtype="f4") * rng.uniform(0, 0.06) ** 1.3
    )
    stored = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.3:
        code = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])[1]
        stored = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return {
        "image": stored,
        "family": family,
        "kind": kind,
        "edge": edge,
        "normal": normal.astype("f4"),
        "albedo": albedo,
    }


class Pictures(IterableDataset[dict[str, NDArray[np.generic]]]):
    """`count` batches of pictures of one size each, sizes taken in turn."""

    def __init__(self, seed: int, batches: int, sizes: list[tuple[int, int, int]]) -> None:
        self.seed, self.batches, self.sizes = seed, batches, sizes

    def __iter__(self) -> Iterator[dict[str, NDArray[np.generic]]]:
        index = 0
        for batch in range(self.batches):
            count, height, width = self.sizes[batch % len(self.sizes)]
            drawn = [picture(self.seed, index + i, height, width) for i in range(count)]
            index += count
            yield {key: np.stack([d[key] for d in drawn]) for key in drawn[0]}


# --- network --------------------------------------------------------------------------------------------------------


def build(size: int) -> SwinTransformer:
    """swin_nano on timm's module, for square pictures on which no stage needs padding.

    Our own windowed attention differs from timm's only where a map is padded.
    """
    return SwinTransformer(img_size=size, num_classes=0, drop_path_rate=0.0, always_partition=True, **ARCHITECTURE)


def stage_maps(backbone: SwinTransformer, x: Tensor) -> list[Tensor]:
    """(B, 3, H, W), normalised → per stage the LayerNormed output (B, C_i, H_i, W_i), as the fusion will see it."""
    x = backbone.patch_embed(x)
    maps = []
    for layer in backbone.layers:
        x = layer(x)
        maps.append(F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2))
    return maps


OUTPUTS = {"family": len(FAMILIES), "kind": len(KINDS), "edge": 1, "normal": 3, "albedo": 3}


class Pretext(nn.Module):
    """The backbone, one linear read-out per stage, and one small read-out of all stages together at stride 4."""

    def __init__(self, backbone: SwinTransformer, width: int = 64) -> None:
        super().__init__()
        channels = [ARCHITECTURE["embed_dim"] * 2**i for i in range(4)]
        total = sum(OUTPUTS.values())
        self.backbone = backbone
        self.single = nn.ModuleList(nn.Conv2d(c, total, 1) for c in channels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.joint = nn.Sequential(nn.GELU(), nn.Conv2d(width, total, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Read-outs (B, sum(OUTPUTS), H_i, W_i): of the four stages, then of all together."""
        maps = stage_maps(self.backbone, x)
        merged = sum(
            F.interpolate(conv(m), size=maps[0].shape[-2:], mode="bilinear")
            for conv, m in zip(self.lateral, maps, strict=True)
        )
        return [*(conv(m) for conv, m in zip(self.single, maps, strict=True)), self.joint(merged)]


def loss_of(prediction: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Sum of the tasks at the read-out's own resolution; class targets nearest, the others averaged."""
    size = prediction.shape[-2:]
    part = dict(zip(OUTPUTS, prediction.split(list(OUTPUTS.values()), 1), strict=True))

    def mean(name: str) -> Tensor:
        return F.adaptive_avg_pool2d(targets[name], size)

    def nearest(name: str) -> Tensor:
        return F.interpolate(targets[name], size=size, mode="nearest-exact")[:, 0].long()

    asked = (nearest("family") != 255).unsqueeze(1)
    return (
        F.cross_entropy(part["family"], nearest("family"), ignore_index=255, reduction="sum") / asked.sum().clamp(min=1)
        + F.cross_entropy(part["kind"], nearest("kind"))
        + F.binary_cross_entropy_with_logits(part["edge"], mean("edge").clamp(0, 1))
        + 2 * F.l1_loss(part["normal"], mean("normal"))
        + 2 * ((part["albedo"] - mean("albedo")).abs() * asked).mean()
    )


def normalized(image: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 with ImageNet mean and standard deviation."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((image / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()


def target_tensors(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Collated targets → (B, C, H, W) float32."""
    maps = {name: batch[name].float() for name in OUTPUTS}
    return {name: m.permute(0, 3, 1, 2) if m.ndim == 4 else m.unsqueeze(1) for name, m in maps.items()}


def pretrain(seed: int, steps: int, sizes: list[tuple[int, int, int]], lr: float) -> SwinTransformer:
    """Pretext training, deterministic in its arguments (one thread computes, one process draws)."""
    torch.manual_seed(seed)
    model = Pretext(build(sizes[0][1]))
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=lr
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    loader = DataLoader(Pictures(seed, steps, sizes), batch_size=None, num_workers=1, prefetch_factor=8)
    average = 0.0
    for step, batch in enumerate(track(loader, total=steps, description="pretraining")):
        targets = target_tensors(batch)
        outputs = model(normalized(batch["image"]))
        loss = torch.stack([loss_of(o, targets) for o in outputs]) @ torch.tensor([0.25, 0.25, 0.25, 0.25, 1.0])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        average += (loss.item() - average) / min(step + 1, 100)
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: loss {average:.3f}", flush=True)
    return model.backbone.eval()


@torch.no_grad()
def probe(backbone: SwinTransformer, seed: int, size: int, pictures: int = 48) -> dict[str, float]:
    """Mean per-class recall of a ridge-regression probe on frozen features, for material family and for relief.

    Tiles and pictures come from a seed that the pretraining never saw; one half fits, the other half scores.
    """
    held_out = seed + 1
    features, labels = [], {"family": [], "kind": []}
    generator = torch.Generator().manual_seed(0)
    for index in range(pictures):
        drawn = picture(held_out, index, size, size)
        maps = stage_maps(backbone, normalized(torch.from_numpy(drawn["image"])[None]))
        joined = torch.cat([F.interpolate(m, size=maps[0].shape[-2:], mode="bilinear") for m in maps], 1)[0]
        take = torch.randperm(joined[0].numel(), generator=generator)[:1000]
        features.append(joined.flatten(1)[:, take].T)
        for name in labels:
            labels[name].append(torch.from_numpy(drawn[name][2::4, 2::4].astype(np.int64)).flatten()[take])
    x = torch.cat([torch.cat(features), torch.ones(len(features) * len(take), 1)], 1).double()
    fit = torch.arange(len(x)) < len(x) // 2
    scores = {}
    for name, parts in labels.items():
        y = torch.cat(parts)
        known = y != 255
        weight = 1.0 / torch.bincount(y[fit & known], minlength=16).clamp(min=1).double()[y[fit & known]]
        a, b = x[fit & known], F.one_hot(y[fit & known], 16).double()
        solution = torch.linalg.solve(
            a.T @ (a * weight[:, None]) + 1e-3 * torch.eye(a.shape[1]), a.T @ (b * weight[:, None])
        )
        guess, truth = (x[~fit & known] @ solution).argmax(1), y[~fit & known]
        scores[name] = float(np.mean([(guess[truth == k] == k).double().mean() for k in truth.unique()]))
    return scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="file to write (default: the one in the package)")
    parser.add_argument("--steps", type=int, default=1100, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=3407, help="seed of pictures and weights (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate (default: %(default)s)")
    args = parser.parse_args()
    sizes = [(4, 256, 256)]

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    started = time.monotonic()
    backbone = pretrain(args.seed, args.steps, sizes, args.lr)
    seconds = time.monotonic() - started
    torch.manual_seed(args.seed)
    scores, chance = probe(backbone, args.seed, 256), probe(build(256).eval(), args.seed, 256)

    state = {
        k: v.half().contiguous() for k, v in backbone.state_dict().items() if k.startswith(("patch_embed.", "layers."))
    }
    metadata = {
        "format": "pt",
        "name": "swin_nano",
        "architecture": json.dumps(ARCHITECTURE),
        "made_by": "scripts/make_swin_nano.py",
        "data": "procedural RGB pictures drawn by the script; no photograph, no depth input, no other data",
        "steps": str(args.steps),
        "pictures": str(sum(sizes[i % len(sizes)][0] for i in range(args.steps))),
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
    os.replace(temporary, args.out)
    print(f"{args.out}: {size} bytes, {seconds / 60:.1f} min")
    print("probe (mean recall, held-out tiles): " + ", ".join(
        f"{name} {scores[name]:.3f} (random init {chance[name]:.3f})" for name in scores
    ))  # fmt: skip


if __name__ == "__main__":
    main()
