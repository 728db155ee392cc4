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
from typing import Any, Literal, NamedTuple, TypeVar, Unpack, cast, get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from ktb.data import timestamps
from ktb.data.files import similar
from ktb.data.lists import below_root, read_list
from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.decode import pixel_limit
from ktb.data.readers.image import DType, Holes, ImageReader, Normalise
from ktb.data.readers.label import Alpha, LabelReader, id_table
from ktb.data.readers.label_palettes import LabelPalettes
from ktb.data.resizing import Resizing
from ktb.data.samples import Entry, FileSamples, Reader
from ktb.data.spec import IMAGENET_MEAN, IMAGENET_STD, MAX_CLASSES, DatasetSpec, ModalitySpec, voc_colour
from ktb.data.tree import Tree
from ktb.errors import ConfigError, DataError, did_you_mean
from ktb.io import leads_back, normal

SCALES: dict[str, float] = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
SPLIT = "{split}"
Palettes = Literal["equal", "unused"]
RESIZE = ("first", "label", None)
LISTS = (".txt", ".csv")
"""How the names of lists of time stamps end."""

T = TypeVar("T")


@dataclass(frozen=True)
class FolderModality:
    """`dataset.modalities.<name>`: where the files of a modality are and what their values mean.

    files: glob below the root; `*` and `?` match within a name, `**/` any folders, `{split}` the split's folder. With
        `max_gap` also a list, ending in .txt or .csv, with "time file" per line.
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
        if self._reduced(name) and self.hole_value is not None:
            raise ConfigError("rgb of 16 bits has no hole_value, as it is brought to 8 bits; call it otherwise")
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
        if self.map is None:
            table = id_table(spec.num_classes, offset=self.offset, ignore=(), void=void)
        else:
            table = {_stored_id(stored): _class_id(name, spec.classes) for stored, name in self.map.items()}
        # By default void is stored as it is inside, but not where an id of a class is that number.
        usual = () if void in table else (void,)
        table |= {_stored_id(value): void for value in (usual if self.ignore is None else self.ignore)}
        return LabelReader(table, channel=self.channel, void=void, alpha=self.alpha)

    def stored(self, spec: DatasetSpec) -> NDArray[Any]:
        """What stands for each class in label files: ids (K,), of several for one class the first in `map`, or colours
        (K, 3).

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
        resize: to what files of another size in one sample are resized: "first" (the first modality that is used;
            evaluation scores at the label's own size) or "label"; None: they are refused. Images bilinear, without
            their holes; labels nearest.
        max_gap: files are paired by time instead of by name, each of the first modality with the nearest of the others
            that is at most this many seconds away; those without are left out.
        time_unit: of the time stamps, see `timestamps.nanoseconds`.
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
        resize: str | None = "first",
        max_gap: float | None = None,
        time_unit: str | None = None,
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
        if resize not in RESIZE:
            raise ConfigError(f"dataset.resize is {resize!r}; expected first, label or null (refuse other sizes)")
        self.resize = resize
        if resize is not None:
            self.resizing = Resizing(tuple(modalities), to_first=resize == "first", smooth=True)
        if time_unit is not None and (max_gap is None or time_unit not in timestamps.UNITS):
            raise ConfigError(
                f"dataset.time_unit is {time_unit!r}; expected null or one of {', '.join(timestamps.UNITS)}, with "
                "dataset.max_gap"
            )
        if max_gap is not None and (isinstance(max_gap, bool) or not isinstance(max_gap, int | float) or max_gap < 0):
            raise ConfigError(f"dataset.max_gap is {max_gap!r}; expected a number of seconds, such as 0.02")
        self.max_gap = max_gap
        self.time_unit = time_unit
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
        tree = Tree(self.root)
        pool = self._pool(tree, split, labelled=True)
        if self._by_list:
            path = self.root / str(self.splits[split])
            if self._may_lack_labels(split):
                without = self._pool(tree, split, labelled=False)
                keys = self._listed(path, without)
                if not any(key in pool.found for key in keys):
                    pool = without
            keys = self._listed(path, pool)
        elif self._by_folder:
            if self._may_lack_labels(split) and not pool.found:
                pool = self._pool(tree, split, labelled=False)
            keys = sorted(pool.found)
        else:
            keys = self._share(sorted(pool.found), split)
        if not keys:
            raise DataError(
                f"{self.root / str(self.splits[split])}: none of its samples has its partners in time "
                f"(dataset.max_gap={self.max_gap}); {'; '.join(pool.notes)}"
            )
        labels = [self.root / label for key in keys if (label := pool.found[key].label) is not None]
        if not self._label.colours and self._label.palettes == "equal":
            self._label_palettes.add(labels, self._label_reader, self.max_pixels)
        samples = FileSamples(
            self.root,
            [pool.found[key] for key in keys],
            self.readers(),
            self._label_reader,
            resizing=self.resizing,
            void=self.spec.ignore_index,
        )
        samples.notes = [*pool.notes, *self._sizes(samples)]
        if not samples.labelled:
            samples.notes.append(
                f"no sample has a label ({self._glob('label', split)}): there are no scores, and evaluation writes its "
                "predictions in stored ids"
            )
        for note in samples.notes:
            rank_zero_info(f"{self.spec.name}: {split}: {note}")
        return samples

    def as_stored(self, ids: NDArray[Any]) -> NDArray[Any]:
        return self._label.stored(self.spec)[ids]

    def _may_lack_labels(self, split: str) -> bool:
        """Training and the choice of the best checkpoint need labels."""
        return split not in ("train", self.spec.selection_split)

    def _sizes(self, samples: FileSamples) -> list[str]:
        """In words, what is done with files of another size; of the first sample, as all are opened by `check` only."""
        streams = [m.name for m in self.modalities]
        try:
            with pixel_limit(self.max_pixels):
                raw = samples.read(0, streams)
        except DataError:  # says so when it is its turn
            return []
        height, width = raw.images[streams[0]].shape[:2]
        texts = [
            f"{name} of {h}x{w}" + " in training, scored at its own size" * (name == "label")
            for name, (h, w) in raw.stored.items()
        ]
        if not texts:
            return []
        how = "labels nearest, all others bilinear without their holes"
        return [
            f"resized to {height}x{width} (height x width) of the {'label' if self.resize == 'label' else streams[0]}: "
            f"{', '.join(texts)} ({how}; dataset.resize={self.resize}; first sample)"
        ]

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
            if self.max_gap is None and glob.endswith(LISTS):
                raise ConfigError(
                    f"dataset.{key}.files is the list {glob!r}; lists of time stamps need dataset.max_gap=SECONDS"
                )
            if not (glob.endswith(LISTS) or set("*?") & set(glob)) or glob.endswith("**"):
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

    def _glob(self, name: str, split: str) -> str:
        """The pattern of a modality, or of the label, for a split."""
        files = self._label.files if name == "label" else self._modalities[name].files
        return files.replace(SPLIT, str(self.splits[split]) if self._by_folder else "")

    def _pool(self, tree: Tree, split: str, *, labelled: bool) -> _Pool:
        """What the split's samples are chosen from; without labels that a split may lack: nothing."""
        # By name with lists, only what is used must be there. Else all modalities must be complete, whichever are used,
        # or the splits would depend on that; and by time a sample has the name of the first one.
        by_name = self._by_list and self.max_gap is None
        streams = [m.name for m in self.modalities] if by_name else list(self._modalities)
        globs = {name: self._glob(name, split) for name in [*streams, *(["label"] if labelled else [])]}
        matches = {name: match_files(tree, glob) for name, glob in globs.items()}
        if labelled and not matches["label"] and self._by_folder and self._may_lack_labels(split):
            return _Pool({}, set(), [])
        self._require(matches, globs)
        return self._paired(matches, globs) if self.max_gap is None else self._timed(tree, matches, globs)

    def _require(self, matches: Mapping[str, Mapping[str, str]], globs: Mapping[str, str]) -> None:
        for name, files in matches.items():
            if not files:
                fixed = itertools.takewhile(lambda part: not set("*?") & set(part), PurePosixPath(globs[name]).parts)
                where = "label" if name == "label" else f"modalities.{name}"
                raise DataError(
                    f"{self.root / globs[name]}: no file matches this pattern{similar(self.root.joinpath(*fixed))}; "
                    f"correct dataset.{where}.files or dataset.root"
                )

    def _paired(self, matches: Mapping[str, Mapping[str, str]], globs: Mapping[str, str]) -> _Pool:
        """All complete samples by name; without lists there must be no others."""
        common = set.intersection(*(set(files) for files in matches.values()))
        for files in matches.values():
            lonely = sorted(set(files) - common)
            if lonely and not self._by_list:
                lacking = next(other for other in matches if lonely[0] not in matches[other])
                raise DataError(
                    f"{self.root / files[lonely[0]]}: no file of {lacking!r} belongs to it, {lonely[0]!r} in "
                    f"{globs[lacking]} ({len(lonely)} such); add it, or name the samples to use in a list"
                )
        labels = matches.get("label", {})
        streams = [name for name in matches if name != "label"]
        entries = {
            key: Entry(key, {name: (matches[name][key],) for name in streams}, labels.get(key)) for key in common
        }
        return _Pool(entries, set(), [])

    def _timed(self, tree: Tree, matches: Mapping[str, Mapping[str, str]], globs: Mapping[str, str]) -> _Pool:
        """All samples by time: the frames of the first modality with their partners."""
        assert self.max_gap is not None
        frames: dict[str, timestamps.Frames] = {}
        for name, files in matches.items():
            if globs[name].endswith(LISTS):
                frames[name] = timestamps.list_frames(self.root, files, self.time_unit)
                named = [frame.file for of_list in frames[name].values() for frame in of_list]
                tree.require(named, str(self.root / globs[name]), "copy the files there")
            else:
                frames[name] = timestamps.named_frames(files, self.time_unit)
        first, *others = frames
        pairs = timestamps.pair(frames[first], {name: frames[name] for name in others}, self.max_gap)
        within = timestamps.as_text(self.max_gap)
        count = sum(map(len, frames[first].values()))
        if not pairs.partners:
            raise DataError(
                f"{self.root / globs[first]}: none of {count} frames of {first} has a frame of each of "
                f"{', '.join(others)} within {within}; correct dataset.max_gap or dataset.time_unit"
            )
        notes = [f"{len(pairs.partners)} of {count} frames of {first} paired by time, within {within}"]
        if pairs.lonely:
            lacking = ", ".join(f"{n} without {name}" for name, n in pairs.lacking.items())
            notes[0] += f"; left out: {lacking} (dataset.max_gap={self.max_gap:g})"
        entries: dict[str, Entry] = {}
        for (sequence, frame), partners in pairs.partners.items():
            key = _joined(sequence, frame)
            if key in entries:
                raise DataError(f"{self.root / frame.file}: another frame has the time {frame.stamp!r}; remove one")
            together = {first: frame, **partners}
            entries[key] = Entry(
                key,
                {name: (f.file,) for name, f in together.items() if name != "label"},
                together["label"].file if "label" in together else None,
                gaps={name: (f.time - frame.time) / timestamps.NS for name, f in partners.items()},
            )
        lonely = {_joined(sequence, frame): frame.file for sequence, frame in pairs.lonely}
        dropped = {alias for key, file in lonely.items() for alias in _aliases(Entry(key, {first: (file,)}, None))}
        return _Pool(entries, {*dropped, *lonely}, notes)

    @property
    def _by_list(self) -> bool:
        return not self._by_folder and isinstance(next(iter(self.splits.values())), str)

    def _listed(self, path: Path, pool: _Pool) -> list[str]:
        found = pool.found
        names: dict[str, str | None] = {}
        for sample, entry in found.items():
            for alias in _aliases(entry):
                # None: several samples go by that name.
                names[alias] = sample if names.get(alias, sample) == sample else None
        names.update({sample: sample for sample in found})
        names.update(dict.fromkeys(pool.dropped - set(names), _DROPPED))
        keys: dict[str, int] = {}
        for line in read_list(path, self.root, spaces=False):
            # "rgb/1.png label/1.png" names one sample twice.
            named = [key for column in line.columns for key in _known(column, names, self.root)]
            key = named[0] if named else None
            if key == _DROPPED:
                continue
            if other := next((k for k in named if k != key), None):
                raise DataError(
                    f"{path}, line {line.number}: {' '.join(line.columns)!r} names two samples, {key!r} and {other!r}; "
                    "expected one per line"
                )
            if key is None:
                near = did_you_mean(normal(line.columns[0]), found)
                raise DataError(
                    f"{path}, line {line.number}: {line.columns[0]!r} is not one sample with all its files below "
                    f"{self.root}{near}; expected names like {min(found, default='')!r}: add its files or take the "
                    "line out"
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


class _Pool(NamedTuple):
    """found: key → sample, of which a split's are chosen. dropped: names of samples that lack a partner in time, which
    a list may hold. notes: in words, what was done."""

    found: dict[str, Entry]
    dropped: set[str]
    notes: list[str]


_DROPPED = "\0"
"""In the place of a sample: it lacks a partner in time."""


def _known(text: str, names: Mapping[str, str | None], root: Path) -> list[str]:
    """The samples that a line names, whose names may themselves hold what separates names; what is unknown at its end
    is left out."""
    name = below_root(text, root)
    if name is not None and (key := names.get(normal(name))) is not None:
        return [key]
    for gap in reversed(list(re.finditer(r"\s*[,;]\s*|\s+", text))):
        name = below_root(text[: gap.start()], root)
        if name is not None and (key := names.get(normal(name))) is not None:
            return [key, *_known(text[gap.end() :], names, root)]
    return []


def _joined(sequence: str, frame: timestamps.Frame) -> str:
    return f"{sequence}/{frame.stamp}" if sequence else frame.stamp


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
    for file in entry.paths(entry.files):
        path = PurePosixPath(normal(file))
        yield from (str(path), str(path.with_suffix("")), path.name, path.stem)


def _settings(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    known = [f.name for f in fields(cast("Any", kind))]
    for key in given:
        if key not in known:
            raise ConfigError(f"{where} has no setting {key!r}; it has {', '.join(known)}{did_you_mean(key, known)}")
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
