"""OpenEXR files as arrays, by the format's own package: OpenCV's packages have their reader switched off."""

from __future__ import annotations

import io
import re
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.arrays import Array
from ktb.data.files import unreadable
from ktb.data.readers.limits import check_pixels
from ktb.errors import DataError

MAGIC = b"v/1\x01"
_reading = threading.Lock()
"""The package does not say that it may be called from several threads."""


def decode_exr(path: Path, data: bytes) -> Array:
    """An OpenEXR file as (H, W) or (H, W, C).

    Channels called R, G, B, A (or ending in .R and so on) come first, in this order; all others follow by name, numbers
    in it by their value (B2 before B10).

    Args:
        path: the file, for messages.
        data: its content.

    Raises:
        DataError: the package OpenEXR is missing, or the file is damaged, deep, of several parts, or too large.
    """
    if not find_spec("OpenEXR"):
        raise DataError(f"{path}: is an OpenEXR file, which needs the package OpenEXR: pip install 'ktb[exr]'")
    import OpenEXR

    try:
        with _reading:
            header = OpenEXR.File(io.BytesIO(data), separate_channels=True, header_only=True, num_threads=0)
            _check(path, header)
            with OpenEXR.File(io.BytesIO(data), separate_channels=True, num_threads=0) as file:
                if not file.parts:  # all that the package says of pixels that it cannot read
                    raise ValueError("its pixels cannot be read")
                planes = {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    except DataError:
        raise
    except Exception as error:  # the package raises RuntimeError and others for what is damaged
        raise unreadable(path, "damaged OpenEXR file", error, "copy or write it again") from None
    names = sorted(planes, key=_place)
    if not names or len({planes[name].shape for name in names}) > 1:
        raise DataError(f"{path}: OpenEXR channels of unequal size; expected all of one size (no subsampled chroma)")
    return planes[names[0]] if len(names) == 1 else np.stack([planes[name] for name in names], axis=2)


def _check(path: Path, file: Any) -> None:
    if len(file.parts) != 1:
        raise DataError(f"{path}: OpenEXR file of {len(file.parts)} parts; expected one: write each as a file")
    header = file.header()
    if "deep" in str(header.get("type")):
        raise DataError(f"{path}: deep OpenEXR file; expected one value per pixel and channel: flatten it")
    (left, top), (right, bottom) = (window.tolist() for window in header["dataWindow"])
    check_pixels(path, right - left + 1, bottom - top + 1, len(header["channels"]))


def _place(name: str) -> tuple[Any, ...]:
    last = name.rpartition(".")[2]
    colour = "RGBA".index(last) if last in ("R", "G", "B", "A") else 4
    return colour, [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", name)]
