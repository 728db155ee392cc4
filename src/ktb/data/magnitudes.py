"""How large the values of each modality are in training, so that another unit or bit depth is noticed later.

`measure` looks at some training samples and gives plain values, which a checkpoint carries. `unlike` compares one
picture with them, `compare` a whole split, `mixed` the files of a training with each other. All of it is about orders
of magnitude: another scene, camera or time of day must pass, metres for millimetres must not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Reading, Source
from ktb.data.mixed_units import Mixed, Picture, mixed_units, picture
from ktb.data.module import RGBXDataModule
from ktb.data.readers.decode import pixel_limit
from ktb.data.readers.image import ImageReader
from ktb.data.samples import FileSamples, Reader, Samples
from ktb.data.spec import ModalitySpec
from ktb.errors import DataError

__all__ = ["REMEDY", "Magnitude", "Sizes", "compare", "known", "measure", "mixed", "read_measured", "sizes", "unlike"]

SAMPLES, PIXELS = 24, 1 << 24
"""Samples of a split that are looked at at most, and pixels after which no further one is."""
SAMPLES_COMPARED = 100
"""The same where they are compared with each other: a few among many may be in another unit."""
SAMPLE_VALUES = 40_000
"""Pixels of a picture that are looked at, about, on a grid."""
FACTOR = 5.0
"""So much larger or smaller than all that was seen in training is another unit."""
FACTOR_8_BITS = 20.0
"""The same for smaller values in 8 bits: a night is dark, while ids or 0 to 1 stored as a picture are darker still."""
FAR_SHARE = 0.1
"""Share of a picture's values that must be too large."""


@dataclass(frozen=True)
class Magnitude:
    """Of one picture, or of those of a training: absolute values in the unit of the reader's result.

    middle, most: median and 98th percentile of the valid values; of several pictures the 5th and 95th percentile of
        these, the ends of what is usual. measured: share of valid pixels, of several pictures the 5th percentile.
    unit: what becomes 1 for the network (0: it is scaled picture by picture, so the unit does not matter).
    """

    middle: tuple[float, float]
    most: tuple[float, float]
    measured: float
    unit: float


class Sizes(NamedTuple):
    """Of one picture: some absolute values of valid pixels, the share of those, whether it is of 8 bits, and the type
    of its file."""

    values: NDArray[np.float32]
    measured: float
    small: bool
    stored: str


def sizes(read: Reading) -> Sizes:
    """`Sizes` of a picture before normalisation."""
    image, valid = read.image, read.valid
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / SAMPLE_VALUES)))
    grid = np.abs(image[::step, ::step].astype(np.float32))
    about = (image.dtype == np.uint8, read.stored or image.dtype.name)
    if valid is None:
        return Sizes(grid.ravel(), 1.0, *about)
    return Sizes(grid[valid[::step, ::step]].ravel(), float(valid.mean()), *about)


def read_measured(reader: Reader, paths: Sequence[Source]) -> tuple[Reading, Reading]:
    """What a file holds before normalisation, and what `reader` makes of it; the file is read once.

    Args:
        reader: of the modality.
        paths: the file or files of one sample.
    """
    if isinstance(reader, ImageReader):
        measured = reader.measure(paths)
        return measured, reader.finish(paths, measured)
    result = reader(paths)
    return result, result


def _unit(reader: Reader | None, modality: ModalitySpec) -> float:
    if isinstance(reader, ImageReader) and reader.normalise != "fixed":
        return reader.plane_range or 0.0
    return modality.scale


def _look(
    samples: Samples, index: int, modalities: Sequence[ModalitySpec], readers: Mapping[str, Reader]
) -> tuple[dict[str, Sizes], int]:
    """Modality → `Sizes` of one sample, and the number of pixels read."""
    if isinstance(samples, FileSamples):
        files = samples.entries[index].files
        read = {}
        for m in modalities:
            reader, paths = readers[m.name], [samples.root / file for file in files[m.name]]
            read[m.name] = reader.measure(paths) if isinstance(reader, ImageReader) else reader(paths)
    else:
        raw = samples.read(index, [m.name for m in modalities])
        read = {m.name: Reading(raw.images[m.name], raw.valid.get(m.name)) for m in modalities}
    pixels = sum(r.image.shape[0] * r.image.shape[1] for r in read.values())
    return {name: sizes(r) for name, r in read.items()}, pixels


def _looks(
    data: RGBXDataModule, split: str, count: int = SAMPLES, *, strict: bool = False
) -> dict[int, dict[str, Sizes]]:
    """Number of a sample → what it holds, of some of a split, evenly spread. Those that cannot be read are left out, as
    training or `check` reports them, or an error (`strict`)."""
    samples = data.dataset(split).samples
    readers = samples.readers if isinstance(samples, FileSamples) else {}
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int).tolist()
    # Every fifth sample first: if the limit of pixels ends the loop early, those read still cover the whole split.
    ordered = [index for first in range(5) for index in chosen[first::5]]
    found, seen = {}, 0
    for index in ordered:
        try:
            with pixel_limit(data.max_pixels):
                look, pixels = _look(samples, index, data.modalities, readers)
        except DataError:
            if strict:
                raise
            continue
        found[index] = look
        seen += pixels
        if seen > PIXELS:
            break
    return found


