"""Mean and standard deviation of every channel over the training split, read file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Array, Mask
from ktb.data.magnitudes import sizes
from ktb.data.mixed_units import Picture, mixed_units, picture
from ktb.data.module import RGBXDataModule
from ktb.data.readers.decode import pixel_limit
from ktb.data.readers.image import ImageReader
from ktb.data.samples import FileSamples
from ktb.data.tools.new.found import Guess, Survey
from ktb.data.tools.new.modality import scale_of
from ktb.data.tools.new.progress import Watch
from ktb.data.tools.parallel import Outcome, parallel
from ktb.errors import DataError

ROWS_AT_ONCE = 1 << 20
"""Values that are looked at at once, as float64."""
UNLIKE = 10.0
"""Where the largest values of two channels differ by more, each is scaled on its own."""


@dataclass(frozen=True)
class Job:
    """The files of one modality of one sample.

    Args:
        name: of the modality.
        reader: of its files.
        paths: of the sample.
        max_pixels: that a picture may have.
    """

    name: str
    reader: ImageReader
    paths: tuple[Path, ...]
    max_pixels: int


@dataclass(frozen=True)
class Moments(Outcome):
    """Of the measured values of some pictures, per channel, in stored units.

    Attributes:
        name: of the modality.
        count: measured pixels.
        mean: of the values.
        squares: sum of the squared distances from the mean.
        most: largest absolute value.
        picture: of one sample, what tells its unit.
    """

    name: str = ""
    count: int = 0
    mean: Any = 0.0
    squares: Any = 0.0
    most: Any = 0.0
    picture: Picture | None = None

    def __add__(self, other: Moments) -> Moments:
        """Those of all pictures of both."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        return replace(
            self,
            count=count,
            mean=self.mean + step * (other.count / count),
            squares=self.squares + other.squares + step**2 * (self.count * other.count / count),
            most=np.maximum(self.most, other.most),
        )


def moments(image: Array, valid: Mask | None, name: str = "", path: Path = Path()) -> Moments:
    """Those of one picture.

    Args:
        image: (H, W, C).
        valid: (H, W), False in holes; None: no holes.
        name: of the modality.
        path: of the file.
    """
    total = Moments(path, "kept", name=name)
    rows = max(1, ROWS_AT_ONCE // (image.shape[1] * image.shape[2]))
    for start in range(0, len(image), rows):
        part = image[start : start + rows]
        values = part.reshape(-1, part.shape[2]) if valid is None else part[valid[start : start + rows]]
        if len(values):
            values = values.astype(np.float64)
            mean = values.mean(axis=0)
            squares = ((values - mean) ** 2).sum(axis=0)
            total += Moments(path, "kept", "", name, len(values), mean, squares, np.abs(values).max(axis=0))
    return total


def look(job: Job) -> Moments:
    """The moments of one sample; what is wrong with its files is told in the outcome."""
    try:
        with pixel_limit(job.max_pixels):
            read = job.reader.measure(job.paths)
    except DataError as error:
        return Moments(job.paths[0], "failed", str(error), job.name)
    seen = sizes(read)
    return replace(
        moments(read.image, read.valid, job.name, job.paths[0]),
        picture=picture(str(job.paths[0]), seen.stored, seen.values),
    )


def measure(
    data: RGBXDataModule, names: Sequence[str], watch: Watch, workers: int | None
) -> tuple[dict[str, Moments], list[str], list[str]]:
    """Moments of modalities over the training split, a line for each sample that cannot be read, and one for each
    modality whose files seem to be in different units.

    Args:
        data: the data set.
        names: of its modalities.
        watch: shows the progress.
        workers: processes; None: one per core.
    """
    samples = data.dataset("train").samples
    assert isinstance(samples, FileSamples)
    jobs = [
        Job(name, reader, tuple(samples.root / file for file in entry.files[name]), data.max_pixels)
        for entry in samples.entries
        for name in names
        if isinstance(reader := samples.readers[name], ImageReader)
    ]
    found, failed = {name: Moments(Path(), "kept", name=name) for name in names}, []
    pictures: dict[str, list[Picture]] = {name: [] for name in names}
    for outcome in watch(parallel(look, jobs, workers), len(jobs), "values of the training split"):
        assert isinstance(outcome, Moments)
        if outcome.state == "failed":
            failed.append(outcome.message)
        else:
            found[outcome.name] += outcome
            pictures[outcome.name] += [outcome.picture] if outcome.picture else []
    return found, sorted(failed), [m.text for name in names if (m := mixed_units(name, pictures[name]))]


def standardise(found: Survey, data: RGBXDataModule, watch: Watch, workers: int | None) -> None:
    """Fill in scale, mean and standard deviation of every modality but "rgb", which has ImageNet's.

    Args:
        found: what the folder holds; its modalities and notes are changed.
        data: the data set as it is configured so far.
        watch: shows the progress.
        workers: processes; None: one per core.
    """
    names = [guess.name for guess in found.modalities if guess.name != "rgb"]
    if not names:
        return
    measured, failed, mixed = measure(data, names, watch, workers)
    found.notes += mixed
    if failed:
        found.notes.append(f"{len(failed)} training files are left out of mean and std: {failed[0]}")
    found.modalities = [
        _with(guess, measured[guess.name], data.spec.modalities[guess.name].scale, found.notes)
        if guess.name in measured and measured[guess.name].count
        else guess
        for guess in found.modalities
    ]


def _with(guess: Guess, seen: Moments, scale: float, notes: list[str]) -> Guess:
    mean, deviation = np.atleast_1d(seen.mean), np.sqrt(np.atleast_1d(seen.squares) / seen.count)
    most = np.atleast_1d(seen.most)
    settings = dict(guess.settings)
    reasons = [*guess.reasons]
    scales: NDArray[np.float64] = np.full(len(mean), scale)
    if most.max() > UNLIKE * max(float(most.min()), float(np.finfo(np.float32).tiny)):
        dtype = str(settings.get("dtype", "uint8"))
        scales = np.array([scale_of(dtype, float(m)) or (scale if m else 1.0) for m in most])
        settings["scale"] = [float(s) for s in scales]
        reasons.append("bands of unlike size are scaled one by one")
    constant = [i + 1 for i, d in enumerate(deviation) if d == 0]
    if constant:
        which = "its values are" if len(mean) == 1 else f"bands {', '.join(map(str, constant))} are"
        notes.append(f"{guess.name}: {which} the same everywhere in the training split and say nothing (std: 1)")
    deviation = np.where(deviation == 0, scales, deviation)
    settings |= {"mean": _digits(mean / scales), "std": _digits(deviation / scales), "holes": "mean"}
    pixels = f"{seen.count:,}".replace(",", " ")
    reasons.append(f"mean and std after scaling, of {pixels} measured pixels of the training split")
    return replace(guess, settings=settings, reasons=tuple(reasons))


def _digits(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{v:.9g}") for v in values]
