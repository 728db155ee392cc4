"""What one label file holds: ids, colours, palette, transparency, and how many pixels each of them has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.arrays import Array, Mask
from ktb.data.files import read_bytes
from ktb.data.readers import extras, tiff
from ktb.data.readers.decode import decode
from ktb.data.readers.label import whole_numbers
from ktb.data.readers.label_palettes import Palette, colours_of
from ktb.data.spec import Colour
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError

Counts = tuple[tuple[Any, int], ...]

MOST = 4096
"""Ids or colours of one file that are counted."""


@dataclass(frozen=True)
class LabelSeen(Outcome):
    """What a label file holds.

    Attributes:
        ids: stored id → visible pixels; None if its channels differ, so that it holds colours.
        colours: the same by colour (r, g, b); None if it has none.
        channels: of the file, alpha not counted.
        has_alpha: there is a channel for it.
        size: (height, width).
        palette: of a palette PNG.
        hidden: transparent pixels, by id where there are ids, else by colour.
        smooth_alpha: alpha is more than on and off.
        nodata: what is no id by the tag GDAL_NODATA of a TIFF file.
        squares: visible pixels that begin a square of 2 x 2 of one id or colour, by id where there are ids.
    """

    ids: Counts | None = None
    colours: Counts | None = None
    channels: int = 1
    has_alpha: bool = False
    size: tuple[int, int] = (0, 0)
    palette: Palette = ()
    hidden: Counts = ()
    smooth_alpha: bool = False
    nodata: float | None = None
    squares: Counts = ()


def look_at_label(path: Path) -> LabelSeen:
    """What a label file holds; what is wrong with it is told in the outcome."""
    try:
        return _look(path)
    except DataError as error:
        return LabelSeen(path, "failed", str(error))


def _look(path: Path) -> LabelSeen:
    data = read_bytes(path)
    stored = decode(path, data=data, lossless=True)
    alpha = extras.alpha(data, stored)
    visible = np.ones(stored.shape[:2], bool) if alpha is None else alpha > 0
    smooth = alpha is not None and bool((visible & (alpha < np.iinfo(alpha.dtype).max)).any())
    if smooth:  # values between are not understood, so nothing counts as hidden
        visible[:] = True
    pixels = stored[..., None] if stored.ndim == 2 else stored[..., :-1] if extras.has_alpha(data) else stored
    channels = pixels.shape[2]
    palette = colours_of(data)
    ids, colours = None, None
    if channels < 3 or (pixels == pixels[..., :1]).all():
        ids = whole_numbers(path, pixels[..., 0])
    if channels in (3, 4) and pixels.dtype == np.uint8:
        red, green, blue = (pixels[..., i].astype(np.int64) for i in range(3))
        colours = (red << 16) | (green << 8) | blue
    if ids is None and colours is None:
        raise DataError(
            f"{path}: label has {channels} channels of {pixels.dtype} that differ; expected class ids in one channel, "
            "or 8-bit colours: write it again (scores or one mask per class: the number of the greatest)"
        )
    counted = None if ids is None else _count(ids[visible])
    by_colour: Counts | None = None
    if colours is not None:
        by_colour = tuple((_rgb(code), n) for code, n in _count(colours[visible]))
    elif palette and counted is not None and all(i < len(palette) for i, _ in counted):
        by_colour = tuple((palette[i], n) for i, n in counted)
    hidden = (ids if ids is not None else colours)[~visible]  # type: ignore[index]  # one of them is there
    below = _count(hidden) if ids is not None else tuple((_rgb(code), n) for code, n in _count(hidden))
    codes = ids if ids is not None else colours
    assert codes is not None
    squares = _count(codes[:-1, :-1][_begins_square(codes) & visible[:-1, :-1]])
    return LabelSeen(
        path,
        "kept",
        ids=counted,
        colours=by_colour,
        channels=channels,
        has_alpha=extras.has_alpha(data),
        size=(stored.shape[0], stored.shape[1]),
        palette=palette,
        hidden=below,
        smooth_alpha=smooth,
        nodata=tiff.nodata(data),
        squares=squares if ids is not None else tuple((_rgb(code), n) for code, n in squares),
    )


def _begins_square(codes: Array) -> Mask:
    """(H - 1, W - 1), whether a pixel has the same code as those to its right, below, and between them."""
    right, below = codes[:, 1:] == codes[:, :-1], codes[1:] == codes[:-1]
    return right[:-1] & right[1:] & below[:, :-1]


def _count(values: Array) -> Counts:
    found, pixels = np.unique(values, return_counts=True)
    return tuple((int(found[i]), int(pixels[i])) for i in np.argsort(-pixels)[:MOST])


def _rgb(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255
