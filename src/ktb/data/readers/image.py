"""Files → numpy arrays, exactly as stored: 8/16-bit PNG, JPEG, NPY; labels as class ids; sensor readings with holes.

Whatever a file holds, the outcome is an array of the expected form or a one-line `DataError` that names the file, what
was found, what was expected and what to do. Files are recognised by their first bytes, not by their names, and nothing
in a file is ever executed.
"""

from __future__ import annotations

import codecs
import difflib
import errno
import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from ktb.data.readers import png
from ktb.data.spec import IGNORE
from ktb.errors import ConfigError, DataError
from ktb.io import entries, existing, is_link_loop

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Label = NDArray[Any]
"""(H, W) class ids: uint8, or uint16 where there are more than 255 classes."""
Alpha = Literal["void", "unused"]
DType = Literal["uint8", "uint16", "float32"]
Holes = Literal["zero", "fill", "validity"]
Normalise = Literal["fixed", "percentile", "plane"]

MAX_PIXELS = 1 << 26
"""Images beyond this many pixels (8192 x 8192) are refused before a byte of them is decoded, see `pixel_limit`."""
LARGEST = 1 << 30
"""No setting lets pictures of more pixels in; OpenCV reads none."""

_JPEG = b"\xff\xd8\xff"
_NPY = b"\x93NUMPY"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey + alpha, RGBA

_limit: ContextVar[int] = ContextVar("pixel_limit", default=MAX_PIXELS)


# --- bytes → array ---------------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        DataError: it does not exist (a name that differs only in case or spelling is suggested), cannot be read, or is
            empty.
    """
    try:
        data = existing(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file{similar(path)}") from None
    except OSError as error:
        what = "a readable file" if error.errno != errno.ELOOP else "a file, found a circle of links (a symlink loop)"
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {what}") from None
    if not data:
        raise DataError(f"{path}: the file is empty (0 bytes); copy or download it again")
    return data


def read_text(path: Path) -> str:
    """The whole file as text: UTF-8, or UTF-16 with a byte order mark, as some programs on Windows write it.

    Raises:
        DataError: it cannot be read (see `read_bytes`) or is in another encoding, or no text at all.
    """
    data = read_bytes(path)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path}: is no text in UTF-8; expected a text file: save it again in this encoding")
    return text


def similar(path: Path) -> str:
    """A remedy for a path that does not exist: the existing name it was probably meant to be, or where it ends.

    Looks at the first component that is missing, so a folder in the wrong case is named as such.
    """
    if is_link_loop(path):
        return "; it is a circle of symbolic links (a symlink loop)"
    if path.exists():
        return ""
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    folder = missing.parent
    try:
        names = [entry.name for entry in entries(folder)]
    except OSError:
        return f"; {folder} is not a folder that can be listed"
    same = [name for name in names if name.casefold() == missing.name.casefold()]
    if same:
        return f"; {folder} has {same[0]!r}, not {missing.name!r}: upper and lower case matter, rename it"
    # Frames differ in their numbers only, so the next frame is no likely misspelling.
    words = [name for name in names if _without_digits(name) != _without_digits(missing.name)]
    close = difflib.get_close_matches(missing.name, words, n=1)
    where = "" if missing == path else f"; {folder} has no {missing.name!r}"
    return f"{where}; did you mean {close[0]!r}?" if close else where


def _without_digits(name: str) -> str:
    return "".join(c for c in name if not c.isdigit())


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Within the block, and in this thread, `decode` takes pictures of up to so many pixels instead of `MAX_PIXELS`."""
    token = _limit.set(pixels)
    try:
        yield
    finally:
        _limit.reset(token)


