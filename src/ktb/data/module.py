"""The RGB+X data set and the DataModule that all data sets share.

A data set is a subclass of `RGBXDataModule` with one method of its own, `open_split`, which returns `Samples`: a length
and a way to read one sample as numpy arrays. `FileSamples` is that for data sets made of files. Augmentation, batching,
seeding, distribution over processes, and the errors a user sees, are here once.
"""

from __future__ import annotations

import difflib
import errno
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, Protocol, TypedDict

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from ktb.data.augment import Array, EvalTransform, Label, Size, TrainTransform, Transform, resize, resize_nearest
from ktb.data.cores import usable_cores
from ktb.data.readers.image import LARGEST, MAX_PIXELS, Reading, pixel_limit, read_text, similar
from ktb.data.spec import IGNORE, Batch, DatasetSpec, ModalitySpec, Sample
from ktb.errors import ConfigError, DataError
from ktb.io import entries, existing, is_hidden, normal

Reader = Callable[[Sequence[Path]], Reading]
"""How the files of one modality of one sample become an image: `ImageReader`, or a data set's own function."""

MAX_WORKERS = 8
SCORINGS = ("native", "published")


@dataclass
class RawSample:
    """One sample as read, before augmentation.

    images: modality name → (H, W, C) uint8, uint16 or float32, in the unit of `ModalitySpec.scale`; "rgb" is uint8.
    label: (H, W) uint8, class ids and `IGNORE`; with more than 255 classes uint16 and `IGNORE_WIDE`.
    id, condition: as in `Sample`.
    valid: modality name → (H, W) bool, False where the sensor measured nothing. Only for modalities that have such
        holes and keep them: resizing then never mixes a hole into a measured value, and a hole comes out as 0. If the
        modality's spec asks for it (`validity`), the mask is appended as its last channel.
    converted: file → what was done to it because it is no plain RGB picture, in words that follow its name.
    stored: what was resized ("label", if its size is not that of the images, which `to_sample` leaves alone) → its own
        (height, width).
    """

    images: dict[str, Array]
    label: Label
    id: str
    condition: dict[str, str] = field(default_factory=dict)
    valid: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)
    stored: dict[str, Size] = field(default_factory=dict)


class Samples(Protocol):
    """One split of a data set. It is read in several processes at once: no open files, no random state."""

    def __len__(self) -> int: ...

    def read(self, index: int, streams: Sequence[str]) -> RawSample:
        """Sample `index` with exactly the modalities `streams`.

        Raises:
            DataError: a file is missing, damaged or not as expected.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """The files of one sample, as paths below the data root with "/" between their parts.

    files: modality name → its file; several where a modality is stored in several (they are stacked).
    label: None where there is none; the sample is then void altogether.
    gaps: of samples paired by time, modality or "label" → its time less the sample's, in seconds.
    """

    id: str
    files: Mapping[str, tuple[str, ...]]
    label: str | None
    condition: Mapping[str, str] = field(default_factory=dict)
    gaps: Mapping[str, float] = field(default_factory=dict)

    def paths(self, streams: Iterable[str]) -> list[str]:
        """All files that reading the modalities `streams` and the label opens."""
        return [*(file for name in streams for file in self.files[name]), *([self.label] if self.label else [])]


ASPECT_TOLERANCE = 0.1
"""Largest relative difference of two aspect ratios that resizing one picture to the other's size may hide."""


