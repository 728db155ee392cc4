"""The files that are written for a picture: class ids, colours, overlay, confidence, probabilities.

Each carries a stamp, by which a later call knows its own files and whether they are still right.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ktb.data.arrays import Array, Size
from ktb.data.legible import class_names, font_file
from ktb.data.own_results import STAMP
from ktb.data.pictures import RGBImage, overlay, to_picture
from ktb.data.readers.png import png_text
from ktb.data.spec import DatasetSpec, ModalitySpec
from ktb.errors import ConfigError, did_you_mean
from ktb.io import atomic_file

OUTPUTS = ("colour", "overlay", "confidence", "probabilities")
"""What can be written beside the class ids ("index")."""

_OVERLAY_ROWS = 256

Bytes = NDArray[np.uint8]


@dataclass
class Mask:
    """The answer for one picture.

    Args:
        ids: (H, W) class ids, uint8, or uint16 where there are more than 256 classes.
        confidence: (H, W) the greatest class probability, 255 for 1; None: not wanted.
    """

    ids: NDArray[Any]
    confidence: Bytes | None


@dataclass(frozen=True)
class Outputs:
    """The folder of the results and what is written there for each picture.

    Args:
        folder: of `index/NAME.png`, `colour/NAME.png` and so on.
        spec: names and colours of the classes.
        write: some of `OUTPUTS`.
        legend: names the classes that occur below each overlay.

    Raises:
        ConfigError: `write` names something else.
    """

    folder: Path
    spec: DatasetSpec
    write: Collection[str] = ("colour", "overlay")
    legend: bool = False

    def __post_init__(self) -> None:
        for name in self.write:
            if name not in OUTPUTS:
                raise ConfigError(f"--write {name}: expected some of {', '.join(OUTPUTS)}{did_you_mean(name, OUTPUTS)}")

    def path(self, name: str, output: str) -> Path:
        """The file of one output ("index" or one of `OUTPUTS`) of the picture `name`."""
        return self.folder / output / f"{name}.{'npz' if output == 'probabilities' else 'png'}"

    def paths(self, name: str) -> list[Path]:
        """All files of the picture `name`."""
        return [self.path(name, output) for output in ("index", *self.write)]

    @contextmanager
    def probabilities(self, name: str, size: Size, classes: int, stamp: str) -> Iterator[IO[bytes] | None]:
        """The file for the class probabilities of a picture, which may be too many for the memory.

        Args:
            name: of the picture.
            size: (height, width) of the picture.
            classes: how many there are.
            stamp: of the picture.

        Yields:
            A file for (H, W, K) float16 in C order; None where probabilities are not written.
        """
        if "probabilities" not in self.write:
            yield None
            return
        with npz_file(self.path(name, "probabilities"), "probabilities", (*size, classes), stamp) as file:
            yield file

    def save(self, name: str, mask: Mask, picture: RGBImage | None, stamp: str) -> Path:
        """Write the pictures of one result; the index last, as it says that all is there.

        Args:
            name: of the picture.
            mask: the answer for it.
            picture: (H, W, 3), what the overlay lies over; None: no overlay is written.
            stamp: of the picture.

        Returns:
            The file of the index.

        Raises:
            OSError: one can't be written.
        """
        if "colour" in self.write:
            self._save(self._coloured(mask.ids), name, "colour", stamp)
        if picture is not None:
            image = Image.fromarray(overlay_of(picture, mask.ids, self.spec))
            if self.legend:
                image = self._with_legend(image, np.flatnonzero(np.bincount(mask.ids.ravel())))
            self._save(image, name, "overlay", stamp)
        if mask.confidence is not None:
            self._save(Image.fromarray(mask.confidence), name, "confidence", stamp)
        return self._save(Image.fromarray(mask.ids), name, "index", stamp)

    def _save(self, image: Image.Image, name: str, output: str, stamp: str) -> Path:
        path = self.path(name, output)
        path.parent.mkdir(parents=True, exist_ok=True)
        info = PngInfo()
        info.add_text(STAMP, stamp)
        with atomic_file(path) as temporary:
            image.save(temporary, "PNG", pnginfo=info, compress_level=3)
        return path

    def _coloured(self, ids: NDArray[Any]) -> Image.Image:
        palette = np.array(self.spec.palette, np.uint8)
        if ids.dtype != np.uint8:  # a palette has 256 entries at most
            return Image.fromarray(palette[ids])
        colour = Image.fromarray(ids).convert("P")
        colour.putpalette(palette.ravel().tolist())
        return colour

    def _with_legend(self, image: Image.Image, classes: NDArray[np.intp]) -> Image.Image:
        """`image` with the names of `classes` on white below it, in as many lines as they need."""
        spec = self.spec
        text = max(11, min(image.size) // 36)
        names = class_names(spec.classes)
        plain = ImageFont.load_default(text)
        files = {c: font_file(names[c]) for c in classes}
        fonts = {c: plain if file is None else ImageFont.truetype(str(file), text) for c, file in files.items()}
        gap = text // 2
        widths = {c: round(fonts[c].getlength(names[c])) + text + 2 * gap for c in classes}
        width = max(image.width, max(widths.values()) + gap)
        places: dict[int, tuple[int, int]] = {}
        x, y = gap, image.height + gap
        for c in classes:
            if x + widths[c] > width and x > gap:
                x, y = gap, y + text + gap
            places[c] = (x, y)
            x += widths[c] + gap
        sheet = Image.new("RGB", (width, y + text + gap), "white")
        sheet.paste(image)
        draw = ImageDraw.Draw(sheet)
        for c, (x, y) in places.items():
            draw.rectangle((x, y, x + text, y + text), fill=spec.palette[c], outline=(120, 120, 120))
            draw.text((x + text + gap, y + text // 2), names[c], "black", fonts[c], anchor="lm")
        return sheet


def backdrop_of(images: Mapping[str, Array], modalities: Mapping[str, ModalitySpec]) -> RGBImage:
    """What an overlay lies over: RGB, or the first modality made visible.

    Args:
        images: modality → (H, W, C), as in `RawSample`; NaN in holes.
        modalities: what is known of them, by name.

    Returns:
        (H, W, 3).
    """
    name = "rgb" if "rgb" in images else next(iter(images))
    if name == "rgb" and images[name].dtype == np.uint8:
        return images[name]
    stored = torch.from_numpy(np.require(images[name], requirements="W")).movedim(-1, 0)
    return to_picture(stored, replace(modalities[name], validity=False))


def overlay_of(picture: RGBImage, ids: NDArray[Any], spec: DatasetSpec) -> RGBImage:
    """The classes' colours over a picture; drawn in bands, as it takes many times the picture's memory.

    Args:
        picture: (H, W, 3).
        ids: (H, W) class ids.
        spec: colours of the classes.

    Returns:
        (H, W, 3).
    """
    result = np.empty_like(picture)
    for start in range(0, len(ids), _OVERLAY_ROWS):
        above = max(start - 1, 0)  # the row before, for the line between it and the first
        rows = slice(above, start + _OVERLAY_ROWS)
        band = overlay(picture[rows], ids[rows], spec.palette)
        result[start : start + _OVERLAY_ROWS] = band[start - above :]
    return result


def greatest_probability(logits: Tensor) -> Tensor:
    """(K, H, W) logits → (H, W) the greatest class probability."""
    return (logits - logits.amax(0)).exp().sum(0).reciprocal()


def confidence_of(logits: Tensor) -> Bytes:
    """(K, H, W) logits → (H, W) the greatest class probability, 255 for 1."""
    values: Bytes = (255 * greatest_probability(logits)).round().to(torch.uint8).cpu().numpy()
    return values


def probabilities_of(logits: Tensor) -> NDArray[np.float16]:
    """(K, H, W) logits → class probabilities (H, W, K) in C order."""
    share = logits.softmax(0).permute(1, 2, 0).to(torch.float16)
    values: NDArray[np.float16] = share.contiguous().cpu().numpy()
    return values


@contextmanager
def npz_file(path: Path, name: str, shape: tuple[int, ...], stamp: str) -> Iterator[IO[bytes]]:
    """A file for the bytes of one float16 array in C order, which becomes the NPZ file `path`.

    Args:
        path: the NPZ file; its folders are made.
        name: of the array in it.
        shape: of the array.
        stamp: goes into the file's comment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.comment = f"{STAMP} {stamp}".encode()
        with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            yield file


def stamp_of(path: Path) -> str | None:
    """The stamp of a complete output; None for any other file."""
    if path.suffix == ".png":
        return png_text(path, STAMP)
    try:
        with zipfile.ZipFile(path) as archive:
            key, _, stamp = archive.comment.decode("utf-8", "replace").partition(" ")
    except (OSError, zipfile.BadZipFile):
        return None
    return stamp if key == STAMP else None
