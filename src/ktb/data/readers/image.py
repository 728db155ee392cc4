"""Image files of one modality → one array, and where a sensor with holes measured nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Array, InMemory, Mask, Reading, Size, Source
from ktb.data.files import read_bytes
from ktb.data.readers import tiff
from ktb.data.readers.decode import channels_in_words, decode
from ktb.data.readers.holes import fill_holes
from ktb.data.readers.plane import plane_residual
from ktb.data.resizing import Resizing
from ktb.data.steps import Step
from ktb.errors import ConfigError, DataError

DType = Literal["uint8", "uint16", "float32"]
Holes = Literal["zero", "mean", "fill", "validity"]
Normalise = Literal["fixed", "percentile", "plane"]


def can_hold(dtype: str, value: float) -> bool:
    """Whether a file of a stored type can have this value."""
    if dtype == "float32":
        return True
    limits = np.iinfo(dtype)
    return limits.min <= value <= limits.max and float(value).is_integer()


_BANDS = Resizing(smooth=True)
"""How files of one modality come to one size."""


@dataclass(frozen=True)
class ImageReader:
    """How the files of one modality are read. Called with the file (or files) of a sample it returns a `Reading`.

    Several files of one sample are stacked along the channels in the order given. Arrays in the place of files are read
    as these, but have no tags: what is a hole by `nodata_tag` is NaN in them.

    Args:
        channels: number of channels of the result; None: any.
        dtype: type of the result, and stored type that is expected; "float32" takes any stored type.
        units: further stored types that are taken, each with the factor that brings it to the unit of the result
            ({"uint16": 1e-3} for float metres or 16-bit millimetres); what a result of whole numbers cannot hold
            becomes the least or greatest that it can.
        colour: RGB is wanted: a grey picture's values are taken three times, alpha is left out.
        pick: stored channels to take, in this order (an index may repeat); None: all.
        hole_value: value that means "no measurement" (NaN: any NaN or infinity); None: there is none. A pixel is a hole
            if any channel is.
        nodata_tag: the value that the TIFF tag GDAL_NODATA of a file names becomes NaN, which `hole_value` must be.
        holes: "zero": holes become 0 after scaling; "mean": 0 after normalisation (see `ModalitySpec.holes_at_mean`);
            "fill": they are filled smoothly from the valid pixels around them; "validity": as zero, with a further
            channel that is 1 where measured.
        normalise: "fixed": values as stored (scaled later by `ModalitySpec.scale`). "percentile": linear per image, so
            that `percentiles` of its valid values become 0 and 1. "plane": 0.5 + r / (2·`plane_range`), where r is the
            residual to the plane a + b·row + c·column fitted robustly to the image: for disparity (inverse depth) that
            is the height above or below the dominating surface, a road or a floor. Both clip to [0, 1].
        percentiles: of "percentile".
        plane_range: stored units above or below the plane that reach 1 and 0.
        key: name of the array in NPZ files that hold several.
        resize_files: several files of one sample may differ in size: they are resized to the first, bilinear, holes
            without weight.
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
    nodata_tag: bool = False
    key: str | None = None
    resize_files: bool = False

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("dtype", self.dtype, get_args(DType)),
            ("holes", self.holes, get_args(Holes)),
            ("normalise", self.normalise, get_args(Normalise)),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
        if self.nodata_tag and (self.dtype != "float32" or self.hole_value is None or not np.isnan(self.hole_value)):
            raise ConfigError("hole_value: nodata needs dtype: float32, as such holes become NaN")
        if self.hole_value is not None and not can_hold(self.dtype, self.hole_value):
            raise ConfigError(
                f"hole_value is {self.hole_value:g}, which no {self.dtype} value is, so nothing would be a hole; "
                "correct it or the dtype (float32 has all numbers)"
            )
        if self.holes not in ("zero", "mean") and self.hole_value is None:
            raise ConfigError(f"holes: {self.holes} needs a hole_value: the stored value that means no measurement")
        if self.normalise == "plane" and (self.channels != 1 or not self.plane_range or self.plane_range <= 0):
            raise ConfigError("normalise: plane needs channels: 1 and a positive plane_range in stored units")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"percentiles are {low}, {high}; expected 0 <= low < high <= 100")

    def __call__(self, paths: Sequence[Source]) -> Reading:
        return self.finish(paths, self.measure(paths))

    def measure(self, paths: Sequence[Source]) -> Reading:
        """Values in the unit of the result, before they are rounded to its type, normalised or filled.

        Args:
            paths: the file or files of one sample.

        Raises:
            DataError: a file is missing, damaged or not as expected.
        """
        read = [self._read(path) for path in paths]
        parts, resized = self._one_size(paths, [image for image, *_ in read])
        image = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        found = channels_in_words(image.shape[2])
        if self.pick is not None:
            if max(self.pick) >= image.shape[2]:
                raise DataError(
                    f"{paths[0]}: has {found}, expected at least {max(self.pick) + 1} to take "
                    f"channels {list(self.pick)} (from 0) from; correct the modality's bands or pick, or convert it"
                )
            image = np.ascontiguousarray(image[..., self.pick])
            found = channels_in_words(image.shape[2])
        if self.channels is not None and image.shape[2] != self.channels:
            raise DataError(
                f"{paths[0]}: has {found}, expected {self.channels}; convert it, or correct "
                "the modality's channels (or choose some of them by bands)"
            )
        _, converted, stored = read[0]
        return Reading(image, self._valid(paths[0], image), converted, resized, stored)

    def finish(self, paths: Sequence[Source], measured: Reading) -> Reading:
        """What `measure` gave → the result: normalised or rounded to its type, holes filled or masked.

        Args:
            paths: the files, for messages.
            measured: what `measure` gave for them.
        """
        image, valid, *_ = measured
        if self.normalise != "fixed":
            image = self._normalised(paths[0], image, valid)
        elif image.dtype != self.dtype:
            limits = np.iinfo(self.dtype)
            image = np.clip(np.rint(image), limits.min, limits.max).astype(self.dtype)
        if valid is None or valid.all():
            # Without holes no mask is needed, except for the validity channel, which every frame must have.
            return measured._replace(image=image, valid=valid if self.holes == "validity" else None)
        if self.holes == "fill":
            return measured._replace(image=fill_holes(image, valid), valid=None)
        return measured._replace(image=image)

    def steps(self) -> list[Step]:
        """What is done to the arrays in its files, in this order, see `ktb.data.preparation`."""
        whole = self.dtype != "float32"
        factors: dict[str, float] = {self.dtype: 1.0} if whole else {}
        factors.update(self.units)
        hole = self.hole_value if self.hole_value is None or not np.isnan(self.hole_value) else "nan"
        steps: list[Step] = [{"do": "mark no-data"}] if self.nodata_tag else []
        steps.append({"do": "take", "factors": factors, "others": not whole})
        if self.resize_files:
            steps.append({"do": "stack files", "holes": hole})
        if self.colour:
            steps.append({"do": "channels", "how": "colour"})
        elif self.channels == 1 and self.pick is None:
            steps.append({"do": "channels", "how": "one"})
        if self.pick is not None:
            steps.append({"do": "pick", "channels": list(self.pick)})
        if self.hole_value is not None:
            steps.append({"do": "find holes", "value": hole})
        if self.normalise == "plane":
            steps.append({"do": "plane", "range": self.plane_range})
        elif self.normalise == "percentile":
            low, high = self.percentiles
            steps.append({"do": "percentiles", "low": low, "high": high, "every": 1 if self.hole_value is None else 4})
        elif whole and any(factor != 1 for factor in factors.values()):
            steps.append({"do": "round", "type": self.dtype})
        if self.holes == "fill":
            steps.append({"do": "fill holes", "round": whole and self.normalise == "fixed"})
        return steps

    def _read(self, path: Source) -> tuple[Array, str, str]:
        """Values of one file, what was done to a picture that is no plain RGB, and the type that the file has."""
        data = None if isinstance(path, InMemory) else read_bytes(path)
        image, converted = decode(path, expand_palette=True, data=data, key=self.key), ""
        stored = image.dtype.name
        if self.nodata_tag and data is not None and (nodata := tiff.nodata(data)) is not None:
            image = _without(image, nodata)
        image = image[..., None] if image.ndim == 2 else image
        if self.colour:
            image, converted = _as_colour(image)
        elif self.channels == 1 and self.pick is None:
            image = as_grey(image)
        unit = self.units.get(image.dtype.name)
        if unit is not None:
            return image * np.float32(unit), converted, stored
        if self.dtype == "float32":
            return image.astype(np.float32), converted, stored
        if image.dtype != self.dtype:
            raise DataError(
                f"{path}: holds {image.dtype} values, expected {self.dtype}; convert it, or correct the "
                "modality's dtype and scale"
            )
        return image, converted, stored

    def _one_size(self, paths: Sequence[Source], parts: Sequence[Array]) -> tuple[list[Array], dict[str, Size]]:
        """The files of a sample in the size of the first, and which of them had another one."""
        result, resized = [parts[0]], dict[str, Size]()
        height, width = parts[0].shape[:2]
        for path, part in zip(paths[1:], parts[1:], strict=True):
            own = (part.shape[0], part.shape[1])
            if own != (height, width):
                if not self.resize_files:
                    raise DataError(
                        f"{path}: is {own[1]} x {own[0]} pixels but {paths[0]}, the same sample, is {width} x "
                        f"{height}; make them one size"
                    )
                _BANDS.check(own, str(path), ((height, width), str(paths[0])))
                part, valid, *_ = _BANDS(part, self._valid(path, part), (height, width))
                if valid is not None and self.hole_value is not None:  # found again by the value, as all holes are
                    part = np.where(valid[..., None], part, np.array(self.hole_value, part.dtype))
                resized[str(path)] = own
            result.append(part)
        return result, resized

    def _valid(self, path: Source, image: Array) -> Mask | None:
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

    def _normalised(self, path: Source, image: Array, valid: Mask | None) -> NDArray[np.float32]:
        values = image.astype(np.float32)
        if valid is not None and not valid.any():
            return np.zeros_like(values)
        if self.normalise == "plane":
            assert self.plane_range is not None  # checked by __post_init__
            scaled = 0.5 + plane_residual(values[..., 0], valid)[..., None] / (2 * self.plane_range)
        else:
            # Every fourth row and column is enough for percentiles, and a sixteenth of the values to sort.
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
    """A grey picture that was saved as colour, with one channel.

    Args:
        image: (H, W, C).

    Returns:
        (H, W, 1); `image` itself if its channels differ, or if pixels are transparent.
    """
    colours = image
    if image.shape[2] in (2, 4):
        opaque = 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max
        if (image[..., -1] != opaque).any():
            return image
        colours = image[..., :-1]
    return np.ascontiguousarray(image[..., :1]) if (colours == colours[..., :1]).all() else image


def _without(image: Array, nodata: float) -> NDArray[np.float32]:
    """float32 with NaN where the stored value is `nodata`, as a number of the stored type."""
    value = np.array(nodata).astype(image.dtype) if image.dtype.kind == "f" else nodata
    return np.where(image == value, np.float32(np.nan), image.astype(np.float32))


def _all_channels(valid: Mask) -> Mask:
    return valid[..., 0] if valid.shape[2] == 1 else np.logical_and.reduce(valid, axis=2)