def measure(data: RGBXDataModule, split: str) -> dict[str, dict[str, Any]]:
    """How large the values of each modality are in a few samples of a split; no random number is drawn.

    Args:
        data: the data set.
        split: one of its splits.

    Returns:
        Modality → `Magnitude` as plain values.
    """
    looks, readers = _looks(data, split).values(), data.readers()
    result = {}
    for m in data.modalities:
        middles, mosts, shares = [], [], []
        for look in looks:
            values, share, *_ = look[m.name]
            shares.append(share)
            if values.size:
                middles.append(float(np.median(values)))
                mosts.append(float(np.percentile(values, 98)))
        if middles:
            result[m.name] = {
                "middle": np.percentile(middles, (5, 95)).tolist(),
                "most": np.percentile(mosts, (5, 95)).tolist(),
                "measured": float(np.percentile(shares, 5)),
                "unit": _unit(readers.get(m.name), m),
            }
    return result


def known(record: Any) -> dict[str, Magnitude]:
    """What a checkpoint says of the values seen in training.

    Args:
        record: what stands in the checkpoint; parts that are not as `measure` writes them are left out.

    Returns:
        Modality → what was seen; empty if the checkpoint says nothing.
    """
    found = {}
    for name, about in record.items() if isinstance(record, Mapping) else ():
        try:
            (low, high), (least, most) = about["middle"], about["most"]
            numbers = [float(v) for v in (low, high, least, most, about["measured"], about["unit"])]
        except (KeyError, TypeError, ValueError):
            continue
        if all(np.isfinite(numbers)):
            found[str(name)] = Magnitude((numbers[0], numbers[1]), (numbers[2], numbers[3]), numbers[4], numbers[5])
    return found


def unlike(picture: Sizes, training: Magnitude, reader: Reader | None, modality: ModalitySpec) -> str | None:
    """What is far outside of what training saw.

    Args:
        picture: values of one picture of the modality.
        training: what training saw of it.
        reader: of the modality; None: its own numbers are not known.
        modality: what it is.

    Returns:
        Words that follow the modality's name; None if nothing is far outside.
    """
    values, share, small, _ = picture
    if share < training.measured / FACTOR_8_BITS:
        seen = f"is measured at {share:.1%} of the pixels" if share else "has no measured pixel"
        return f"{seen}, all others are holes; in training {training.measured:.0%} or more were measured"
    unit = _unit(reader, modality)
    if not values.size or not unit or not training.unit:
        return None
    # Training's values in today's unit: a user who gave another scale for files in another unit has corrected it.
    factor = unit / training.unit
    (low, high), (least, most) = ([v * factor for v in pair] for pair in (training.middle, training.most))
    middle, top = float(np.median(values)), float(np.percentile(values, 98))
    smaller = FACTOR_8_BITS if small else FACTOR
    if most > 0 and (values > FACTOR * most).mean() > FAR_SHARE:
        how = f"{top / most:.3g} times more"
    elif top * smaller < least and (middle * smaller < low or low == 0):
        how = f"{least / top:.3g} times less" if top > 0 else "no more than 0"
    else:
        return None
    return (
        f"has values around {middle:.4g}, 98 % of them below {top:.4g}: {how} than in training, where they were around "
        f"{low:.4g} to {high:.4g}, 98 % below {least:.4g} to {most:.4g}"
    )


REMEDY = "another unit or bit depth? convert the files, or correct the modality's scale"


def compare(data: RGBXDataModule, split: str, record: Any) -> list[str]:
    """Modalities of a split of which most samples looked at are unlike those of the training.

    Args:
        data: the data set.
        split: one of its splits.
        record: what `measure` gave at training.

    Returns:
        A line for each such modality.
    """
    training, readers = known(record), data.readers()
    if not training:
        return []
    looks = _looks(data, split).values()
    lines = []
    for m in data.modalities:
        if m.name not in training:
            continue
        texts = [unlike(look[m.name], training[m.name], readers.get(m.name), m) for look in looks]
        odd = [text for text in texts if text]
        if 2 * len(odd) > len(texts):
            lines.append(
                f"{data.spec.name}, {split}: in {len(odd)} of {len(texts)} samples looked at, {m.name} is unlike what "
                f"the model was trained on; one {odd[0]}; {REMEDY}"
            )
    return lines


def mixed(data: RGBXDataModule, splits: Iterable[str]) -> list[Mixed]:
    """Modalities of which some files are in another unit or bit depth than the rest, as far as some samples tell.

    Args:
        data: the data set.
        splits: whose samples are looked at together.

    Raises:
        DataError: one of the files looked at cannot be read.
    """
    readers = data.readers()
    names = [m.name for m in data.modalities if _unit(readers.get(m.name), m)]  # others are scaled picture by picture
    found: dict[str, list[Picture]] = {name: [] for name in names}
    for split in splits:
        samples = data.dataset(split).samples
        if not isinstance(samples, FileSamples):
            continue
        for index, look in _looks(data, split, SAMPLES_COMPARED, strict=True).items():
            for name in names:
                file = samples.entries[index].files[name][0]
                if seen := picture(file, look[name].stored, look[name].values):
                    found[name].append(seen)
    return [text for name in names if (text := mixed_units(name, found[name]))]
