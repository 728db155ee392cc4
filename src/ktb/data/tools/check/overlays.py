"""Checkerboards of two modalities, in which a person sees whether edges go on from one field to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from ktb.data.legible import fonts_for, legible
from ktb.data.module import RGBXDataModule
from ktb.data.pictures import RGBImage, to_picture
from ktb.data.readers.decode import pixel_limit
from ktb.data.samples import RawSample
from ktb.data.spec import ModalitySpec
from ktb.data.tools.align.offset import Offset
from ktb.data.tools.check.look import Look
from ktb.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 4
"""Samples drawn."""
FIELDS = 8
"""Fields of the checkerboard along the shorter side."""
WIDE = 4.2
"""Inches of a picture."""


def checkerboard(first: RGBImage, other: RGBImage) -> RGBImage:
    """Two pictures in turn, in fields like those of a checkerboard; the upper left one shows the first.

    Args:
        first: (H, W, 3) uint8.
        other: the same size.

    Returns:
        (H, W, 3) uint8.
    """
    side = max(1, min(first.shape[:2]) // FIELDS)
    rows, columns = np.indices(first.shape[:2]) // side
    return np.where(((rows + columns) % 2 == 0)[..., None], first, other)


def alignment_sheet(data: RGBXDataModule, looks: Sequence[Look], alignment: dict[str, dict[str, Any]]) -> Figure | None:
    """Some samples, each modality with the first one: as they are, and moved back where it does not line up.

    Args:
        data: the data set.
        looks: the samples that were compared.
        alignment: what `summarise_alignment` gave.

    Returns:
        The picture; None where no sample can be read.
    """
    drawn = []
    for i in np.unique(np.linspace(0, len(looks) - 1, min(ROWS, len(looks))).round().astype(int)):
        try:
            with pixel_limit(data.max_pixels):
                drawn.append(looks[i].samples.read(looks[i].index, looks[i].streams))
        except DataError:  # a failure of its own in the report
            continue
    columns = [(m, back) for m in data.modalities[1:] for back in (False, True) if not back or _is_off(alignment, m)]
    if not drawn or not columns:
        return None
    with fonts_for([*(raw.id for raw in drawn), *(m.name for m in data.modalities)]):
        return _sheet(data, drawn, columns, alignment)


def _sheet(
    data: RGBXDataModule,
    drawn: Sequence[RawSample],
    columns: Sequence[tuple[ModalitySpec, bool]],
    alignment: dict[str, dict[str, Any]],
) -> Figure:
    """The picture, of samples and of (modality, whether it is moved back)."""
    from matplotlib.figure import Figure

    height, width = drawn[0].images[data.modalities[0].name].shape[:2]
    figure = Figure(
        figsize=(WIDE * len(columns), (WIDE * height / width + 0.3) * len(drawn) + 0.3), layout="constrained"
    )
    axes = figure.subplots(len(drawn), len(columns), squeeze=False)
    for row, raw in enumerate(drawn):
        for column, (m, back) in enumerate(columns):
            axis = axes[row, column]
            axis.imshow(_overlay(raw, data.modalities[0], m, alignment[m.name] if back else None))
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_xlabel(legible(raw.id), fontsize=8, loc="left")
            if row == 0:
                how = "moved back" if back else "as it is"
                axis.set_title(legible(f"{data.modalities[0].name} and {m.name}, {how}"), fontsize=10)
    return figure


def _is_off(alignment: dict[str, dict[str, Any]], m: ModalitySpec) -> bool:
    return m.name in alignment and alignment[m.name]["lines_up"] is False


def _overlay(raw: RawSample, first: ModalitySpec, other: ModalitySpec, back: dict[str, Any] | None) -> RGBImage:
    pictures = [_picture(raw, m) for m in (first, other)]
    if back is not None:
        height, width = pictures[1].shape[:2]
        offset = Offset(back["dx"], back["dy"], back["scale"], 0.0, 0.0, (height, width))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        pictures[1] = np.asarray(cv2.warpAffine(pictures[1], offset.matrix(), (width, height), flags=flags), np.uint8)
    return checkerboard(*pictures)


def _picture(raw: RawSample, m: ModalitySpec) -> RGBImage:
    """A modality as a picture, its holes black."""
    image, valid = raw.images[m.name], raw.valid.get(m.name)
    if valid is not None and valid.any():  # a hole must not count when values are stretched
        image = np.where(valid[..., None], image, np.median(image[valid], axis=0).astype(image.dtype))
    stored = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))
    picture = to_picture(stored, ModalitySpec(m.name))
    return picture if valid is None else np.where(valid[..., None], picture, np.uint8(0))
