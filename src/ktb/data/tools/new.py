"""A configuration for the user's own data from a look at the folder: `ktb-data new`.

`survey` finds what the folder holds: kinds of files (each a modality, or the labels) whose names run parallel, how
their values are stored, what the labels hold, how the data is split. `write_yaml` puts it into a configuration for
`dataset=folder` in which every guess has its reason beside it.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ktb.data.arrays import Array
from ktb.data.files import similar
from ktb.data.globs import match_files
from ktb.data.lists import read_list
from ktb.data.readers.decode import MAX_PIXELS, decode, pixel_limit
from ktb.data.readers.image import as_grey
from ktb.data.resizing import ASPECT_TOLERANCE, aspect_difference
from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.folder_settings import SPLIT
from ktb.data.tools.new_labels import (
    MAX_COLOURS,
    MOST,
    VOID_IDS,
    ClassNames,
    LabelSeen,
    guess_labels,
    look_at_label,
    read_class_names,
)
from ktb.data.tools.new_recipe import Setting, guess_recipe
from ktb.data.tools.parallel import Outcome, parallel
from ktb.data.tree import Tree
from ktb.errors import ConfigError, DataError, KTBError
from ktb.io import atomic_file, entries, files_below, normal

__all__ = ["Survey", "new_file", "show", "survey", "write_yaml"]

Watch = Callable[[Iterator[Outcome], int, str], Iterable[Outcome]]
"""Wraps outcomes that are about to come: their iterator, how many, what they are; for a progress bar."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".npy")
BESIDE = (
    ".txt",
    ".csv",
    ".json",
    ".yaml",
    ".yml",
    ".xml",
    ".md",
    ".html",
    ".pdf",
    ".log",
    ".py",
    ".zip",
    ".tar",
    ".gz",
)
"""Endings of what lies beside pictures and is none."""
LOOKED_AT = 16
"""Files of a modality whose values are looked at; labels are read all, up to `MAX_LABELS`."""
MAX_LABELS = 5000

LABEL_WORDS = ("label", "mask", "annotation", "annot", "semantic", "segmentation", "seg", "truth", "gt", "target")
RGB_WORDS = ("rgb", "color", "colour", "image", "img", "visible", "vis", "photo", "picture", "left")
X_WORDS = {
    "depth": ("depth", "dep"),
    "disparity": ("disparity", "disp"),
    "thermal": ("thermal", "ther", "infrared", "lwir", "tir", "ir"),
    "nir": ("nir",),
    "event": ("event",),
    "lidar": ("lidar",),
    "hha": ("hha",),
    "aolp": ("aolp",),
    "dolp": ("dolp",),
}
ALL_X_WORDS = tuple(word for words in X_WORDS.values() for word in words)
SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Guess:
    """Settings of one modality or of the labels, and why."""

    name: str
    settings: dict[str, Any]
    reasons: tuple[str, ...]


@dataclass
class Survey:
    """What the folder holds. notes: what the user has to look at or do."""

    root: Path
    modalities: list[Guess]
    label: Guess
    classes: list[tuple[str, str]]
    """Name, and what is known of it."""
    palette: list[tuple[int, int, int]] | None
    splits: dict[str, str | float]
    split_reason: str
    crop: tuple[int, int]
    batch_size: int
    notes: list[str] = field(default_factory=list)
    resized: bool = False
    """Files of one sample differ in size."""
    lists: dict[str, list[str]] = field(default_factory=dict)
    """Split → names of its samples, where lists have to be written."""
    max_pixels: int = MAX_PIXELS
    recipe: list[Setting] = field(default_factory=list)
    """Of the training; `write_yaml` finds it, as it needs the lists."""


# --- kinds of files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    path: str
    folders: tuple[str, ...]
    stem: str
    suffix: str


@dataclass
class Kind:
    """Files that belong to different samples and are alike otherwise. words: what is particular in their names."""

    words: tuple[str, ...]
    files: dict[Any, File]

    @property
    def title(self) -> str:
        return "_".join(w for w in self.words if w) or "file"

    def says(self, vocabulary: Iterable[str]) -> bool:
        """Whether its name has one of these words: alone, in the plural, or as the beginning of a compound."""
        tokens = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", re.sub(r"[^A-Za-z]+", " ", " ".join(self.words)))
        known = tuple(vocabulary)
        return any(t.lower() == w or (len(w) > 3 and t.lower().startswith(w)) or t.lower() == w + "s"
                   for t in tokens for w in known)  # fmt: skip


def find_files(root: Path) -> tuple[list[File], list[str]]:
    """All files of readable kinds below `root`, hidden ones left out, and notes on others."""
    found, others = [], Counter[str]()
    for file in files_below(root):
        path = PurePosixPath(file.relative_to(root).as_posix())
        suffix = path.suffix
        if suffix.lower() in SUFFIXES:
            # Words and pairs are those of the name as it is seen, whatever its form in Unicode.
            seen = PurePosixPath(normal(str(path)))
            found.append(File(str(path), seen.parts[:-1], seen.stem, suffix))
        elif suffix and suffix.lower() not in BESIDE:
            others[suffix.lower()] += 1
    notes = [f"{n} files ending in {s} are not read: convert them to PNG or NPY" for s, n in sorted(others.items())]
    if not found:
        raise DataError(
            f"{root}: no picture in it or its folders; expected files ending in {' '.join(SUFFIXES)}"
            + (f" ({'; '.join(notes)})" if notes else "")
        )
    return found, notes


