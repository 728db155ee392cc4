"""What all samples together say of a data set: what stops a training, and what its owner should know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ktb.data.module import RGBXDataModule
from ktb.data.resizing import aspect_difference
from ktb.data.tools.check.look import Seen

SMALLEST = 32
"""Pixels that each side of the network's input must have."""
PLAUSIBLE = (0.25, 5.0)
"""Largest absolute value of a split after scaling: the network expects 0 to 1; polarisation reaches 2.7, 14 bits of 16
no more than a quarter."""


def batch_faults(data: RGBXDataModule, split: str, count: int, seen: Sequence[Seen]) -> list[str]:
    """What would stop the loaders although each sample by itself can be read: unequal sizes, too few samples.

    Args:
        data: the data set.
        split: one of its splits.
        count: samples of the split.
        seen: those that could be read, in order.

    Returns:
        A line for each fault.
    """
    stops = []
    names: dict[tuple[int, int], Path] = {}  # size of the images → the first sample of it
    for s in seen:
        names.setdefault(s.inputs, s.path)
    if split == "train":
        if text := data.too_few(count):
            stops.append(text)
        if data.crop is None and data.batch_size > 1 and len(names) > 1:
            (a, first), (b, other) = list(names.items())[:2]
            stops.append(
                f"{data.spec.name}: train: {other} is {b[0]}x{b[1]} (height x width) but {first} is {a[0]}x{a[1]}, and "
                "a batch needs one size; set dataset.crop=[height,width] or dataset.batch_size=1"
            )
    if split in (data.spec.selection_split, data.spec.report_split):
        sizes = {(s.inputs, s.size): _evaluated(data, s.inputs, s.size) for s in seen}
        step = data.eval_batch_size
        for batch in (seen[i : i + step] for i in range(0, len(seen), step)):
            like = batch[0]
            odd = next((s for s in batch if sizes[s.inputs, s.size] != sizes[like.inputs, like.size]), None)
            if odd is not None:
                a, b = (odd.inputs, like.inputs) if odd.inputs != like.inputs else (odd.size, like.size)
                what, that = ("", "") if odd.inputs != like.inputs else ("the label of ", "that of ")
                stops.append(
                    f"{data.spec.name}: {split}: {what}{odd.path} is {a[0]}x{a[1]} (height x width) but "
                    f"{that}{like.path}, in the same batch, is {b[0]}x{b[1]}; set dataset.eval_batch_size=1"
                )
                break
    inputs = {size: (data.crop or size) if split == "train" else _evaluated(data, size, size)[0] for size in names}
    small = [f"{names[size]} is {h}x{w}" for size, (h, w) in inputs.items() if min(h, w) < SMALLEST]
    if small:
        stops.append(
            f"{data.spec.name}: {split}: the network's input from {small[0]} (height x width); expected {SMALLEST} or "
            "more on both sides: set dataset.eval_size and dataset.crop"
        )
    return stops


def _evaluated(
    data: RGBXDataModule, inputs: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of network input and label in evaluation, of a sample with images and a label of these sizes."""
    images, label = data.eval_transform()({"x": np.zeros((*inputs, 1), np.uint8)}, np.zeros(size, np.uint8), entropy=())
    return (images["x"].shape[0], images["x"].shape[1]), (label.shape[0], label.shape[1])


def oddities(data: RGBXDataModule, split: str, seen: Sequence[Seen]) -> list[str]:
    """What a training takes but its owner should know.

    Args:
        data: the data set.
        split: one of its splits.
        seen: the samples that could be read.

    Returns:
        A line for each finding.
    """
    found = []
    empty = [str(s.path) for s in seen if s.labelled and s.histogram is not None and not s.histogram[:-1].any()]
    if empty:
        found.append(f"{split}: {len(empty)} labels are void altogether (first: {empty[0]})")
    if text := _two_forms(seen):
        found.append(f"{split}: {text}")
    for name, what, differing in _of_another_shape(seen):
        found.append(
            f"{split}: {name} is {what} in {differing} samples: another aspect ratio than that of its sample, so the "
            "resized pictures don't quite fit each other"
        )
    for m in data.modalities:
        flat = [str(s.path) for s in seen if s.values[m.name].low == s.values[m.name].high]
        if flat:
            found.append(f"{split}: {m.name} has one value only in {len(flat)} samples (first: {flat[0]})")
        extreme = max((max(abs(s.values[m.name].low), abs(s.values[m.name].high)) for s in seen), default=0.0) / m.scale
        if seen and not PLAUSIBLE[0] < extreme <= PLAUSIBLE[1]:
            # RGB has been divided by its scale on reading, so its scale here is always 255.
            of = "" if m.name == "rgb" else f" of {m.scale:g}"
            found.append(
                f"{split}: {m.name} reaches {extreme:.3g} times its scale{of}; about 1 is expected: another "
                "unit or bit depth? correct the modality's scale or hole value"
            )
    converted = [f"{file}: {done}" for s in seen for file, done in s.converted.items()]
    if converted:
        found.append(f"{split}: {len(converted)} pictures are no plain RGB (first: {converted[0]})")
    return found


def _two_forms(seen: Sequence[Seen]) -> str:
    """What to say of labels of two classes of which some seem to store class 1 as 255; empty otherwise."""
    histograms = [(s, s.histogram) for s in seen if s.histogram is not None and s.labelled]
    if any(len(h) != 3 or (h[1] and h[2]) for _, h in histograms):
        return ""
    ones, others = ([str(s.path) for s, h in histograms if h[i]] for i in (1, 2))
    if not ones or not others:
        return ""
    return (
        f"{len(ones)} labels have class 1 and no void (first: {ones[0]}), {len(others)} have void and no class 1 "
        f"(first: {others[0]}), none has both: where the latter store class 1 as 255, say label.map: "
        "{0: 0, 1: 1, 255: 1}"
    )


def _of_another_shape(seen: Sequence[Seen]) -> list[tuple[str, str, int]]:
    """(modality or "label", an example of its size and its images', how many) where resizing changes the shape."""
    found: dict[str, list[str]] = defaultdict(list)
    for s in seen:
        sizes = {name: values.size for name, values in s.values.items()} | {"label": s.size}
        for name, size in sizes.items():
            if aspect_difference(size, s.inputs) > 0.01:
                found[name].append(f"{size[0]}x{size[1]} beside {s.inputs[0]}x{s.inputs[1]} (height x width)")
    return [(name, texts[0], len(texts)) for name, texts in found.items()]