@dataclass(frozen=True)
class Resizing:
    """Which files of a sample may come in another size than the rest, and what is done with them.

    modalities: those that may; all others must agree in size.
    to_first: they are resized to the first modality, and so is the label in training (nearest; in evaluation it keeps
        its size). Otherwise they are resized to the label.
    smooth: bilinear, where holes have no weight; else nearest, so that no value arises that was not measured. Only
        with it the aspect ratios must agree, within `ASPECT_TOLERANCE`.
    """

    modalities: tuple[str, ...] = ()
    to_first: bool = False
    smooth: bool = False

    def __call__(self, image: Array, valid: NDArray[np.bool_] | None, size: Size) -> Reading:
        """(H, W, C), and where it is valid, at `size` (height, width)."""
        if not self.smooth:
            mask = None if valid is None else resize_nearest(valid.astype(np.uint8), size).astype(bool)
            return Reading(resize_nearest(image, size).reshape(*size, -1), mask)
        if valid is None:
            return Reading(resize(image, size))
        weighted = resize(_premultiply(image, valid), size)
        values = _measured(weighted)
        values = values if image.dtype == np.float32 else np.rint(values).astype(image.dtype)
        return Reading(values, weighted[..., -1] >= HALF)

    def check(self, size: Size, what: str, like: tuple[Size, str]) -> None:
        """Raise DataError if something of `size` can't be the same view as `like`, a size and what has it."""
        if self.smooth and aspect_difference(size, like[0]) > ASPECT_TOLERANCE:
            raise DataError(
                f"{what} is {size[1]} x {size[0]} pixels but {like[1]} is {like[0][1]} x {like[0][0]}: another aspect "
                "ratio, so they don't show the same view; cut the larger view to the smaller one"
            )


def aspect_difference(a: Size, b: Size) -> float:
    """How far the aspect ratios of two sizes differ, as a share; what rounding to whole pixels explains is 0."""
    if any(abs(a[i] * b[1 - i] / a[1 - i] - b[i]) <= 1 for i in (0, 1)):
        return 0.0
    ratio = a[0] * b[1] / (a[1] * b[0])
    return max(ratio, 1 / ratio) - 1


class FileSamples:
    """One split of a data set that is made of files.

    Args:
        root: data root.
        entries: the samples.
        readers: modality name → how its files are read.
        label: how label files are read.
        resizing: what is done with files of another size.
        void: label value of pixels that don't count, see `ktb.data.spec.ignore_index`.
    """

    def __init__(
        self,
        root: Path,
        entries: Sequence[Entry],
        readers: Mapping[str, Reader],
        label: Callable[[Path], Label],
        *,
        resizing: Resizing = Resizing(),
        void: int = IGNORE,
    ) -> None:
        self.root = root
        self.entries = entries
        self.readers = readers
        self.label = label
        self.resizing = resizing
        self.void = void
        self.notes: list[str] = []
        """In words, what was done beyond reading what is there."""

    @property
    def labelled(self) -> bool:
        """Whether any sample has a label."""
        return any(entry.label is not None for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, index: int, streams: Sequence[str]) -> RawSample:
        entry = self.entries[index]
        files = {name: [self.root / file for file in entry.files[name]] for name in streams}
        if entry.label is None:
            images, valid, converted, stored = read_images(files, self.readers, resizing=self.resizing)
            height, width = next(iter(images.values())).shape[:2]
            void = np.full((height, width), self.void, np.uint8 if self.void == IGNORE else np.uint16)
            return RawSample(images, void, entry.id, dict(entry.condition), valid, converted, stored)
        label = self.label(self.root / entry.label)
        own, what = (label.shape[0], label.shape[1]), f"its label {self.root / entry.label}"
        like = None if self.resizing.to_first else (own, what)
        images, valid, converted, stored = read_images(files, self.readers, like=like, resizing=self.resizing)
        first: Array = next(iter(images.values()), label)
        height, width = first.shape[:2]
        if (height, width) != own:
            self.resizing.check(own, what, ((height, width), f"{streams[0]} {files[streams[0]][0]}"))
            stored["label"] = own
        return RawSample(images, label, entry.id, dict(entry.condition), valid, converted, stored)