def find_kinds(files: Sequence[File]) -> tuple[list[Kind], int | None]:
    """Kinds of files, and which folder level tells them apart (None: the names alone do).

    Every level is tried: its folder's name (with words at either end of the files' names) is the kind, the rest of the
    path the sample. The level wins under which most files find partners, one that has a word for labels first.
    """
    depth = max(len(f.folders) for f in files)
    best: tuple[Any, list[Kind], int | None] | None = None
    for level in (*range(depth), None):
        names = {f.folders[level] for f in files if level is not None and len(f.folders) > level}
        if level is not None and all(split_of(n) for n in names):
            continue
        kinds = _kinds_at(files, level)
        keys = Counter(key for kind in kinds for key in kind.files)
        score = (
            any(k.says(LABEL_WORDS) for k in kinds),
            sum(k.says((*RGB_WORDS, *ALL_X_WORDS)) for k in kinds) > 0,
            sum(n - 1 for n in keys.values()),
            -len(kinds),
        )
        if best is None or score > best[0]:
            best = (score, kinds, level)
    assert best is not None
    return [_without_common(k, best[1]) for k in best[1]], best[2]


def _without_common(kind: Kind, kinds: Sequence[Kind]) -> Kind:
    """A word that all kinds have at the same end tells none apart: it belongs to the samples' names."""
    first = kind.words[1] if len({k.words[1] for k in kinds}) == 1 else ""
    last = kind.words[2] if len({k.words[2] for k in kinds}) == 1 else ""
    words = (kind.words[0], kind.words[1].removeprefix(first), kind.words[2].removesuffix(last), *kind.words[3:])
    return Kind(words, {(rest, first + middle + last): f for (rest, middle), f in kind.files.items()})


def _kinds_at(files: Sequence[File], level: int | None) -> list[Kind]:
    groups: dict[tuple[str, str], list[File]] = defaultdict(list)
    for f in files:
        if level is None or len(f.folders) > level:
            groups["" if level is None else f.folders[level], f.suffix].append(f)
    kinds: dict[tuple[str, ...], Kind] = {}
    for (folder, suffix), members in groups.items():
        rest = {f: tuple(n for i, n in enumerate(f.folders) if i != level) for f in members}
        for f, (first, middle, last) in _affixes(members, rest).items():
            words = (folder, first, last)
            key = (rest[f], middle)
            if words in kinds and key in kinds[words].files and kinds[words].files[key].suffix != suffix:
                kinds.setdefault((*words, suffix), Kind((*words, suffix), {})).files[key] = f
                continue  # 1.png and 1.npy beside each other are two kinds
            kinds.setdefault(words, Kind(words, {})).files[key] = f
    return list(kinds.values())


def _affixes(files: Sequence[File], rest: Mapping[File, tuple[str, ...]]) -> dict[File, tuple[str, str, str]]:
    """File → (beginning, middle, end) of its stem: words that say what kind it is, around what says which sample."""
    parts = {f: ["", f.stem, ""] for f in files}
    for end in (2, 0):
        pattern = r"(.+?)([_\-.][A-Za-z][A-Za-z0-9]*)" if end else r"([A-Za-z][A-Za-z0-9]*[_\-.])(.+)"
        for _ in range(3):
            split = {f: re.fullmatch(pattern, parts[f][1]) for f in files}
            found = {f: m for f, m in split.items() if m}
            if len(found) < len(files):  # 1.png beside 1_mask.png
                found = {f: m for f, m in found.items() if _means_something(m[2 if end else 1])}
            words = Counter("" if f not in found else found[f][2 if end else 1] for f in files)
            if not found or len(words) > 6 or any(split_of(w.strip("_-.")) for w in words):
                break
            if len(words) > 1 and not any(map(_means_something, words)):
                break
            middle = {f: found[f][1 if end else 2] if f in found else parts[f][1] for f in files}
            keys = Counter((rest[f], parts[f][2 - end], middle[f]) for f in files)
            if len(words) > 1 and sum(n > 1 for n in keys.values()) * 2 < len(keys):
                break  # day and night, say: words that part the samples
            for f, m in found.items():
                word, parts[f][1] = (m[2], m[1]) if end else (m[1], m[2])
                parts[f][end] = word + parts[f][end] if end else parts[f][end] + word
    return {f: (a, b, c) for f, (a, b, c) in parts.items()}


def _means_something(word: str) -> bool:
    return Kind((word,), {}).says((*LABEL_WORDS, *RGB_WORDS, *ALL_X_WORDS))


def split_of(name: str) -> str | None:
    """The split that a folder or list of this name is for."""
    return next((split for split, words in SPLIT_WORDS.items() if name.lower() in words), None)


def pattern_of(kind: Kind, level: int | None, split_level: int | None) -> str | None:
    """The glob that finds the files of a kind; None if there is none, because they lie at different depths."""
    files = list(kind.files.values())
    parts = []
    if len({len(f.folders) for f in files}) > 1:
        if level != 0 or split_level is not None:
            return None
        parts = [kind.words[0], "**"]
    else:
        for i in range(len(files[0].folders)):
            names = {f.folders[i] for f in files}
            parts.append(SPLIT if i == split_level else names.pop() if len(names) == 1 else "*")
    suffixes = {f.suffix for f in files}
    first, last = kind.words[1:3]
    parts.append(f"{first}*{last}{suffixes.pop() if len(suffixes) == 1 else '.*'}")
    return "/".join(parts)


