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
    stretched between the 1st and 99th percentile of the image.

    Args:
        stored: (C, H, W) as in `ktb.data.spec.Sample`.
        modality: what it is.

    Returns:
        (H, W, 3) uint8.
    """
    x = stored.cpu().float().numpy()
    if modality.validity:  # the last channel says where something was measured
        x = x[:-1]
    if modality.name == "rgb":
        return x.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    low, high = np.percentile(x, (1, 99))
    x = ((x - low) / max(high - low, 1e-6)).clip(0, 1)
    if len(x) == 3 and not (np.array_equal(x[0], x[1]) and np.array_equal(x[0], x[2])):
        return (255 * x).astype(np.uint8).transpose(1, 2, 0)
    from matplotlib import colormaps

    return (255 * colormaps["viridis"](x[0])[..., :3]).astype(np.uint8)


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
