"""What a picture's files, or a program's arrays, become for the model: read, compared with the training, resized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ktb.data.arrays import Array, Mask, Reading, Size, Source
from ktb.data.augment import resize
from ktb.data.label_size import LabelSizes
from ktb.data.magnitudes import REMEDY, Magnitude, read_measured, sizes, unlike
from ktb.data.pictures import RGBImage
from ktb.data.readers.decode import pixel_limit
from ktb.data.samples import Reader, read_images
from ktb.errors import DataError
from ktb.predict.outputs import backdrop_of
from ktb.predict.tiled_model import TiledModel

Spelling = Callable[[str, Any], str]
"""How a setting and its value are written where the user is, for messages."""


def as_option(name: str, value: Any) -> str:
    """As on the command line: --short-side native; True stands for a switch."""
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"


def as_argument(name: str, value: Any) -> str:
    """As in Python: short_side='native'."""
    return f"{name}={value!r}"


class UnlikeTraining(DataError):
    """A picture whose values are far outside of what the model was trained on: most likely another unit."""


def _visible(image: Array, valid: Mask | None) -> Array:
    """An image with NaN in its holes."""
    return image if valid is None or valid.all() else np.where(valid[..., None], image.astype(np.float32), np.nan)


@dataclass
class ReadPicture:
    """A picture as the model takes it.

    Args:
        inputs: modality → (1, C, h, w) as stored, before normalisation.
        size: (height, width) of the picture itself.
        backdrop: (H, W, 3), what an overlay lies over; None: none is wanted.
        converted: as in `RawSample`.
    """

    inputs: dict[str, Tensor]
    size: Size
    backdrop: RGBImage | None
    converted: dict[str, str]


@dataclass
class PictureReader:
    """How pictures are read for a model: as those of the data set that it was trained on.

    Args:
        model: the model and how it is applied.
        training: modality → how large its values were in training; pictures far outside are refused. Empty: none is.
        max_pixels: larger pictures are refused; None: as the data set has it.
        label_sizes: modality → how large labels were in training, where it resized pictures to their label. Empty:
            pictures are left at their own size.
        spelling: how messages write the settings above.
    """

    model: TiledModel
    training: Mapping[str, Magnitude] = field(default_factory=dict)
    max_pixels: int | None = None
    label_sizes: LabelSizes = field(default_factory=LabelSizes)
    spelling: Spelling = as_option

    def __post_init__(self) -> None:
        data = self.model.data
        self._most = data.max_pixels if self.max_pixels is None else self.max_pixels
        self._readers = data.readers()

    def __call__(self, files: Mapping[str, Sequence[Source]], name: str, *, backdrop: bool) -> ReadPicture:
        """Read one picture. May be called from several threads at once.

        Args:
            files: modality → its file, or several where it is stored in several; some of the model's modalities, or
                more.
            name: of the picture, for messages.
            backdrop: whether an overlay is wanted.

        Raises:
            UnlikeTraining: its values are far outside of what the model was trained on.
            DataError: it cannot be read, or is not as expected.
        """
        with pixel_limit(self._most):
            return self._read({m: files[m] for m in self.model.modalities if m in files}, name, backdrop)

    def _read(self, files: Mapping[str, Sequence[Source]], name: str, backdrop: bool) -> ReadPicture:
        odd: list[str] = []
        readers = {
            m: self._comparing(m, reader, odd) if m in self.training else reader
            for m, reader in self._readers.items()
            if m in files
        }
        resizing = self.model.data.resizing
        images, valid, converted, stored = read_images(
            files, readers, resizing=resizing, without_label=self.label_sizes
        )
        first = next(iter(images.values()))
        resized = (first.shape[0], first.shape[1])
        # The result has the picture's own size, not that of a label.
        size = stored.get(min(files, key=lambda m: m in resizing.modalities), resized)
        height, width = self.model.input_size(resized)
        if (height, width) != size and height * width > self._most:
            raise DataError(
                f"{next(iter(files.values()))[0]}: {size[1]} x {size[0]} pixels would become {width} x {height} for"
                f" the model; expected at most {self._most} pixels: use {self.spelling('short_side', 'native')}, or "
                f"{self.spelling('max_pixels', height * width)}"
            )
        if odd:
            raise UnlikeTraining(odd[0])
        shown = None
        if backdrop:
            same = size == resized
            own = {m: _visible(images[m], valid.get(m)) for m in files} if same else {}
            for m in files.keys() - own.keys():
                read = readers[m](files[m])
                own[m] = resize(_visible(read.image, read.valid), size)
            shown = backdrop_of({m: own[m] for m in files}, self.model.modalities)
        return ReadPicture(self.model.inputs(images, valid, name), size, shown, converted)

    def _comparing(self, name: str, reader: Reader, odd: list[str]) -> Reader:
        """`reader`, which appends to `odd` what of its pictures is far outside of the training."""

        def read(paths: Sequence[Source]) -> Reading:
            measured, result = read_measured(reader, paths)
            text = unlike(sizes(measured), self.training[name], reader, self.model.modalities[name])
            if text is not None:
                odd.append(f"{paths[0]}: {name} {text}; {REMEDY}, or go on with {self.spelling('force', True)}")
            return result

        return read