def split_level_of(files: Iterable[File]) -> int | None:
    """The folder level that holds the splits: train and at least one other."""
    folders = [f.folders for f in files]
    for i in range(min(map(len, folders), default=0)):
        splits = {split_of(names[i]) for names in folders}
        if None not in splits and "train" in splits and len(splits) > 1:
            return i
    return None


# --- values ----------------------------------------------------------------------------------------------------------


@dataclass
class Stats:
    """What some files of a kind hold. values: a sample of all finite ones, of the first three channels; most: the
    largest of all."""

    dtypes: set[str]
    channels: set[int]
    sizes: Counter[tuple[int, int]]
    values: Array
    not_finite: float
    grey: bool
    one_channel: bool
    """All files are read as one channel: grey, or saved as colours with equal channels."""
    alpha: bool
    patches: bool
    """Whole numbers in patches, as ids are."""
    labelled: bool
    """The same, and few of them in each file."""
    codes: Counter[Any]
    """Id or colour → how many of the files have it."""
    most: float = 0.0


def look_at(root: Path, files: Sequence[File]) -> Stats:
    """Raises DataError if a file cannot be read."""
    chosen = [files[i] for i in sorted(set(np.linspace(0, len(files) - 1, LOOKED_AT).round().astype(int).tolist()))]
    values, bad, total = [], 0, 0
    stats = Stats(set(), set(), Counter(), np.empty(0), 0.0, True, True, False, True, True, Counter())
    for f in chosen:
        image = decode(root / f.path, expand_palette=True)
        stored = decode(root / f.path)
        image = image[..., None] if image.ndim == 2 else image
        stats.dtypes.add(image.dtype.name)
        stats.channels.add(image.shape[2])
        stats.sizes[image.shape[0], image.shape[1]] += 1
        colour = image[..., :3]
        stats.grey &= image.shape[2] >= 3 and bool((colour == colour[..., :1]).all())
        stats.one_channel &= as_grey(image).shape[2] == 1
        stats.alpha |= image.shape[2] == 4 and bool((image[..., 3] != image[0, 0, 3]).any())
        step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / 20_000)))
        sample = colour[::step, ::step].astype(np.float64)
        finite = np.isfinite(sample)
        bad, total = bad + int((~finite).sum()), total + finite.size
        values.append(sample[finite])
        if image.dtype.kind in "ui":
            stats.most = max(stats.most, float(colour.max()))
        codes = _codes(stored)
        changes = float((codes[:, 1:] != codes[:, :-1]).mean()) if codes.shape[1] > 1 else 0.0
        whole = stored.dtype.kind in "ui" or bool((np.isfinite(stored) & (np.rint(stored) == stored)).all())
        stats.patches &= whole and changes < 0.1 and f.suffix.lower() in (".png", ".npy")
        different = np.unique(codes).tolist() if stats.patches else []
        stats.labelled &= stats.patches and len(different) <= MAX_COLOURS
        stats.codes.update(different[:MOST])
    stats.values, stats.not_finite = np.concatenate(values), bad / max(total, 1)
    return stats


def _codes(stored: Array) -> Array:
    """One number per pixel (H, W): the id, also where all channels have it, or the colour as (r << 16 | g << 8 | b)."""
    if stored.ndim == 2:
        return stored
    channels = stored[..., :3] if stored.shape[2] > 2 else stored[..., :1]
    if (channels == channels[..., :1]).all():
        return channels[..., 0]
    return channels.astype(np.int64) @ (1 << 16, 1 << 8, 1)


def guess_modality(name: str, pattern: str, stats: Stats) -> Guess:
    """How the values of a modality are stored and what they mean."""
    settings: dict[str, Any] = {"files": pattern}
    mixed = len(stats.channels) > 1
    channels = max(stats.channels) if not mixed else 3 if name == "rgb" else 1
    reasons = [f"{channels} channel{'s' * (channels > 1)} of {_bits(stats.dtypes)}"]
    if mixed and name == "rgb":
        reasons.append("grey pictures among them are taken as three equal channels, alpha is left out")
    elif mixed:
        reasons[0] += ", in some files saved as several equal ones"
    elif stats.grey and name != "rgb":
        settings["pick"] = [0]
        reasons[0] += ", all equal: one is taken"
        channels = 1
    elif channels == 4 and name == "rgb":
        settings["pick"] = [0, 1, 2]
        reasons[0] += ", without the fourth"
        channels = 3
    if name != "rgb" and channels != 1:
        settings["channels"] = channels
    dtype = next(iter(stats.dtypes)) if len(stats.dtypes) == 1 else "uint16" if name == "rgb" else "float32"
    if len(stats.dtypes) > 1:
        reasons.append("files of several types: are their values in one unit?")
    dtype = dtype if dtype in ("uint8", "uint16") else "float32"
    if dtype != "uint8":
        settings["dtype"] = dtype
    if name == "rgb":
        white = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if stats.most < 2**bits)
        if dtype == "uint16" and white < 65535:
            settings["scale"] = white
            reasons.append(f"values up to {stats.most:g}: {white.bit_length()} bits of 16 are used, {white} is white")
        return Guess(name, settings, tuple(reasons))

    values = stats.values
    if stats.not_finite:
        settings["hole_value"] = float("nan")
        reasons.append(f"NaN or infinity in {stats.not_finite:.1%} of pixels: no measurement")
    elif (hole := _hole(values)) is not None:
        settings["hole_value"] = hole
        rest = values[values != hole]
        reasons.append(
            f"{hole:g} in {(values == hole).mean():.1%} of pixels and nothing near it (all others are "
            f"{rest.min():g} to {rest.max():g}): no measurement"
        )
        values = rest
    if "hole_value" in settings:
        settings["holes"] = "zero"
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    reasons.insert(1, f"values {low:g} to {high:g}")
    scale = _scale(dtype, max(abs(low), abs(high)))
    if scale is not None:
        settings["scale"] = scale
        reasons.append(f"divided by {scale:g}, so that about 1 is the most")
    if low < 0:
        reasons.append("negative values stay negative; mean and std move them")
    return Guess(name, settings, tuple(reasons))


