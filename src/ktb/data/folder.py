"""The user's own data: one glob per modality and one for the label, paired by what the wildcards match.

Everything about it is stated in the config: where files are, how they are stored, what the values mean, what the
classes are. `conf/dataset/folder.yaml` lists all settings, `conf/dataset/potholes.yaml` is an example.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, Unpack, cast, get_args

import numpy as np

from ktb.data.base import Entry, FileSamples, Loading, Reader, RGBXDataModule, Tree, read_list, suggestion
from ktb.data.label_palettes import LabelPalettes
from ktb.data.readers import Alpha, DType, Holes, ImageReader, LabelReader, Normalise, id_table, similar
from ktb.data.spec import IMAGENET_MEAN, IMAGENET_STD, MAX_CLASSES, DatasetSpec, ModalitySpec, voc_colour
from ktb.errors import ConfigError, DataError
from ktb.files import leads_back, normal

SCALES: dict[str, float] = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
SPLIT = "{split}"
Palettes = Literal["equal", "unused"]

T = TypeVar("T")


@dataclass(frozen=True)
class FolderModality:
    """`dataset.modalities.<name>`: where the files of a modality are and what their values mean.

    files: glob below the root; `*` and `?` match within a name, `**/` any folders, `{split}` the split's folder.
    channels, dtype, pick, hole_value, holes, normalise, percentiles, plane_range: as in `ImageReader`; channels is 3
        for "rgb" and 1 otherwise unless stated. "rgb" may be 16-bit; then `scale` becomes 255 and it is rounded to 8
        bits. A grey picture among "rgb" is taken three times, alpha is left out.
    scale: values are divided by it; null: 255, 65535 or 1 for uint8, uint16, float32. Without effect unless normalise
        is "fixed".
    mean, std: subtracted and divided by after scaling, one per channel or one for all; null: ImageNet's for "rgb", 0
        and 1 otherwise.
    title: in pictures and tables.
    """

    files: str
    channels: int | None = None
    dtype: DType = "uint8"
    pick: Sequence[int] | None = None
    scale: float | None = None
    mean: Sequence[float] | float | None = None
    std: Sequence[float] | float | None = None
    hole_value: float | None = None
    holes: Holes = "zero"
    normalise: Normalise = "fixed"
    percentiles: Sequence[float] = (2.0, 98.0)
    plane_range: float | None = None
    title: str = ""

    def reader(self, name: str) -> ImageReader:
        low, high = self.percentiles
        reduced = self._reduced(name)
        return ImageReader(
            channels=self._channels(name),
            dtype="uint8" if reduced else self.dtype,
            units={"uint16": 255 / self._scale(name)} if reduced else {},
            pick=None if self.pick is None else tuple(self.pick),
            hole_value=self.hole_value,
            holes=self.holes,
            normalise=self.normalise,
            percentiles=(low, high),
            plane_range=self.plane_range,
            colour=name == "rgb" and self.pick is None,
        )

    def spec(self, name: str) -> ModalitySpec:
        stored = self._channels(name) + (self.holes == "validity")
        rgb = name == "rgb"
        scale = 255.0 if self._reduced(name) else self._scale(name)
        return ModalitySpec(
            name,
            channels=3 if stored == 1 else stored,
            scale=scale if self.normalise == "fixed" else 1.0,
            mean=_per_channel("mean", self.mean, stored, IMAGENET_MEAN if rgb else (0.0,)),
            std=_per_channel("std", self.std, stored, IMAGENET_STD if rgb else (1.0,)),
            title=self.title,
            validity=self.holes == "validity",
        )

    def _reduced(self, name: str) -> bool:
        """Whether it is brought to 8 bits on reading, on which photometric augmentation works."""
        return name == "rgb" and self.dtype == "uint16"

    def _scale(self, name: str) -> float:
        scale = self.scale if self.scale is not None else SCALES[self.dtype]
        if scale <= 0:
            raise ConfigError(f"scale is {scale:g}; expected a positive number")
        if self._reduced(name) and scale < 255:
            raise ConfigError(
                f"scale is {scale:g}; expected the stored value of white, such as 4095 for 12 bits in 16 (a scale for "
                f"values divided by 257 first, as they once were, is now {257 * scale:g})"
            )
        return scale

    def _channels(self, name: str) -> int:
        channels = self.channels if self.channels is not None else 3 if name == "rgb" else 1
        if not 1 <= channels <= 4:
            raise ConfigError(f"channels is {channels}; expected 1 to 4")
        odd = channels != 3 or self.dtype == "float32" or self.holes != "zero" or self.normalise != "fixed"
        if name == "rgb" and odd:
            raise ConfigError("rgb has 3 channels of 8 or 16 bits, holes: zero, normalise: fixed; call it otherwise")
        return channels


@dataclass(frozen=True)
class FolderLabel:
    """`dataset.label`: where the labels are and what their values mean.

    files: glob below the root, with the same wildcards as those of the modalities.
    offset: class id minus stored id (-1 for labels stored as 1..K).
    map: stored id → class, by name or id; then offset is not used, and ids that are not listed must not occur.
    colours: labels are stored in the colours of `dataset.palette`.
    ignore: stored ids (with colours: [r, g, b]) that take part in neither loss nor metrics.
    channel: of label images with several channels that differ, the one with the ids.
    alpha: "void": transparent pixels are unlabelled; "unused": alpha says nothing.
    palettes: "equal": an id has one colour in the palettes of all files, else the ids are no class ids and the data set
        is refused; "unused": palettes say nothing. Without effect on labels read as colours.
    """

    files: str
    offset: int = 0
    map: Mapping[int, int | str] | None = None
    colours: bool = False
    ignore: Sequence[int | Sequence[int]] | None = None
    channel: int | None = None
    alpha: Alpha = "void"
    palettes: Palettes = "equal"

    def __post_init__(self) -> None:
        if self.palettes not in get_args(Palettes):
            raise ConfigError(
                f"dataset.label.palettes is {self.palettes!r}; expected one of {', '.join(get_args(Palettes))}"
            )

    def reader(self, spec: DatasetSpec) -> LabelReader:
        void = spec.ignore_index
        if self.colours:
            ignored = {_colour("label.ignore", c): void for c in self.ignore or ()}
            colours = {**{colour: i for i, colour in enumerate(spec.palette)}, **ignored}
            return LabelReader(colours=colours, void=void, alpha=self.alpha)
        # By default void is stored as it is inside, but not where an id of a class is that number.
        ignore = [_stored_id(value) for value in ((void,) if self.ignore is None else self.ignore)]
        if self.map is None:
            table = id_table(spec.num_classes, offset=self.offset, ignore=ignore, void=void)
        else:
            mapping = {_stored_id(stored): _class_id(name, spec.classes) for stored, name in self.map.items()}
            table = mapping | dict.fromkeys(ignore, void)
        return LabelReader(table, channel=self.channel, void=void, alpha=self.alpha)


class FolderDataModule(RGBXDataModule):
    """A data set described by its config alone.

    Args:
        root: data root.
        modalities: name → settings, see `FolderModality`.
        label: settings, see `FolderLabel`.
        classes: class names, in the order of their ids.
        palette: (R, G, B) per class; None: by the PASCAL VOC rule.
        splits: split → list file with one sample per line (below the root, or absolute), or → share of all samples, or,
            if the globs contain `{split}`, → the folder's name. A line of a list is what the wildcards match, or the
            path or name of one of the sample's files.
        split_seed: decides which samples go where if shares are given.
        name: of the data set in results and pictures.
        **loading: see `RGBXDataModule`; the selection split is "val" unless there is none, the report split "test"
            unless there is none.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        modalities: Mapping[str, Mapping[str, Any]],
        label: Mapping[str, Any],
        classes: Sequence[str],
        splits: Mapping[str, str | float],
        palette: Sequence[Sequence[int]] | None = None,
        split_seed: int = 0,
        name: str = "folder",
        **loading: Unpack[Loading],
    ) -> None:
        for key, value in (("modalities", modalities), ("label", label), ("classes", classes), ("splits", splits)):
            if not value:
                raise ConfigError(f"dataset.{key} is empty; see {_EXAMPLES[key]}")
        if "label" in modalities:
            raise ConfigError(
                "dataset.modalities has a modality called label, which is the label's name; call it otherwise"
            )
        self.root = Path(root)
        self.split_seed = split_seed
        self.splits = dict(splits)
        self._modalities = {
            key: _settings(FolderModality, settings, f"dataset.modalities.{key}")
            for key, settings in modalities.items()
        }
        self._label = _settings(FolderLabel, label, "dataset.label")
        self._readers = {key: _named(f"dataset.modalities.{key}", m.reader, key) for key, m in self._modalities.items()}
        self._check_splits()
        colours = [voc_colour(i) for i in range(len(classes))]
        if palette is not None:
            colours = [_colour("palette", c) for c in palette]
            if len(colours) != len(classes):
                raise ConfigError(
                    f"dataset.palette has {len(colours)} colours for {len(classes)} classes; give one each"
                )
        for c in classes:
            if not isinstance(c, str):  # what YAML reads as a number or as yes and no
                raise ConfigError(f"dataset.classes holds {c!r}, which is no text; put it in quotes: '{c}'")
        if len(set(map(normal, classes))) != len(classes) or len(classes) > MAX_CLASSES:
            raise ConfigError(f"dataset.classes must be at most {MAX_CLASSES} different names, got {len(classes)}")
        spec = DatasetSpec(
            name=name,
            classes=tuple(map(normal, classes)),
            palette=tuple(colours),
            modalities={key: _named(f"dataset.modalities.{key}", m.spec, key) for key, m in self._modalities.items()},
            splits=tuple(self.splits),
            selection_split="val" if "val" in self.splits else "test",
            report_split="test" if "test" in self.splits else "val",
        )
        self._label_reader = self._label.reader(spec)
        self._label_palettes = LabelPalettes()
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        return self._readers

    def open_split(self, split: str) -> FileSamples:
        value = self.splits[split]
        # Without lists all modalities must be complete, whichever are used: else the splits would depend on that.
        names = [m.name for m in self.modalities] if self._by_list else list(self._modalities)
        found = self._paired(Tree(self.root), split, names)
        if self._by_list:
            keys = self._listed(self.root / str(value), found)
        elif self._by_folder:
            keys = sorted(found)
        else:
            keys = self._share(sorted(found), split)
        if not self._label.colours and self._label.palettes == "equal":
            self._label_palettes.add([self.root / found[key].label for key in keys])
        return FileSamples(self.root, [found[key] for key in keys], self.readers(), self._label_reader)

    @property
    def _by_folder(self) -> bool:
        return SPLIT in self._label.files

    def _check_splits(self) -> None:
        globs = {**{f"modalities.{key}": m.files for key, m in self._modalities.items()}, "label": self._label.files}
        for key, glob in globs.items():
            if glob.startswith("/") or ".." in PurePosixPath(glob).parts:
                raise ConfigError(
                    f"dataset.{key}.files is {glob!r}; expected a pattern below dataset.root, without '..'"
                )
            if not set("*?") & set(glob) or glob.endswith("**"):
                raise ConfigError(f"dataset.{key}.files is {glob!r}; expected a wildcard in it, as in 'rgb/*.png'")
            if (SPLIT in glob) != self._by_folder:
                raise ConfigError(f"dataset.{key}.files is {glob!r}; use {SPLIT} in the patterns of all or of none")
        shares = [v for v in self.splits.values() if not isinstance(v, str)]
        if shares and (len(shares) < len(self.splits) or self._by_folder or min(shares) <= 0 or sum(shares) > 1 + 1e-9):
            raise ConfigError(
                f"dataset.splits is {self.splits}; expected either list files, or folders for {SPLIT}, or positive "
                "shares that add up to at most 1"
            )
        if "train" not in self.splits or not {"val", "test"} & set(self.splits):
            raise ConfigError(
                f"dataset.splits has {', '.join(self.splits)}; expected train and at least one of val, test"
            )

    def _paired(self, tree: Tree, split: str, streams: Sequence[str]) -> dict[str, Entry]:
        """Key (what the wildcards match) → the files of all complete samples; without lists there must be no others."""
        folder = str(self.splits[split]) if self._by_folder else ""
        globs = {name: self._modalities[name].files.replace(SPLIT, folder) for name in streams}
        globs["label"] = self._label.files.replace(SPLIT, folder)
        matches = {name: match_files(tree, glob) for name, glob in globs.items()}
        for name, files in matches.items():
            if not files:
                fixed = itertools.takewhile(lambda part: not set("*?") & set(part), PurePosixPath(globs[name]).parts)
                where = "label" if name == "label" else f"modalities.{name}"
                raise DataError(
                    f"{self.root / globs[name]}: no file matches this pattern{similar(self.root.joinpath(*fixed))}; "
                    f"correct dataset.{where}.files or dataset.root"
                )
        common = set.intersection(*(set(files) for files in matches.values()))
        for files in matches.values():
            lonely = sorted(set(files) - common)
            if lonely and not self._by_list:
                lacking = next(other for other in matches if lonely[0] not in matches[other])
                raise DataError(
                    f"{self.root / files[lonely[0]]}: no file of {lacking!r} belongs to it, {lonely[0]!r} in "
                    f"{globs[lacking]} ({len(lonely)} such); add it, or name the samples to use in a list"
                )
        return {
            key: Entry(key, {name: (matches[name][key],) for name in streams}, matches["label"][key]) for key in common
        }

    @property
    def _by_list(self) -> bool:
        return not self._by_folder and isinstance(next(iter(self.splits.values())), str)

    def _listed(self, path: Path, found: Mapping[str, Entry]) -> list[str]:
        names: dict[str, str | None] = {}
        for sample, entry in found.items():
            for alias in _aliases(entry):
                # None: several samples go by that name.
                names[alias] = sample if names.get(alias, sample) == sample else None
        names.update({sample: sample for sample in found})
        keys: dict[str, int] = {}
        for line in read_list(path, spaces=False):
            # "rgb/1.png label/1.png" names one sample twice; a name may itself hold a space.
            name = normal(line.columns[0])
            key = names[name] if name in names else names.get(name.split()[0])
            if key is None:
                raise DataError(
                    f"{path}, line {line.number}: {line.columns[0]!r} is not one sample with all its files below "
                    f"{self.root}{suggestion(name, found)}; expected names like {min(found, default='')!r}: "
                    "add its files or take the line out"
                )
            if key in keys:
                raise DataError(f"{path}: lines {keys[key]} and {line.number} name the same sample {key!r}; remove one")
            keys[key] = line.number
        return list(keys)

    def _share(self, keys: Sequence[str], split: str) -> list[str]:
        order = np.random.default_rng(self.split_seed).permutation(len(keys))
        shares = np.cumsum([0.0, *(float(v) for v in self.splits.values())])
        at = list(self.splits).index(split)
        first, last = (round(float(share) * len(keys)) for share in shares[at : at + 2])
        if first == last:
            raise DataError(
                f"{self.root}: of {len(keys)} samples a share of {self.splits[split]} leaves none for {split!r}; "
                f"raise dataset.splits.{split}"
            )
        return sorted(keys[i] for i in order[first:last])


