"""Small scenes as many-band sensors store them, for trying dataset=folder with more than three channels.

    python scripts/make_bands.py thirteen data/thirteen
    ktb-data new data/thirteen --name thirteen

Three forms: `thirteen` has a tiled, deflated GeoTIFF of 13 bands in 16 bits per scene, no data by its tag, and labels
as single-band TIFF; `eighteen` RGB as PNG beside 18 float bands, planes of LZW with floating-point predictor, NaN
where nothing was measured; `files` a file for each of four bands, the last of half the resolution, labels as PNG.
Drawn, not recorded: four materials with spectra of their own in patches, some of which only the last bands tell
apart. Nothing but NumPy's seeded generator decides.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

FORMS = ("thirteen", "eighteen", "files")
CLASSES = ("water", "soil", "grass", "wood")
NODATA = 42113
GEO = (
    (33550, "d", 3, (10.0, 10.0, 0.0), True),  # size of a pixel
    (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 4000000.0, 0.0), True),  # where the first one lies
    (34735, "H", 4, (1, 1, 0, 0), True),
)
"""Tags of GeoTIFF."""


def scene(index: int, bands: int, size: tuple[int, int], seed: int = 0) -> tuple[Array, Array, Array]:
    """Reflectances (H, W, bands) in 0..1, class ids (H, W), and where something was measured (H, W).

    Args:
        index: number of the scene.
        bands: how many.
        size: (height, width).
        seed: of all scenes.
    """
    rng = np.random.default_rng((seed, index))
    height, width = size
    coarse = rng.standard_normal((len(CLASSES), 4, 5)).astype(np.float32)
    fields = [cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC) for field in coarse]
    label = np.argmax(fields, axis=0).astype(np.uint8)
    shared = np.random.default_rng(seed)
    spectra = shared.uniform(0.05, 0.6, (len(CLASSES), bands)).astype(np.float32)
    spectra[3, : bands // 2] = spectra[2, : bands // 2]  # wood looks like grass in the first half of the bands
    light = 1 + 0.2 * float(rng.standard_normal())
    image = spectra[label] * light + 0.03 * rng.standard_normal((height, width, bands)).astype(np.float32)
    measured = np.ones(size, bool)
    y, x = int(rng.integers(0, height - 8)), int(rng.integers(0, width - 8))
    measured[y : y + 8, x : x + 8] = False
    return image.clip(0.001, 1.0), label, measured


def write_thirteen(root: Path, stem: str, image: Array, label: Array, measured: Array) -> None:
    """A GeoTIFF of all bands, 0 by its tag where nothing was measured; the label as TIFF."""
    stored = np.where(measured[..., None], (image * 10000).round(), 0).astype(np.uint16)
    tifffile.imwrite(
        root / "sentinel" / f"{stem}.tif", stored, photometric="minisblack", planarconfig="contig", tile=(16, 16),
        compression="deflate", predictor=True, metadata=None, extratags=[*GEO, (NODATA, "s", 0, "0", True)],
    )  # fmt: skip
    tifffile.imwrite(root / "label" / f"{stem}.tif", label, photometric="minisblack", compression="lzw", metadata=None)


def write_eighteen(root: Path, stem: str, image: Array, label: Array, measured: Array) -> None:
    """RGB, and 18 bands as planes of floats, NaN where nothing was measured."""
    rgb = (255 * image[..., [5, 3, 1]]).round().astype(np.uint8)
    Image.fromarray(rgb).save(root / "rgb" / f"{stem}.png")
    stored = np.where(measured[..., None], image, np.nan).astype(np.float32)
    tifffile.imwrite(
        root / "spectral" / f"{stem}.tiff", np.ascontiguousarray(np.moveaxis(stored, 2, 0)), photometric="minisblack",
        planarconfig="separate", compression="lzw", predictor=True, metadata=None,
    )  # fmt: skip
    tifffile.imwrite(root / "label" / f"{stem}.tif", label, photometric="minisblack", metadata=None)


def write_files(root: Path, stem: str, image: Array, label: Array, measured: Array) -> None:
    """A file for each of four bands, the last of half the resolution, 0 by their tags where nothing was measured."""
    stored = np.where(measured[..., None], (image * 4000).round(), 0).astype(np.uint16)
    for i, band in enumerate(("b02", "b03", "b04", "b11")):
        plane = stored[..., i] if band != "b11" else stored[::2, ::2, i]
        tifffile.imwrite(
            root / band / f"{stem}.tif", np.ascontiguousarray(plane), photometric="minisblack", metadata=None,
            extratags=[(NODATA, "s", 0, "0", True)],
        )  # fmt: skip
    Image.fromarray(label).save(root / "label" / f"{stem}.png")


_WRITE = {"thirteen": write_thirteen, "eighteen": write_eighteen, "files": write_files}
_FOLDERS = {"thirteen": ("sentinel",), "eighteen": ("rgb", "spectral"), "files": ("b02", "b03", "b04", "b11")}
_BANDS = {"thirteen": 13, "eighteen": 18, "files": 4}


def make(form: str, root: Path, *, count: int = 10, size: tuple[int, int] = (64, 96), seed: int = 0) -> None:
    """Write scenes in one of `FORMS`.

    Args:
        form: which.
        root: new or empty folder.
        count: of scenes.
        size: (height, width) of them.
        seed: of their content.
    """
    for folder in (*_FOLDERS[form], "label"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    for i in range(count):
        _WRITE[form](root, f"{i:03d}", *scene(i, _BANDS[form], size, seed))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("root", type=Path, help="new or empty folder")
    parser.add_argument("--count", type=int, default=10, help="scenes (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.form, arguments.root, count=arguments.count, seed=arguments.seed)
    print(f"{arguments.root}: {arguments.count} scenes, {arguments.form}")


if __name__ == "__main__":
    main()