def _bits(dtypes: set[str]) -> str:
    names = {"uint8": "8 bits", "uint16": "16 bits", "float32": "floats", "float64": "floats", "float16": "floats"}
    return " or ".join(sorted({names.get(d, d) for d in dtypes}))


def _hole(values: Array) -> float | None:
    """A value at either end of the range that is frequent and far from all others: a sensor's "no measurement"."""
    if not values.size or values.min() == values.max():
        return None
    for end in (float(values.min()), float(values.max())):
        rest = values[values != end]
        spread = float(np.percentile(rest, 99) - np.percentile(rest, 1)) or abs(float(rest[0])) or 1.0
        # Noise of single pixels near the end does not count.
        gap = abs(float(np.percentile(rest, 0.1 if end < rest[0] else 99.9)) - end)
        if len(rest) < 0.999 * len(values) and gap > spread * (0.02 if end == 0 else 1.0):
            return end
    return None


def _scale(dtype: str, most: float) -> float | None:
    """None where the default of the type fits."""
    if dtype == "uint8" or (dtype == "float32" and 0.2 <= most <= 1.05):
        return None
    if dtype == "uint16" and most > 32767:
        return None
    for bits in (10, 12, 14):
        if dtype == "uint16" and most == 2**bits - 1:
            return most
    if most <= 0:
        return None
    step = 10.0 ** np.floor(np.log10(most))
    return float(next(m * step for m in (1, 2, 5, 10) if most <= m * step * 1.0001))


# --- the whole -------------------------------------------------------------------------------------------------------


def _plain_watch(outcomes: Iterator[Outcome], total: int, title: str) -> Iterable[Outcome]:
    return outcomes


def survey(
    root: Path,
    *,
    label_files: str | None = None,
    watch: Watch = _plain_watch,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Survey:
    """Look at the folder `root`.

    Args:
        root: the folder.
        label_files: the folder or the pattern of the labels; None: they are looked for.
        watch: shows the progress.
        workers: processes that read labels.
        max_pixels: larger pictures are refused.

    Raises:
        DataError: no folder, no pictures, no labels, files that cannot be read, no modality beside the labels.
    """
    with pixel_limit(max_pixels):
        return _survey(root, label_files, watch, workers, max_pixels)


def _label_within(path: Path, max_pixels: int) -> LabelSeen:
    """`look_at_label` in another process, which the limit of this one does not reach."""
    with pixel_limit(max_pixels):
        return look_at_label(path)


def _survey(root: Path, label_files: str | None, watch: Watch, workers: int | None, max_pixels: int) -> Survey:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder{similar(root)}; expected the one that holds your pictures and labels")
    files, notes = find_files(root)
    unread = f" ({'; '.join(notes)})" if notes else ""
    names = read_class_names(root)
    kinds, level = find_kinds(files)
    stats = {id(k): look_at(root, list(k.files.values())) for k in kinds if len(k.files) > 1 or len(kinds) < 5}
    kinds = [k for k in kinds if id(k) in stats]
    if label_files is None:
        label = _choose_label(root, kinds, stats, names, unread)
    else:
        label = _given_label(root, kinds, label_files, unread)
    partners = []
    for k in (k for k in kinds if k is not label):
        like = f"{_example(k)} and {len(k.files) - 1} like it are left out"
        named = k.says((*RGB_WORDS, *ALL_X_WORDS)) and not k.says(LABEL_WORDS)
        if 2 * len(k.files.keys() & label.files.keys()) < len(label.files):
            notes.append(f"{like}: most labels have no such partner")
        elif (stats[id(k)].labelled or k.says(LABEL_WORDS)) and not named:
            other = pattern_of(k, level, None) or _example(k)
            notes.append(
                f"{like}: they look like labels, too ({_richness(stats[id(k)], names)}); --label '{other}' takes them"
            )
        else:
            partners.append(k)
    if not partners:
        raise DataError(
            f"{root / next(iter(label.files.values())).path}: taken for a label, but no other files have names that go "
            f"with the labels'; expected folders side by side, such as rgb/1.png, depth/1.png and label/1.png{unread}"
        )
    split_level = split_level_of([f for k in (label, *partners) for f in k.files.values()])
    patterns = {id(k): pattern_of(k, level, split_level) for k in (label, *partners)}
    for k in [k for k in (label, *partners) if patterns[id(k)] is None]:
        if k is label:
            raise DataError(
                f"{root / _example(k)}: labels lie at different depths; expected them in folders of one depth"
            )
        notes.append(
            f"{_example(k)} and others like it lie at different depths and are left out: no pattern finds them"
        )
        partners.remove(k)
    modalities = _modalities(root, partners, stats, {k: p for k, p in patterns.items() if p}, notes)

    paths = [root / f.path for f in label.files.values()]
    if len(paths) > MAX_LABELS:
        notes.append(f"{MAX_LABELS} of {len(paths)} labels were read: rare classes may be missing")
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, MAX_LABELS).astype(int)]
    outcomes = list(
        watch(parallel(partial(_label_within, max_pixels=max_pixels), paths, workers), len(paths), "labels")
    )
    if failed := [o for o in outcomes if o.state == "failed"]:
        raise DataError(min(o.message for o in failed))
    seen = [o for o in outcomes if isinstance(o, LabelSeen)]
    found = guess_labels(seen, names)
    if names.source:
        found.reasons.append(f"names from {names.source}")
    sizes = Counter(s.size for s in seen)
    resized = False
    for k in partners:
        for size in stats[id(k)].sizes:
            if size not in sizes:
                resized = True
                alike = any(aspect_difference(size, of_label) <= ASPECT_TOLERANCE for of_label in sizes)
                notes.append(
                    f"{_example(k)}: pictures of {size[0]}x{size[1]} (height x width), but no label has this size; "
                    + (
                        f"files of unequal size are resized to {modalities[0].name} (resize: first)"
                        if alike
                        else "their aspect ratio is another one too, so they are refused: cut the larger view"
                    )
                )
    if resized:  # crops are cut from the first modality
        sizes = next(stats[id(k)].sizes for k in partners if patterns[id(k)] == modalities[0].settings["files"])
    pattern = patterns[id(label)]
    assert pattern is not None
    result = Survey(
        root=root,
        modalities=modalities,
        label=Guess("label", {"files": pattern} | found.settings, tuple(found.reasons)),
        classes=found.classes,
        palette=found.palette,
        splits={},
        split_reason="",
        crop=_crop(sizes),
        batch_size=4,
        notes=notes + found.notes,
        resized=resized,
        max_pixels=max_pixels,
    )
    _find_splits(result, split_level)
    return result


