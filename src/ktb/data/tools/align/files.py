"""Files of a data folder as arrays, exactly as stored, and written again in another view with what they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ktb.data.arrays import Array, Mask
from ktb.data.files import read_bytes
from ktb.data.readers import png
from ktb.data.readers.decode import decode
from ktb.errors import DataError
from ktb.io import atomic_file

NPY = ".npy"


def target_name(file: str) -> str:
    """The name of a moved file: JPEG changes values and could not tell holes, so PNG takes its place.

    Args:
        file: path below the folder.
    """
    path = Path(file)
    return path.as_posix() if path.suffix.lower() in (NPY, ".png") else path.with_suffix(".png").as_posix()


def measured(image: Array, hole: float | None) -> Mask | None:
    """Where a picture was measured.

    Args:
        image: (H, W) or (H, W, C).
        hole: value that means "no measurement" (NaN: any NaN or infinity); None: there is none.

    Returns:
        (H, W): False where any channel is a hole; None where there are no holes.
    """
    if hole is not None and not np.isnan(hole):
        valid = np.not_equal(image, hole)
    elif hole is not None or image.dtype.kind == "f":
        valid = np.isfinite(image)
    else:
        return None
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


def write(path: Path, image: Array, like: Path) -> None:
    """Write a moved picture; it is complete or not there.

    Args:
        path: the new file.
        image: (H, W) or (H, W, C) of the type of the old file.
        like: the old file, whose palette is kept.

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
        if image.dtype == np.uint16 and image.ndim == 3:
            import cv2

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


def stored(path: Path) -> Array:
    """A file as stored: (H, W) or (H, W, C); palette PNGs as indices.

    Raises:
        DataError: it cannot be read.
    """
    image = decode(path)
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