def match_files(tree: Tree, glob: str) -> dict[str, str]:
    """Key → file, for all files that match. The key joins what the wildcards matched with "/", but for a suffix ".*".

    Raises:
        DataError: two files have the same key.
    """
    parts = PurePosixPath(normal(glob)).parts
    files: dict[str, str] = {}

    def descend(folder: str, rest: Sequence[str], key: tuple[str, ...]) -> None:
        part, last = rest[0], len(rest) == 1
        if part == "**":
            descend(folder, rest[1:], key)
        pattern = None if part == "**" else _pattern(part, last=last)
        for name, is_folder in tree.names(folder).items():
            path = f"{folder}/{name}" if folder else name
            if pattern is None:
                if is_folder and not leads_back(tree.root / path):
                    descend(path, rest, (*key, normal(name)))
                continue
            match = pattern.fullmatch(normal(name))
            if match is None or is_folder == last:
                continue
            matched = (*key, *match.groups())
            if not last:
                descend(path, rest[1:], matched)
                continue
            joined = "/".join(matched)
            if joined in files:
                raise DataError(
                    f"{tree.root / path}: is the same sample as {files[joined]} by the pattern {glob!r} (both are "
                    f"{joined!r}); make the pattern say which of them is meant"
                )
            files[joined] = path

    descend("", parts, ())
    return files


