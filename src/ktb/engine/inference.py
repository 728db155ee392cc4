"""From a dict of modalities to logits at a wanted size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.errors import ConfigError
from ktb.models.segmentor import KTBSegmentor

Size = tuple[int, int]
"""(height, width) in pixels."""

BAND_VALUES = 1 << 24
"""Logits that a band of resized rows holds at most (64 MiB of float32)."""


def resize_logits(logits: Tensor, size: Size) -> Tensor:
    """(B, K, H, W) → (B, K, *size), bilinear; unchanged when the size is right already."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def whole_image(model: KTBSegmentor, inputs: Mapping[str, Tensor], size: Size) -> Tensor:
    """Logits (B, K, *size) of one forward pass over whole images."""
    return resize_logits(model(inputs, side=False).logits, size)


def sliding_window(
    model: KTBSegmentor,
    inputs: Mapping[str, Tensor],
    size: Size,
    *,
    window: int | Size,
    overlap: float = 0.25,
) -> Tensor:
    """Logits (B, K, *size) from overlapping tiles of `window`, blended smoothly; see `sliding_bands`."""
    logits: Tensor | None = None
    for row, band in sliding_bands(
        lambda tile: model(tile, side=False).logits, inputs, size, window=window, overlap=overlap
    ):
        if logits is None:
            logits = band.new_empty(*band.shape[:2], *size)
        logits[:, :, row : row + band.shape[2]] = band
    assert logits is not None  # an image has at least one tile
    return logits


def sliding_bands(
    predict: Callable[[dict[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    size: Size,
    *,
    window: int | Size,
    overlap: float = 0.25,
) -> Iterator[tuple[int, Tensor]]:
    """The same logits as `sliding_window` in finished bands of rows, so that they never exist as a whole.

    Tiles are spread evenly, neighbours sharing at least `overlap` of a window's side; an image no larger than the
    window is one tile of its own size. Tiles are averaged with sin² weights, which fade to nothing at a tile's edge and
    add up to 1. At most `window height` rows of logits of the input's width are held, and `BAND_VALUES` if `size` is
    another size than the input's.

    Args:
        predict: a tile, (B, C, h, w) per modality, cut out of `inputs` → logits (B, K, h, w). What it does to a tile
            (normalise it, move it to a device) need not be done to the whole image.
        inputs: modality → (B, C, H, W) of one size, any size from 1 x 1 on.
        size: (height, width) of the result; logits are resized to it as by `resize_logits`.
        window: (height, width) of the tiles or both in one number, in pixels of the inputs.
        overlap: in [0, 1).

    Yields:
        (first row, logits (B, K, rows, width)) from top to bottom, without gaps. A band may be overwritten when the
        next one is asked for.

    Raises:
        ConfigError: a window or overlap that cannot work.
    """
    height, width = next(iter(inputs.values())).shape[-2:]
    tile = (window, window) if isinstance(window, int) else (window[0], window[1])
    if min(tile) < 1 or not 0 <= overlap < 1:
        raise ConfigError(
            f"window is {tile[0]} x {tile[1]} pixels, overlap {overlap:g}; expected 1 or more, and a share from 0 to "
            "below 1"
        )
    bands = _blended(predict, inputs, _axis(height, tile[0], overlap), _axis(width, tile[1], overlap))
    return bands if size == (height, width) else _resized(bands, (height, width), size)


def _axis(length: int, window: int, overlap: float) -> list[tuple[slice, Tensor]]:
    """Tiles along one axis: where each lies, and its share (float64) in each of its pixels. Shares add up to 1."""
    window = min(window, length)
    step = max(int(window * (1 - overlap)), 1)
    count = 1 + -(-(length - window) // step)
    starts = np.linspace(0, length - window, count).round().astype(int)
    weight = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + window] += weight
    places = [slice(int(start), int(start) + window) for start in starts]
    return [(place, torch.from_numpy(weight / total[place])) for place in places]


def _blended(
    predict: Callable[[dict[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    rows: list[tuple[slice, Tensor]],
    columns: list[tuple[slice, Tensor]],
) -> Iterator[tuple[int, Tensor]]:
    """Bands of the input's size. Rows are finished as soon as the next row of tiles begins below them."""
    ends = [place.start for place, _ in rows[1:]] + [rows[-1][0].stop]
    total: Tensor | None = None
    for (row, row_share), end in zip(rows, ends, strict=True):
        for column, column_share in columns:
            logits = predict({name: x[..., row, column] for name, x in inputs.items()})
            if len(rows) == len(columns) == 1:
                yield 0, logits
                return
            if total is None:
                dtype = torch.promote_types(logits.dtype, torch.float32)
                total = logits.new_zeros(*logits.shape[:3], columns[-1][0].stop, dtype=dtype)
            share = (row_share[:, None] * column_share).to(total)
            total[..., column].addcmul_(logits.to(total.dtype), share)
        assert total is not None  # there is at least one column
        done = end - row.start
        yield row.start, total[:, :, :done]
        rest = total[:, :, done:].clone()
        total[:, :, : rest.shape[2]] = rest
        total[:, :, rest.shape[2] :] = 0


def _resized(bands: Iterator[tuple[int, Tensor]], source: Size, target: Size) -> Iterator[tuple[int, Tensor]]:
    """`F.interpolate(mode="bilinear", align_corners=False)` of a tensor that comes in bands of rows."""
    centres = ((np.arange(target[0]) + 0.5) * source[0] / target[0] - 0.5).clip(0)
    above = centres.astype(int)
    below = np.minimum(above + 1, source[0] - 1)
    first = done = 0
    kept: Tensor | None = None
    for row, band in bands:
        kept = band if kept is None else torch.cat([kept, band], dim=2)
        ready = int(np.searchsorted(below, row + band.shape[2]))
        most = max(1, BAND_VALUES // (band.shape[0] * band.shape[1] * target[1]))
        for start, stop in pairwise([*range(done, ready, most), ready]):
            rows = slice(start, stop)
            fraction = torch.from_numpy(centres[rows] - above[rows]).to(kept)[:, None]
            upper, lower = (kept[:, :, torch.from_numpy(at[rows] - first).to(kept.device)] for at in (above, below))
            yield start, resize_logits(torch.lerp(upper, lower, fraction), (stop - start, target[1]))
        done = ready
        if done < target[0]:
            kept = kept[:, :, above[done] - first :].clone()
            first = int(above[done])
