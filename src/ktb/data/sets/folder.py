"""The user's own data: one glob per modality and one for the label, paired by what the wildcards match.

Everything about it is stated in the config: where files are, how they are stored, what the values mean, what the
classes are. `conf/dataset/folder.yaml` lists all settings, `conf/dataset/potholes.yaml` is an example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from ktb.data import timestamps
from ktb.data.file_tree import Tree
from ktb.data.files import read_bytes
from ktb.data.globs import match_files
from ktb.data.label_size import LabelSizes, known, measure
from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers import tiff
from ktb.data.readers.decode import pixel_limit
from ktb.data.readers.label_palettes import LabelPalettes
from ktb.data.resizing import Resizing
from ktb.data.samples import FileSamples, Reader
from ktb.data.sets.folder_pairing import (
    LISTS,
    Pool,
    listed,
    pair_by_name,
    pair_by_time,
    parts_of,
    require_matches,
)
from ktb.data.sets.folder_settings import SPLIT, FolderLabel, FolderModality, checked_colour, checked_settings, named
from ktb.data.spec import MAX_CLASSES, Colour, DatasetSpec, voc_colour
from ktb.errors import ConfigError, DataError
from ktb.io import normal

RESIZE = ("first", "label", None)


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
        _check_times(max_gap, time_unit)
        self.max_gap = max_gap
        self.time_unit = time_unit
        self.splits = dict(splits)
        self._modalities = {
            key: checked_settings(FolderModality, settings, f"dataset.modalities.{key}")
            for key, settings in modalities.items()
        }
        self._label = checked_settings(FolderLabel, label, "dataset.label")
        readers = {key: named(f"dataset.modalities.{key}", m.reader, key) for key, m in self._modalities.items()}
        self._readers = {k: r if resize is not None else replace(r, resize_files=False) for k, r in readers.items()}
        self._check_splits()
        names, colours = _names_and_colours(classes, palette)
        spec = DatasetSpec(
            name=name,
            classes=names,
            palette=colours,
            modalities={key: named(f"dataset.modalities.{key}", m.spec, key) for key, m in self._modalities.items()},
            splits=tuple(self.splits),
            selection_split="val" if "val" in self.splits else "test",
            report_split="test" if "test" in self.splits else "val",
        )
        self._label_reader = self._label.reader(spec)
        self._label_palettes = LabelPalettes()
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        """A reader for every modality in the configuration."""
        return self._readers

    def open_split(self, split: str) -> FileSamples:
        """The samples of a split, as its list, its folder or its share says; see `RGBXDataModule.open_split`."""
        tree = Tree(self.root)
        pool = self._pool(tree, split, labelled=True)
        if self._by_list:
            path = self.root / str(self.splits[split])
            if self._may_lack_labels(split):
                without = self._pool(tree, split, labelled=False)
                keys = listed(path, self.root, without)
                if not any(key in pool.found for key in keys):
                    pool = without
            keys = listed(path, self.root, pool)
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
        if not samples.labelled:
            samples.without_label = self.label_sizes or self._label_sizes_of_training()
        samples.notes = [*pool.notes, *self._sizes(samples), *self._unheeded_tags(samples)]
        if not samples.labelled:
            samples.notes.append(
                f"no sample has a label ({self._globs('label', split)['label']}): there are no scores, and evaluation "
                "writes its predictions in stored ids"
            )
        for note in samples.notes:
            rank_zero_info(f"{self.spec.name}: {split}: {note}")
        return samples

    def as_stored(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Class ids (H, W) as the label files hold them: ids (H, W) or colours (H, W, 3)."""
        return self._label.stored(self.spec)[ids]

    def _label_sizes_of_training(self) -> LabelSizes:
        try:
            return known(measure(self, "train"))
        except DataError:  # there is no training data here
            return LabelSizes()

    def _may_lack_labels(self, split: str) -> bool:
        """Training and the choice of the best checkpoint need labels."""
        return split not in ("train", self.spec.selection_split)

    def _sizes(self, samples: FileSamples) -> list[str]:
        """In words, what is done with files of another size; only the first sample is read, `check` reads all."""
        streams = [m.name for m in self.modalities]
        try:
            with pixel_limit(self.max_pixels):
                raw = samples.read(0, streams)
        except DataError:  # reported when training reads it
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

    def _unheeded_tags(self, samples: FileSamples) -> list[str]:
        """In words, which modalities have values that their files' own tags call no data, and that nobody declared."""
        lines = []
        undeclared = [m.name for m in self.modalities if self._modalities[m.name].hole_value is None]
        for name in (name for name in undeclared if name != "rgb"):
            for file in samples.entries[0].files[name]:
                try:
                    value = tiff.nodata(read_bytes(self.root / file))
                except DataError:  # reported when training reads it
                    continue
                if value is not None:
                    lines.append(
                        f"{self.root / file}: says by its tag (GDAL_NODATA) that {value:g} is no measurement, but "
                        f"{name} has no hole_value; correct it: hole_value: {value:g}"
                    )
                    break
        return lines

    @property
    def _by_folder(self) -> bool:
        return SPLIT in self._label.files

    def _check_splits(self) -> None:
        globs = [(f"modalities.{key}", glob) for key, m in self._modalities.items() for glob in m.globs]
        for key, glob in [*globs, ("label", self._label.files)]:
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

    def _globs(self, name: str, split: str) -> dict[str, str]:
        """The pattern of a modality, or of the label, for a split: by its name, or by those of its several files."""
        folder = str(self.splits[split]) if self._by_folder else ""
        several = (self._label.files,) if name == "label" else self._modalities[name].globs
        globs = [glob.replace(SPLIT, folder) for glob in several]
        return dict(zip(parts_of(name, len(globs)), globs, strict=True))

    def _pool(self, tree: Tree, split: str, *, labelled: bool) -> Pool:
        """The samples that a split's are chosen from; none if labels are wanted but lacking, where they may be."""
        # With lists, only the modalities in use must have files. Without them all modalities must, or else the splits
        # would depend on which are in use. By time, samples are named after the first modality, so it is always read.
        by_name = self._by_list and self.max_gap is None
        streams = [m.name for m in self.modalities] if by_name else list(self._modalities)
        parts = {name: self._globs(name, split) for name in [*streams, *(["label"] if labelled else [])]}
        globs = {part: glob for of_one in parts.values() for part, glob in of_one.items()}
        matches = {name: match_files(tree, glob) for name, glob in globs.items()}
        if labelled and not matches["label"] and self._by_folder and self._may_lack_labels(split):
            return Pool({}, set(), [])
        require_matches(self.root, matches, globs)
        if self.max_gap is None:
            pool = pair_by_name(self.root, matches, globs, may_be_incomplete=self._by_list)
        else:
            pool = pair_by_time(tree, matches, globs, max_gap=self.max_gap, time_unit=self.time_unit)
        return pool.put_together({name: tuple(parts[name]) for name in streams})

    @property
    def _by_list(self) -> bool:
        return not self._by_folder and isinstance(next(iter(self.splits.values())), str)

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


