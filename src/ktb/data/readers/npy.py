"""NPY files, and NPZ archives of them, as arrays; no pickle in them is ever loaded."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.arrays import Array
from ktb.data.files import unreadable
from ktb.data.readers.limits import channels_last, check_pixels
from ktb.errors import DataError, did_you_mean, first_line

MAGIC = b"\x93NUMPY"
ZIP = b"PK\x03\x04"
"""First bytes of an NPY and of an NPZ file."""
_HEADER = 1 << 16
"""Bytes in which the header of an array ends."""


def decode_npy(path: Path, data: bytes) -> Array:
    """An NPY file as (H, W) or (H, W, C).

    Args:
        path: the file, for messages.
        data: its content.

    Raises:
        DataError: a damaged file, other than numbers, or no shape of an image.
    """
    shape, fortran, dtype, offset = _header(path, data)
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) - offset != count * dtype.itemsize:
        raise DataError(
            f"{path}: NPY file holds {len(data) - offset} bytes of values, but shape {shape} of {dtype} needs "
            f"{count * dtype.itemsize}; the file is cut short or damaged: copy or write it again"
        )
    array = np.frombuffer(data, dtype, count, offset).reshape(shape, order="F" if fortran else "C")
    image = channels_last(array)
    assert image is not None  # by _header
    if dtype.kind == "b":
        return image.astype(np.uint8)
    if image.shape != shape:
        image = np.ascontiguousarray(image)
    return image if image.dtype.isnative else image.astype(dtype.newbyteorder("="))


def _header(path: Path, data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran's order, type, and where the values begin; checked."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except Exception as error:  # a damaged header raises ValueError, SyntaxError, TokenError, KeyError, ...
        raise DataError(f"{path}: damaged NPY header ({first_line(error)}); write it again with numpy.save") from None
    if dtype.kind not in "buif":
        what = "Python objects (a pickle), which are never loaded" if dtype.hasobject else f"values of type {dtype}"
        raise DataError(f"{path}: NPY file of {what}; expected numbers: save it as a plain numeric array")
    image = channels_last(np.broadcast_to(np.zeros((), np.uint8), shape)) if _countable(shape) else None
    if image is None:
        raise DataError(
            f"{path}: NPY array of shape {shape}; expected (height, width), (height, width, channels) or (channels, "
            "height, width)"
        )
    check_pixels(path, image.shape[1], image.shape[0], image.shape[2] if image.ndim == 3 else 1)
    return shape, fortran, dtype, stream.tell()


def _countable(shape: tuple[int, ...]) -> bool:
    """Whether NumPy can have an array of this shape at all."""
    return len(shape) in (2, 3) and all(0 < n < 1 << 31 for n in shape)


def decode_npz(path: Path, data: bytes, key: str | None) -> Array:
    """One array of an NPZ archive as (H, W) or (H, W, C). At most what its header says is unpacked.

    Args:
        path: the file, for messages.
        data: its content.
        key: name of the array; None: the only one.

    Raises:
        DataError: a damaged archive, none or several arrays, or no image in it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = _member(path, archive.namelist(), key)
            place = Path(f"{path}: {member.removesuffix('.npy')}")
            with archive.open(member) as file:
                start = file.read(_HEADER)
                if not start.startswith(MAGIC):
                    raise DataError(f"{place}: is no array; expected one that numpy.savez wrote")
                shape, _, dtype, offset = _header(place, start)
                missing = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize - len(start)
                rest = file.read(missing + 1) if missing >= 0 else b""  # one byte more shows what is too long
    except DataError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, EOFError, RuntimeError (encrypted), NotImplementedError, ...
        raise unreadable(path, "damaged NPZ archive", error, "write it again with numpy.savez") from None
    return decode_npy(place, start + rest)


def pictures_in(path: Path, data: bytes) -> list[str]:
    """Names of the arrays of an NPZ archive that have a picture's shape and numbers; none if it holds one array only.

    Args:
        path: the file, for messages.
        data: its content.

    Raises:
        DataError: a damaged archive.
    """
    found = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            for member in members if len(members) > 1 else ():
                with archive.open(member) as file, suppress(DataError):
                    _header(path, file.read(_HEADER))
                    found.append(member.removesuffix(".npy"))
    except Exception as error:  # as above
        raise DataError(f"{path}: damaged NPZ archive ({first_line(error)}); write it again with numpy.savez") from None
    return found


def _member(path: Path, names: list[str], key: str | None) -> str:
    arrays = [name for name in names if name.endswith(".npy")]
    known = [name.removesuffix(".npy") for name in arrays]
    if not arrays:
        raise DataError(f"{path}: is a ZIP archive without arrays; expected an NPZ file, as numpy.savez writes it")
    if key is None:
        if len(arrays) > 1:
            raise DataError(f"{path}: holds the arrays {', '.join(known[:9])}; say which one is meant: key: {known[0]}")
        return arrays[0]
    if key not in known:
        raise DataError(
            f"{path}: has no array {key!r}, but {', '.join(known[:9])}; correct the key{did_you_mean(key, known)}"
        )
    return arrays[known.index(key)]
