"""One file → one array, exactly as stored: PNG, JPEG, TIFF, NPY, NPZ, OpenEXR.

Whatever a file holds, the outcome is an array of the expected form or a one-line `DataError` that names the file, what
was found, what was expected and what to do. Files are recognised by their first bytes, not by their names, and nothing
in a file is ever executed.
"""

from __future__ import annotations

import codecs
import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL.PngImagePlugin import PngImageFile

from ktb.data.arrays import Array, InMemory, Source
from ktb.data.files import read_bytes, unreadable
from ktb.data.readers import exr, npy, png, tiff
from ktb.data.readers.limits import (
    LARGEST,
    MAX_PIXELS,
    channels_last,
    check_in_memory,
    check_pixels,
    pixel_limit,
)
from ktb.errors import DataError

__all__ = ["FORMATS", "LARGEST", "MAX_PIXELS", "channels_in_words", "decode", "pixel_limit"]

FORMATS = "PNG, JPEG, TIFF, NPY, NPZ and OpenEXR"
"""That are read."""

_JPEG = b"\xff\xd8\xff"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey + alpha, RGBA


def decode(
    path: Source,
    *,
    expand_palette: bool = False,
    lossless: bool = False,
    data: bytes | None = None,
    key: str | None = None,
) -> Array:
    """One image → (H, W) or (H, W, C), channels in the order R, G, B, A or as stored, values and depth as stored.

    PNG of any kind (1, 2 and 4-bit grey values come as their numbers 0..2^bits-1), JPEG, TIFF (see
    `ktb.data.readers.tiff`), OpenEXR, NPY and NPZ of numbers in shape (H, W), (H, W, C) or (C, H, W). A picture with an
    EXIF orientation is turned the way every viewer shows it, so H and W are those a person sees.

    Args:
        path: the file; or an array in its place, which is checked and given back as an NPY file of it would be.
        expand_palette: palette pictures as RGB instead of as indices.
        lossless: refuse JPEG, as it must be for labels.
        data: the file's content, where it has been read already.
        key: name of the array in an NPZ file that holds several.

    Raises:
        DataError: missing, empty, cut short, damaged, more pixels than `MAX_PIXELS` (or `pixel_limit`), or none of
            these formats.
    """
    if isinstance(path, InMemory):
        return _checked(path)
    data = read_bytes(path) if data is None else data
    if data.startswith(png.SIGNATURE):
        return _decode_png(path, data, expand_palette)
    if data.startswith(_JPEG):
        if lossless:
            named = "" if path.suffix.lower() in (".jpg", ".jpeg") else f"is a JPEG file, though named {path.suffix}; "
            raise DataError(
                f"{path}: {named}JPEG changes values, so it can hold no label; expected PNG, TIFF or NPY: export it "
                "again (converting the file does not bring the values back)"
            )
        return _decode_jpeg(path, data)
    if tiff.is_tiff(data):
        return _upright(*tiff.decode_tiff(path, data, expand_palette=expand_palette, lossless=lossless))
    if data.startswith(npy.MAGIC):
        return npy.decode_npy(path, data)
    if data.startswith(npy.ZIP):
        return npy.decode_npz(path, data, key)
    if data.startswith(exr.MAGIC):
        return exr.decode_exr(path, data)
    what, remedy = _foreign(data)
    raise DataError(f"{path}: is {what}, which is none of {FORMATS}; {remedy}")