def _example(kind: Kind) -> str:
    return next(iter(kind.files.values())).path


def _given_label(root: Path, kinds: Sequence[Kind], wanted: str, unread: str) -> Kind:
    """The kind of files that the user names by their folder or a pattern."""
    pattern = Path(wanted)
    for base in (root, root.resolve()):  # also from where the user stands
        pattern = pattern.relative_to(base) if pattern.is_relative_to(base) else pattern
    text = normal(pattern.as_posix())

    def fits(f: File) -> bool:
        if set("*?[") & set(text):
            return fnmatch.fnmatchcase(normal(f.path), text)
        path = PurePosixPath(normal(f.path))
        return text in (str(path), *f.folders, *(p.as_posix() for p in path.parents))

    fitting = {id(k): sum(map(fits, k.files.values())) for k in kinds}
    best = max(kinds, key=lambda k: (fitting[id(k)] == len(k.files), fitting[id(k)]))
    if not fitting[id(best)]:
        raise DataError(
            f"--label {wanted}: no files of {root} lie there; it has "
            f"{', '.join(sorted(map(_example, kinds))[:9])}{unread}"
        )
    if fitting[id(best)] < len(best.files):
        raise DataError(
            f"--label {wanted}: takes {fitting[id(best)]} of {len(best.files)} files like {_example(best)}; expected "
            "all of them: name their folder, or a wider pattern"
        )
    return best


def _choose_label(
    root: Path, kinds: Sequence[Kind], stats: Mapping[int, Stats], names: ClassNames, unread: str
) -> Kind:
    named = [k for k in kinds if k.says(LABEL_WORDS)]
    by_look = [k for k in kinds if stats[id(k)].labelled and not k.says(RGB_WORDS)]
    candidates = (
        [k for k in named if stats[id(k)].labelled] or [k for k in named if stats[id(k)].patches] or by_look or named
    )
    if not candidates:
        raise DataError(
            f"{root}: none of {', '.join(sorted({k.title for k in kinds})[:9])} looks like labels; expected PNG or NPY "
            f"files with few values in a folder called label, mask or the like{unread}"
        )

    # Of several renderings of one label the plain ids are wanted, not instances or colours for the eye; of several
    # labels the one that the list of classes is about, and then the one that tells more apart.
    def rank(k: Kind) -> tuple[Any, ...]:
        text = k.title.lower()
        return (
            "instance" in text,
            _misfit(stats[id(k)], names),
            "color" in text or "colour" in text,
            not k.says(LABEL_WORDS),
            "trainid" not in text,
            "id" not in text,
            -len(_classes_seen(stats[id(k)])),
            max(stats[id(k)].channels),
            -len(k.files),
        )

    return min(candidates, key=rank)


def _classes_seen(stats: Stats) -> set[int]:
    """Ids or colours that seem to be classes: in several of the files that were looked at, and not what void is."""
    files = max(stats.codes.values(), default=0)
    return {c for c, n in stats.codes.items() if (n > 1 or files <= 2) and c >= 0 and c not in VOID_IDS}


