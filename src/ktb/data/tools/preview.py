"""Contact sheets: what training really gets, for a person to look at before a run is started.

One picture per split: the inputs of each sample after augmentation (train) or the evaluation transform (all others),
its label over the first input, void hatched, and a legend of the classes that occur.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ktb.data.legible import class_names, fonts_for, legible
from ktb.data.module import RGBXDataModule
from ktb.data.pictures import VOID_DARK, VOID_LIGHT, overlay, to_picture
from ktb.data.spec import Sample
from ktb.io import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["contact_sheet", "draw_samples", "write_sheet"]

TILE = 2.6
"""Inches of a tile's longer side; at `DPI` that keeps the texture of a 480x640 picture visible."""
DPI = 120
TILES_ACROSS = 6
CAPTION, LEGEND_ENTRY = 0.19, 1.5
"""Inches: height of a line under a row of tiles or in the legend, width of an entry of the legend."""


def draw_samples(
    data: RGBXDataModule,
    split: str,
    count: int,
    *,
    epoch: int = 0,
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[Sample]:
    """Samples spread evenly over a split, as the loaders of an epoch would give them: augmented if it is "train".

    Args:
        data: the data set.
        split: one of its splits.
        count: how many; all if the split has fewer.
        epoch: number of the epoch, from 0.
        watch: wraps the indices, for a progress bar.

    Raises:
        DataError: the split or one of the samples cannot be read.
    """
    dataset = data.dataset(split, train=split == "train")
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist()
    return [dataset[epoch, index] for index in watch(chosen)]


def contact_sheet(data: RGBXDataModule, split: str, samples: Sequence[Sample], *, epoch: int = 0) -> Figure:
    """The sheet as a matplotlib figure, one row of tiles per sample, or two samples side by side if they fit.

    Args:
        data: the data set.
        split, epoch: of the samples, for the heading.
        samples: what `draw_samples` gave.
    """
    shown = [text for s in samples for text in (s["id"], *s["condition"].values())]
    with fonts_for([*data.spec.classes, data.spec.name, *(m.title or m.name for m in data.modalities), *shown]):
        return _contact_sheet(data, split, samples, epoch)


def _contact_sheet(data: RGBXDataModule, split: str, samples: Sequence[Sample], epoch: int) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    titles = [*(legible(m.title or m.name) for m in data.modalities), "label"]
    beside = min(len(samples), max(1, TILES_ACROSS // len(titles)))
    rows = math.ceil(len(samples) / beside)
    shapes = [tile.shape for s in samples for tile in s["inputs"].values()]
    aspect = float(np.median([h / w for _, h, w in shapes]))
    width, height = (TILE, TILE * aspect) if aspect <= 1 else (TILE / aspect, TILE)
    cells = data.spec.ignore_index + 1
    counted = sum((np.bincount(s["label"].numpy().ravel(), minlength=cells) for s in samples), np.zeros(cells, int))
    entries = int((counted > 0).sum())
    across = max(width * len(titles) * beside, 5.0)
    legend_columns = max(1, int(across / LEGEND_ENTRY))
    figure = Figure(
        figsize=(across, (height + CAPTION) * rows + CAPTION * math.ceil(entries / legend_columns) + 0.7),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.04, wspace=0.0, hspace=0.0),
        facecolor="white",
    )
    figure.suptitle(_heading(data, split, len(samples), epoch), fontsize=10, x=0.02 / across, ha="left")
    # A narrow empty column between samples that lie side by side.
    block = [1.0] * len(titles) + [0.06]
    axes = figure.subplots(rows, len(block) * beside - 1, squeeze=False, width_ratios=(block * beside)[:-1])
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for n, sample in enumerate(samples):
        row, first = n // beside, n % beside * len(block)
        _draw(axes[row, first : first + len(titles)], data, sample, titles if row == 0 else None)
    _legend(figure, data, counted, legend_columns)
    return figure


def _heading(data: RGBXDataModule, split: str, count: int, epoch: int) -> str:
    total = len(data.dataset(split))
    if split == "train":
        crop = "whole pictures" if data.crop is None else f"crops of {data.crop[0]}x{data.crop[1]}"
        how = f"augmented ({crop}, seed {data.seed}, epoch {epoch})"
    else:
        how = "evaluation transform"
    return f"{legible(data.spec.name)}, {split}: {count} of {total} samples, {how}"


def _draw(axes: NDArray[Any], data: RGBXDataModule, sample: Sample, titles: Sequence[str] | None) -> None:
    pictures = [to_picture(sample["inputs"][m.name], m) for m in data.modalities]
    label = sample["label"].numpy()
    base = pictures[0]
    if base.shape[:2] != label.shape:  # in evaluation the input may have another size than the label
        from PIL import Image

        base = np.asarray(Image.fromarray(base).resize(label.shape[::-1], Image.Resampling.BILINEAR))
    pictures.append(overlay(base, label, data.spec.palette))
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(picture, interpolation="antialiased")
    for axis, title in zip(axes, titles or (), strict=False):
        axis.set_title(title, fontsize=9, pad=3)
    condition = ", ".join(sample["condition"].values())
    caption = textwrap.shorten(sample["id"], 60, placeholder="...") + (f"  ({condition})" if condition else "")
    axes[0].text(
        0.0,
        -0.02,
        legible(caption),
        transform=axes[0].transAxes,
        fontsize=7,
        va="top",
        ha="left",
        color="0.25",
        in_layout=True,
    )


def _legend(figure: Figure, data: RGBXDataModule, counted: NDArray[Any], columns: int) -> None:
    from matplotlib.patches import Patch

    void = data.spec.ignore_index
    labelled, names = max(int(counted[:void].sum()), 1), class_names(data.spec.classes)
    handles = [
        Patch(
            facecolor=_fraction(*data.spec.palette[i]),
            edgecolor="0.4",
            linewidth=0.5,
            label=f"{names[i]} {_percent(counted[i] / labelled)}",
        )
        for i in np.flatnonzero(counted[:void])
    ]
    if counted[void]:
        share = counted[void] / max(int(counted.sum()), 1)
        handles.append(
            Patch(
                facecolor=_fraction(*(VOID_LIGHT,) * 3),
                edgecolor=_fraction(*(VOID_DARK,) * 3),
                hatch="/////",
                linewidth=0.5,
                label=f"void {_percent(share)} of all",
            )
        )
    figure.legend(
        handles=handles, loc="outside lower left", ncols=columns, fontsize=7.5, frameon=False, handlelength=1.4
    )


def _fraction(red: int, green: int, blue: int) -> tuple[float, float, float]:
    return red / 255, green / 255, blue / 255


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def write_sheet(figure: Figure, path: Path) -> None:
    """Write a sheet as PNG; the file is complete or not there.

    Args:
        figure: what `contact_sheet` gave.
        path: the file.
    """
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