_CONVERT = "convert it to PNG, TIFF (values as they are) or NPY"
_FETCH = "fetch the file itself"
_AGAIN = "copy or download it again"
# First bytes (after so many others) → what such a file is, and what to do.
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"GIF8", "a GIF file", _CONVERT),
    (0, b"BM", "a BMP file", _CONVERT),
    (8, b"WEBP", "a WebP file", _CONVERT),
    (4, b"ftyp", "a HEIC, AVIF or video file", _CONVERT),
    (4, b"jP  ", "a JPEG 2000 file", _CONVERT),
    (4, b"JXL ", "a JPEG XL file", _CONVERT),
    (0, b"P5", "a PGM file", _CONVERT),
    (0, b"P6", "a PPM file", _CONVERT),
    (0, b"PF", "a PFM file", _CONVERT),
    (0, b"Pf", "a PFM file", _CONVERT),
    (0, b"\x89HDF", "an HDF5 file", "write its arrays as NPY, one per sample"),
    (0, b"MATLAB", "a MATLAB file", "write its arrays as NPY, one per sample"),
    (0, b"\x1f\x8b", "a gzip file", "unpack it"),
    (0, b"\x80", "a pickle", "write plain arrays with numpy.save"),
    (0, b"%PDF", "a PDF file", _CONVERT),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the picture", f"{_FETCH}: git lfs pull"),
    (0, b"/annex/", "a git-annex pointer, not the picture", f"{_FETCH}: git annex get"),
)


def _foreign(data: bytes) -> tuple[str, str]:
    """What a file of no readable format is, and the remedy."""
    for offset, magic, what, remedy in _FOREIGN:
        if data.startswith(magic, offset):
            return what, remedy
    start = data[:512].removeprefix(codecs.BOM_UTF8).lstrip()
    if start[:1] == b"<":
        page = b"<html" in start.lower() or b"<!doctype html" in start.lower()
        return ("an HTML page", f"{_FETCH}, not a page about it") if page else ("an XML or SVG file", _CONVERT)
    if start and not set(start) & set(range(9)) and start.isascii():
        return f"text ({start[:24].decode()!r}, ...)", _FETCH
    return f"of an unknown kind, starting with {data[:8]!r}", "convert it to one of these, or copy it again"


def _upright(image: Array, orientation: int) -> Array:
    """The picture as a viewer shows it, by the value 1..8 of its EXIF orientation."""
    if orientation >= 5:  # stored with rows and columns exchanged
        image = image.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return image if orientation == 1 else np.ascontiguousarray(image[rows, columns])


