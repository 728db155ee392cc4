"""Samples and labels for the eye: stored tensors as colours, class ids as colours, void as hatching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ktb.data.spec import Colour, ModalitySpec, ignore_index

RGBImage = NDArray[np.uint8]

VOID_LIGHT, VOID_DARK = 255, 150
"""Grey values of the hatching that stands for void."""


def to_picture(stored: Tensor, modality: ModalitySpec) -> RGBImage:
    """A stored modality as a picture for the eye.

    RGB stays as it is; of other modalities three channels are shown as colours, one channel as a colour map, both
    stretched between the 1st and 99th percentile of the image. Of more than three channels, `shown_channels` are shown,
    each stretched on its own, as bands of one sensor may have different units.

    Args:
        stored: (C, H, W) as in `ktb.data.spec.Sample`; NaN where nothing was measured.
        modality: what it is.

    Returns:
        (H, W, 3) uint8.
    """
    x = stored.cpu().float().numpy()
    if modality.validity:  # the last channel says where something was measured
        x = x[:-1]
    if modality.name == "rgb":
        return x.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    apart = len(x) > 3
    x = x[list(shown_channels(len(x), modality))]
    for part in x if apart else (x,):
        finite = part[np.isfinite(part)]
        low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 0.0)
        part[...] = np.nan_to_num((part - low) / max(high - low, 1e-6), nan=0.0).clip(0, 1)
    if len(x) == 3 and not (np.array_equal(x[0], x[1]) and np.array_equal(x[0], x[2])):
        return (255 * x).astype(np.uint8).transpose(1, 2, 0)
    from matplotlib import colormaps

    return (255 * colormaps["viridis"](x[0])[..., :3]).astype(np.uint8)


def shown_channels(count: int, modality: ModalitySpec) -> tuple[int, ...]:
    """The channels that a picture shows as red, green and blue, or the one that it shows.

    Where the modality does not say: of up to two channels the first, of three or four the first three, and of more the
    last, the middle and the first, which differ most where bands are in the order of their wavelength.

    Args:
        count: number of channels.
        modality: whose they are.
    """
    if modality.shown:
        return modality.shown
    if count <= 2:
        return (0,)
    return (0, 1, 2) if count <= 4 else (count - 1, count // 2, 0)


def paint(label: NDArray[Any], palette: Sequence[Colour]) -> RGBImage:
    """Class ids as colours; void is white with grey hatching.

    Args:
        label: (H, W) class ids and void.
        palette: a colour per class.

    Returns:
        (H, W, 3) uint8.
    """
    colours = np.array([*palette, (VOID_LIGHT,) * 3], np.uint8)
    picture = colours[np.minimum(label, np.intp(len(palette)))]
    picture[(label == ignore_index(len(palette))) & _hatching(label.shape)] = VOID_DARK
    return picture


def overlay(picture: RGBImage, label: NDArray[Any], palette: Sequence[Colour], alpha: float = 0.55) -> RGBImage:
    """The label's colours over a greyed picture, with dark lines between classes and hatched void.

    Args:
        picture: (H, W, 3) uint8.
        label: (H, W) class ids and void.
        palette: a colour per class.
        alpha: share of the label's colours in the mixture, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    grey = picture.mean(axis=2, keepdims=True)
    mixed = (1 - alpha) * grey + alpha * paint(label, palette)
    edge = np.zeros(label.shape, bool)
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[1:] |= label[1:] != label[:-1]
    mixed[edge] *= 0.4
    return mixed.round().astype(np.uint8)


def _hatching(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Diagonal lines, wider apart in larger pictures so that they stay visible when those are scaled down."""
    rows, columns = np.indices(shape)
    step = max(8, min(shape) // 24)
    return (rows + columns) % step < max(2, step // 4)
