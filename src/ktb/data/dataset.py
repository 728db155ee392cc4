"""Samples as the engine takes them: read, transformed, as tensors, collated to batches."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from ktb.data.arrays import Array
from ktb.data.augment import Transform, resize_nearest
from ktb.data.readers.decode import MAX_PIXELS, pixel_limit
from ktb.data.resizing import HALF, measured_means, premultiply
from ktb.data.samples import RawSample, Samples
from ktb.data.spec import Batch, ModalitySpec, Sample
from ktb.errors import DataError


class WorkerDataError(DataError):
    """A DataError on its way out of a loader process.

    torch re-raises a worker's exception as `type(error)(formatted traceback)`. This class takes the one line a user
    needs back out of that text, so that its message is the same with and without workers.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


@contextmanager
def errors_leave_workers_as_one_line() -> Iterator[None]:
    """Within the block, a `DataError` in a loader process becomes a `WorkerDataError`, whose message stays one line."""
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
        with errors_leave_workers_as_one_line(), pixel_limit(self.max_pixels):
            raw = self.samples.read(index, [m.name for m in self.modalities])
            if self.match_label:
                height, width = next(iter(raw.images.values())).shape[:2]
                raw.label = resize_nearest(raw.label, (height, width))
                for m in self.modalities:
                    if m.holes_at_mean:  # so that what is padded is a hole
                        raw.valid.setdefault(m.name, np.ones((height, width), bool))
            sample = to_sample(raw, self.modalities, self.transform, entropy=(self.seed, epoch, index))
        if raw.converted:
            say_converted(raw.converted)
        return sample


# One byte of memory that this process shares with loader processes forked from it: 1 once the line was printed.
_said = mmap.mmap(-1, 1)


@rank_zero_only
def say_converted(converted: Mapping[str, str], more: str = " (ktb-data check counts them)") -> None:
    """Print one line to standard error, the first time only, that pictures are read that are not plain RGB.

    Whichever process finds the first says so, as long as loader processes are forks of the main one.

    Args:
        converted: file → what was done to it, as in `RawSample`.
        more: the end of the sentence.
    """
    if _said[0]:
        return
    _said[0] = 1
    file, done = next(iter(converted.items()))
    # Not by logging: it is a loader process that says this, which has none of the main process's handlers if it is
    # spawned.
    print(
        f"{file}: is no plain RGB picture: {done}; others like it are read the same way{more}",
        file=sys.stderr,
        flush=True,
    )


def to_sample(
    raw: RawSample, modalities: Sequence[ModalitySpec], transform: Transform, *, entropy: Sequence[int] = ()
) -> Sample:
    """A sample as read → as the engine takes it: transformed, holes set to 0 or masked, as tensors.

    Args:
        raw: the sample.
        modalities: those wanted, in the model's order.
        transform: joint transform of all images and the label.
        entropy: decides the transform's random draws.

    Raises:
        DataError: a value that is not finite. Readers refuse such values in files, so it comes of extreme ones.
    """
    images = {
        name: premultiply(image, raw.valid[name]) if name in raw.valid else image for name, image in raw.images.items()
    }
    images, label = transform(images, raw.label, entropy=entropy)
    for name, image in images.items():
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise DataError(
                f"{raw.id}: {name} holds NaN or infinite values when it has been read and resized; expected finite "
                "numbers: look for extreme values in its files"
            )
    if label.dtype == np.uint16:  # torch has few operations for uint16
        label = label.astype(np.int32)
    return Sample(
        inputs={m.name: _finish(images[m.name], m, raw.images[m.name].dtype, m.name in raw.valid) for m in modalities},
        label=torch.from_numpy(np.ascontiguousarray(label)),
        id=raw.id,
        condition=raw.condition,
    )


def _finish(image: Array, modality: ModalitySpec, dtype: np.dtype[Any], masked: bool) -> Tensor:
    """(H, W, C) → (C, H, W) tensor, uint8 or float32; undoes `premultiply`."""
    if masked:
        valid = image[..., -1:] >= HALF
        image = measured_means(image)
        if modality.validity:
            image = np.concatenate([image, valid * np.float32(modality.scale)], axis=-1)
        if dtype == np.uint8:
            image = np.rint(image)
        if modality.holes_at_mean:
            image = np.where(valid, image, np.array(modality.mean, np.float32) * np.float32(modality.scale))
    small = dtype == np.uint8 and not modality.holes_at_mean  # a mean is no whole number
    image = np.ascontiguousarray(image, np.uint8 if small else np.float32)
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))  # a quarter of the time of a transposing copy
    return torch.from_numpy(planes)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples → one batch.

    Raises:
        DataError: sizes differ (possible in evaluation only, where nothing is cropped).
    """
    first = samples[0]
    with errors_leave_workers_as_one_line():
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