def decode(path: Path, *, expand_palette: bool = False, lossless: bool = False, data: bytes | None = None) -> Array:
    """One image file → (H, W) or (H, W, C), channels in the order R, G, B, A, values and depth as stored.

    PNG of any kind (1, 2 and 4-bit grey values come as their numbers 0..2^bits-1), JPEG, NPY of numbers in shape (H, W)
    or (H, W, C). A picture with an EXIF orientation is turned the way every viewer shows it, so H and W are those a
    person sees.

    Args:
        expand_palette: palette PNGs as RGB instead of as indices.
        lossless: refuse JPEG, as it must be for labels.
        data: the file's content, where it has been read already.

    Raises:
        DataError: missing, empty, cut short, damaged, more pixels than `MAX_PIXELS` (or `pixel_limit`), or none of
            these formats.
    """
    data = read_bytes(path) if data is None else data
    if data.startswith(png.SIGNATURE):
        return _decode_png(path, data, expand_palette)
    if data.startswith(_JPEG):
        if lossless:
            named = "" if path.suffix.lower() in (".jpg", ".jpeg") else f"is a JPEG file, though named {path.suffix}; "
            raise DataError(
                f"{path}: {named}JPEG changes values, so it can hold no label; expected PNG or NPY: export it again "
                "(converting the file does not bring the values back)"
            )
        return _decode_jpeg(path, data)
    if data.startswith(_NPY):
        return _decode_npy(path, data)
    what, remedy = _foreign(data)
    raise DataError(f"{path}: is {what}, which is none of PNG, JPEG and NPY; {remedy}")


