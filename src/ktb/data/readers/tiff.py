"""TIFF files, GeoTIFF and BigTIFF among them, as arrays: any number of bands, tiled or in strips, compressed or not."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import tifffile

from ktb.data.arrays import Array
from ktb.data.files import unreadable
from ktb.data.readers.limits import channels_last, check_pixels
from ktb.data.readers.lzw import is_decodable
from ktb.errors import DataError

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes, by byte order, of TIFF and of BigTIFF."""

_PALETTE = 3
_NO_COLOURS = {5: "CMYK", 8: "CIE Lab", 9: "ICC Lab", 10: "ITU Lab", 32844: "LogL", 32845: "LogLuv"}
"""Ways to store colours whose values are neither a sensor's nor red, green and blue, by their number in the file."""
_LZW = 5
_LOSSY = (6, 7, 34892)
"""JPEG, old and new, and lossy JPEG of DNG, among the ways to compress."""
_ALPHA = (1, 2)
"""Kinds of further samples that are alpha, premultiplied or not."""
NODATA = 42113
"""The tag in which GDAL writes the value that means "no measurement"."""
_ORIENTATION = 274
_REDUCED, _MASK = 1, 4
"""What a page is beside the picture: bits of its subfile type."""
MOST_PAGES = 4096

# What is wrong with a file is raised here as an error; its warnings would only repeat it, or say that tags are odd.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def is_tiff(data: bytes) -> bool:
    """Whether a file, or its beginning, is a TIFF file by its first bytes."""
    return data.startswith(MAGICS)


@contextmanager
def _opened(data: bytes) -> Iterator[tifffile.TiffFile]:
    # From memory, so that what a file says of further files (as OME-TIFF may) opens none.
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        yield file


def decode_tiff(path: Path, data: bytes, *, expand_palette: bool = False, lossless: bool = False) -> tuple[Array, int]:
    """A TIFF file as (H, W) or (H, W, C), values as stored; several pages of one size are its channels.

    Overviews and masks beside the picture are left out. One bit becomes 0 and 1, whichever of them is white.

    Args:
        path: the file, for messages.
        data: its content.
        expand_palette: palette pictures as RGB instead of as indices.
        lossless: refuse what JPEG compressed.

    Returns:
        The picture, and its orientation as in EXIF, 1 to 8.

    Raises:
        DataError: cut short, damaged, too large, of complex numbers or of colours that are no RGB, or several pictures.
    """
    _check_chain(path, data)
    try:
        with _opened(data) as file:
            _check_pages(path, file, len(data))
            series, page = file.series[0], cast(Any, file.pages.first)
            order = _order_of_axes(path, series)
            _check_kind(path, page, series.dtype, lossless)
            _check_lzw(path, series, data)
            image = _decoded(series, order)
            if expand_palette and image.ndim == 2 and (colours := _colours(page)) is not None:
                image = colours[np.minimum(image, len(colours) - 1)]
            orientation = page.tags.valueof(_ORIENTATION, 1)
    except DataError:
        raise
    except Exception as error:  # damaged bytes raise TiffFileError, ValueError, struct.error, errors of the codecs, ...
        remedy = "copy it again, or write it with deflate, LZW or no compression"
        raise unreadable(path, "TIFF file that cannot be read", error, remedy) from None
    return image, orientation if orientation in range(1, 9) else 1


