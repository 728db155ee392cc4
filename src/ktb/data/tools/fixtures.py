"""Tiny synthetic data in the exact layout of each real data set, for tests and for trying things out.

Folders, file names, formats, bit depths, list dialects and label coding are those of the real thing; pictures are a
few coloured patches, small, and the same for the same seed. Every class occurs in every split that is large enough,
and so does void where the data set has it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ktb.data.arrays import Array, Bytes
from ktb.errors import ConfigError, DataError
from ktb.io import atomic_file, is_empty

__all__ = ["FIXTURES", "make_fixture"]


VOID = -1
"""Class of void patches while a picture is made; each writer codes it its data set's way."""


@dataclass(frozen=True)
class Picture:
    """What all modalities of one sample show.

    Attributes:
        label: (H, W) int, class ids and `VOID`.
        rgb: (H, W, 3) uint8.
        x: (H, W) float in [0, 1], another view of the same patches, as a sensor would have it.
        hole: (H, W) bool, where that sensor measured nothing.
    """

    label: Array
    rgb: Bytes
    x: Array
    hole: NDArray[np.bool_]


def draw(
    size: tuple[int, int], num_classes: int, index: int, *, void: bool, seed: int = 0, patches: int = 24
) -> Picture:
    """One picture of coloured patches; picture `index` continues the round of classes where the one before it ended.

    Args:
        size: (height, width) in pixels.
        num_classes: number of classes.
        index: number of the picture.
        void: whether there are void patches.
        seed: of positions and looks.
        patches: how many.
    """
    rng = np.random.default_rng((seed, index))
    height, width = size
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform((0, 0), size, (patches, 2))
    nearest = np.argmin((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2, axis=-1)
    kinds = (index * patches + np.arange(patches)) % (num_classes + void)
    label = np.where(kinds == num_classes, VOID, kinds)[nearest]
    looks = np.random.default_rng(seed).integers(30, 226, (num_classes + 1, 3))
    readings = np.random.default_rng(seed + 1).permutation(num_classes + 1) / num_classes * 0.8 + 0.1
    rgb = looks[label] + rng.normal(0, 8, (height, width, 3))
    reading = readings[label] + rng.normal(0, 0.02, (height, width))
    hole = rng.random(size) < 0.01
    hole[: height // 8, -width // 8 :] = True
    return Picture(label, np.clip(rgb, 0, 255).astype(np.uint8), np.clip(reading, 0.02, 1.0), hole)


def make_fixture(
    name: str,
    root: str | Path,
    *,
    layout: str | None = None,
    counts: Mapping[str, int] | None = None,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    """Write a tiny data set into a new or empty folder.

    Args:
        name: one of `FIXTURES`.
        root: the folder.
        layout: one of the data set's layouts; None: its usual one.
        counts: samples per split; 4 each by default.
        size: (height, width) of the pictures, at least 32 each; data sets with a fixed margin or of mixed sizes add to
            it.
        seed: of the pictures.

    Returns:
        `root`.

    Raises:
        ConfigError: a name, layout, split or size there is not.
        DataError: `root` holds files already.
    """
    root = Path(root)
    if name not in FIXTURES:
        raise ConfigError(f"no fixture of data set {name!r}; there are {', '.join(FIXTURES)}")
    make, layouts, splits = FIXTURES[name]
    layout = layout or layouts[0]
    if layout not in layouts:
        raise ConfigError(f"{name} has no layout {layout!r}; it has {', '.join(layouts)}")
    wrong = set(counts or {}) - set(splits)
    if wrong:
        raise ConfigError(f"{name} has no split {min(wrong)!r}; it has {', '.join(splits)}")
    if min(size) < 32:
        raise ConfigError(f"size of the pictures is {tuple(size)}; expected (height, width) of 32 or more each")
    if root.exists() and (not root.is_dir() or not is_empty(root)):
        raise DataError(f"{root}: exists and is not an empty folder, expected a new one: choose another name")
    new = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        make(root, layout, dict.fromkeys(splits, 4) | dict(counts or {}), (int(size[0]), int(size[1])), seed)
    except BaseException:  # a full disk, or Ctrl-C: half a data set would be taken for a whole one
        with suppress(OSError):
            for entry in root.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if new:
                root.rmdir()
        raise
    return root


def _write(path: Path, image: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        if path.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, image)
        elif image.dtype == np.uint16 and image.ndim == 3:  # Pillow has no 16-bit colour
            partial.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        else:
            Image.fromarray(image).save(partial, Image.registered_extensions()[path.suffix], quality=95)


def _write_list(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _ids(label: Array, *, offset: int = 0, void: int = 255) -> Bytes:
    return np.where(label == VOID, void, label + offset).astype(np.uint8)


def _millimetres(picture: Picture, *, far: float = 5.0) -> NDArray[np.uint16]:
    """The reading as a distance up to `far` metres, in mm, 0 at holes."""
    return np.where(picture.hole, 0, 500 + picture.x * (far * 1000 - 500)).astype(np.uint16)


def _hha(picture: Picture) -> Bytes:
    return np.stack([255 * (1 - picture.x), 255 * picture.x, 128 + 60 * np.sin(9 * picture.x)], -1).astype(np.uint8)


def _nyu(root: Path, layout: str, counts: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    index = 0
    for split, count in counts.items():
        lines = []
        for _ in range(count):
            picture = draw(size, 40, index, void=True, seed=seed)
            if layout == "three_columns":
                stem = f"{index + 1:06d}.png"
                _write(root / "rgb" / stem, picture.rgb)
                _write(root / "masks" / stem, _ids(picture.label))
                _write(root / "depth" / stem, _millimetres(picture))
                lines.append(f"rgb/{stem} masks/{stem} depth/{stem}")
            else:
                _write(root / f"RGB/{index}.jpg", picture.rgb)
                _write(root / f"HHA/{index}.jpg", _hha(picture))
                _write(root / f"Depth/{index}.npy", _millimetres(picture).astype(np.float32) / np.float32(1000))
                _write(root / f"Label/{index}.png", _ids(picture.label, offset=1, void=0))
                lines.append(
                    {
                        "tabs": f"RGB/{index}.jpg\tLabel/{index}.png",
                        "spaces": f"RGB/{index}.jpg Label/{index}.png",
                        "stems": str(index),
                    }[layout]
                )
            index += 1
        _write_list(root / f"{split}.txt", lines)


def _sunrgbd(root: Path, layout: str, counts: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    index = 0
    for split, count in counts.items():
        lines = []
        for i in range(count):
            # The four sensors of the real set have four sizes.
            grown = (size[0] + 8 * (index % 3), size[1] + 12 * (index % 4))
            picture = draw(grown, 37, index, void=True, seed=seed)
            name = f"{split}_{i}"
            depth = np.where(picture.hole, 0, 65535 * picture.x).astype(np.uint16)
            _write(root / f"RGB/{name}.jpg", picture.rgb)
            _write(root / f"Depth/{name}.png", depth if layout == "16bit" else (depth >> 8).astype(np.uint8))
            _write(root / f"labels/{name}.png", _ids(picture.label, offset=1, void=0))
            if layout == "tabs":
                lines.append(f"RGB/{name}.jpg\tlabels/{name}.png\tDepth/{name}.png")
            else:
                lines.append(f"RGB/{name}.jpg labels/{name}.png")
            index += 1
        _write_list(root / f"{split}.txt", lines)


def _mfnet(root: Path, layout: str, counts: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    index = 0
    for split, count in counts.items():
        stems = []
        for _ in range(count):
            picture = draw(size, 9, index, void=False, seed=seed)
            stem = f"{index + 1:05d}{'DN'[index % 2]}"
            thermal = (255 * picture.x).astype(np.uint8)
            label = _ids(picture.label)
            if layout == "rgba":
                _write(root / f"images/{stem}.png", np.dstack([picture.rgb, thermal]))
                _write(root / f"labels/{stem}.png", label)
            elif layout == "capitals":
                _write(root / f"RGB/{stem}.jpg", picture.rgb)
                _write(root / f"Thermal/{stem}.jpg", thermal)
                _write(root / f"Label/{stem}.png", label)
            else:
                _write(root / f"rgb/{stem}.png", picture.rgb)
                _write(root / f"ther/{stem}.png", thermal)
                _write(root / f"labels/{stem}.png", label)
            stems.append(stem)
            index += 1
        _write_list(root / f"{split}.txt", stems)


def _pst900(root: Path, layout: str, counts: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    index = 0
    for split, count in counts.items():
        for _ in range(count):
            picture = draw(size, 5, index, void=False, seed=seed)
            name = f"{index % 50 + 1}_bag{index % 24 + 1}a_rect_rgb_frame{index * 7:010d}.png"
            kelvin = np.where(picture.hole, 0, 28_000 + 4_000 * picture.x).astype(np.uint16)
            for folder, image in (
                ("rgb", picture.rgb),
                ("thermal", np.where(picture.hole, 0, 255 * picture.x).astype(np.uint8)),
                ("thermal_raw", kelvin),
                ("depth", np.where(picture.hole, 0, 2560 * (0.5 + 20 * picture.x)).astype(np.uint16)),
                ("labels", _ids(picture.label)),
            ):
                _write(root / split / folder / name, image)
            index += 1


MCUBES_MARGIN = 192
"""Columns at the left of an MCubeS picture that belong to no class and are dropped on reading."""


def _mcubes(root: Path, layout: str, counts: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    base = root / "multimodal_dataset" if layout == "nested" else root
    index = 0
    for split, count in counts.items():
        stems = []
        for _ in range(count):
            picture = draw(size, 20, index, void=True, seed=seed)
            stem = f"outscene1208_{index % 9}_{index * 30:010d}"
            margin = ((0, 0), (MCUBES_MARGIN, 0))
            # The margin of every picture holds what would be noticed if it were not dropped.
            angle = np.pad(2 * np.pi * picture.x, margin)
            rgb = np.pad(picture.rgb, (*margin, (0, 0)), constant_values=255)
            hole = np.pad(picture.hole, margin, constant_values=True)
            nir = np.where(hole, 0, np.pad(65535 * picture.x, margin)).astype(np.uint16)
            degree = np.pad(2.4 * picture.x - 0.4, margin, constant_values=-2.66)
            material = np.pad(_ids(picture.label), margin, constant_values=0)
            scene = np.pad(_ids(picture.label % 19), margin)
            for folder, image in (
                ("polL_color", rgb),
                ("polL_aolp_sin", np.sin(angle).astype(np.float32)),
                ("polL_aolp_cos", np.cos(angle).astype(np.float32)),
                ("polL_dolp", degree.astype(np.float32)),
                ("NIR_warped", nir),
                ("NIR_warped_mask", np.where(hole, 255, 0).astype(np.uint8)),
                ("GT", material),
                ("SS", scene),
                ("SSGT4MS", scene % 10),
            ):
                if folder == "polL_color" and layout == "16bit":
                    image = image.astype(np.uint16) * 257
                _write(base / folder / f"{stem}{'.npy' if image.dtype == np.float32 else '.png'}", image)
            stems.append(stem)
            index += 1
        _write_list(base / "list_folder" / f"{split}.txt", stems)
    _write_list(base / "list_folder" / "all.txt", sorted(p.stem for p in (base / "GT").iterdir()))


DELIVER_WEATHERS = ("cloud", "fog", "night", "rain", "sun")
DELIVER_CASES = ("", "_eventlowres", "_motionblur", "_overexposure", "_underexposure", "_lidarjitter")


def _deliver(root: Path, layout: str, counts: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    side = min(size)  # pictures are square
    index = 0
    for split, count in counts.items():
        for i in range(count):
            picture = draw((side, side), 25, index, void=True, seed=seed)
            weather = DELIVER_WEATHERS[i % len(DELIVER_WEATHERS)]
            case = DELIVER_CASES[i % len(DELIVER_CASES)]
            # As in the real set, scene and frame repeat across weathers: only the whole path names a sample.
            folder = f"{weather}/{split}/MAP_10_point{102 + i // len(DELIVER_WEATHERS)}{case}"
            frame = "045050"
            reading = (255 * picture.x).astype(np.uint8)
            event = np.dstack([reading * (picture.x > 0.5), reading * 0, reading * (picture.x <= 0.5)])
            if case == "_eventlowres":
                small = side * 512 // 1042
                event = np.asarray(cv2.resize(event, (small, small), interpolation=cv2.INTER_NEAREST), np.uint8)
            # The engine's label files: the id in the first channel, 0 or 255 where there is none.
            ids = _ids(picture.label, offset=1, void=(0, 255)[index % 2])
            for kind, suffix, image in (
                ("img", "rgb", picture.rgb),
                ("hha", "depth", _hha(picture)),
                ("depth", "depth", np.dstack([reading] * 3)),
                ("event", "event", event),
                ("lidar", "lidar", np.dstack([np.where(picture.hole, 0, reading)] * 3)),
                ("semantic", "semantic", np.dstack([ids, ids * 0, ids * 0, ids * 0 + 255])),
            ):
                _write(root / kind / folder / f"{frame}_{suffix}_front.png", image)
            index += 1


Make = Callable[[Path, str, Mapping[str, int], tuple[int, int], int], None]

FIXTURES: dict[str, tuple[Make, tuple[str, ...], tuple[str, ...]]] = {
    "nyu": (_nyu, ("tabs", "spaces", "stems", "three_columns"), ("train", "test")),
    "sunrgbd": (_sunrgbd, ("spaces", "tabs", "16bit"), ("train", "test")),
    "mfnet": (_mfnet, ("folders", "rgba", "capitals"), ("train", "val", "test")),
    "pst900": (_pst900, ("folders",), ("train", "test")),
    "mcubes": (_mcubes, ("flat", "nested", "16bit"), ("train", "val", "test")),
    "deliver": (_deliver, ("folders",), ("train", "val", "test")),
}
"""Data set → how it is written, its layouts (the usual one first), its splits."""
