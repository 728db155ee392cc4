"""What a PNG or TIFF file holds beside its pixels' values: a palette, and which pixels are transparent."""

from __future__ import annotations

import numpy as np

from ktb.data.arrays import Array
from ktb.data.readers import png, tiff


def palette(data: bytes) -> Array | None:
    """Colours of a palette picture, (entries, 3) uint8; None for all other files."""
    return tiff.palette(data) if tiff.is_tiff(data) else png.palette(data)


def has_alpha(data: bytes) -> bool:
    """Whether the last of its channels is alpha."""
    return tiff.has_alpha(data) if tiff.is_tiff(data) else png.has_alpha(data)


def alpha(data: bytes, stored: Array) -> Array | None:
    """Alpha (H, W), 0 transparent; None where the file has none.

    Args:
        data: the file.
        stored: its pixels as `ktb.data.readers.decode.decode` gives them: palette indices, or all channels.
    """
    if not tiff.is_tiff(data):
        return png.alpha(data, stored)
    if stored.ndim == 3 and stored.dtype.kind == "u" and tiff.has_alpha(data):
        channel: Array = np.ascontiguousarray(stored[..., -1])
        return channel
    return None
