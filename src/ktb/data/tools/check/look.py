"""One sample read as training reads it, and what is in it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktb.data import mixed_units
from ktb.data.arrays import Reading, Source
from ktb.data.magnitudes import read_measured, sizes
from ktb.data.readers.decode import pixel_limit
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader
from ktb.data.samples import FileSamples, Reader, Samples
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
        picture: what tells their unit; None where nothing was measured.
    """

    dtype: str
    channels: int
    size: tuple[int, int]
    low: float
    high: float
    mean: float
    measured: float
    picture: mixed_units.Picture | None


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
    path, read = Path(job.name), dict[str, Reading]()
    try:
        with pixel_limit(job.max_pixels):
            raw = _kept(job.samples, read).read(job.index, job.streams)
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
            before = _before_rounding(job.samples, name, read)
            image = image if before is None else before
        measured = image if valid is None else image[valid]
        low, high, mean = (
            (float(measured.min()), float(measured.max()), float(measured.mean(dtype=np.float64)))
            if measured.size
            else (0.0, 0.0, 0.0)
        )
        share = 1.0 if valid is None else float(valid.mean())
        inputs = (raw.images[name].shape[0], raw.images[name].shape[1])
        size = raw.stored.get(name, inputs)
        picture = _picture(job, name, read)
        values[name] = Values(str(raw.images[name].dtype), image.shape[2], size, low, high, mean, share, picture)
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


def _kept(samples: Samples, read: dict[str, Reading]) -> Samples:
    """The same samples, which put what the files hold before normalisation into `read` as well."""
    if not isinstance(samples, FileSamples):
        return samples

    def keeping(name: str, reader: Reader) -> Reader:
        def kept(paths: Sequence[Source]) -> Reading:
            read[name], result = read_measured(reader, paths)
            return result

        return kept

    keeper = copy.copy(samples)
    keeper.readers = {name: keeping(name, reader) for name, reader in samples.readers.items()}
    return keeper


def _picture(job: Look, name: str, read: Mapping[str, Reading]) -> mixed_units.Picture | None:
    """What tells a modality's unit in a sample; None of what is no file, or is scaled picture by picture."""
    if not isinstance(job.samples, FileSamples):
        return None
    reader = job.samples.readers[name]
    if isinstance(reader, ImageReader) and reader.normalise == "percentile":
        return None
    seen = sizes(read[name])
    return mixed_units.picture(job.samples.entries[job.index].files[name][0], seen.stored, seen.values)


def _before_rounding(samples: Samples, name: str, read: Mapping[str, Reading]) -> NDArray[Any] | None:
    """The image of a modality that is rounded to 8 bits on reading, which cuts off what lies beyond the scale."""
    reader = samples.readers.get(name) if isinstance(samples, FileSamples) else None
    rounded = isinstance(reader, ImageReader) and reader.units and reader.dtype != "float32"
    return read[name].image if rounded else None


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