def _misfit(stats: Stats, names: ClassNames) -> tuple[int, int, int]:
    """How far the ids or colours are from the list of classes, all 0 without a list: those without a name, but for a 0
    that may be void; names that none of them has; those without a name, 0 included."""
    if not names.ids:
        return 0, 0, 0
    seen = {c for c in stats.codes if c >= 0 and c not in VOID_IDS}
    known = {r << 16 | g << 8 | b for r, g, b in names.colours}
    if known and seen & known and max(seen) > 255:
        ways = [known]
    elif max(seen, default=0) > max(*names.ids, 255):  # colours without names: as many as there are classes
        return max(0, len(seen) - len(names.ids) - 1), max(0, len(names.ids) - len(seen)), len(seen)
    else:
        ways = [set(names.ids)] if names.numbered else [set(names.ids), {i + 1 for i in names.ids}]
    return min((len(seen - way - {0}), len(way - seen), len(seen - way)) for way in ways)


def _richness(stats: Stats, names: ClassNames) -> str:
    count = len(_classes_seen(stats))
    without = _misfit(stats, names)[0]
    return f"{count} ids or colours" + (f", {without} of them not in {names.source}" if without else "")


def _modalities(
    root: Path, kinds: Sequence[Kind], stats: Mapping[int, Stats], patterns: Mapping[int, str], notes: list[str]
) -> list[Guess]:
    def colourful(k: Kind) -> bool:
        s = stats[id(k)]
        if not k.says(RGB_WORDS) and _example(k).endswith(".npy"):
            return False  # some sensor's channels; whoever stores colours in NPY names them
        if s.one_channel and len(s.channels) > 1 and not k.says(RGB_WORDS):
            return False
        return bool(s.channels & {3, 4}) and not s.grey and s.dtypes <= {"uint8", "uint16"}

    usable = [k for k in kinds if max(stats[id(k)].channels) <= 4]
    colour = [k for k in usable if colourful(k)]
    rgb = next(
        (k for word in RGB_WORDS for k in colour if k.says([word]) and not k.says(ALL_X_WORDS)),
        colour[0] if len(colour) == 1 and not colour[0].says(ALL_X_WORDS) else None,
    )
    # Colour pictures may have grey ones or some with alpha among them, those of a sensor with one channel some with
    # equal channels; all others must be alike.
    usable = [k for k in usable if k is rgb or len(stats[id(k)].channels) == 1 or stats[id(k)].one_channel]
    for k in kinds:
        if k not in usable:
            counts = " and ".join(map(str, sorted(stats[id(k)].channels)))
            notes.append(
                f"{_example(k)} and others like it have {counts} channels and are left out: convert them first"
            )
    if not usable:
        raise DataError(f"{root}: no modality whose files have one number of channels, 1 to 4; convert them first")
    guesses: list[Guess] = []
    taken = {"label", "rgb"}
    known = Counter(_known(k) for k in usable if k is not rgb)
    for k in sorted(usable, key=lambda k: k is not rgb):
        s, pattern = stats[id(k)], patterns[id(k)]
        name = "rgb" if k is rgb else _name([_known(k) if known[_known(k)] == 1 else "", k.words[0], k.title], taken)
        taken.add(name)
        why = "colours, and named like it" if k is rgb and k.says(RGB_WORDS) else "colours" if k is rgb else None
        guess = guess_modality(name, pattern, s)
        guesses.append(Guess(name, guess.settings, (*([why] if why else []), *guess.reasons)))
        if k is rgb and s.alpha and s.channels == {4}:
            x = _name(["x"], taken)
            taken.add(x)
            reasons = ("the fourth channel of the colour pictures varies: another sensor's picture, as in MFNet",)
            guesses.append(Guess(x, {"files": pattern, "pick": [3]}, reasons))
    return guesses


def _known(kind: Kind) -> str:
    """The modality that the kind's words name, those of its folder first; "" if none."""
    return next((name for w in kind.words for name, words in X_WORDS.items() if Kind((w,), {}).says(words)), "")


def _name(wanted: Sequence[str], taken: set[str]) -> str:
    """The first of `wanted` that is free, as a modality can be called; else one of them with a number."""
    plain = [re.sub(r"[\W_]+", "_", w).strip("_").lower() for w in wanted]
    plain = [f"x{w}" if w[0].isdigit() else w for w in plain if w] or ["x"]
    numbered = (f"{plain[0]}_{i}" for i in itertools.count(2))
    return next(name for name in itertools.chain(plain, numbered) if name not in taken)


