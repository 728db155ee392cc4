"""Field pictures for trying how training deals with rare classes: red and near infrared, soil, weeds and crop.

    python scripts/make_field.py data/field
    ktb-data new data/field --name field

Drawn, not recorded: rows of broad-leaved plants (crop, about 2 % of the pixels) among thin-leaved and round-leaved ones
(weeds, 7 %) on soil with straw. Plants are dark in red and bright in near infrared, both kinds almost alike, so that
shape tells them apart; light and soil vary within a picture. The same folder for everyone: nothing but NumPy's seeded
generator decides.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.uint8]

HEIGHT, WIDTH = 240, 320
SOIL, WEED, CROP = range(3)


def smooth_noise(rng: np.random.Generator, scale: float) -> Array:
    """Noise (HEIGHT, WIDTH) of standard deviation about 1 whose features are about `scale` pixels large."""
    rows, columns = (max(2, int(side / scale) + 2) for side in (HEIGHT, WIDTH))
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    fine: Array = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    return fine


def draw_leaf(mask: Mask, x: float, y: float, angle: float, length: float, width: float) -> None:
    """A leaf from its stalk at (x, y) outwards."""
    along = np.linspace(0, 1, 16)
    half = np.sin(np.pi * along**0.8) * width / 2
    u, v = np.concatenate([along * length, (along * length)[::-1]]), np.concatenate([half, -half[::-1]])
    cos, sin = np.cos(angle), np.sin(angle)
    cv2.fillPoly(mask, [np.stack([x + cos * u - sin * v, y + sin * u + cos * v], 1).astype(np.int32)], 1)


def draw_plant(rng: np.random.Generator, kind: int, x: int, y: int, size: float) -> NDArray[np.bool_]:
    """Where a plant of `size` pixels covers the ground."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if kind == CROP:  # a rosette of broad leaves
        leaves, turn = rng.integers(4, 8), rng.uniform(0, 6.3)
        for i in range(leaves):
            angle = turn + 6.283 * i / leaves + rng.normal(0, 0.25)
            draw_leaf(mask, x, y, angle, size * rng.uniform(0.8, 1.2), size * 0.45)
    elif rng.random() < 0.5:  # thin leaves
        for _ in range(rng.integers(5, 14)):
            base = x + rng.normal(0, size * 0.15), y + rng.normal(0, size * 0.15)
            draw_leaf(mask, *base, rng.uniform(0, 6.3), size * rng.uniform(0.5, 1.1), size * 0.14)
    else:  # small round leaves
        for _ in range(rng.integers(4, 12)):
            centre = int(x + rng.normal(0, size * 0.45)), int(y + rng.normal(0, size * 0.45))
            cv2.circle(mask, centre, max(1, int(size * rng.uniform(0.1, 0.22))), 1, -1)
    return mask > 0


def render(index: int) -> tuple[Array, Array, Mask]:
    """Red and near infrared (HEIGHT, WIDTH) in [0, 1], and the label, of picture `index`."""
    rng = np.random.default_rng([0, index])
    soil = 0.5 + 0.10 * smooth_noise(rng, 40) + 0.06 * smooth_noise(rng, 8) + 0.05 * smooth_noise(rng, 2)
    light = 1 + 0.25 * smooth_noise(rng, 150)
    red, nir = 0.30 * soil, 0.36 * soil
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(rng.integers(5, 20)):  # straw, bright in both
        x, y = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
        angle, length = rng.uniform(0, np.pi), rng.uniform(8, 30)
        straw = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.line(straw, (x, y), (int(x + length * np.cos(angle)), int(y + length * np.sin(angle))), 1, 1)
        red[straw > 0] += 0.15
        nir[straw > 0] += 0.15

    def grow(kind: int, x: int, y: int, size: float) -> None:
        covered = draw_plant(rng, kind, x, y, size)
        shade, texture = rng.uniform(0.8, 1.1), 1 + 0.15 * smooth_noise(rng, 3)
        red[covered] = (0.09 * shade * texture)[covered]
        nir[covered] = ((0.42 if kind == CROP else 0.40) * shade * texture)[covered]
        label[covered] = kind

    row, step = rng.uniform(0.3, 0.7) * HEIGHT, rng.uniform(100, 140)
    for k in range(int(WIDTH / step) + 1):
        if rng.random() < 0.75:
            x, y = int((k + 0.4 + rng.normal(0, 0.08)) * step), int(row + rng.normal(0, 8))
            grow(CROP, x, y, rng.uniform(14, 24))
    weeds = rng.gamma(2.0, 0.03)  # their share of the picture
    for _ in range(200):
        if (label == WEED).mean() >= weeds:
            break
        x, y = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
        if not (label[max(0, y - 25) : y + 25, max(0, x - 25) : x + 25] == CROP).any():
            grow(WEED, x, y, rng.uniform(6, 22))
    red, nir = (
        np.clip(cv2.GaussianBlur(image * light, (3, 3), 0.6) + 0.012 * rng.standard_normal((HEIGHT, WIDTH)), 0, 1)
        for image in (red, nir)
    )
    return red, nir, label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder for red/, nir/, label/ and classes.txt")
    parser.add_argument("--samples", type=int, default=80, help="pictures (80)")
    arguments = parser.parse_args()
    for kind in ("red", "nir", "label"):
        (arguments.folder / kind).mkdir(parents=True)
    (arguments.folder / "classes.txt").write_text("soil\nweed\ncrop\n")
    pixels = np.zeros(3)
    for i in range(arguments.samples):
        red, nir, label = render(i)
        Image.fromarray((red * 255 * 1.6).clip(0, 255).astype(np.uint8)).save(arguments.folder / f"red/{i:03d}.png")
        Image.fromarray((nir * 65535).astype(np.uint16)).save(arguments.folder / f"nir/{i:03d}.png")
        Image.fromarray(label).save(arguments.folder / f"label/{i:03d}.png")
        pixels += np.bincount(label.ravel(), minlength=3)
    print(f"{arguments.folder}: soil {pixels[0] / pixels.sum():.1%}, weed {pixels[1] / pixels.sum():.1%}, "
          f"crop {pixels[2] / pixels.sum():.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