def read_images(
    files: Mapping[str, Sequence[Path]],
    readers: Mapping[str, Reader],
    *,
    like: tuple[Size, str] | None = None,
    resizing: Resizing = Resizing(),
) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]], dict[str, str], dict[str, Size]]:
    """`images`, `valid`, `converted` and `stored` of a `RawSample`.

    Args:
        files: modality name → its file or files.
        readers, resizing: as in `FileSamples`.
        like: the size (height, width) that all must have, and what has it, for messages; None: that of the first
            modality that `resizing` does not name, or of the first of all.

    Raises:
        DataError: a file is missing, damaged or not as expected, or sizes differ.
    """
    images: dict[str, Array] = {}
    valid: dict[str, NDArray[np.bool_]] = {}
    converted: dict[str, str] = {}
    stored: dict[str, Size] = {}
    for name in sorted(files, key=lambda name: name in resizing.modalities):
        paths = files[name]
        image, mask, done = readers[name](paths)
        if done:
            converted[str(paths[0])] = done
        size, what = like = like or ((image.shape[0], image.shape[1]), f"{name} {paths[0]}")
        if image.shape[:2] != size:
            if name not in resizing.modalities:
                raise DataError(
                    f"{paths[0]}: {name} is {image.shape[1]} x {image.shape[0]} pixels but {what} is {size[1]} x "
                    f"{size[0]}; all files of a sample must have one size: resize the wrong one"
                )
            stored[name] = (image.shape[0], image.shape[1])
            resizing.check(stored[name], f"{paths[0]}: {name}", like)
            image, mask, _ = resizing(image, mask, size)
        images[name] = image
        if mask is not None:
            valid[name] = mask
    return {name: images[name] for name in files}, valid, converted, stored


