"""Files of a data folder as arrays, exactly as stored, and written again in another view with what they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from ktb.data.arrays import Array, Mask
from ktb.data.files import read_bytes
from ktb.data.readers import png, tiff
from ktb.data.readers.decode import decode
from ktb.errors import DataError
from ktb.io import atomic_file

NPY = ".npy"
TIFF = (".tif", ".tiff")
_ARRAYS = (".npz", ".exr")


def target_name(file: str) -> str:
    """The name of a moved file: JPEG changes values and could not tell holes, so PNG takes its place; NPY that of
    OpenEXR and NPZ.

    Args:
        file: path below the folder.
    """
    path = Path(file)
    suffix = path.suffix.lower()
    if suffix not in (NPY, ".png", *TIFF):
        path = path.with_suffix(NPY if suffix in _ARRAYS else ".png")
    return path.as_posix()


def nodata_of(paths: Sequence[Path]) -> float | None:
    """The value that TIFF files say, by their tag GDAL_NODATA, means "no measurement"; None: they say none.

    Raises:
        DataError: one cannot be read, or they name different values.
    """
    values = {tiff.nodata(read_bytes(path)) for path in paths}
    named = sorted(value for value in values if value is not None and not np.isnan(value))
    if len(named) > 1:
        raise DataError(
            f"{paths[0]}: is one of files whose tags (GDAL_NODATA) name different values for no data: "
            f"{', '.join(f'{value:g}' for value in named[:4])}; expected one: write them with the same"
        )
    return named[0] if named else float("nan") if values != {None} else None


def measured(image: Array, hole: float | None) -> Mask | None:
    """Where a picture was measured.

    Args:
        image: (H, W) or (H, W, C).
        hole: value that means "no measurement", as NaN and infinity always do; None: there is no other.

    Returns:
        (H, W): False where any channel is a hole; None where there are no holes.
    """
    valid = np.isfinite(image)
    if hole is not None and not np.isnan(hole):
        valid &= np.not_equal(image, hole)
    valid = np.asarray(valid if image.ndim == 2 else valid.all(axis=2), bool)
    return None if valid.all() else valid


def free_value(images: Sequence[Array]) -> float | None:
    """A value that means "no measurement" in files that hold none yet.

    Args:
        images: some of the files.

    Returns:
        NaN for floats; 0 if no pixel has it; None where 0 is a value.
    """
    if all(image.dtype.kind == "f" for image in images):
        return float("nan")
    return None if any((image == 0).any() for image in images) else 0.0


def write(path: Path, image: Array, like: Path, hole: float) -> None:
    """Write a moved picture; it is complete or not there.

    Args:
        path: the new file.
        image: (H, W) or (H, W, C) of the type of the old file.
        like: the old file, whose palette is kept, and whether it says by a tag what is no data.
        hole: value that means no measurement.

    Raises:
        DataError: PNG has no such type or number of channels.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        if path.suffix.lower() == NPY:
            with temporary.open("wb") as stream:
                np.save(stream, image)
            return
        if path.suffix.lower() in TIFF:
            _write_tiff(temporary, image, read_bytes(like), hole)
            return
        if image.dtype == np.uint16 and image.ndim == 3:
            order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[2])
            if order is None:
                raise DataError(
                    f"{like}: has {image.shape[2]} channels of 16 bits, which a PNG can't hold; save it as NPY"
                )
            done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., order]))
            if not done:
                raise DataError(f"{like}: its moved picture can't be encoded as PNG; save it as NPY")
            temporary.write_bytes(data.tobytes())
            return
        if image.dtype not in (np.uint8, np.uint16):
            raise DataError(f"{like}: holds {image.dtype} values, which a PNG can't hold; save it as NPY")
        picture = Image.fromarray(image)
        colours = png.palette(read_bytes(like)) if image.ndim == 2 and image.dtype == np.uint8 else None
        if colours is not None:
            picture.putpalette(colours.tobytes())
        picture.save(temporary, "PNG", compress_level=3)


def _write_tiff(path: Path, image: Array, old: bytes, hole: float) -> None:
    colours = tiff.palette(old) if image.ndim == 2 and image.dtype == np.uint8 else None
    kind = "palette" if colours is not None else "minisblack"
    tifffile.imwrite(
        path,
        image,
        photometric="rgb" if image.ndim == 3 and image.shape[2] == 3 else kind,
        planarconfig="contig" if image.ndim == 3 else None,
        compression="deflate",
        colormap=None if colours is None else colours.T.astype(np.uint16) * 257,
        extratags=() if tiff.nodata(old) is None else [(tiff.NODATA, "s", 0, repr(hole), True)],
        metadata=None,
    )


def stored(path: Path) -> Array:
    """A file as stored: (H, W) or (H, W, C); palette PNGs as indices.

    Raises:
        DataError: it cannot be read.
    """
    image = decode(path)
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
