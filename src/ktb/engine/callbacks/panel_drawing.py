"""Pictures of test samples: which are kept, how they look, how stored."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ktb.data.legible import class_names, fonts_for, legible
from ktb.data.pictures import RGBImage, paint
from ktb.data.spec import DatasetSpec, ModalitySpec
from ktb.io import atomic_file

Item = TypeVar("Item")

LONG_SIDE = 960
"""Pixels of a stored picture's longer side at most: enough for the eye."""
NAMED = 64
"""Classes that the legend of a sheet names at most, the most frequent ones."""
GROUPS = ("best", "worst", "random")


@dataclass(frozen=True)
class Panel:
    """One test sample: pictures for the eye, and truth and prediction as class ids (H, W)."""

    id: str
    scores: dict[str, float | None]
    condition: dict[str, str]
    images: dict[str, RGBImage]
    truth: NDArray[Any]
    prediction: NDArray[Any]
    stored: dict[str, Tensor]
    """What the fusion is explained on: modality → (C, H, W) as stored."""


class Selection(Generic[Item]):
    """The best, the worst and some random ones of a stream of samples, without keeping the rest.

    All three are the smallest `size` by a key; the random ones by a hash of their name, so they are the same whatever
    the order, the batch size or the number of processes, and in every run of the same data.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen = 0
        self._kept: dict[str, list[tuple[float, str, Item]]] = {group: [] for group in GROUPS}

    def offer(self, name: str, score: float | None, make: Callable[[], Item]) -> None:
        """Consider a sample; `make` is called if it is kept for now. Without a score it is neither best nor worst."""
        self.seen += 1
        keys = {"random": _hash(name)}
        if score is not None:
            keys |= {"best": -score, "worst": score}
        made: list[Item] = []
        for group, key in keys.items():
            kept = self._kept[group]
            # Random ones that turn out best or worst are shown there, so more are kept than needed.
            size = 3 * self.size if group == "random" else self.size
            if size and (len(kept) < size or (key, name) < kept[-1][:2]):
                made = made or [make()]
                bisect.insort(kept, (key, name, made[0]), key=lambda entry: entry[:2])
                del kept[size:]

    def merge(self, other: Selection[Item]) -> None:
        """Take in what another process kept of its part of the stream."""
        self.seen += other.seen
        for group, kept in self._kept.items():
            size = 3 * self.size if group == "random" else self.size
            merged = {name: (key, name, item) for key, name, item in (*kept, *other._kept[group])}
            self._kept[group] = sorted(merged.values(), key=lambda entry: entry[:2])[:size]

    def chosen(self) -> list[tuple[str, Item]]:
        """(group, sample), no sample twice; of few samples, a third for each group."""
        size = min(self.size, max(1, self.seen // 3))
        taken: set[str] = set()
        found: list[tuple[str, Item]] = []
        for group in GROUPS:
            fresh = [(name, item) for _, name, item in self._kept[group] if name not in taken][:size]
            taken |= {name for name, _ in fresh}
            found += [(group, item) for _, item in fresh]
        return found


def _hash(name: str) -> float:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big")


# ------------------------------------------------------------------------------------------------------------ pictures


def paint_errors(panel: Panel, ignore: int) -> RGBImage:
    """Wrong pixels in red over the first modality in grey; void is white."""
    h, w = panel.truth.shape
    first = next(iter(panel.images.values()))
    grey = np.asarray(Image.fromarray(first).convert("L").resize((w, h), Image.Resampling.BILINEAR))
    picture = np.repeat((70 + 0.6 * grey[..., None]).astype(np.uint8), 3, axis=2)
    picture[(panel.prediction != panel.truth) & (panel.truth != ignore)] = (214, 39, 40)
    picture[panel.truth == ignore] = 255
    return picture


def shrink(picture: NDArray[Any], *, nearest: bool) -> NDArray[Any]:
    """Scaled down so that the longer side is at most `LONG_SIDE`; unchanged when it is."""
    h, w = picture.shape[:2]
    if max(h, w) <= LONG_SIDE:
        return picture
    size = (max(1, round(w * LONG_SIDE / max(h, w))), max(1, round(h * LONG_SIDE / max(h, w))))
    return np.asarray(
        Image.fromarray(picture).resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.BOX)
    )


OF_THE_RESULT = ("truth", "prediction", "errors")
"""Titles of the pictures that are no sensor's."""


