"""What some files of a kind hold: types, sizes, channels, values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.arrays import Array
from ktb.data.files import read_bytes
from ktb.data.readers import npy, png, tiff
from ktb.data.readers.decode import decode
from ktb.data.readers.image import as_grey
from ktb.data.tools.new.kinds import File
from ktb.data.tools.new.label_files import MOST
from ktb.data.tools.new.labels import MAX_COLOURS

JPEG = b"\xff\xd8\xff"
PICTURES = (JPEG, png.SIGNATURE)
"""First bytes of files that are pictures, whatever their values."""
LOOKED_AT = 16
"""Files of a modality whose values are looked at; labels are read all, up to `MAX_LABELS`."""


@dataclass
class Stats:
    """What some files of a kind hold. values: a sample of all finite ones (of two to four channels, without a fourth);
    most: the largest of all."""

    dtypes: set[str]
    channels: set[int]
    sizes: Counter[tuple[int, int]]
    values: Array
    not_finite: float
    grey: bool
    one_channel: bool
    """All files are read as one channel: grey, or saved as colours with equal channels."""
    fourth: bool
    """The fourth channel is more than alpha: it has other values than those for transparent and opaque."""
    patches: bool
    """Whole numbers in patches, as ids are."""
    labelled: bool
    """The same, and few of them in each file."""
    codes: Counter[Any]
    """Id or colour → how many of the files have it."""
    most: float = 0.0
    nodata: set[float | None] = field(default_factory=set)
    """What the files' own tags name as the value that means "no measurement"; None of those without a tag."""
    arrays: bool = False
    """Arrays rather than pictures: NPY, NPZ, OpenEXR, or TIFF of more than 8 bits."""
    keys: tuple[str, ...] = ()
    """Of NPZ files with several arrays, the one that is looked at and the others that could be meant."""


def look_at(root: Path, files: Sequence[File]) -> Stats:
    """What some files, spread evenly over all, hold.

    Args:
        root: the folder looked at.
        files: those of one kind.

    Raises:
        DataError: a file cannot be read.
    """
    chosen = [files[i] for i in sorted(set(np.linspace(0, len(files) - 1, LOOKED_AT).round().astype(int).tolist()))]
    values, bad, total = [], 0, 0
    stats = Stats(set(), set(), Counter(), np.empty(0), 0.0, True, True, False, True, True, Counter())
    for f in chosen:
        data = read_bytes(root / f.path)
        if data.startswith(npy.ZIP) and not stats.keys:
            stats.keys = _keys(root / f.path, data)
        key = stats.keys[0] if stats.keys else None
        image = decode(root / f.path, expand_palette=True, data=data, key=key)
        stored = decode(root / f.path, data=data, key=key)
        picture = data.startswith(PICTURES) or (tiff.is_tiff(data) and image.dtype == np.uint8)
        stats.arrays |= not picture
        stats.nodata.add(tiff.nodata(data))
        image = image[..., None] if image.ndim == 2 else image
        stats.dtypes.add(image.dtype.name)
        stats.channels.add(image.shape[2])
        stats.sizes[image.shape[0], image.shape[1]] += 1
        colour = image[..., :3] if image.shape[2] <= 4 else image
        stats.grey &= image.shape[2] >= 3 and bool((colour == colour[..., :1]).all())
        stats.one_channel &= as_grey(image).shape[2] == 1
        stats.fourth |= image.shape[2] == 4 and _measures(image[..., 3])
        step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] * colour.shape[2] / 60_000)))
        sample = colour[::step, ::step].astype(np.float64)
        finite = np.isfinite(sample)
        bad, total = bad + int((~finite).sum()), total + finite.size
        values.append(sample[finite])
        if image.dtype.kind in "ui":
            stats.most = max(stats.most, float(colour.max()))
        codes = _codes(stored)
        changes = float((codes[:, 1:] != codes[:, :-1]).mean()) if codes.shape[1] > 1 else 0.0
        whole = stored.dtype.kind in "ui" or bool((np.isfinite(stored) & (np.rint(stored) == stored)).all())
        stats.patches &= whole and changes < 0.1 and not data.startswith(JPEG) and image.shape[2] <= 4
        different = np.unique(codes).tolist() if stats.patches else []
        stats.labelled &= stats.patches and len(different) <= MAX_COLOURS
        stats.codes.update(different[:MOST])
    stats.values, stats.not_finite = np.concatenate(values), bad / max(total, 1)
    return stats


def _keys(path: Path, data: bytes) -> tuple[str, ...]:
    """Arrays of an NPZ file that holds several, first the one that is called as its folder, if any."""
    called = path.parent.name.lower()
    return tuple(sorted(npy.pictures_in(path, data), key=lambda name: name.lower() != called))


def _measures(channel: Array) -> bool:
    opaque = 1 if channel.dtype.kind == "f" else np.iinfo(channel.dtype).max
    return bool((channel != channel[0, 0]).any() and ((channel != 0) & (channel != opaque)).any())


def _codes(stored: Array) -> Array:
    """One number per pixel (H, W): the id, also where all channels have it, or the colour as (r << 16 | g << 8 | b)."""
    if stored.ndim == 2:
        return stored
    channels = stored[..., :3] if stored.shape[2] > 2 else stored[..., :1]
    if (channels == channels[..., :1]).all():
        return channels[..., 0]
    return np.nan_to_num(channels).astype(np.int64) @ (1 << 16, 1 << 8, 1)