def _check_times(max_gap: object, time_unit: str | None) -> None:
    if time_unit is not None and (max_gap is None or time_unit not in timestamps.UNITS):
        raise ConfigError(
            f"dataset.time_unit is {time_unit!r}; expected null or one of {', '.join(timestamps.UNITS)}, with "
            "dataset.max_gap"
        )
    if max_gap is not None and (isinstance(max_gap, bool) or not isinstance(max_gap, int | float) or max_gap < 0):
        raise ConfigError(f"dataset.max_gap is {max_gap!r}; expected a number of seconds, such as 0.02")


def _names_and_colours(
    classes: Sequence[str], palette: Sequence[Sequence[int]] | None
) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of the classes, checked; without a palette, colours by the PASCAL VOC rule."""
    colours = [voc_colour(i) for i in range(len(classes))]
    if palette is not None:
        colours = [checked_colour("palette", c) for c in palette]
        if len(colours) != len(classes):
            raise ConfigError(f"dataset.palette has {len(colours)} colours for {len(classes)} classes; give one each")
    for c in classes:
        if not isinstance(c, str):  # YAML reads 1 as a number and no as false
            raise ConfigError(f"dataset.classes holds {c!r}, which is no text; put it in quotes: '{c}'")
    if len(set(map(normal, classes))) != len(classes) or len(classes) > MAX_CLASSES:
        raise ConfigError(f"dataset.classes must be at most {MAX_CLASSES} different names, got {len(classes)}")
    return tuple(map(normal, classes)), tuple(colours)


_EXAMPLES = {
    "modalities": "dataset=potholes, or dataset.modalities=\"{rgb: {files: 'rgb/*.png'}, x: {files: 'x/*.png'}}\"",
    "label": "dataset=potholes, or dataset.label=\"{files: 'label/*.png'}\"",
    "classes": "dataset=potholes, or dataset.classes=[road,pothole]",
    "splits": 'dataset=potholes, or dataset.splits="{train: train.txt, val: val.txt}"',
}
