"""OpenCV's resizing as tensor operations whose sizes are known beforehand, so that an exporter can put it into a graph.

Pictures are (C, H, W). Numbers are those of cv2.resize: to the last bit for bytes and for the nearest pixel, up to the
order of float32 additions otherwise.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktb.data.arrays import Size

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

BITS = 11
"""cv2 weighs bytes with whole numbers that add up to 2**BITS."""


def nearest(x: Tensor, size: Size) -> Tensor:
    """As cv2.INTER_NEAREST_EXACT.

    Args:
        x: (C, H, W).
        size: (height, width) of the result.
    """
    for axis, length in ((1, size[0]), (2, size[1])):
        if (source := x.shape[axis]) != length:
            ramp = np.arange(source, dtype=np.float32)[None]
            places = cv2.resize(ramp, (length, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
            x = x.index_select(axis, torch.from_numpy(places.astype(np.int64)))
    return x


def linear(x: Tensor, size: Size) -> Tensor:
    """As cv2.INTER_LINEAR of float32 pictures.

    Args:
        x: (C, H, W) float32.
        size: (height, width) of the result.
    """
    for axis, length in ((2, size[1]), (1, size[0])):
        if x.shape[axis] != length:
            low, high, shares = _between(x.shape[axis], length)
            first, second = (_along(share, axis) for share in shares)
            x = x.index_select(axis, low) * first + x.index_select(axis, high) * second
    return x


def linear_bytes(x: Tensor, size: Size) -> Tensor:
    """As cv2.INTER_LINEAR of uint8 pictures, which computes with whole numbers and cuts digits off on the way.

    Args:
        x: (C, H, W) float32, whole numbers from 0 to 255.
        size: (height, width) of the result, which has such numbers again.
    """
    if tuple(x.shape[1:]) == size:
        return x
    low, high, shares = _whole_shares(x.shape[2], size[1], inside=True)
    first, second = (_along(torch.from_numpy(share.astype(np.float32)), 2) for share in shares)
    across = ((x.index_select(2, low) * first + x.index_select(2, high) * second) / 16).floor()
    low, high, shares = _whole_shares(x.shape[1], size[0], inside=False)
    upper, lower = (_along(torch.from_numpy(share), 1) for share in shares)
    across = across.double()  # the products have up to 26 bits
    down = (across.index_select(1, low) * upper / 65536).floor() + (
        across.index_select(1, high) * lower / 65536
    ).floor()
    return ((down + 2) / 4).floor().float()


def halved(x: Tensor) -> Tensor:
    """As cv2.INTER_AREA to half the size, rounded up.

    Args:
        x: (C, H, W) float32.
    """
    for axis in (2, 1):
        places, shares = _areas(x.shape[axis])
        parts = [
            x.index_select(axis, torch.from_numpy(place)) * _along(torch.from_numpy(share), axis)
            for place, share in zip(places, shares, strict=True)
        ]
        x = parts[0]
        for part in parts[1:]:
            x = x + part
    return x


def _along(share: Tensor, axis: int) -> Tensor:
    return share.reshape(-1, 1) if axis == 1 else share


def _between(source: int, length: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """For each of `length` places the two of `source` that it lies between, and their shares.

    The shares are asked of cv2 itself, as versions compute them differently in the last digits: a picture of stripes
    shows the share of the even and of the odd neighbour.
    """
    centres = (np.arange(length) + 0.5) * (source / length) - 0.5
    low = np.clip(np.floor(centres), 0, source - 1).astype(np.int64)
    high = np.minimum(low + 1, source - 1)
    odd = (np.arange(source) % 2).astype(np.float32)
    even_share, odd_share = (
        # Two rows, as cv2 halves a picture in another way where both sides are halved.
        cv2.resize(np.stack([stripes, stripes]), (length, 2), interpolation=cv2.INTER_LINEAR)[0]
        for stripes in (1 - odd, odd)
    )
    is_odd = low % 2 == 1
    first = np.where(is_odd, odd_share, even_share)
    second = np.where(high == low, 0, np.where(is_odd, even_share, odd_share)).astype(np.float32)
    places = torch.from_numpy(low), torch.from_numpy(high)
    return (*places, (torch.from_numpy(first), torch.from_numpy(second)))


def _whole_shares(
    source: int, length: int, *, inside: bool
) -> tuple[Tensor, Tensor, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """As `_between` with shares in whole numbers.

    Args:
        source, length: as in `_between`.
        inside: a place beyond the outermost pixel's centre is that pixel alone, as cv2 has it across; down it is a sum
            of that pixel and itself, which is rounded twice.
    """
    centres = ((np.arange(length) + 0.5) * (source / length) - 0.5).astype(np.float32)
    below = np.floor(centres)
    fraction = centres - below
    if inside:
        beyond = (below < 0) | (below >= source - 1)
        fraction = np.where(beyond, np.float32(0), fraction)
        below = np.clip(below, 0, source - 1)
    places = [torch.from_numpy(np.clip(below + step, 0, source - 1).astype(np.int64)) for step in (0, 1)]
    shares = [np.rint(share * np.float32(2**BITS)).astype(np.float64) for share in (1 - fraction, fraction)]
    return places[0], places[1], (shares[0], shares[1])


def _areas(source: int) -> tuple[list[Places], list[Floats]]:
    """For each place of half as many, rounded up, what it covers of the source, with shares.

    Returns:
        as many lists of places, and of their shares, as a place covers at most.
    """
    length = math.ceil(source / 2)
    step = source / length
    starts = np.arange(length) * step
    ends = np.minimum(starts + step, source)
    firsts = np.floor(starts + 1e-3).astype(np.int64)
    places, shares = [], []
    for offset in range(3):
        place = firsts + offset
        share = (np.minimum(ends, place + 1) - np.maximum(starts, place)) / (ends - starts)
        share = np.where(share > 1e-3 / step, share, 0)
        if share.any():
            places.append(np.minimum(place, source - 1))
            shares.append(share.astype(np.float32))
    return places, shares