_CONVERT = "convert it to PNG (values as they are) or NPY"
_FETCH = "fetch the file itself"
# First bytes (after so many others) → what such a file is, and what to do.
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"II*\0", "a TIFF file", _CONVERT),
    (0, b"MM\0*", "a TIFF file", _CONVERT),
    (0, b"II+\0", "a BigTIFF file", _CONVERT),
    (0, b"MM\0+", "a BigTIFF file", _CONVERT),
    (0, b"GIF8", "a GIF file", _CONVERT),
    (0, b"BM", "a BMP file", _CONVERT),
    (8, b"WEBP", "a WebP file", _CONVERT),
    (4, b"ftyp", "a HEIC, AVIF or video file", _CONVERT),
    (4, b"jP  ", "a JPEG 2000 file", _CONVERT),
    (4, b"JXL ", "a JPEG XL file", _CONVERT),
    (0, b"v/1\x01", "an OpenEXR file", _CONVERT),
    (0, b"P5", "a PGM file", _CONVERT),
    (0, b"P6", "a PPM file", _CONVERT),
    (0, b"PF", "a PFM file", _CONVERT),
    (0, b"Pf", "a PFM file", _CONVERT),
    (0, b"\x89HDF", "an HDF5 file", "write its arrays as NPY, one per sample"),
    (0, b"MATLAB", "a MATLAB file", "write its arrays as NPY, one per sample"),
    (0, b"PK\x03\x04", "a ZIP or NPZ archive", "unpack it: one array per NPY file"),
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
    """Tag 0x0112 of EXIF data; 1, upright, where there is none or none that has a meaning, as viewers take it."""
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

    OpenCV decodes a PNG that is cut short without a word, so this is what finds it.
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
            _check_pixels(path, width, height)
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
    paints the missing rest of a cut JPEG grey without a word.
    """
    position, size, orientation = 2, (0, 0), 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 5)
            _check_pixels(path, width, height)
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
    except cv2.error as error:
        raise DataError(f"{path}: damaged image ({error.err}); copy or download it again") from None
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
        raise DataError(f"{path}: damaged image ({_first_line(error)}); copy or download it again") from None


def _decode_npy(path: Path, data: bytes) -> Array:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except Exception as error:  # a damaged header raises ValueError, SyntaxError, TokenError, KeyError, ...
        raise DataError(f"{path}: damaged NPY header ({_first_line(error)}); write it again with numpy.save") from None
    if dtype.kind not in "buif":
        what = "Python objects (a pickle), which are never loaded" if dtype.hasobject else f"values of type {dtype}"
        raise DataError(f"{path}: NPY file of {what}; expected numbers: save it as a plain numeric array")
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] > min(shape[:2])):
        raise DataError(f"{path}: NPY array of shape {shape}; expected (height, width) or (height, width, channels)")
    _check_pixels(path, shape[1], shape[0])
    count, offset = int(np.prod(shape, dtype=np.int64)), stream.tell()
    if len(data) - offset != count * dtype.itemsize:
        raise DataError(
            f"{path}: NPY file holds {len(data) - offset} bytes of values, but shape {shape} of {dtype} needs "
            f"{count * dtype.itemsize}; the file is cut short or damaged: copy or write it again"
        )
    array = np.frombuffer(data, dtype, count, offset).reshape(shape, order="F" if fortran else "C")
    if dtype.kind == "b":
        return array.astype(np.uint8)
    return array if array.dtype.isnative else array.astype(dtype.newbyteorder("="))


def _check_pixels(path: Path, width: int, height: int) -> None:
    limit = _limit.get()
    if not 0 < width * height <= limit:
        more = f", or set dataset.max_pixels={width * height} (--max-pixels of ktb-predict and ktb-data new)"
        raise DataError(
            f"{path}: claims {width} x {height} pixels; expected at most {limit}: the file is damaged"
            + more * (0 < width * height <= LARGEST)
        )


def _check_shape(path: Path, image: Array, size: tuple[int, int]) -> Array:
    if image.shape[:2] != size:
        raise DataError(
            f"{path}: decodes to {image.shape[1]} x {image.shape[0]} pixels but its header says {size[1]} x {size[0]}; "
            "the file is damaged: copy or download it again"
        )
    return image


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- images of a modality --------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """An image (H, W, C), uint8, uint16 or float32, and where it is valid (H, W); None where there are no holes.

    converted: what was done to a picture that is no plain RGB, in words; empty otherwise.
    """

    image: Array
    valid: Mask | None = None
    converted: str = ""


@dataclass(frozen=True)
class ImageReader:
    """How the files of one modality are read. Called with the file (or files) of a sample it returns a `Reading`.

    Several files of one sample are stacked along the channels in the order given.

    Args:
        channels: number of channels of the result; None: any.
        dtype: type of the result, and stored type that is expected; "float32" takes any stored type.
        units: further stored types that are taken, each with the factor that brings it to the unit of the result
            ({"uint16": 1e-3} for float metres or 16-bit millimetres); what a result of whole numbers cannot hold
            becomes the least or greatest that it can.
        colour: RGB is wanted: a grey picture's values are taken three times, alpha is left out.
        pick: stored channels to take, in this order (an index may repeat); None: all.
        hole_value: value that means "no measurement" (NaN: any NaN or infinity); None: there is none.
        holes: "zero": holes become 0 after scaling; "fill": they are filled smoothly from the valid pixels around them;
            "validity": as zero, with a further channel that is 1 where measured.
        normalise: "fixed": values as stored (scaled later by `ModalitySpec.scale`). "percentile": linear per image, so
            that `percentiles` of its valid values become 0 and 1. "plane": 0.5 + r / (2·`plane_range`), where r is the
            residual to the plane a + b·row + c·column fitted robustly to the image: for disparity (inverse depth) that
            is the height above or below the dominating surface, a road or a floor. Both clip to [0, 1].
        percentiles: of "percentile".
        plane_range: stored units above or below the plane that reach 1 and 0.
    """

    channels: int | None = None
    dtype: DType = "uint8"
    units: Mapping[str, float] = field(default_factory=dict)
    pick: tuple[int, ...] | None = None
    hole_value: float | None = None
    holes: Holes = "zero"
    normalise: Normalise = "fixed"
    percentiles: tuple[float, float] = (2.0, 98.0)
    plane_range: float | None = None
    colour: bool = False

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("dtype", self.dtype, get_args(DType)),
            ("holes", self.holes, get_args(Holes)),
            ("normalise", self.normalise, get_args(Normalise)),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
        if self.holes != "zero" and self.hole_value is None:
            raise ConfigError(f"holes: {self.holes} needs a hole_value: the stored value that means no measurement")
        if self.normalise == "plane" and (self.channels != 1 or not self.plane_range or self.plane_range <= 0):
            raise ConfigError("normalise: plane needs channels: 1 and a positive plane_range in stored units")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"percentiles are {low}, {high}; expected 0 <= low < high <= 100")

    def __call__(self, paths: Sequence[Path]) -> Reading:
        return self.finish(paths, self.measure(paths))

    def measure(self, paths: Sequence[Path]) -> Reading:
        """Values in the unit of the result, before they are rounded to its type, normalised or filled."""
        read = [self._read(path) for path in paths]
        parts = [image for image, _ in read]
        image = parts[0] if len(parts) == 1 else _stack(paths, parts)
        if self.pick is not None:
            if max(self.pick) >= image.shape[2]:
                raise DataError(
                    f"{paths[0]}: has {_channels(image.shape[2])}, expected at least {max(self.pick) + 1} to take "
                    f"channels {list(self.pick)} from; correct the modality's pick or convert the file"
                )
            image = np.ascontiguousarray(image[..., self.pick])
        if self.channels is not None and image.shape[2] != self.channels:
            raise DataError(
                f"{paths[0]}: has {_channels(image.shape[2])}, expected {self.channels}; convert the file, or correct "
                "the modality's channels (or pick some of them)"
            )
        return Reading(image, self._valid(paths[0], image), read[0][1])

    def finish(self, paths: Sequence[Path], measured: Reading) -> Reading:
        """What `measure` gave → the result."""
        image, valid, converted = measured
        if self.normalise != "fixed":
            image = self._normalised(paths[0], image, valid)
        elif image.dtype != self.dtype:
            limits = np.iinfo(self.dtype)
            image = np.clip(np.rint(image), limits.min, limits.max).astype(self.dtype)
        if valid is None or valid.all():
            # A mask is kept for the validity channel alone, which has to be there whether this frame has holes or not.
            return Reading(image, valid if self.holes == "validity" else None, converted)
        if self.holes == "fill":
            return Reading(fill_holes(image, valid), None, converted)
        return Reading(image, valid, converted)

    def _read(self, path: Path) -> tuple[Array, str]:
        image, converted = decode(path, expand_palette=True), ""
        image = image[..., None] if image.ndim == 2 else image
        if self.colour:
            image, converted = _as_colour(image)
        elif self.channels == 1 and self.pick is None:
            image = as_grey(image)
        unit = self.units.get(image.dtype.name)
        if unit is not None:
            return image * np.float32(unit), converted
        if self.dtype == "float32":
            return image.astype(np.float32), converted
        if image.dtype != self.dtype:
            raise DataError(
                f"{path}: holds {image.dtype} values, expected {self.dtype}; convert the file, or correct the "
                "modality's dtype and scale"
            )
        return image, converted

    def _valid(self, path: Path, image: Array) -> Mask | None:
        if image.dtype == np.float32:
            finite = np.isfinite(image)
            if not finite.all() and not (self.hole_value is not None and np.isnan(self.hole_value)):
                row, column, _ = np.argwhere(~finite)[0]
                raise DataError(
                    f"{path}: {int((~finite).sum())} values are NaN or infinite, the first at row {row}, column "
                    f"{column}; expected finite numbers: mend the file, or declare them as holes with hole_value: nan"
                )
            if self.hole_value is not None and np.isnan(self.hole_value):
                return _all_channels(finite)
        return None if self.hole_value is None else _all_channels(image != self.hole_value)

    def _normalised(self, path: Path, image: Array, valid: Mask | None) -> NDArray[np.float32]:
        values = image.astype(np.float32)
        if valid is not None and not valid.any():
            return np.zeros_like(values)
        if self.normalise == "plane":
            assert self.plane_range is not None  # held by __post_init__
            scaled = 0.5 + plane_residual(values[..., 0], valid)[..., None] / (2 * self.plane_range)
        else:
            # A grid of every fourth pixel is enough for percentiles, and sorting it costs a sixteenth.
            sample = values[::4, ::4][valid[::4, ::4]] if valid is not None and valid[::4, ::4].any() else values
            low, high = np.percentile(sample, self.percentiles)
            scaled = (values - low) / max(high - low, np.finfo(np.float32).tiny)
        return np.clip(scaled, 0.0, 1.0, out=scaled).astype(np.float32, copy=False)


def _as_colour(image: Array) -> tuple[Array, str]:
    """(H, W, C) → (H, W, 3) and what was done, for 1 to 4 channels; others stay as they are."""
    channels = image.shape[2]
    if channels in (1, 2):
        return np.repeat(image[..., :1], 3, axis=2), "grey, taken as three equal channels"
    if channels == 4:
        return np.ascontiguousarray(image[..., :3]), "with a fourth channel (alpha), which is left out"
    return image, ""


def as_grey(image: Array) -> Array:
    """A grey picture saved as colour → (H, W, 1); one whose channels differ, or with transparency, stays as it is."""
    colours = image
    if image.shape[2] in (2, 4):
        opaque = 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max
        if (image[..., -1] != opaque).any():
            return image
        colours = image[..., :-1]
    return np.ascontiguousarray(image[..., :1]) if (colours == colours[..., :1]).all() else image


def _stack(paths: Sequence[Path], parts: Sequence[Array]) -> Array:
    for path, part in zip(paths, parts, strict=True):
        if part.shape[:2] != parts[0].shape[:2]:
            raise DataError(
                f"{path}: is {part.shape[1]} x {part.shape[0]} pixels but {paths[0]}, the same sample, is "
                f"{parts[0].shape[1]} x {parts[0].shape[0]}; make them one size"
            )
    return np.concatenate(parts, axis=2)


def _all_channels(valid: Mask) -> Mask:
    return valid[..., 0] if valid.shape[2] == 1 else np.logical_and.reduce(valid, axis=2)


def _channels(count: int) -> str:
    return f"{count} channel" + ("s" if count != 1 else "")


def fill_holes(image: Array, valid: Mask) -> Array:
    """Holes of (H, W, C) filled smoothly from the valid pixels around them, which stay as they are; all 0 if none is.

    Push-pull: means over valid pixels on coarser and coarser grids, then back, each hole taking the finest grid that
    has a value. Linear in the number of pixels, whatever the size of the holes.
    """
    if not valid.any():
        return np.zeros_like(image)
    filled = _push_pull(np.where(valid[..., None], image, 0).astype(np.float32), valid.astype(np.float32))
    if image.dtype != np.float32:
        filled = np.rint(filled)
    return np.where(valid[..., None], image, filled.astype(image.dtype))


def _push_pull(image: Array, weight: Array) -> Array:
    """Fill where weight is 0; image is premultiplied by weight, the result is not."""
    height, width, channels = image.shape
    known = (weight > 0)[..., None]
    values = np.divide(image, weight[..., None], out=np.zeros_like(image), where=known)
    if known.all():
        return values
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse = _push_pull(
        cv2.resize(image, half, interpolation=cv2.INTER_AREA).reshape(half[1], half[0], channels),
        cv2.resize(weight, half, interpolation=cv2.INTER_AREA),
    )
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(image.shape)
    return np.where(known, values, fine)


def plane_residual(image: NDArray[np.float32], valid: Mask | None) -> NDArray[np.float32]:
    """(H, W) minus its dominating plane a + b·row + c·column, in the image's unit.

    Least squares over a grid of about 2500 valid pixels, repeated without those beyond 2.5 robust standard deviations
    (1.4826 times the median absolute residual), so that what sticks out of the surface does not tilt it.
    """
    height, width = image.shape
    step = max(int(np.sqrt(height * width / 2500)), 1)
    rows, columns = np.mgrid[0:height:step, 0:width:step].astype(np.float64)
    measured = np.ones(rows.shape, bool) if valid is None else valid[::step, ::step]
    if measured.sum() < 3:
        return image - np.float32(image.mean() if valid is None else image[valid].mean())
    terms = np.stack([np.ones(int(measured.sum())), rows[measured] / height, columns[measured] / width], axis=1)
    values = image[::step, ::step][measured].astype(np.float64)
    inlier = np.ones(len(values), bool)
    for _ in range(6):
        kept = terms[inlier]
        plane = np.linalg.lstsq(kept.T @ kept, kept.T @ values[inlier], rcond=None)[0]
        residual = np.abs(values - terms @ plane)
        closer = residual <= 2.5 * 1.4826 * np.median(residual[inlier])
        if closer.sum() < 3 or (closer == inlier).all():
            break
        inlier = closer
    down = plane[0] + plane[1] * np.arange(height) / height
    across = plane[2] * np.arange(width) / width
    return image - (down.astype(np.float32)[:, None] + across.astype(np.float32))


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelReader:
    """Label files → (H, W) with class ids 0..K-1 and `void`; uint8, or uint16 where `void` is beyond 255.

    Ids may be stored as whole numbers of any type, floats included, in one channel or in several equal ones.

    Args:
        table: stored id → class id or `void`; no other ids may occur (`id_table` makes one).
        colours: (R, G, B) → class id or `void`, for labels stored as colours; the table is then not used.
        channel: of label images with several unrelated channels, the one that holds the ids.
        void: what pixels get that do not count (see `ktb.data.spec.ignore_index`).
        alpha: "void": transparent pixels of a PNG (alpha channel, or transparent colours) do not count; "unused": alpha
            says nothing.
    """

    table: Mapping[int, int] = field(default_factory=dict)
    colours: Mapping[tuple[int, int, int], int] | None = None
    channel: int | None = None
    void: int = IGNORE
    alpha: Alpha = "unused"

    def __post_init__(self) -> None:
        if self.alpha not in get_args(Alpha):
            raise ConfigError(f"alpha is {self.alpha!r}; expected one of {', '.join(get_args(Alpha))}")

    def __call__(self, path: Path) -> Label:
        data = read_bytes(path)
        stored = decode(path, data=data, lossless=True)
        hidden = None if self.alpha == "unused" else _transparent(path, data, stored)
        if self.colours is not None:
            return self._from_colours(path, _as_colours(data, stored), self.colours, hidden)
        return self._from_ids(path, whole_numbers(path, self._one_channel(path, data, stored)), hidden)

    def describe(self, path: Path) -> str:
        """How a label file is taken, in words: what is stored, and what it means.

        Raises:
            DataError: it cannot be read.
        """
        data = read_bytes(path)
        stored = decode(path, data=data, lossless=True)
        channels = 1 if stored.ndim == 2 else stored.shape[2] - png.has_alpha(data)
        kind = "palette" if png.palette(data) is not None else f"{stored.dtype} x {channels}"
        if self.colours is not None:
            meant = "classes by colour"
        elif channels == 1:
            meant = "ids"
        else:
            meant = "ids in equal channels" if self.channel is None else f"ids in channel {self.channel}"
        if png.alpha(data, stored) is not None:
            meant += ", transparent is void" if self.alpha == "void" else ", transparency unused"
        return f"{kind}: {meant}"

    def _one_channel(self, path: Path, data: bytes, stored: Array) -> Array:
        if stored.ndim == 2:
            return stored
        if self.channel is not None:
            if self.channel >= stored.shape[2]:
                raise DataError(
                    f"{path}: label has {_channels(stored.shape[2])}, expected ids in channel {self.channel} (from 0); "
                    "correct the label's channel or the file"
                )
            return stored[..., self.channel]
        ids = stored[..., :-1] if png.has_alpha(data) else stored
        if not (ids == ids[..., :1]).all():
            raise DataError(
                f"{path}: label has {_channels(ids.shape[2])} that differ, so it holds colours; expected one channel "
                "of class ids: convert it, or tell the data set how its colours or channels are meant (label.colours: "
                "true with the palette, or label.channel)"
            )
        return ids[..., 0]

    @cached_property
    def _dtype(self) -> type[np.uint8] | type[np.uint16]:
        return np.uint8 if self.void == IGNORE else np.uint16

    @cached_property
    def _bytes(self) -> tuple[Array, Array]:
        """For 8-bit ids: the class of each, and 1 where it must not occur."""
        classes, wrong = np.zeros(256, self._dtype), np.ones(256, np.uint8)
        for stored, value in self.table.items():
            if 0 <= stored <= 255:
                classes[stored], wrong[stored] = value, 0
        return classes, wrong

    @cached_property
    def _sorted(self) -> tuple[Array, Array]:
        """Stored ids in order, and the class of each."""
        ids = np.array(sorted(self.table), np.int64)
        return ids, np.array([self.table[int(i)] for i in ids], self._dtype)

    def _from_ids(self, path: Path, stored: Array, hidden: Mask | None) -> Label:
        if stored.dtype == np.uint8:
            classes, wrong = self._bytes
            label: Label = cv2.LUT(stored, classes)
            outside = cv2.LUT(stored, wrong)
            bad = None if not cv2.countNonZero(outside) else outside.astype(bool)
        else:
            ids, values = self._sorted
            at = np.minimum(np.searchsorted(ids, stored), len(ids) - 1)
            bad = ids[at] != stored
            label = values[at]
        if hidden is not None:
            label[hidden] = self.void
            bad = None if bad is None else bad & ~hidden
        if bad is None or not bad.any():
            return label
        found = np.unique(stored[bad])
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{path}: label {'ids' if len(found) > 1 else 'id'} {_listed(found)} at {int(bad.sum())} pixels, the first "
            f"at row {row}, column {column}; expected {ranges(sorted(self.table))}: correct the file, or the classes, "
            "or label.map or label.ignore"
        )

    def _from_colours(
        self, path: Path, stored: Array, colours: Mapping[tuple[int, int, int], int], hidden: Mask | None
    ) -> Label:
        if stored.ndim != 3 or stored.shape[2] not in (3, 4) or stored.dtype != np.uint8:
            raise DataError(
                f"{path}: label is {stored.dtype} of shape {stored.shape}; expected an 8-bit colour image, because the "
                "labels are declared as colours: correct one of them"
            )
        codes = (stored[..., 0].astype(np.int32) << 16) | (stored[..., 1].astype(np.int32) << 8) | stored[..., 2]
        known = {(r << 16) | (g << 8) | b: value for (r, g, b), value in colours.items()}
        order = np.array(sorted(known), np.int32)
        at = np.minimum(np.searchsorted(order, codes), len(order) - 1)
        bad = order[at] != codes
        label: Label = np.array([known[int(code)] for code in order], self._dtype)[at]
        if hidden is not None:
            label[hidden] = self.void
            bad &= ~hidden
        if bad.any():
            row, column = np.argwhere(bad)[0]
            colour = tuple(int(v) for v in stored[row, column, :3])
            raise DataError(
                f"{path}: label colour {colour} at row {row}, column {column} ({int(bad.sum())} pixels of unknown "
                "colours); expected those of the palette or ignored ones: add it, or store labels without smoothing"
            )
        return label


def whole_numbers(path: Path, stored: Array) -> Array:
    """Ids of any stored type as whole numbers.

    Raises:
        DataError: fractions, NaN or infinity.
    """
    if stored.dtype.kind in "ui":
        # No id in a table is as large, so values beyond int64 stay unknown ones.
        return stored if stored.dtype != np.uint64 else np.minimum(stored, np.iinfo(np.int64).max).astype(np.int64)
    whole = np.isfinite(stored) & (np.rint(stored) == stored) & (np.abs(stored.astype(np.float64)) < 2**53)
    if not whole.all():
        row, column = np.argwhere(~whole)[0]
        raise DataError(
            f"{path}: label holds {stored.dtype} values, {stored[row, column]:g} at row {row}, column {column}; "
            "expected whole numbers: write it again with class ids, and one id for what is unlabelled"
        )
    return stored.astype(np.int64)


def _as_colours(data: bytes, stored: Array) -> Array:
    """Palette indices as their colours; all else as it is."""
    palette = png.palette(data)
    if palette is None or stored.ndim != 2:
        return stored
    full = np.zeros((256, 3), np.uint8)
    full[: len(palette)] = palette[:256]
    return full[stored]


def _transparent(path: Path, data: bytes, stored: Array) -> Mask | None:
    alpha = png.alpha(data, stored)
    if alpha is None:
        return None
    hidden: Mask = alpha == 0
    between = ~hidden & (alpha != np.iinfo(alpha.dtype).max)
    if between.any():
        row, column = np.argwhere(between)[0]
        raise DataError(
            f"{path}: alpha is {alpha[row, column]} at row {row}, column {column}; expected 0 (unlabelled) or "
            f"{np.iinfo(alpha.dtype).max}: export the label without smoothing, or say label.alpha: unused"
        )
    return hidden


def id_table(
    num_classes: int, *, offset: int = 0, ignore: Iterable[int] = (IGNORE,), void: int = IGNORE
) -> dict[int, int]:
    """Stored id → class id: id + offset where that is a class, `void` for ids in `ignore`.

    NYU's labels, 1..40 with 0 = void, are `id_table(40, offset=-1, ignore=(0, 255))`.
    """
    return {i - offset: i for i in range(num_classes)} | dict.fromkeys(ignore, void)


def _listed(ids: Array) -> str:
    return ", ".join(str(int(i)) for i in ids[:5]) + (", ..." if len(ids) > 5 else "")


def ranges(ids: Sequence[int], most: int | None = None) -> str:
    """[0, 1, 2, 255] → "0-2, 255"; with `most`, "..." stands for all ranges after so many."""
    parts: list[list[int]] = []
    for i in ids:
        if parts and parts[-1][1] == i - 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    shown = [str(a) if a == b else f"{a} to {b}" if a < 0 else f"{a}-{b}" for a, b in parts[:most]]
    return ", ".join([*shown, *(["..."] if len(shown) < len(parts) else [])])
