"""How large labels were in training, where pictures are resized to their label: what has no label is resized likewise.

`measure` looks at some training samples and gives plain values, which a checkpoint carries; `known` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ktb.data.arrays import Size
from ktb.data.module import RGBXDataModule
from ktb.data.readers.decode import pixel_limit
from ktb.data.samples import FileSamples
from ktb.errors import DataError

SAMPLES = 8
"""Samples of a split that are looked at at most."""


@dataclass(frozen=True)
class LabelSize:
    """The size of labels beside the pictures of one modality.

    Args:
        scale: of a label's sides to the picture's; None: it differs from sample to sample.
        short_side: of a label in pixels, where `scale` is None.
    """

    scale: float | None = None
    short_side: int | None = None

    def of(self, size: Size) -> Size:
        """(height, width) of the label that a picture of `size` (height, width) would have had."""
        factor = (self.short_side or min(size)) / min(size) if self.scale is None else self.scale
        height, width = (max(1, round(side * factor)) for side in size)
        return height, width


class LabelSizes(dict[str, LabelSize]):
    """Modality → `LabelSize`; a modality that is not in it is left at its own size."""

    def __call__(self, name: str, size: Size) -> Size:
        """(height, width) to which a sample is resized whose first picture is of modality `name` and of `size`."""
        return self[name].of(size) if name in self else size


def resized_to_label(data: RGBXDataModule) -> list[str]:
    """The modalities that a data set resizes to their label."""
    names = data.resizing.modalities if not data.resizing.to_first else ()
    return [m.name for m in data.modalities if m.name in names]


def measure(data: RGBXDataModule, split: str) -> dict[str, dict[str, Any]]:
    """How large labels are beside the pictures of each modality that is resized to them, in a few samples of a split.

    Args:
        data: the data set.
        split: one of its splits.

    Returns:
        Modality → `LabelSize` as plain values; empty where pictures are not resized to labels.
    """
    names = resized_to_label(data)
    samples = data.dataset(split).samples if names else None
    if not isinstance(samples, FileSamples):
        return {}
    seen: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    for index in np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).round().astype(int).tolist():
        if samples.entries[index].label is None:
            continue
        try:
            with pixel_limit(data.max_pixels):
                raw = samples.read(index, [m.name for m in data.modalities])
        except DataError:  # training reports it
            continue
        side = min(raw.label.shape[:2])
        for name in names:
            seen[name].append((side / min(raw.stored.get(name, raw.label.shape[:2])), side))
    return {name: _record(found) for name, found in seen.items() if found}


def _record(found: list[tuple[float, int]]) -> dict[str, Any]:
    """Of (scale, short side): the one of the two that differs less from sample to sample."""
    scales, sides = zip(*found, strict=True)
    if max(scales) / min(scales) <= max(sides) / min(sides):
        return {"scale": float(np.median(scales))}
    return {"short_side": int(np.median(sides))}


def known(record: Any) -> LabelSizes:
    """What a checkpoint says of the labels' size in training.

    Args:
        record: what stands in the checkpoint; parts that are not as `measure` writes them are left out.
    """
    found = LabelSizes()
    for name, about in record.items() if isinstance(record, Mapping) else ():
        scale, side = (about.get(k) if isinstance(about, Mapping) else None for k in ("scale", "short_side"))
        if isinstance(scale, float) and math.isfinite(scale) and scale > 0:
            found[str(name)] = LabelSize(scale=scale)
        elif isinstance(side, int) and side > 0:
            found[str(name)] = LabelSize(short_side=side)
    return found
