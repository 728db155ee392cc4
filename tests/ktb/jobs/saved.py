"""Untrained models saved as bundles, for every data set and treatment of a sensor, and what lies in their files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image

from ktb.data.module import RGBXDataModule
from ktb.data.samples import FileSamples
from ktb.data.tools.fixtures import FIXTURES, make_fixture
from ktb.jobs.build import build_data, build_model
from ktb.jobs.provenance import provenance
from ktb.weights.bundle import save_bundle
from ktb.weights.states import fingerprint
from tests.ktb.jobs.test_train import configured

FIXTURE_CASES = [
    ("nyu", "tabs", "eval_size=[64,48]"),
    ("nyu", "tabs", "depth_source=depth"),  # metres, with holes
    ("sunrgbd", "16bit", "eval_size=64"),
    ("mfnet", "folders", "eval_size=40"),
    ("mfnet", "rgba", "eval_size=40"),
    ("pst900", "folders", "thermal_source=thermal_raw"),
    ("pst900", "folders", "eval_size=null"),
    ("mcubes", "16bit", "eval_size=null"),
    ("mcubes", "16bit", "unnormalised_rgb_in_eval=true"),
    ("deliver", "folders", "eval_size=64"),
    ("deliver", "folders", "depth_source=depth"),
]
"""Data set, layout of its fixture, a setting."""
_STREAMS = {"mcubes": "[rgb,aolp,dolp,nir]", "deliver": "[rgb,depth,event,lidar]", "pst900": "[rgb,thermal,depth]"}

_HOLES = "hole_value: 0, dtype: uint16"
OWN_CASES = {
    "fill": f"{_HOLES}, holes: fill, scale: 5000",
    "validity": f"{_HOLES}, holes: validity, scale: 5000, mean: [0.4, 0.0], std: [0.25, 1.0]",
    "zero": f"{_HOLES}, scale: 5000, mean: 0.4",
    "plane": f"{_HOLES}, holes: fill, normalise: plane, plane_range: 800",
    "plane with holes": f"{_HOLES}, normalise: plane, plane_range: 800",
    "percentile": f"{_HOLES}, normalise: percentile, percentiles: [5, 90]",
    "percentile with validity": f"{_HOLES}, holes: validity, normalise: percentile",
    "float": "dtype: float32, hole_value: nan, holes: fill, scale: 5, mean: 0.3, std: 0.5",
    "float plane": "dtype: float32, hole_value: nan, holes: validity, normalise: plane, plane_range: 0.8",
    "bytes": "dtype: uint8, hole_value: 0, holes: fill",
    "bytes with holes": "dtype: uint8, hole_value: 0",
    "picked": "channels: 2, pick: [2, 0], mean: [0.5, 0.4], std: [0.2, 0.3]",
    "mean": f"{_HOLES}, holes: mean, scale: 5000, mean: 0.4, std: 0.1",
    "bytes mean": "dtype: uint8, hole_value: 0, holes: mean, mean: 0.3, std: 0.2",
    "bands": f"{_HOLES}, tif, bands: [7, 1, 3], scale: [5000, 900, 70], mean: [0.2, 0.4, 0.3], std: [0.1, 0.2, 0.3]",
    "bands mean": f"{_HOLES}, tif, channels: 7, holes: mean, mean: 0.05, std: 0.02",
    "bands validity": f"{_HOLES}, tif, channels: 7, holes: validity, mean: [{', '.join(['0.05'] * 7)}], std: 0.02",
    "bands nodata": "dtype: float32, tif, channels: 7, hole_value: nodata, holes: mean, scale: 4000, mean: 0.3",
    "bands fill": f"{_HOLES}, tif, channels: 7, holes: fill, scale: 5000",
    "bands percentile": f"{_HOLES}, tif, channels: 7, normalise: percentile",
    "percentile fill": f"{_HOLES}, holes: fill, normalise: percentile",
    "percentile mean": f"{_HOLES}, holes: mean, normalise: percentile, percentiles: [1, 99], mean: 0.4, std: 0.3",
    "plane mean": f"{_HOLES}, holes: mean, normalise: plane, plane_range: 800, mean: 0.5, std: 0.2",
    "float whole": "dtype: float32, scale: 5, mean: 0.3, std: 0.5",
    "float percentile": "dtype: float32, normalise: percentile",
    "half zero": f"{_HOLES}, half, scale: 5000",
    "half fill": f"{_HOLES}, half, holes: fill, scale: 5000",
    "half validity": "dtype: float32, half, hole_value: nan, holes: validity, scale: 5",
    "half mean": "dtype: uint8, half, hole_value: 0, holes: mean, mean: 0.3, std: 0.2",
    "half plane": f"{_HOLES}, half, normalise: plane, plane_range: 800",
    "half whole": "dtype: uint16, half, scale: 5000",
    "files": f"{_HOLES}, parts, holes: mean, scale: 5000, mean: [0.1, 0.2, 0.3], std: 0.2",
    "files float": "dtype: float32, parts, hole_value: nan, holes: fill, scale: 5000",
    "files whole": "dtype: uint16, parts, scale: 5000",
    "files zero": f"{_HOLES}, parts, scale: 5000",
    "files validity": f"{_HOLES}, parts, holes: validity, scale: 5000",
    "files percentile": f"{_HOLES}, parts, normalise: percentile",
}
"""Settings of the modality x of a data set of the user's own. The words tif, parts and half are none: the first stands
for seven bands in a TIFF file, the second for three files per sample that differ in size, the third for pictures of
two thirds of the sides of RGB."""


def plain(x: str) -> str:
    """One of `OWN_CASES` without the words that are no settings."""
    return re.sub(", (tif|parts|half)", "", x)


def own_data(root: Path, x: str, more: str = "") -> list[str]:
    """Settings of a data set of RGB and x, which is written.

    Args:
        root: its folder.
        x: one of `OWN_CASES`.
        more: one more setting; with dataset.resize=label the labels have more pixels.

    Its pictures have 45 x 60 pixels.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:45, 0:60]
    for i in range(2):
        rgb = cv2.resize(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8), (60, 45), interpolation=cv2.INTER_LINEAR)
        depth = 900 + 40 * rows + 5 * columns + rng.normal(0, 30, rows.shape)
        depth[12:22, 20 + i : 33] -= 500
        hole = rng.random(rows.shape) < 0.1
        hole[30:40, 40:52] = True
        hole &= "hole" in x
        if "half" in x:
            depth = cv2.resize(depth, (40, 30), interpolation=cv2.INTER_AREA)
            hole = cv2.resize(hole.astype(np.uint8), (40, 30), interpolation=cv2.INTER_NEAREST) > 0
        if "float32" in x:
            stored = np.where(hole, np.nan, depth / 1000).astype(np.float32)
        elif "uint16" in x:
            stored = np.where(hole, 0, depth).astype(np.uint16)
        elif "pick" in x:
            stored = rgb[::-1]
        else:
            stored = np.where(hole, 0, depth / 16).astype(np.uint8)
        if "tif" in x:
            bands = depth[..., None] / (1, 2, 4, 30, 3, 8, 5) + rng.normal(0, 3, (*depth.shape, 7))
            _write_bands(root / "x", i, bands, hole, "float32" if "float32" in x else "uint16")
        elif "parts" in x:
            for part, size in enumerate(((60, 45), (37, 28), (120, 90))):
                plane = cv2.resize(depth / (1 + part), size, interpolation=cv2.INTER_AREA)
                lacking = cv2.resize(hole.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
                nothing = np.nan if "float32" in x else 0
                plane = np.where(lacking, nothing, plane).astype("float32" if "float32" in x else "uint16")
                (root / f"x{part}").mkdir(exist_ok=True, parents=True)
                tifffile.imwrite(root / f"x{part}" / f"{i}.tif", plane)
        x_too = [] if "tif" in x or "parts" in x else [("x", stored)]
        label = (rgb[..., 0] > 128).astype(np.uint8)
        if "resize=label" in more:
            label = cv2.resize(label, (96, 72), interpolation=cv2.INTER_NEAREST)
        for folder, array in (("rgb", rgb), *x_too, ("label", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if array.dtype == np.float32:
                np.save(root / folder / f"{i}.npy", array)
            else:
                Image.fromarray(array).save(root / folder / f"{i}.png")
    files = "x/*.tif" if "tif" in x else "x/*.npy" if "float32" in x else "x/*.png"
    patterns = "['x0/*.tif', 'x1/*.tif', 'x2/*.tif']" if "parts" in x else f"'{files}'"
    x = plain(x)
    return [
        "dataset=folder", f"dataset.root={root}", "dataset.classes=[a,b,c]", "dataset.splits={train: 0.5, val: 0.5}",
        f"dataset.modalities={{rgb: {{files: 'rgb/*.png'}}, x: {{files: {patterns}, {x}}}}}",
        "dataset.label={files: 'label/*.png'}", *([more] if more else []),
    ]  # fmt: skip


def _write_bands(folder: Path, i: int, bands: np.ndarray, hole: np.ndarray, dtype: str) -> None:
    """Seven bands in a TIFF file; floats have the file's own value for no data, by its tag."""
    nodata = 0 if dtype == "uint16" else -9999.5 - i
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.where(hole[..., None], nodata, bands).astype(dtype)
    tag = [(42113, "s", 0, str(nodata), True)] if dtype == "float32" else []
    tifffile.imwrite(
        folder / f"{i}.tif",
        stored,
        photometric="minisblack",
        planarconfig="contig",
        compression="deflate",
        extratags=tag,
    )


def fixture_data(root: Path, name: str, layout: str, setting: str) -> list[str]:
    """Settings of a data set whose fixture is written; its pictures have 40 x 56 pixels, or a little more."""
    make_fixture(name, root, layout=layout, counts=dict.fromkeys(FIXTURES[name][2], 2), size=(40, 56))
    streams = _STREAMS.get(name)
    more = [f"modality.streams={streams}"] if streams else []
    small = [] if "eval_size" in setting else ["dataset.eval_size=64"]  # the data set's own would take long
    return [f"dataset={name}", f"dataset.root={root}", f"dataset.{setting}", *small, *more]


def save(folder: Path, settings: list[str]) -> RGBXDataModule:
    """Write the bundle of an untrained swin_nano for a data set; the data set."""
    given = [*settings, "backbone=swin_nano", "head.init=published", "dataset.num_workers=0", "run_dir=unused"]
    cfg = configured("train", given)
    data = build_data(cfg)
    torch.manual_seed(2)  # of some seeds an untrained model says the same of every pixel, and of every frame
    model = build_model(cfg, data, side_heads=False).eval()
    model.about = provenance(cfg, data, fingerprint(model.backbone))
    save_bundle(model, folder, run_config=model.about["config"])
    return data


def files_of_first(data: RGBXDataModule) -> dict[str, tuple[Path, ...]]:
    """Modality → the files of the first sample of the split that is reported on."""
    samples = data.dataset(data.spec.report_split).samples
    assert isinstance(samples, FileSamples)
    files = samples.entries[0].files
    return {m.name: tuple(samples.root / f for f in files[m.name]) for m in data.modalities}


def array_in(file: Path) -> np.ndarray:
    """What a sensor would have given a program: read without ktb, RGB in this order; NaN where a tag says no data."""
    if file.suffix == ".npy":
        return np.load(file)
    if file.suffix == ".tif":
        with tifffile.TiffFile(file) as tif:
            stored, tag = tif.asarray(), tif.pages.first.tags.valueof(42113)
        return stored if tag is None else np.where(stored == np.float32(tag), np.float32(np.nan), stored)
    image: Any = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]


def arrays_in(files: dict[str, tuple[Path, ...]]) -> dict[str, Any]:
    """The same for every modality, a tuple where it is stored in several files."""
    read = {m: tuple(map(array_in, paths)) for m, paths in files.items()}
    return {m: parts if len(parts) > 1 else parts[0] for m, parts in read.items()}
