"""One sample as it lies on disk and as it is read: every data set gives `Samples`, one made of files `FileSamples`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Array, Label, Reading, Size, Source
from ktb.data.readers.label import label_type
from ktb.data.resizing import SAME_SIZE, Resizing
from ktb.data.spec import IGNORE
from ktb.errors import DataError

Reader = Callable[[Sequence[Source]], Reading]
"""How the files of one modality of one sample become an image: `ImageReader`, or a data set's own function."""


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
    stored: what was resized → its own (height, width): a modality; "label", if its size is not that of the images,
        which `to_sample` leaves alone; "NAME FILE" for a file of a modality in several that differs from its first.
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
        """One sample.

        Args:
            index: from 0.
            streams: exactly the modalities to read; may be empty.

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


class FileSamples:
    """One split of a data set that is made of files.

    Args:
        root: data root.
        entries: the samples.
        readers: modality name → how its files are read.
        label: how label files are read.
        resizing: what is done with files of another size.
        void: label value of pixels that don't count, see `ktb.data.spec.ignore_index`.
        without_label: as in `read_images`, for samples that have no label.
    """

    def __init__(
        self,
        root: Path,
        entries: Sequence[Entry],
        readers: Mapping[str, Reader],
        label: Callable[[Path], Label],
        *,
        resizing: Resizing = SAME_SIZE,
        void: int = IGNORE,
        without_label: Callable[[str, Size], Size] | None = None,
    ) -> None:
        self.root = root
        self.entries = entries
        self.readers = readers
        self.label = label
        self.resizing = resizing
        self.void = void
        self.without_label = without_label
        self.notes: list[str] = []
        """In words, what was done beyond reading what is there."""

    @property
    def labelled(self) -> bool:
        """Whether any sample has a label."""
        return any(entry.label is not None for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, index: int, streams: Sequence[str]) -> RawSample:
        """One sample from its files, see `Samples.read`."""
        entry = self.entries[index]
        files = {name: [self.root / file for file in entry.files[name]] for name in streams}
        if entry.label is None:
            images, valid, converted, stored = read_images(
                files, self.readers, resizing=self.resizing, without_label=self.without_label
            )
            height, width = next(iter(images.values())).shape[:2]
            void = np.full((height, width), self.void, label_type(self.void))
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
    files: Mapping[str, Sequence[Source]],
    readers: Mapping[str, Reader],
    *,
    like: tuple[Size, str] | None = None,
    resizing: Resizing = SAME_SIZE,
    without_label: Callable[[str, Size], Size] | None = None,
) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]], dict[str, str], dict[str, Size]]:
    """`images`, `valid`, `converted` and `stored` of a `RawSample`.

    Args:
        files: modality name → its file or files.
        readers, resizing: as in `FileSamples`.
        like: the size (height, width) that all must have, and what has it, for messages; None: that of the first
            modality that `resizing` does not name, or of the first of all.
        without_label: that modality and its own size → the size that takes the place of the label's, to which all
            are resized; None: its own.

    Raises:
        DataError: a file is missing, damaged or not as expected, or sizes differ.
    """
    images: dict[str, Array] = {}
    valid: dict[str, NDArray[np.bool_]] = {}
    converted: dict[str, str] = {}
    stored: dict[str, Size] = {}
    for name in sorted(files, key=lambda name: name in resizing.modalities):
        paths = files[name]
        image, mask, done, resized, *_ = readers[name](paths)
        if done:
            converted[str(paths[0])] = done
        stored.update({f"{name} {file}": own for file, own in resized.items()})
        if like is None:
            own = (image.shape[0], image.shape[1])
            like = (without_label(name, own) if without_label else own, f"{name} {paths[0]}")
        size, what = like
        if image.shape[:2] != size:
            if name not in resizing.modalities:
                raise DataError(
                    f"{paths[0]}: {name} is {image.shape[1]} x {image.shape[0]} pixels but {what} is {size[1]} x "
                    f"{size[0]}; all files of a sample must have one size: resize the wrong one"
                )
            stored[name] = (image.shape[0], image.shape[1])
            resizing.check(stored[name], f"{paths[0]}: {name}", like)
            image, mask, *_ = resizing(image, mask, size)
        images[name] = image
        if mask is not None:
            valid[name] = mask
    return {name: images[name] for name in files}, valid, converted, stored