def titles(modalities: Sequence[ModalitySpec]) -> dict[str, str]:
    """Name → what the modality's picture is called, no two alike: a title that is there twice takes on the name."""
    count = Counter([*OF_THE_RESULT, *(m.title or m.name for m in modalities)])
    return {m.name: f"{t} ({m.name})" if count[t := m.title or m.name] > 1 else t for m in modalities}


def pictures(panel: Panel, spec: DatasetSpec) -> dict[str, RGBImage]:
    """Title → picture, in the order in which they are shown; where the truth is void, so is the prediction, unless
    there is no truth at all."""
    ignore = spec.ignore_index
    void = panel.truth == ignore
    prediction = panel.prediction if void.all() else np.where(void, ignore, panel.prediction)
    results = (paint(panel.truth, spec.palette), paint(prediction, spec.palette), paint_errors(panel, ignore))
    return {**panel.images, **dict(zip(OF_THE_RESULT, results, strict=True))}


def write_panels(folder: Path, chosen: Sequence[tuple[str, Panel]], spec: DatasetSpec) -> None:
    """One file per picture, and panels.json, which says what they are (what `ktb-report` reads)."""
    samples = []
    for i, (group, panel) in enumerate(chosen):
        shown = []
        for j, (title, picture) in enumerate(pictures(panel, spec).items()):
            # Small pictures and flat colours are PNG; photographs would be many times larger than as JPEG.
            photograph = title in panel.images and picture.shape[0] * picture.shape[1] > 1 << 16
            name = f"{i:02d}_{j}_{_slug(title)}.{'jpg' if photograph else 'png'}"
            with atomic_file(folder / name) as file:
                kind = "JPEG" if photograph else "PNG"
                Image.fromarray(picture).save(file, kind, quality=92, subsampling=0)  # PNG takes no notice
            shown.append({"title": title, "file": name})
        samples.append(
            {"id": panel.id, "group": group, **panel.scores, "condition": panel.condition, "pictures": shown}
        )
    content = {"classes": list(spec.classes), "palette": [list(c) for c in spec.palette], "samples": samples}
    with atomic_file(folder / "panels.json") as file:
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _slug(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text.lower())


def sheet(chosen: Sequence[tuple[str, Panel]], spec: DatasetSpec) -> Any:
    """A matplotlib figure of all panels with column titles and a legend of the classes that occur."""
    with fonts_for([*spec.classes, *(group for group, _ in chosen), *(m.title for m in spec.modalities.values())]):
        return _sheet(chosen, spec)


def _sheet(chosen: Sequence[tuple[str, Panel]], spec: DatasetSpec) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = [pictures(panel, spec) for _, panel in chosen]
    titles = list(rows[0])
    height, width = rows[0][titles[0]].shape[:2]
    cell = 2.2
    figure = Figure(figsize=(cell * len(titles), cell * height / width * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for title, axis in zip(titles, axes[0], strict=True):
        axis.set_title(legible(title), fontsize=10)
    for axes_row, row, (group, panel) in zip(axes, rows, chosen, strict=True):
        for axis, picture in zip(axes_row, row.values(), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        miou = panel.scores["miou"]
        group = legible(group)
        axes_row[0].set_ylabel(group if miou is None else f"{group}\nmIoU {100 * miou:.0f} %", fontsize=8)
    pixels = Counter(i for _, p in chosen for i in np.concatenate([p.truth.ravel(), p.prediction.ravel()]).tolist())
    pixels.pop(spec.ignore_index, None)
    there = {i for i, _ in pixels.most_common(NAMED)}
    handles = [
        Patch(facecolor=(colour[0] / 255, colour[1] / 255, colour[2] / 255), edgecolor="0.6", label=name)
        for i, (name, colour) in enumerate(zip(class_names(spec.classes), spec.palette, strict=True))
        if i in there
    ]
    columns = max(1, min(len(handles), 2 * len(titles)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
    return figure