def _crop(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    height, width = (min(side) for side in zip(*sizes, strict=True))
    return max(32, min(480, height // 32 * 32)), max(32, min(640, width // 32 * 32))


def _find_splits(found: Survey, split_level: int | None) -> None:
    """By folders if there are any, else by lists that name samples, else by shares."""
    tree = Tree(found.root)
    guesses = (*found.modalities, found.label)
    # With folders of splits, keys begin with them or have them in between: names may occur in several splits.
    matches = {g.name: match_files(tree, g.settings["files"].replace(SPLIT, "*")) for g in guesses}
    complete = set.intersection(*(set(files) for files in matches.values()))
    if not complete:
        raise DataError(f"{found.root}: no sample has all of {', '.join(matches)}; expected names that run parallel")
    if split_level is not None:
        count = _by_folder(found, matches, complete, split_level)
    else:
        found.splits = {"train": 0.8, "val": 0.2}
        incomplete = len(set[str]().union(*matches.values()) - complete)
        _note_incomplete(found, incomplete)
        count = _by_list(found, sorted(complete), incomplete)
    found.batch_size = max(1, min(4, count))


def _note_incomplete(found: Survey, count: int) -> None:
    if count:
        found.notes.append(f"{count} names lack a file of some kind and are left out: only complete samples are listed")


def _by_folder(found: Survey, matches: Mapping[str, Mapping[str, str]], complete: set[str], split_level: int) -> int:
    """The folders, or lists of what is in them where the folders alone would not do; the number of training samples."""
    folder_of = {
        key: PurePosixPath(file).parts[split_level] for files in matches.values() for key, file in files.items()
    }
    folders: dict[str, set[str]] = {}
    for folder in sorted(set(folder_of.values())):
        folders.setdefault(split_of(folder) or "", set()).add(folder)
    folders = {split: folders[split] for split in SPLIT_WORDS if split in folders}
    within = {split: {key for key, folder in folder_of.items() if folder in folders[split]} for split in folders}
    samples = {split: keys & complete for split, keys in within.items()}
    if "test" in folders and not within["test"] & matches["label"].keys():
        pictures = set.intersection(*(set(matches[guess.name]) for guess in found.modalities))
        samples["test"] = within["test"] & pictures
        if samples["test"]:
            found.notes.append(
                "test: no labels, so evaluation on it writes predictions in stored ids instead of scores"
            )
    for split in [split for split, keys in samples.items() if not keys]:
        if split == "train":
            raise DataError(
                f"{found.root}: no sample in {' or '.join(sorted(folders[split]))} has all of {', '.join(matches)}; "
                "expected names that run parallel"
            )
        found.notes.append(f"{split}: no sample has all of {', '.join(matches)}, so it is left out")
        del samples[split]
    # The best checkpoint is chosen on val, or on test where there is no val, and for that it needs labels.
    chosen_on = samples.get("val" if "val" in folders else "test", set())
    incomplete = len(set[str]().union(*within.values()) - set[str]().union(*samples.values()))
    if not incomplete and chosen_on & complete and all(len(names) == 1 for names in folders.values()):
        found.splits = {split: min(names) for split, names in folders.items()}
        found.split_reason = "folders of these names"
        return len(samples["train"])

    _note_incomplete(found, incomplete)
    found.lists = {split: sorted(keys) for split, keys in samples.items()}
    found.split_reason = "lists of the samples in the folders of these names, written beside this file"
    if not chosen_on & complete:
        train, val = _parted(found.root, found.lists["train"])
        found.lists = {"train": train, "val": val} | {s: k for s, k in found.lists.items() if s == "test"}
        found.split_reason += (
            "; val is 20 % of train at random, as no other folder has labels to choose a checkpoint by"
        )
    found.modalities = [_without_splits(guess) for guess in found.modalities]
    found.label = _without_splits(found.label)
    return len(found.lists["train"])


def _without_splits(guess: Guess) -> Guess:
    """With a pattern that finds the files of all splits."""
    return replace(guess, settings=guess.settings | {"files": guess.settings["files"].replace(SPLIT, "*")})


def _parted(root: Path, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """80 % and 20 % of the samples, at random."""
    if len(keys) < 2:
        raise DataError(f"{root}: {len(keys)} complete sample; expected two or more, to train and to validate")
    order = np.random.default_rng(0).permutation(len(keys))
    train = max(1, min(len(keys) - 1, round(0.8 * len(keys))))
    return sorted(keys[i] for i in order[:train]), sorted(keys[i] for i in order[train:])


def _by_list(found: Survey, keys: Sequence[str], incomplete: int) -> int:
    """Lists of the user's, or shares, or lists of our own where patterns find incomplete samples; training samples."""
    for lists in _candidate_lists(found.root):
        trial = FolderDataModule(**module_settings(found) | {"splits": lists})
        try:
            counts = {split: len(trial.open_split(split)) for split in lists}
        except KTBError as error:
            found.notes.append(f"lists {', '.join(lists.values())} are not used: {error}")
            continue
        found.splits = dict(lists)
        found.split_reason = "lists in the folder"
        return counts["train"]
    train, val = _parted(found.root, keys)
    if incomplete:
        found.lists = {"train": train, "val": val}
        found.split_reason = "lists of the complete samples, written beside this file: 80 % at random to train on"
        return len(train)
    found.split_reason = (
        "no lists or folders of splits: shares, dealt out at random (split_seed). Frames of one video that are "
        "alike then lie on both sides: write lists if yours are"
    )
    if round(0.8 * len(keys)) in (0, len(keys)):
        found.splits = {"train": 0.5, "val": 0.5}
        return len(keys) // 2
    return len(train)


def _candidate_lists(root: Path) -> Iterator[dict[str, str]]:
    for folder in (root, *(Path(entry.path) for entry in entries(root) if entry.is_dir())):
        lists: dict[str, str] = {}
        for path in (Path(entry.path) for entry in entries(folder) if entry.name.endswith(".txt")):
            words = [split_of(w) for w in re.split(r"[^A-Za-z]+", path.stem)]
            for split in (w for w in words if w):
                try:
                    read_list(path, root, spaces=False)
                except DataError:
                    continue
                lists.setdefault(split, path.relative_to(root).as_posix())
        if "train" in lists and len(lists) > 1:
            yield {s: lists[s] for s in ("train", "val", "test") if s in lists}


def module_settings(found: Survey) -> dict[str, Any]:
    """The arguments of `FolderDataModule`."""
    return {
        "root": found.root,
        "modalities": {g.name: g.settings for g in found.modalities},
        "label": found.label.settings,
        "classes": [name for name, _ in found.classes],
        "palette": found.palette,
        "splits": found.splits,
        "streams": [g.name for g in found.modalities],
        "crop": found.crop,
        "batch_size": found.batch_size,
        "max_pixels": found.max_pixels,
    }


# --- the file --------------------------------------------------------------------------------------------------------


def new_file(name: str, folder: Path) -> Path:
    """`folder`/dataset/`name`.yaml, which is yet to be written.

    Raises:
        DataError: there is such a file already.
        ConfigError: `name` cannot be a data set's.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ConfigError(
            f"{name!r} cannot name a data set; expected letters, digits and _, a letter first: --name NAME"
        )
    path = folder / "dataset" / f"{name}.yaml"
    if path.exists():
        raise DataError(f"{path}: exists already; choose another --name, or delete it")
    return path


def write_yaml(found: Survey, name: str, folder: Path) -> Path:
    """Write `folder`/dataset/`name`.yaml (and lists beside it, where needed); returns its path.

    Raises:
        DataError: there is such a file already, or it cannot be written.
        ConfigError: `name` cannot be a data set's.
    """
    path = new_file(name, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if found.lists:
            found.splits = {}
            for split, keys in found.lists.items():
                target = (path.parent / f"{name}_{split}.txt").resolve()
                with atomic_file(target) as temporary:
                    temporary.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
                found.splits[split] = str(target)
        with suppress(KTBError):  # data that cannot be opened is spoken of when it is opened next
            found.recipe = guess_recipe(FolderDataModule(**module_settings(found)))
        with atomic_file(path) as temporary:
            temporary.write_text(_yaml(found, name, folder), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def show(found: Survey, console: Console) -> None:
    """Print what was guessed, and why."""
    table = Table(title=str(found.root), title_justify="left")
    for head in ("what", "files", "why"):
        table.add_column(head, overflow="fold")
    for guess in (*found.modalities, found.label):
        table.add_row(guess.name, escape(str(guess.settings["files"])), escape("; ".join(guess.reasons)))
    classes = ", ".join(name for name, _ in found.classes[:12]) + (", ..." if len(found.classes) > 12 else "")
    table.add_row("classes", f"{len(found.classes)}", escape(classes))
    table.add_row("splits", escape(", ".join(f"{k}: {v}" for k, v in found.splits.items())), escape(found.split_reason))
    for setting in found.recipe:
        table.add_row(setting.key, escape(_flow(setting.value)), escape(setting.reason))
    console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _yaml(found: Survey, name: str, folder: Path) -> str:
    lines = [
        f"# Written by `ktb-data new` after a look at {found.root.resolve()}. Guesses have their reasons beside them;",
        f"# correct what is wrong, then: ktb-data check --config-dir {folder} dataset={name}, and preview likewise.",
        "# All settings there are: conf/dataset/folder.yaml.",
        "defaults:",
        "  - folder",
        "  - _self_",
        "",
        f"name: {name}",
        f"root: {_flow(str(found.root.resolve()))}",
        "",
        "modalities:",
    ]
    for guess in found.modalities:
        lines += [f"  # {reason}" for reason in guess.reasons]
        if guess.settings.get("holes"):
            lines.append("  # holes: zero | fill (from the pixels around) | validity (one more channel that tells)")
        lines.append(f"  {guess.name}: {_flow(guess.settings)}")
    lines += [
        "",
        *(f"# {reason}" for reason in found.label.reasons),
        f"label: {_flow(found.label.settings)}",
        "classes:",
    ]
    width = max(len(_flow(n)) for n, _ in found.classes)
    lines += [f"  - {_flow(n):<{width}}  # {i}: {known}" for i, (n, known) in enumerate(found.classes)]
    if found.palette:
        lines += ["palette:", *(f"  - {_flow(list(colour))}" for colour in found.palette)]
    else:
        lines.append("palette: null  # colours by the PASCAL VOC rule; or [r, g, b] per class")
    lines += ["", f"# {found.split_reason}", f"splits: {_flow(found.splits)}", ""]
    if found.resized:
        lines += ["# Files of one sample differ in size: first (the first modality) | label", "resize: first"]
    lines += [
        "# Height and width of training crops: multiples of 32 that every picture has, at most 480 x 640; pictures are",
        "# scaled by 0.5 to 2 before.",
        f"crop: {_flow(list(found.crop))}",
        f"batch_size: {found.batch_size}  # 4 as published, or all training samples where they are fewer",
    ]
    if found.max_pixels != MAX_PIXELS:
        lines.append(f"max_pixels: {found.max_pixels}")
    if found.recipe:
        lines.append("recipe:  # what is not here is as in conf/dataset/folder.yaml")
    for setting in found.recipe:
        lines += [f"  # {setting.reason}", f"  {setting.key}: {_flow(setting.value)}"]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        value = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in value.items()}
    return yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False).removesuffix("\n...\n").strip()
