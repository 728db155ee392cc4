"""What `conf/dataset/folder.yaml` says of a modality and of the label: checked, and as readers and specs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ktb.data.readers.image import DType, Holes, ImageReader, Normalise
from ktb.data.readers.label import Alpha, LabelReader, id_table
from ktb.data.readers.limits import MAX_CHANNELS
from ktb.data.spec import IMAGENET_MEAN, IMAGENET_STD, Colour, DatasetSpec, ModalitySpec
from ktb.errors import ConfigError, did_you_mean
from ktb.io import normal

SCALES: dict[str, float] = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
SPLIT = "{split}"
Palettes = Literal["equal", "unused"]

T = TypeVar("T")


@dataclass(frozen=True)
class FolderModality:
    """`dataset.modalities.<name>`: where the files of a modality are and what their values mean.

    Args:
        files: glob below the root; `*` and `?` match within a name, `**/` any folders, `{split}` the split's folder.
            With `max_gap` also a list, ending in .txt or .csv, with "time file" per line. Several globs where a sample
            has several files, whose bands are stacked in this order and resized to the first file's size.
        channels, dtype, pick, holes, normalise, percentiles, plane_range, key: as in `ImageReader`; channels is 3 for
            "rgb", and otherwise the number of bands chosen or of files, unless stated. "rgb" may be 16-bit; then
            `scale` becomes 255 and it is rounded to 8 bits. A grey picture among "rgb" is taken three times, alpha is
            left out.
        bands: stored channels to take, in this order, counted from 1; the same as `pick`, which counts from 0.
        hole_value: as in `ImageReader`; or "nodata", the value that the tag GDAL_NODATA of each file names.
        scale: values are divided by it, one for all or one per channel; null: 255, 65535 or 1 for uint8, uint16,
            float32. Without effect unless normalise is "fixed".
        mean, std: subtracted and divided by after scaling, one per channel or one for all; null: ImageNet's for "rgb",
            0 and 1 otherwise.
        show: the channels, of those taken and counted from 1, that pictures show: [red, green, blue], or one.
        title: in pictures and tables.
    """

    files: str | Sequence[str]
    channels: int | None = None
    dtype: DType = "uint8"
    bands: Sequence[int] | None = None
    pick: Sequence[int] | None = None
    key: str | None = None
    scale: float | Sequence[float] | None = None
    mean: Sequence[float] | float | None = None
    std: Sequence[float] | float | None = None
    hole_value: float | Literal["nodata"] | None = None
    holes: Holes = "zero"
    normalise: Normalise = "fixed"
    percentiles: Sequence[float] = (2.0, 98.0)
    plane_range: float | None = None
    show: Sequence[int] | None = None
    title: str = ""

    @property
    def globs(self) -> tuple[str, ...]:
        """The patterns of its files, one for each file of a sample."""
        return (self.files,) if isinstance(self.files, str) else tuple(self.files)

    def reader(self, name: str) -> ImageReader:
        """The reader of its files.

        Args:
            name: of the modality; "rgb" is read as colours.

        Raises:
            ConfigError: settings that cannot work.
        """
        low, high = self.percentiles
        reduced = self._reduced(name)
        pick = self._pick()
        tagged = self.hole_value == "nodata"
        return ImageReader(
            channels=self._channels(name),
            dtype="uint8" if reduced else self.dtype,
            units={"uint16": 255 / self._scales(name)[0]} if reduced else {},
            pick=pick,
            hole_value=float("nan") if self.hole_value == "nodata" else self.hole_value,
            nodata_tag=tagged,
            holes=self.holes,
            normalise=self.normalise,
            percentiles=(low, high),
            plane_range=self.plane_range,
            colour=name == "rgb" and pick is None and len(self.globs) == 1,
            key=self.key,
            resize_files=len(self.globs) > 1,
        )

    def spec(self, name: str) -> ModalitySpec:
        """What the model receives of it.

        Args:
            name: of the modality.

        Raises:
            ConfigError: settings that cannot work.
        """
        channels, validity, rgb = self._channels(name), self.holes == "validity", name == "rgb"
        mean = _per_channel("mean", self.mean, channels, validity, IMAGENET_MEAN if rgb else (0.0,))
        std = _per_channel("std", self.std, channels, validity, IMAGENET_STD if rgb else (1.0,))
        scales = (255.0,) if self._reduced(name) else self._scales(name)
        if self.normalise != "fixed":
            scales = (1.0,)
        scale = max(scales)
        if len(scales) > 1:
            # One scale for all, and the difference in mean and std: (x / s - m) / d = (x / S - m·s / S) / (d·s / S).
            factors = [s / scale for s in scales] + [1.0] * validity
            mean, std = (
                tuple(v * f for v, f in zip(_spread(values, factors), factors, strict=True)) for values in (mean, std)
            )
        stored = channels + validity
        return ModalitySpec(
            name,
            channels=3 if stored == 1 else stored,
            scale=scale,
            mean=mean,
            std=std,
            title=self.title,
            validity=validity,
            holes_at_mean=self.holes == "mean",
            shown=self._shown(channels),
        )

    def _pick(self) -> tuple[int, ...] | None:
        if self.bands is None:
            return None if self.pick is None else tuple(self.pick)
        if self.pick is not None:
            raise ConfigError("bands and pick both choose channels; use one of them: bands counts from 1, pick from 0")
        if min(self.bands, default=0) < 1:
            raise ConfigError(f"bands is {list(self.bands)}; expected numbers of stored bands, the first being 1")
        return tuple(band - 1 for band in self.bands)

    def _shown(self, channels: int) -> tuple[int, ...]:
        if self.show is None:
            return ()
        if len(self.show) not in (1, 3) or not all(1 <= band <= channels for band in self.show):
            raise ConfigError(
                f"show is {list(self.show)}; expected three of the {channels} channels, 1 being the first, for red, "
                "green and blue, or one"
            )
        return tuple(band - 1 for band in self.show)

    def _reduced(self, name: str) -> bool:
        """Whether it is brought to 8 bits on reading, as photometric augmentation needs them."""
        return name == "rgb" and self.dtype == "uint16"

    def _scales(self, name: str) -> tuple[float, ...]:
        """One for all channels, or one each."""
        given = self.scale if self.scale is not None else SCALES[self.dtype]
        scales = (float(given),) if isinstance(given, int | float) else tuple(given)
        channels = self._channels(name)
        if len(scales) not in (1, channels):
            raise ConfigError(f"scale is {list(scales)}; expected 1 or {channels} numbers")
        scale = min(scales)
        if scale <= 0:
            raise ConfigError(f"scale is {scale:g}; expected a positive number")
        if self._reduced(name) and len(scales) > 1:
            raise ConfigError(f"scale is {list(scales)}; expected one number for rgb, the stored value of white")
        if self._reduced(name) and scale < 255:
            raise ConfigError(
                f"scale is {scale:g}; expected the stored value of white, such as 4095 for 12 bits in 16 (a scale for "
                f"values divided by 257 first, as they once were, is now {257 * scale:g})"
            )
        return scales

    def _channels(self, name: str) -> int:
        pick = self._pick()
        usual = 3 if name == "rgb" else len(self.globs) if pick is None else len(pick)
        channels = self.channels if self.channels is not None else usual
        if not 1 <= channels <= MAX_CHANNELS:
            raise ConfigError(f"channels is {channels}; expected 1 to {MAX_CHANNELS}: choose some by bands")
        odd = channels != 3 or self.dtype == "float32" or self.holes != "zero" or self.normalise != "fixed"
        if name == "rgb" and odd:
            raise ConfigError("rgb has 3 channels of 8 or 16 bits, holes: zero, normalise: fixed; call it otherwise")
        if self._reduced(name) and self.hole_value is not None:
            raise ConfigError("rgb of 16 bits has no hole_value, as it is brought to 8 bits; call it otherwise")
        return channels


@dataclass(frozen=True)
class FolderLabel:
    """`dataset.label`: where the labels are and what their values mean.

    Args:
        files: glob below the root, with the same wildcards as those of the modalities.
        offset: class id minus stored id (-1 for labels stored as 1..K).
        map: stored id → class, by name or id; then offset is not used, and ids that are not listed must not occur.
        colours: labels are stored in the colours of `dataset.palette`.
        ignore: stored ids (with colours: [r, g, b]) that take part in neither loss nor metrics.
        channel: of label images with several channels that differ, the one with the ids.
        alpha: "void": transparent pixels are unlabelled; "unused": alpha says nothing.
        key: name of the array in NPZ files that hold several.
        palettes: "equal": an id has one colour in the palettes of all files, else the ids are no class ids and the data
            set is refused; "unused": palettes say nothing. Without effect on labels read as colours.

    Raises:
        ConfigError: an unknown value of `palettes`, or ids explained where classes are told by their colours.
    """

    files: str
    offset: int = 0
    map: Mapping[int, int | str] | None = None
    colours: bool = False
    ignore: Sequence[int | Sequence[int]] | None = None
    channel: int | None = None
    alpha: Alpha = "void"
    key: str | None = None
    palettes: Palettes = "equal"

    def __post_init__(self) -> None:
        if self.palettes not in get_args(Palettes):
            raise ConfigError(
                f"dataset.label.palettes is {self.palettes!r}; expected one of {', '.join(get_args(Palettes))}"
            )
        of_ids = {"map": self.map is not None, "offset": self.offset != 0, "channel": self.channel is not None}
        if self.colours and (given := [f"dataset.label.{name}" for name, said in of_ids.items() if said]):
            raise ConfigError(
                f"dataset.label.colours reads classes from colours, so {' and '.join(given)}, which explains stored "
                "ids, would have no effect; leave one of them out"
            )
        if self.channel is not None and self.channel < 0:
            raise ConfigError(f"dataset.label.channel is {self.channel}; expected 0 or more, the first being 0")

    def reader(self, spec: DatasetSpec) -> LabelReader:
        """The reader of label files.

        Args:
            spec: classes and palette of the data set.

        Raises:
            ConfigError: an id, class or colour that there is not.
        """
        void = spec.ignore_index
        if self.colours:
            ignored = {checked_colour("label.ignore", c): void for c in self.ignore or ()}
            colours = {**{colour: i for i, colour in enumerate(spec.palette)}, **ignored}
            return LabelReader(colours=colours, void=void, alpha=self.alpha, key=self.key)
        if self.map is None:
            table = id_table(spec.num_classes, offset=self.offset, ignore=(), void=void)
        else:
            table = {_stored_id(stored): _class_id(name, spec.classes) for stored, name in self.map.items()}
        # By default void is stored as the number it has in ktb, unless that is the id of a class.
        usual = () if void in table else (void,)
        table |= {_stored_id(value): void for value in (usual if self.ignore is None else self.ignore)}
        return LabelReader(table, channel=self.channel, void=void, alpha=self.alpha, key=self.key)

    def stored(self, spec: DatasetSpec) -> NDArray[Any]:
        """What stands for each class in label files.

        Args:
            spec: classes and palette of the data set.

        Returns:
            Ids (K,), of several for one class the first in `map`; or colours (K, 3).

        Raises:
            ConfigError: a class that no stored id stands for.
        """
        if self.colours:
            return np.array(spec.palette, np.uint8)
        if self.map is None:
            return np.arange(spec.num_classes) - self.offset
        stored: dict[int, int] = {}
        for value, name in self.map.items():
            stored.setdefault(_class_id(name, spec.classes), _stored_id(value))
        for i, name in enumerate(spec.classes):
            if i not in stored:
                raise ConfigError(
                    f"dataset.label.map has no stored id for the class {name!r}, so its predictions can't be written; "
                    "add one"
                )
        return np.array([stored[i] for i in range(spec.num_classes)])


def checked_settings(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """Settings as the user gives them → the settings of a modality or of the label.

    Args:
        kind: `FolderModality` or `FolderLabel`.
        given: name → value.
        where: the key of the configuration that they stand under, for messages.

    Raises:
        ConfigError: an unknown setting, or a value of the wrong type.
    """
    known = [f.name for f in fields(cast("Any", kind))]
    for key in given:
        if key not in known:
            raise ConfigError(f"{where} has no setting {key!r}; it has {', '.join(known)}{did_you_mean(key, known)}")
    files = given.get("files")
    several = kind is FolderModality and isinstance(files, Sequence) and not isinstance(files, str)
    if not files or not all(isinstance(glob, str) and glob for glob in (files if several else [files])):
        raise ConfigError(
            f"{where}.files is {'empty' if not files else repr(files)}; expected a pattern below dataset.root, as in "
            "'rgb/*.png'" + ", or a list of them" * (kind is FolderModality)
        )
    for key, (forms, expected) in _FORMS.items():
        value = given.get(key)
        if value is not None and (not isinstance(value, forms) or (isinstance(value, str) and str not in forms)):
            raise ConfigError(f"{where}.{key} is {value!r}; expected {expected}")
    return kind(**{key: _value(f"{where}.{key}", key, value) for key, value in given.items()})


_FORMS: dict[str, tuple[tuple[type, ...], str]] = {
    "colours": ((bool,), "true or false"),
    "map": ((Mapping,), "classes by stored id, as in {1: road, 2: pothole}"),
    "ignore": ((Sequence,), "a list, as in [255]"),
    "key": ((str,), "the name of an array, in quotes"),
    "mean": ((Sequence, int, float), "a number, or a list of them"),
    "std": ((Sequence, int, float), "a number, or a list of them"),
}
# Values may come as text: YAML reads nan as text (its own word is .nan), and numbers may be quoted.
_NUMBERS: dict[str, tuple[type[int] | type[float], str]] = {
    "channels": (int, "a whole number"),
    "channel": (int, "a whole number"),
    "offset": (int, "a whole number"),
    "pick": (int, "a list of whole numbers"),
    "bands": (int, "a list of whole numbers"),
    "show": (int, "a list of whole numbers"),
    "scale": (float, "a number"),
    "hole_value": (float, "a number (nan for NaN and infinity)"),
    "plane_range": (float, "a number"),
    "percentiles": (float, "two numbers"),
}


def _value(where: str, key: str, value: Any) -> Any:
    if value is None or key not in _NUMBERS or (key == "hole_value" and value == "nodata"):
        return value
    kind, expected = _NUMBERS[key]
    if key == "scale" and isinstance(value, Sequence) and not isinstance(value, str):
        expected = "a list of numbers"
    several = expected.startswith(("a list", "two"))
    try:
        if several != (isinstance(value, Sequence) and not isinstance(value, str)) or isinstance(value, bool):
            raise TypeError
        numbers = [kind(v) for v in value] if several else [kind(value)]
        if kind is int and (numbers != [float(v) for v in (value if several else [value])]):
            raise TypeError
        if (several and (not numbers or min(numbers) < 0)) or (key == "percentiles" and len(numbers) != 2):
            raise TypeError
        if not all(math.isfinite(v) or (key == "hole_value" and math.isnan(v)) for v in numbers):
            raise TypeError
    except (TypeError, ValueError):
        raise ConfigError(f"{where} is {value!r}; expected {expected}") from None
    return numbers if several else numbers[0]


def named(where: str, make: Any, name: str) -> Any:
    """`make(name)`, with the key of the configuration in front of the message if it fails.

    Args:
        where: the key.
        make: a function that may raise ConfigError.
        name: its argument.

    Raises:
        ConfigError: what `make` says, after `where`.
    """
    try:
        return make(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _per_channel(
    key: str, value: Sequence[float] | float | None, channels: int, validity: bool, default: tuple[float, ...]
) -> tuple[float, ...]:
    """One number for all channels, or one each; the channel that tells where something was measured may be left out."""
    if value is None:
        return default
    values = (float(value),) if isinstance(value, int | float) else tuple(float(v) for v in value)
    possible = all(math.isfinite(v) and (key != "std" or v > 0) for v in values)
    if len(values) not in (1, channels, channels + validity) or not possible:
        raise ConfigError(f"{key} is {list(values)}; expected 1 or {channels} numbers" + ", positive" * (key == "std"))
    if validity and len(values) == channels > 1:
        return (*values, float(key == "std"))
    return values


def _spread(values: Sequence[float], like: Sequence[float]) -> tuple[float, ...]:
    """One number for all as one for each of `like`."""
    return tuple(values) * len(like) if len(values) == 1 else tuple(values)


def checked_colour(where: str, value: Any) -> Colour:
    """A colour as the user gives it → (red, green, blue).

    Args:
        where: the key of the configuration below `dataset`, for messages.
        value: three numbers of 0 to 255.

    Raises:
        ConfigError: it is no colour.
    """
    try:
        red, green, blue = (int(v) for v in value)
    except (TypeError, ValueError):
        red = green = blue = -1
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ConfigError(f"dataset.{where} holds {value!r}; expected colours [r, g, b] of 0 to 255")
    return red, green, blue


def _stored_id(value: Any) -> int:
    # YAML and the command line give numbers, but text for keys of a mapping.
    if re.fullmatch(r"-?[0-9]+", str(value)) and abs(int(value)) < 1 << 63:
        return int(value)
    raise ConfigError(f"dataset.label names the stored id {value!r}; expected a whole number")


def _class_id(name: int | str, classes: Sequence[str]) -> int:
    if isinstance(name, str) and normal(name) in classes:
        return list(classes).index(normal(name))
    if isinstance(name, int) and 0 <= name < len(classes):
        return name
    raise ConfigError(f"dataset.label.map names the class {name!r}; expected one of {', '.join(classes)}, or its id")