def _check_chain(path: Path, data: bytes) -> None:
    """The pages' headers lie within the file, each named by the one before, the last one naming none.

    tifffile takes a chain that leads out of the file for one that ends there, and so reads fewer pages.
    """
    order, big = "<" if data.startswith(b"II") else ">", data[2:4] in (b"+\0", b"\0+")
    count, pointer, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    seen = set[int]()
    try:
        (at,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
        while at:
            if at in seen or len(seen) == MOST_PAGES:
                raise DataError(f"{path}: TIFF file of {MOST_PAGES} or more pages; expected one picture")
            seen.add(at)
            (tags,) = struct.unpack_from(order + count, data, at)
            (at,) = struct.unpack_from(order + pointer, data, at + struct.calcsize(count) + entry * tags)
    except struct.error:
        raise DataError(f"{path}: TIFF cut short after {len(data)} bytes; copy or download it again") from None
    if not seen:
        raise DataError(f"{path}: TIFF file without a picture; copy or download it again")


def _check_pages(path: Path, file: tifffile.TiffFile, size: int) -> None:
    """One picture, of which every piece lies within the file."""
    sizes = []
    pages: list[Any] = list(file.pages)
    for page in pages:
        if page.subfiletype & (_REDUCED | _MASK):
            continue
        sizes.append(f"{page.imagewidth} x {page.imagelength}")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if offset + count > size:
                raise DataError(
                    f"{path}: TIFF cut short after {size} bytes of {offset + count} or more; copy or download it again"
                )
    if len(set(sizes)) > 1:
        raise DataError(
            f"{path}: holds pictures of {' and '.join(dict.fromkeys(sizes))} pixels; expected one size: write each as "
            "a file of its own"
        )


def _order_of_axes(path: Path, series: tifffile.TiffPageSeries) -> tuple[int, ...]:
    """The axes of rows, columns and, where there are several, channels; the size is checked."""
    shape, axes = series.shape, series.axes
    bands = [i for i, name in enumerate(axes) if name not in "YX" and shape[i] > 1]
    rows, columns = axes.find("Y"), axes.find("X")
    if len(bands) > 1 or min(rows, columns) < 0:
        pages = " x ".join(map(str, shape))
        raise DataError(
            f"{path}: TIFF file of {pages} values; expected one picture (height, width, channels): write each page as "
            "a file of its own"
        )
    order = (rows, columns, *bands)
    if bands and axes[bands[0]] == "Q" and len(shape) == 3:
        # An array that was written without a word on its axes, page by page along the first.
        image = channels_last(np.broadcast_to(np.zeros((), np.uint8), shape))
        if image is None or image.shape == shape:
            order = (0, 1, 2)
    height, width, *channels = (shape[i] for i in order)
    check_pixels(path, width, height, channels[0] if channels else 1)
    return order


def _check_kind(path: Path, page: Any, dtype: np.dtype[Any] | None, lossless: bool) -> None:
    if (colours := _NO_COLOURS.get(page.photometric)) is not None:
        raise DataError(f"{path}: holds {colours} colours; expected RGB, grey or bands: convert it")
    if dtype is None or dtype.kind not in "buif":
        raise DataError(f"{path}: TIFF file of values of type {dtype}; expected whole or real numbers: convert it")
    if lossless and page.compression in _LOSSY:
        raise DataError(
            f"{path}: is compressed as JPEG, which changes values, so it can hold no label; expected another "
            "compression: export it again (converting the file does not bring the values back)"
        )


def _check_lzw(path: Path, series: tifffile.TiffPageSeries, data: bytes) -> None:
    """The codes of LZW data are whole: on others the decoder may end the process."""
    for page in cast(Any, series.pages):
        if page.compression != _LZW:
            continue
        for at, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            piece = data[at : at + count]
            if page.keyframe.fillorder == 2:  # the bits of each byte the other way round
                piece = np.packbits(np.unpackbits(np.frombuffer(piece, np.uint8), bitorder="little")).tobytes()
            if piece and not is_decodable(piece):
                raise DataError(f"{path}: TIFF file with damaged LZW data at byte {at}; copy it again")


def _decoded(series: tifffile.TiffPageSeries, order: tuple[int, ...]) -> Array:
    stored = np.asarray(series.asarray(maxworkers=1)).reshape(series.shape)
    single = [i for i in range(stored.ndim) if i not in order]
    image = stored.transpose(*order, *single).reshape([stored.shape[i] for i in order])
    if image.dtype.kind == "b":
        return image.astype(np.uint8)
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def _colours(page: Any) -> Array | None:
    if page.photometric != _PALETTE or page.colormap is None:
        return None
    table = np.asarray(page.colormap)
    # 16 bits per colour, of which some programs use the lower eight only.
    return (table >> 8 if table.max() > 255 else table).astype(np.uint8).T


def palette(data: bytes) -> Array | None:
    """Colours of a palette picture, (entries, 3) uint8; None for all others and for a file that is cut short."""
    with suppress(Exception), _opened(data) as file:  # damaged bytes raise many kinds; `decode_tiff` says which
        return _colours(file.pages.first)
    return None


def has_alpha(data: bytes) -> bool:
    """Whether the last of its channels is alpha."""
    with suppress(Exception), _opened(data) as file:
        samples = cast(Any, file.pages.first).extrasamples
        return bool(samples) and samples[-1] in _ALPHA
    return False


def nodata(data: bytes) -> float | None:
    """The value that means "no measurement" by the file's own tag GDAL_NODATA; None where there is no such tag."""
    if not is_tiff(data):
        return None
    with suppress(Exception), _opened(data) as file:
        text = cast(Any, file.pages.first).tags.valueof(NODATA)
        return None if text is None else float(str(text).strip("\0 "))
    return None