def _pattern(part: str, *, last: bool) -> re.Pattern[str]:
    if last and part.endswith(".*"):
        return re.compile(_wildcards(part[:-2]) + r"\.[^.]+")
    return re.compile(_wildcards(part))


def _wildcards(part: str) -> str:
    return re.sub(r"(?:\\\*)+", "(.*)", re.escape(part)).replace(r"\?", "(.)")


def _aliases(entry: Entry) -> Iterable[str]:
    for file in (*(file for files in entry.files.values() for file in files), entry.label):
        path = PurePosixPath(normal(file))
        yield from (str(path), str(path.with_suffix("")), path.name)


def _settings(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    known = [f.name for f in fields(cast("Any", kind))]
    for key in given:
        if key not in known:
            raise ConfigError(f"{where} has no setting {key!r}; it has {', '.join(known)}{suggestion(key, known)}")
    if not isinstance(given.get("files"), str) or not given["files"]:
        raise ConfigError(f"{where}.files is empty; expected a pattern below dataset.root, as in 'rgb/*.png'")
    return kind(**{key: _value(f"{where}.{key}", key, value) for key, value in given.items()})


# YAML reads nan as text (its own word is .nan), and a quoted number is one that was meant as such.
_NUMBERS: dict[str, tuple[type[int] | type[float], str]] = {
    "channels": (int, "a whole number"),
    "channel": (int, "a whole number"),
    "offset": (int, "a whole number"),
    "pick": (int, "a list of whole numbers"),
    "scale": (float, "a number"),
    "hole_value": (float, "a number (nan for NaN and infinity)"),
    "plane_range": (float, "a number"),
    "percentiles": (float, "two numbers"),
}


def _value(where: str, key: str, value: Any) -> Any:
    if value is None or key not in _NUMBERS:
        return value
    kind, expected = _NUMBERS[key]
    several = expected.startswith(("a list", "two"))
    try:
        if several != (isinstance(value, Sequence) and not isinstance(value, str)) or isinstance(value, bool):
            raise TypeError
        numbers = [kind(v) for v in value] if several else [kind(value)]
        if kind is int and (numbers != [float(v) for v in (value if several else [value])]):
            raise TypeError
        if (key == "pick" and (not numbers or min(numbers) < 0)) or (key == "percentiles" and len(numbers) != 2):
            raise TypeError
    except (TypeError, ValueError):
        raise ConfigError(f"{where} is {value!r}; expected {expected}") from None
    return numbers if several else numbers[0]


def _named(where: str, make: Any, name: str) -> Any:
    try:
        return make(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _per_channel(
    key: str, value: Sequence[float] | float | None, stored: int, default: tuple[float, ...]
) -> tuple[float, ...]:
    if value is None:
        return default
    values = (float(value),) if isinstance(value, int | float) else tuple(float(v) for v in value)
    if len(values) not in (1, stored) or (key == "std" and min(values) <= 0):
        raise ConfigError(f"{key} is {list(values)}; expected 1 or {stored} numbers" + ", positive" * (key == "std"))
    return values


def _colour(where: str, value: Any) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(v) for v in value)
    except (TypeError, ValueError):
        red = green = blue = -1
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ConfigError(f"dataset.{where} holds {value!r}; expected colours [r, g, b] of 0 to 255")
    return red, green, blue


def _stored_id(value: Any) -> int:
    # YAML and the command line give numbers, or text where they are keys.
    if re.fullmatch(r"-?[0-9]+", str(value)) and abs(int(value)) < 1 << 63:
        return int(value)
    raise ConfigError(f"dataset.label names the stored id {value!r}; expected a whole number")


def _class_id(name: int | str, classes: Sequence[str]) -> int:
    if isinstance(name, str) and normal(name) in classes:
        return list(classes).index(normal(name))
    if isinstance(name, int) and 0 <= name < len(classes):
        return name
    raise ConfigError(f"dataset.label.map names the class {name!r}; expected one of {', '.join(classes)}, or its id")


_EXAMPLES = {
    "modalities": "dataset=potholes, or dataset.modalities=\"{rgb: {files: 'rgb/*.png'}, x: {files: 'x/*.png'}}\"",
    "label": "dataset=potholes, or dataset.label=\"{files: 'label/*.png'}\"",
    "classes": "dataset=potholes, or dataset.classes=[road,pothole]",
    "splits": 'dataset=potholes, or dataset.splits="{train: train.txt, val: val.txt}"',
}
