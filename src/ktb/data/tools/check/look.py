"""One sample read as training reads it, and what is in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktb.data.readers.decode import pixel_limit
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader
from ktb.data.samples import FileSamples, Samples
from ktb.data.spec import ignore_index
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError


@dataclass(frozen=True)
class Look:
    """One sample to read.

    Args:
        split: its split.
        name: its name, for messages.
        samples: where it is read from.
        index: its place in `samples`.
        streams: modalities to read.
        num_classes: that its label may have.
        max_pixels: that a picture may have.
    """

    split: str
    name: str
    samples: Samples
    index: int
    streams: tuple[str, ...]
    num_classes: int
    max_pixels: int


@dataclass(frozen=True)
class Values:
    """What one modality of one sample holds: values as read, before rounding to 8 bits, over all channels.

    Attributes:
        dtype: of the image that training reads.
        channels: number of channels.
        size: (height, width) of its file.
        low, high, mean: of the valid values.
        measured: share of valid pixels.
    """

    dtype: str
    channels: int
    size: tuple[int, int]
    low: float
    high: float
    mean: float
    measured: float


@dataclass(frozen=True)
class Seen(Outcome):
    """What became of one `Look`.

    Attributes:
        split: of the sample.
        size: (height, width) of the label.
        inputs: that of the images.
        values: modality → what it holds.
        histogram: (K + 1,) pixels per class id, then void; None where the sample could not be read.
        condition: as in `Sample`.
        digest: of all values read, equal for samples of equal content.
        labelled: whether it has a label.
        label: how its file was taken, in words; empty where there is none.
        failures: one line per unusable file.
        converted: file → what was done to it because it is not a plain RGB picture.
    """

    split: str = ""
    size: tuple[int, int] = (0, 0)
    inputs: tuple[int, int] = (0, 0)
    values: dict[str, Values] = field(default_factory=dict)
    histogram: NDArray[np.int64] | None = None
    condition: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    labelled: bool = True
    label: str = ""
    failures: tuple[str, ...] = ()
    converted: dict[str, str] = field(default_factory=dict)


def look(job: Look) -> Seen:
    """Read one sample as training does; never raises for what a file holds."""
    path = Path(job.name)
    try:
        with pixel_limit(job.max_pixels):
            raw = job.samples.read(job.index, job.streams)
            whole = _before_rounding(job)
    except DataError as error:
        failures = _each_file(job) or (str(error),)
        return Seen(path, "failed", "; ".join(failures), job.split, failures=failures)
    labelled = not isinstance(job.samples, FileSamples) or job.samples.entries[job.index].label is not None
    void = ignore_index(job.num_classes)
    counts = np.bincount((raw.label if labelled else raw.label[:0]).ravel(), minlength=void + 1).astype(np.int64)
    outside = np.flatnonzero(counts[job.num_classes : void]) + job.num_classes
    if outside.size:
        message = (
            f"{job.name}: label ids {', '.join(map(str, outside[:5]))}; expected 0-{job.num_classes - 1} and {void}"
        )
        return Seen(path, "failed", message, job.split, failures=(message,))
    histogram = np.append(counts[: job.num_classes], counts[void])
    digest = hashlib.blake2b(np.ascontiguousarray(raw.label).data, digest_size=16)
    values = {}
    for name, image in raw.images.items():
        digest.update(np.ascontiguousarray(image).data)
        valid = raw.valid.get(name)
        if valid is None or name not in raw.stored:  # a mask of a resized image does not fit the image before
            image = whole.get(name, image)
        measured = image if valid is None else image[valid]
        low, high, mean = (
            (float(measured.min()), float(measured.max()), float(measured.mean(dtype=np.float64)))
            if measured.size
            else (0.0, 0.0, 0.0)
        )
        share = 1.0 if valid is None else float(valid.mean())
        inputs = (raw.images[name].shape[0], raw.images[name].shape[1])
        size = raw.stored.get(name, inputs)
        values[name] = Values(str(raw.images[name].dtype), image.shape[2], size, low, high, mean, share)
    return Seen(
        path,
        "kept",
        "",
        job.split,
        (raw.label.shape[0], raw.label.shape[1]),
        inputs,
        values,
        histogram,
        raw.condition,
        digest.hexdigest(),
        labelled,
        _label_in_words(job),
        converted=raw.converted,
    )


def _label_in_words(job: Look) -> str:
    """How the label file of a sample was taken; empty where there is none."""
    samples = job.samples
    if not isinstance(samples, FileSamples) or not isinstance(samples.label, LabelReader):
        return ""
    file = samples.entries[job.index].label
    with pixel_limit(job.max_pixels):
        return "" if file is None else samples.label.describe(samples.root / file)


def _before_rounding(job: Look) -> dict[str, NDArray[Any]]:
    """Modality → image of those that are rounded to 8 bits on reading, which cuts off what lies beyond the scale."""
    if not isinstance(job.samples, FileSamples):
        return {}
    samples, files = job.samples, job.samples.entries[job.index].files
    readers = ((name, samples.readers[name]) for name in job.streams)
    return {
        name: reader.measure([samples.root / file for file in files[name]]).image
        for name, reader in readers
        if isinstance(reader, ImageReader) and reader.units and reader.dtype != "float32"
    }


def _each_file(job: Look) -> tuple[str, ...]:
    """A line for every unusable file of a sample; reading it as a whole stops at the first one."""
    if not isinstance(job.samples, FileSamples):
        return ()
    samples, entry = job.samples, job.samples.entries[job.index]
    found = []
    with pixel_limit(job.max_pixels):
        try:
            if entry.label is not None:
                samples.label(samples.root / entry.label)
        except DataError as error:
            found.append(str(error))
        for name in job.streams:
            try:
                samples.readers[name]([samples.root / file for file in entry.files[name]])
            except DataError as error:
                found.append(str(error))
    return tuple(dict.fromkeys(found))