class Tree:
    """What lies below a data root; each folder is listed once, which is much faster than a question per file.

    Raises:
        DataError: the root does not exist or is not a folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist" + similar(root)
            raise DataError(f"data root {root} {what}; set dataset.root=/path/to/the/data (or the variable KTB_DATA)")
        self.root = root
        self._listings: dict[str, dict[str, bool]] = {}
        self._normal: dict[str, dict[str, str]] = {}

    def names(self, folder: str) -> dict[str, bool]:
        """Name → whether it is a folder, of all that a person sees in `folder`; empty if there is no such folder.

        Raises:
            DataError: the folder cannot be listed, or two of its names differ in nothing that can be seen.
        """
        if folder not in self._listings:
            try:
                found = entries(existing(self.root / folder))
                self._listings[folder] = {entry.name: _is_folder(entry) for entry in found}
                normals = self._normal[folder] = dict[str, str]()
                for name in self._listings[folder]:
                    if normals.setdefault(normal(name), name) != name:
                        raise DataError(
                            f"{self.root / folder}: holds two names {name!r} that differ in their Unicode form only "
                            "(composed and decomposed letters); rename or remove one of them"
                        )
            except (FileNotFoundError, NotADirectoryError):
                self._listings[folder], self._normal[folder] = {}, {}
            except OSError as error:
                remedy = "check its rights" if error.errno != errno.ELOOP else "they lead in a circle, a symlink loop"
                raise DataError(f"{self.root / folder}: cannot be listed ({error.strerror}); {remedy}") from None
        return self._listings[folder]

    def __contains__(self, file: str) -> bool:
        folder, _, name = file.rpartition("/")
        names = self.names(folder)
        name = self._normal[folder].get(normal(name), name)
        return names.get(name) is False or (is_hidden(name) and (self.root / file).is_file())

    def find(self, folders: Sequence[str], stem: str, suffixes: Sequence[str]) -> str:
        """The first existing file of that stem in any of `folders`; if there is none, the first that was looked for."""
        candidates = [f"{folder}/{stem}{suffix}" for folder in folders for suffix in suffixes]
        return next((file for file in candidates if file in self), candidates[0])

    def missing(self, files: Iterable[str]) -> list[str]:
        """Those of `files` that do not exist."""
        return [file for file in files if file not in self]

    def require(self, files: Iterable[str], named_by: str, remedy: str) -> None:
        """Raise DataError unless all of `files` exist; `named_by` says who asks for them, `remedy` what else helps."""
        missing = self.missing(files)
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            path = self.root / missing[0]
            raise DataError(f"{path}: no such file, but {named_by} names it{more}{similar(path)}; {remedy}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, or in a circle; who wants the file is told so
        return False


class ListLine(NamedTuple):
    """A line of a split list: its number from 1, and its columns."""

    number: int
    columns: tuple[str, ...]


def read_list(path: Path, root: Path, *, spaces: bool = True) -> list[ListLine]:
    """A split list: one sample per line, columns separated by tabs; empty lines do not count.

    Names come out as relative paths below `root` with "/" between their parts, see `below_root`.

    Args:
        root: data root.
        spaces: lines without a tab are split into columns at spaces and commas, so no name may contain one.

    Raises:
        DataError: missing, empty, not text, a name that leaves the data root, or a sample listed twice.
    """
    text = read_text(path)
    lines: list[ListLine] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        fields = re.split(r"[\s,;]+", line) if spaces and "\t" not in line else line.split("\t")
        written = [f.strip() for f in fields if f.strip()]
        if not written:
            continue
        names = [below_root(name, root) for name in written]
        for name, given in zip(names, written, strict=True):
            if name is None:
                raise DataError(
                    f"{path}, line {number}: {given!r} leaves the data root {root}; expected a name below the root, "
                    "with '/' between its parts: correct dataset.root or the list"
                )
        columns = tuple(name for name in names if name is not None)
        if normal(columns[0]) in seen:
            raise DataError(
                f"{path}: {columns[0]!r} stands on lines {seen[normal(columns[0])]} and {number}; expected each sample "
                "once: remove one of them"
            )
        seen[normal(columns[0])] = number
        lines.append(ListLine(number, columns))
    if not lines:
        raise DataError(f"{path}: lists no sample; expected one per line")
    return lines


def below_root(name: str, root: Path) -> str | None:
    """A name in a list as a relative path below `root`; None if it is none.

    Backslashes separate parts too. An absolute path counts if it lies below the root, and so does one that is meant
    from the root on ("/JPEGImages/1.jpg", as the lists of PASCAL VOC's extended labels have it) if that is there.
    """
    plain = name.strip("\"'").replace("\\", "/")
    if plain.startswith("/") or PureWindowsPath(plain).drive:
        places = (root.absolute().as_posix(), root.resolve().as_posix())
        inside = next((plain[len(place) :] for place in places if plain.startswith(f"{place}/")), None)
        if inside is None and plain.startswith("/") and (root / plain.lstrip("/")).exists():
            inside = plain
        if inside is None:
            return None
        plain = inside.lstrip("/")
    return str(PurePosixPath(plain)) if inside_root(plain) else None


def inside_root(name: str) -> bool:
    """Whether `name` is a relative path without "..", as every name in a list must be."""
    parts = PurePosixPath(name).parts
    windows = "\\" in name or PureWindowsPath(name).drive
    return bool(parts) and not name.startswith("/") and ".." not in parts and not windows and "\0" not in name


class WorkerDataError(DataError):
    """A DataError on its way out of a loader process.

    torch re-raises a worker's exception as `type(error)(formatted traceback)`. This class takes the one line a user
    needs back out of that text, so that its message is the same with and without workers.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


@contextmanager
def _errors_leave_workers_as_one_line() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        if get_worker_info() is None:
            raise
        raise WorkerDataError(str(error)) from None


class RGBXDataset(Dataset[Sample]):
    """One split as the engine takes it: read, transformed, as tensors.

    Indexed by (epoch, index), or by index alone for epoch 0; (seed, epoch, index) alone decide what comes out.

    Args:
        samples: where they are read from.
        modalities: what to load, in order.
        transform: joint transform of all images and the label.
        seed: of the augmentation.
        max_pixels: of a picture, see `pixel_limit`.
        match_label: resize labels to their images (nearest), as training needs it; evaluation scores at their own size.
    """

    def __init__(
        self,
        samples: Samples,
        modalities: Sequence[ModalitySpec],
        transform: Transform,
        *,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        match_label: bool = False,
    ) -> None:
        self.samples = samples
        self.match_label = match_label
        self.modalities = tuple(modalities)
        self.transform = transform
        self.seed = seed
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = item if isinstance(item, tuple) else (0, item)
        with _errors_leave_workers_as_one_line(), pixel_limit(self.max_pixels):
            raw = self.samples.read(index, [m.name for m in self.modalities])
            if self.match_label:
                height, width = next(iter(raw.images.values())).shape[:2]
                raw.label = resize_nearest(raw.label, (height, width))
            sample = to_sample(raw, self.modalities, self.transform, entropy=(self.seed, epoch, index))
        if raw.converted:
            say_converted(raw.converted)
        return sample


# One byte that loader processes share with this one, where they are forks of it.
_said = mmap.mmap(-1, 1)


@rank_zero_only
def say_converted(converted: Mapping[str, str], more: str = " (ktb-data check counts them)") -> None:
    """Say once, whichever process finds the first, that pictures are read that are no plain RGB."""
    if _said[0]:
        return
    _said[0] = 1
    file, done = next(iter(converted.items()))
    print(
        f"{file}: is no plain RGB picture: {done}; others like it are read the same way{more}",
        file=sys.stderr,
        flush=True,
    )


def to_sample(
    raw: RawSample, modalities: Sequence[ModalitySpec], transform: Transform, *, entropy: Sequence[int] = ()
) -> Sample:
    """A sample as read → as the engine takes it: transformed, holes as they are meant, as tensors.

    Raises:
        DataError: a value that is not finite; readers refuse those of files, so it comes of extreme ones.
    """
    images = {
        name: _premultiply(image, raw.valid[name]) if name in raw.valid else image for name, image in raw.images.items()
    }
    images, label = transform(images, raw.label, entropy=entropy)
    for name, image in images.items():
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise DataError(
                f"{raw.id}: {name} holds NaN or infinite values when it has been read and resized; expected finite "
                "numbers: look for extreme values in its files"
            )
    if label.dtype == np.uint16:  # of which torch knows little
        label = label.astype(np.int32)
    return Sample(
        inputs={m.name: _finish(images[m.name], m, raw.images[m.name].dtype, m.name in raw.valid) for m in modalities},
        label=torch.from_numpy(np.ascontiguousarray(label)),
        id=raw.id,
        condition=raw.condition,
    )


def _premultiply(image: Array, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(H, W, C) and its mask → (H, W, C + 1) float32, holes zeroed, the mask as last channel.

    Interpolated as it is and divided by the interpolated mask, it gives the mean of the valid neighbours only.
    """
    mask = valid[..., None].astype(np.float32)
    return np.concatenate([np.where(valid[..., None], image, 0).astype(np.float32), mask], axis=-1)


HALF = 0.5
"""Share of measured neighbours from which on an interpolated pixel counts as measured."""


def _measured(weighted: Array) -> Array:
    """What `_premultiply` gave, interpolated → (H, W, C) float32: means over measured neighbours, else 0."""
    weight = weighted[..., -1:]
    return np.where(weight >= HALF, weighted[..., :-1] / np.maximum(weight, HALF), 0)


def _finish(image: Array, modality: ModalitySpec, dtype: np.dtype[Any], masked: bool) -> Tensor:
    """(H, W, C) → (C, H, W) tensor, uint8 or float32; undoes `_premultiply`."""
    if masked:
        valid = image[..., -1:] >= HALF
        image = _measured(image)
        if modality.validity:
            image = np.concatenate([image, valid * np.float32(modality.scale)], axis=-1)
        if dtype == np.uint8:
            image = np.rint(image)
    image = np.ascontiguousarray(image, np.uint8 if dtype == np.uint8 else np.float32)
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))  # a quarter of the time of a transposing copy
    return torch.from_numpy(planes)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples → one batch.

    Raises:
        DataError: sizes differ (possible in evaluation only, where nothing is cropped).
    """
    first = samples[0]
    with _errors_leave_workers_as_one_line():
        for sample in samples[1:]:
            for key, a, b in _size_pairs(first, sample):
                if a != b:
                    raise DataError(
                        f"{sample['id']}: {key} is {b[-2]}x{b[-1]} (height x width) but that of {first['id']} in the "
                        f"same batch is {a[-2]}x{a[-1]}; set dataset.eval_batch_size=1"
                    )
    return Batch(
        # default_collate rather than torch.stack: in a worker it stacks straight into shared memory.
        inputs={name: default_collate([s["inputs"][name] for s in samples]) for name in first["inputs"]},
        label=default_collate([s["label"] for s in samples]),
        id=[s["id"] for s in samples],
        condition=[s["condition"] for s in samples],
    )


def _size_pairs(first: Sample, other: Sample) -> Iterator[tuple[str, torch.Size, torch.Size]]:
    for name, tensor in first["inputs"].items():
        yield name, tensor.shape, other["inputs"][name].shape
    yield "label", first["label"].shape, other["label"].shape


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index): a seeded permutation per epoch in training, plain order in evaluation.

    Of several processes each takes every `world_size`-th index from `rank` on. In training all get equally many, the
    rest of the permutation is left out; in evaluation nothing is left out and nothing is padded, so no sample counts
    twice (use Trainer(use_distributed_sampler=False)). In training their next batches together are the next batch of
    one process with as many times the batch size.

    `epoch` and `position` (samples of the epoch already taken by this process) may be set to continue an interrupted
    epoch exactly; the position holds for the next iteration only.

    Args:
        length: number of samples of the split.
        seed: of the permutations.
        train: shuffle, and equal shares.
    """

    def __init__(self, length: int, *, seed: int = 0, train: bool = False, rank: int = 0, world_size: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.train = train
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __len__(self) -> int:
        rest = 0 if self.train else self.length % self.world_size > self.rank
        return self.length // self.world_size + rest

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = (
            np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
            if self.train
            else np.arange(self.length)
        )
        share = order[self.rank :: self.world_size][: len(self)]
        start, self.position = self.position, 0
        return iter([(self.epoch, int(index)) for index in share[start:]])


class Loading(TypedDict, total=False):
    """Settings all DataModules take, see `RGBXDataModule`."""

    streams: Sequence[str]
    batch_size: int
    eval_batch_size: int
    num_workers: int | None
    crop: Sequence[int] | None
    eval_size: int | Sequence[int] | None
    scoring: str
    seed: int
    selection_split: str | None
    report_split: str | None
    max_pixels: int
    mean_without: Sequence[str]


class RGBXDataModule(L.LightningDataModule):
    """What all data sets share; a subclass gives its spec and `open_split`.

    The validation loader reads `spec.selection_split`, the test loader `spec.report_split`.

    Args:
        spec: classes, palette, modalities and protocol of the data set.
        streams: modalities to load, in the model's order.
        batch_size: of training, per process; the last incomplete batch of an epoch is dropped.
        eval_batch_size: above 1 only where all images of a split have one size.
        num_workers: loader processes; None: one per available core, at most 8.
        crop: training crop (height, width); None: images as they are.
        eval_size: short side of evaluation images in pixels (of a pair the first counts, docs/method.md#evaluation);
            None: native.
        scoring: "native": labels keep their size and logits are resized to them; "published": labels are resized
            (nearest) along with the images.
        seed: of order and augmentation.
        selection_split, report_split: instead of those of the spec.
        max_pixels: pictures of more pixels are refused before they are decoded.
        mean_without: classes that mean scores leave out, see `DatasetSpec`.

    Raises:
        ConfigError: a stream or split the data set does not have, a size or number that cannot work.
    """

    spec: DatasetSpec
    modalities: tuple[ModalitySpec, ...]
    resizing: Resizing = Resizing()
    """What is done with files of another size than the rest of a sample, see `FileSamples`."""

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        streams: Sequence[str],
        batch_size: int = 4,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        crop: Sequence[int] | None = None,
        eval_size: int | Sequence[int] | None = None,
        scoring: str = "native",
        seed: int = 3407,
        selection_split: str | None = None,
        report_split: str | None = None,
        max_pixels: int = MAX_PIXELS,
        mean_without: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.spec = replace(
            spec,
            selection_split=selection_split or spec.selection_split,
            report_split=report_split or spec.report_split,
            mean_without=_left_out(spec, mean_without),
        )
        for split in (self.spec.selection_split, self.spec.report_split):
            if split not in self.spec.splits:
                raise ConfigError(f"{spec.name} has no split {split!r}; it has {', '.join(self.spec.splits)}")
        for name in streams:
            if name not in spec.modalities:
                raise ConfigError(
                    f"{spec.name} has no modality {name!r}; it has {', '.join(spec.modalities)}"
                    + suggestion(name, spec.modalities)
                )
        if not streams or len(set(streams)) != len(streams):
            raise ConfigError(f"modality.streams must be one or more different modalities, got {list(streams)}")
        if scoring not in SCORINGS:
            raise ConfigError(f"eval.scoring is {scoring!r}; expected one of {', '.join(SCORINGS)}")
        if batch_size < 1 or eval_batch_size < 1:
            raise ConfigError(f"batch sizes must be 1 or more, got {batch_size} and {eval_batch_size}")
        if crop is not None and (len(crop) != 2 or min(crop) < 32):
            raise ConfigError(f"dataset.crop is {list(crop)}; expected [height, width], both 32 or more")
        short_side = eval_size if eval_size is None or isinstance(eval_size, int) else eval_size[0]
        if short_side is not None and short_side < 32:
            raise ConfigError(f"dataset.eval_size is {eval_size}; expected 32 or more")
        if not 1 <= max_pixels <= LARGEST:
            raise ConfigError(f"dataset.max_pixels is {max_pixels}; expected 1 to {LARGEST}")
        self.max_pixels = max_pixels
        self.modalities = tuple(spec.modalities[name] for name in streams)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = min(usable_cores(), MAX_WORKERS) if num_workers is None else num_workers
        self.crop = None if crop is None else (int(crop[0]), int(crop[1]))
        self.short_side = short_side
        self.scoring = scoring
        self.seed = seed
        self._samples: dict[str, Samples] = {}
        self._start = (0, 0)

    def open_split(self, split: str) -> Samples:
        """The samples of one split, with everything checked that can be checked without opening each file.

        Raises:
            DataError: no root, a broken list, files that do not exist.
        """
        raise NotImplementedError

    def labelled(self, split: str) -> bool:
        """Whether a split has labels, and so scores."""
        samples = self.dataset(split).samples
        return not isinstance(samples, FileSamples) or samples.labelled

    def as_stored(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Class ids (H, W) as label files of this data set would hold them: stored ids (H, W) or colours (H, W, 3)."""
        return ids

    def readers(self) -> Mapping[str, Reader]:
        """Modality → how files of it are read, also those of the user's own pictures."""
        raise NotImplementedError

    def train_transform(self) -> Transform:
        """The training augmentation; a data set with a recipe of its own overrides it."""
        return TrainTransform([m.name for m in self.modalities], self.crop)

    def eval_transform(self) -> Transform:
        """The evaluation transform; a data set with a protocol of its own overrides it."""
        return EvalTransform(self.short_side, resize_label=self.scoring == "published")

    def dataset(self, split: str, *, train: bool = False) -> RGBXDataset:
        """One split, with the training augmentation or the evaluation transform."""
        if split not in self._samples:
            if split not in self.spec.splits:
                raise ConfigError(f"{self.spec.name} has no split {split!r}; it has {', '.join(self.spec.splits)}")
            self._samples[split] = self.open_split(split)
        transform = self.train_transform() if train else self.eval_transform()
        return RGBXDataset(
            self._samples[split],
            self.modalities,
            transform,
            seed=self.seed,
            max_pixels=self.max_pixels,
            match_label=train,
        )

    def setup(self, stage: str) -> None:
        """Find and check the splits that `stage` ("fit", "validate", "test" or "predict") needs."""
        selection, report = self.spec.selection_split, self.spec.report_split
        needed = {"fit": ("train", selection), "validate": (selection,)}.get(stage, (report,))
        for split in needed:
            self.dataset(split)
        world = self.trainer.world_size if self.trainer else 1
        if stage == "fit" and (text := self.too_few(len(self._samples["train"]), world)):
            raise DataError(text)

    def too_few(self, found: int, world_size: int = 1) -> str | None:
        """What to say if the train split's `found` samples don't make one batch in each of `world_size` processes."""
        if found >= self.batch_size * world_size:
            return None
        return (
            f"{self.spec.name}: the train split has {found} samples, fewer than one batch of {self.batch_size}"
            + (f" in each of {world_size} processes" if world_size > 1 else "")
            + f"; set dataset.batch_size={max(found // world_size, 1)} or less"
        )

    def start_at(self, epoch: int, batch: int) -> None:
        """Let the training loader begin in the middle of an epoch, after so many batches of it, as an interrupted run
        has to."""
        self._start = (epoch, batch)

    def train_dataloader(self) -> DataLoader[Sample]:
        return self._loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._loader(self.spec.selection_split, train=False)

    def test_dataloader(self) -> DataLoader[Sample]:
        return self._loader(self.spec.report_split, train=False)

    def predict_dataloader(self) -> DataLoader[Sample]:
        return self.test_dataloader()

    def _loader(self, split: str, *, train: bool) -> DataLoader[Sample]:
        dataset = self.dataset(split, train=train)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = EpochSampler(len(dataset), seed=self.seed, train=train, rank=rank, world_size=world_size)
        if train:
            sampler.epoch, sampler.position = self._start[0], self._start[1] * self.batch_size
        elif len(sampler) == 0:  # Lightning would leave this process out of the epoch, and the others wait for it
            return DataLoader(dataset, batch_sampler=[[]], collate_fn=self._no_samples)
        return DataLoader(
            dataset,
            batch_size=self.batch_size if train else self.eval_batch_size,
            sampler=sampler,
            drop_last=train,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_init_worker,
        )

    def _no_samples(self, _: Sequence[Sample]) -> Batch:
        return Batch(
            inputs={m.name: torch.zeros(0, m.channels, 32, 32) for m in self.modalities},
            label=torch.zeros(0, 32, 32, dtype=torch.uint8),
            id=[],
            condition=[],
        )


def _left_out(spec: DatasetSpec, names: Sequence[str]) -> tuple[str, ...]:
    """`names` in the order of the classes, checked."""
    if isinstance(names, str):
        raise ConfigError(f"dataset.mean_without is {names!r}; expected a list: dataset.mean_without=[{names}]")
    names = [normal(str(name)) for name in names]
    for name in names:
        if name not in spec.classes:
            raise ConfigError(
                f"dataset.mean_without: {spec.name} has no class {name!r}; it has {', '.join(spec.classes)}"
                + suggestion(name, spec.classes)
            )
    if len(set(names)) == spec.num_classes:
        raise ConfigError(f"dataset.mean_without names all classes of {spec.name}; leave at least one for the means")
    return tuple(name for name in spec.classes if name in names)


def _init_worker(_: int) -> None:
    # One process per core already; OpenCV's own threads would only fight over them.
    cv2.setNumThreads(0)


def suggestion(name: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" if a known name is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
