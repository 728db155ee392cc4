"""How large a picture may be before a byte of it is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from ktb.data.arrays import Array, InMemory
from ktb.errors import DataError

MAX_PIXELS = 1 << 26
"""Images beyond this many pixels (8192 x 8192) are refused before a byte of them is decoded, see `pixel_limit`."""
LARGEST = 1 << 30
"""No setting lets pictures of more pixels in; OpenCV reads none."""
VALUES_PER_PIXEL = 4
"""A picture with more channels than these may have fewer pixels: the limit times this is the most values."""
MAX_CHANNELS = 64
"""Of a modality."""

_limit: ContextVar[int] = ContextVar("pixel_limit", default=MAX_PIXELS)


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Within the block, and in this thread, `decode` takes pictures of up to `pixels` pixels, not of `MAX_PIXELS`."""
    token = _limit.set(pixels)
    try:
        yield
    finally:
        _limit.reset(token)


def check_pixels(path: Path, width: int, height: int, channels: int = 1) -> None:
    """Check what the header of a file says of its size.

    Raises:
        DataError: no pixels, or more than are taken.
    """
    limit = _limit.get()
    pixels, of_channels = width * height, ""
    if channels > VALUES_PER_PIXEL:
        pixels, of_channels = -(-pixels * channels // VALUES_PER_PIXEL), f" of {channels} channels"
    if not 0 < pixels <= limit:
        more = f", or set dataset.max_pixels={pixels} (--max-pixels of ktb-predict and ktb-data new)"
        raise DataError(
            f"{path}: claims {width} x {height} pixels{of_channels}; expected at most "
            f"{limit if not of_channels else limit * VALUES_PER_PIXEL // channels}: the file is damaged"
            + more
            * (0 < pixels <= LARGEST)
        )


def check_in_memory(frame: InMemory, image: Array) -> None:
    """Check the size of an array that a program gives.

    Args:
        frame: for messages.
        image: its array, (H, W) or (H, W, C).

    Raises:
        DataError: more pixels than are taken.
    """
    height, width = image.shape[:2]
    if height * width > _limit.get():
        raise DataError(f"{frame}: has {width} x {height} pixels; expected at most {_limit.get()}: raise max_pixels")


def channels_last(array: Array) -> Array | None:
    """(H, W), (H, W, C) or (C, H, W) → (H, W) or (H, W, C), a view; None where the shape is none of an image's.

    A picture is wider and higher than it has channels, so the shortest axis tells where these are; of equally short
    ones it is the last.
    """
    if array.ndim not in (2, 3) or 0 in array.shape:
        return None
    if array.ndim == 2 or array.shape[2] <= min(array.shape[:2]):
        return array
    return array.transpose(1, 2, 0) if array.shape[0] < min(array.shape[1:]) else None