def _orientation(exif: bytes) -> int:
    """The orientation in EXIF data, tag 0x0112: 1 to 8; 1, upright, where there is none or an unknown one."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, at)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + {1: "B", 4: "I"}.get(kind, "H"), exif, at + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # damaged, which says nothing about the pixels
        pass
    return 1


class _Header(NamedTuple):
    height: int
    width: int
    orientation: int
    bits: int = 8
    colour_type: int = 2


def _decode_png(path: Path, data: bytes, expand_palette: bool) -> Array:
    header = _check_png(path, data)
    channels = _PNG_CHANNELS.get(header.colour_type, 0)
    if header.colour_type == 3 or header.bits < 8:
        # OpenCV turns palettes into colours and stretches small grey values; Pillow keeps the indices.
        image = _decode_pillow(path, data, expand_palette)
        if header.colour_type == 0:
            image = image.astype(np.uint8) // (1 if header.bits == 1 else 255 // (2**header.bits - 1))
    else:
        image = _decode_opencv(path, data)
        if image.ndim == 3 and image.shape[2] != channels:
            # OpenCV has no two-channel images and appends transparency: grey, grey, grey, alpha.
            image = image[..., {1: [0], 2: [0, 3], 3: [0, 1, 2]}.get(channels, slice(None))]
            image = image[..., 0] if channels == 1 else image
    return _upright(_check_shape(path, image, (header.height, header.width)), header.orientation)


def _check_png(path: Path, data: bytes) -> _Header:
    """Walk the chunks: every checksum, IHDR first, IEND last.

    OpenCV decodes a PNG that is cut short without an error, so only this check finds it.
    """
    view, position, header, orientation = memoryview(data), len(png.SIGNATURE), b"", 1
    while True:
        if position + 12 > len(data):
            raise DataError(f"{path}: PNG cut short after {len(data)} bytes (no end marker); copy or download it again")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise DataError(
                f"{path}: PNG cut short after {len(data)} bytes of {end} or more; copy or download it again"
            )
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DataError(f"{path}: damaged PNG, wrong checksum at byte {position}; copy or download it again")
        if not header:
            if kind != b"IHDR" or length != 13:
                raise DataError(f"{path}: damaged PNG, no header; copy or download it again")
            header = data[position + 8 : end - 4]
            width, height, bits, colour_type = struct.unpack_from(">IIBB", header)
            check_pixels(path, width, height)
        if kind == b"acTL" and length == 8:
            (frames,) = struct.unpack_from(">I", data, position + 8)
            if frames > 1:
                raise DataError(
                    f"{path}: is an animated PNG of {frames} pictures; expected one: write each as a file of its own"
                )
        if kind == b"eXIf":
            orientation = _orientation(data[position + 8 : end - 4])
        if kind == b"IEND":
            return _Header(height, width, orientation, bits, colour_type)
        position = end


def _decode_jpeg(path: Path, data: bytes) -> Array:
    header = _check_jpeg(path, data)
    image = _check_shape(path, _decode_opencv(path, data), (header.height, header.width))
    return _upright(image, header.orientation)


def _check_jpeg(path: Path, data: bytes) -> _Header:
    """Walk the segments up to the first scan and look for the end marker behind it.

    Inside a scan the end marker cannot occur (0xFF is escaped), so one behind it means the file is complete. OpenCV
    paints the missing rest of a cut JPEG grey without an error.
    """
    position, size, orientation = 2, (0, 0), 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 5)
            check_pixels(path, width, height)
            size = (height, width)
        if marker == 0xE1 and not orientation and data.startswith(b"Exif\0\0", position + 4):
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            orientation = _orientation(data[position + 10 : end])
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            if data.rfind(b"\xff\xd9") < position:
                raise DataError(
                    f"{path}: JPEG cut short after {len(data)} bytes (no end marker); copy or download it again"
                )
            return _Header(*size, orientation or 1)
    raise DataError(f"{path}: JPEG cut short or damaged before its image data; copy or download it again")


def _decode_opencv(path: Path, data: bytes) -> Array:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise unreadable(path, "damaged image", error, _AGAIN) from None
    if image is None:
        raise DataError(f"{path}: damaged image that cannot be decoded; copy or download it again")
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return image


def _decode_pillow(path: Path, data: bytes, expand_palette: bool) -> Array:
    try:
        # Not by Image.open, which has a limit of its own for the number of pixels.
        with PngImageFile(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB") if expand_palette and image.mode == "P" else image)
    except Exception as error:  # damaged bytes raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise unreadable(path, "damaged image", error, _AGAIN) from None


def _checked(frame: InMemory) -> Array:
    """An array in the place of a file, in a form that the rest of the code takes."""
    array = frame.array
    if array.dtype.kind not in "buif":
        raise DataError(f"{frame}: holds values of type {array.dtype}; expected numbers")
    if np.ma.is_masked(array):
        raise DataError(
            f"{frame}: is a masked array with {np.ma.count_masked(array)} values masked; expected them to hold what "
            "means no measurement in the training's files: .filled(VALUE)"
        )
    image = channels_last(array)
    if image is None:
        raise DataError(
            f"{frame}: has the shape {array.shape}; expected (height, width), (height, width, channels) or (channels, "
            f"height, width){'; several frames are a list' * (array.ndim > 3)}"
        )
    check_in_memory(frame, image)
    if array.dtype.kind == "b":
        return image.astype(np.uint8)
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def _check_shape(path: Path, image: Array, size: tuple[int, int]) -> Array:
    if image.shape[:2] != size:
        raise DataError(
            f"{path}: decodes to {image.shape[1]} x {image.shape[0]} pixels but its header says {size[1]} x {size[0]}; "
            "the file is damaged: copy or download it again"
        )
    return image


def channels_in_words(count: int) -> str:
    """The number in words: 1 channel, 3 channels."""
    return f"{count} channel" + ("s" if count != 1 else "")
