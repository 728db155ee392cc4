"""From a dict of modalities to logits at a wanted size: the ways a picture can be passed through the network.

Each is a function of (model, inputs, size). The model is called as model(inputs, side=False) and answers with logits
(B, K, H, W); a model that stacks the logits of several heads along the classes, (B, heads · K, H, W), is welcome too,
as long as its `num_classes` is K.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.errors import ConfigError
from ktb.models.segmentor import SegOutput
from ktb.models.setting_types import misfit

Size = tuple[int, int]
"""(height, width) in pixels."""

BAND_VALUES = 1 << 24
"""Logits that a band of resized rows holds at most (64 MiB of float32)."""

PASS_VALUES = 1 << 26
"""Logits that a forward pass of several images gives at most (256 MiB of float32)."""

ALIGN = 32
"""Both sides of a scaled image go up to a multiple of this (docs/method.md#evaluation)."""


class Model(Protocol):
    """What is asked of a `KTBSegmentor` here."""

    @property
    def num_classes(self) -> int:
        """K."""
        ...

    def __call__(self, inputs: Mapping[str, Tensor], *, side: bool | None = None) -> SegOutput: ...


Inference = Callable[[Model, Mapping[str, Tensor], Size], Tensor]
"""(model, normalised inputs, size) → logits (B, K, *size)."""


def resize_logits(logits: Tensor, size: Size) -> Tensor:
    """Logits (B, K, H, W) at another size (B, K, *size), bilinear; unchanged when the size is right already."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Class ids (B, H, W) of logits (B, K, H, W), and which images (B) have an answer in every pixel.

    The largest of logits that are NaN is class 0, which looks like an answer and is none.
    """
    largest, ids = logits.max(1)
    return ids, largest.isfinite().flatten(1).all(1)


def whole_image(model: Model, inputs: Mapping[str, Tensor], size: Size) -> Tensor:
    """One forward pass over whole images.

    Args:
        model: see `Model`.
        inputs: modality → (B, C, H, W), normalised.
        size: height and width of the result.

    Returns:
        logits (B, K, *size).
    """
    return resize_logits(model(inputs, side=False).logits, size)


def multi_scale_flip(
    model: Model,
    inputs: Mapping[str, Tensor],
    size: Size,
    *,
    scales: Sequence[float],
    flip: bool,
) -> Tensor:
    """Mean probability over scaled copies of the images and their mirror images (docs/method.md#evaluation).

    Bilinear with align_corners=True both ways. Copies of one size and their mirror images share a forward pass while
    their logits stay below `PASS_VALUES`; scales that come to the same size are computed once and counted as often.
    Beside the sum, one image's probabilities at the final size are held at a time.

    Args:
        model, inputs, size: as in `whole_image`.
        scales: factors on height and width.
        flip: whether mirror images are used as well.

    Returns:
        (B, K, *size): logarithm of the mean probability, so that softmax gives the mean probability back.
    """
    images, _, height, width = next(iter(inputs.values())).shape
    total: Tensor | None = None
    for scaled, times in Counter((_aligned(s * height), _aligned(s * width)) for s in scales).items():
        copies = {m: _interpolate(x, scaled) for m, x in inputs.items()}
        if flip:
            copies = {m: torch.cat([x, x.flip(-1)]) for m, x in copies.items()}
        count = images * (2 if flip else 1)
        together = max(1, PASS_VALUES // (model.num_classes * math.prod(scaled)))
        for start in range(0, count, together):
            logits = model({m: x[start : start + together] for m, x in copies.items()}, side=False).logits
            if total is None:
                dtype = torch.promote_types(logits.dtype, torch.float32)  # half precision is too coarse for a sum
                total = logits.new_zeros((images, logits.shape[1], *size), dtype=dtype)
            for place, one in enumerate(logits.to(total.dtype), start):
                one = _interpolate((one.flip(-1) if place >= images else one)[None], size)[0]
                probability = one.unflatten(0, (-1, model.num_classes)).softmax(1).flatten(0, 1)
                total[place % images].add_(probability, alpha=times)
    assert total is not None  # there is a scale
    return total.div_(len(scales) * (2 if flip else 1)).clamp_min_(torch.finfo(total.dtype).tiny).log_()


def _aligned(side: float) -> int:
    return math.ceil(round(side, 6) / ALIGN) * ALIGN  # rounded: 1.1 · 320 is 352.00000000000006


def _interpolate(x: Tensor, size: Size) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def sliding_window(
    model: Model,
    inputs: Mapping[str, Tensor],
    size: Size,
    *,
    window: int | Size,
    overlap: float = 0.25,
) -> Tensor:
    """Logits from overlapping tiles, blended smoothly; see `sliding_bands`.

    Args:
        model, inputs, size: as in `whole_image`.
        window, overlap: as in `sliding_bands`.

    Returns:
        logits (B, K, *size).
    """
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


METHODS: dict[str, Callable[..., Tensor]] = {
    "whole": whole_image,
    "sliding": sliding_window,
    "ms_flip": multi_scale_flip,
}


def inference(method: str, **options: Any) -> Inference:
    """The function called `method` with its options bound.

    Raises:
        ConfigError: unknown method or option, one that is missing, or a value that cannot work.
    """
    if method not in METHODS:
        raise ConfigError(f"eval.method={method}: expected one of {', '.join(METHODS)}")
    function = METHODS[method]
    settings = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind == p.KEYWORD_ONLY}
    if unknown := sorted(set(options) - set(settings)):
        known = f"expected {', '.join(settings)}" if settings else "it has none"
        raise ConfigError(f"eval.{unknown[0]} is no setting of eval.method={method}: {known}")
    if missing := [n for n, p in settings.items() if p.default is p.empty and n not in options]:
        raise ConfigError(f"eval.method={method} needs eval.{missing[0]}")
    scales = options.get("scales", [1.0])
    if not scales or not all(isinstance(s, int | float) and 0 < s <= 8 for s in scales):
        raise ConfigError(f"eval.scales={scales}: expected one number or more, each above 0 and at most 8")
    window = options.get("window", 1)
    sides = window if isinstance(window, Sequence) and len(window) == 2 else [window]
    if not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ConfigError(f"eval.window={window}: expected [height, width], or one number for both, in pixels")
    if not 0 <= (overlap := options.get("overlap", 0)) < 1:
        raise ConfigError(f"eval.overlap={overlap}: expected a share from 0 to below 1")
    if wrong := misfit(function, options):
        raise ConfigError(f"eval.{wrong}")
    return partial(function, **options)


def describe(method: str, scoring: str, **options: Any) -> str:
    """The protocol in words, for tables and result.json.

    Args:
        method: a name of `METHODS`.
        scoring: "native" or "published", at which size scores are taken.
        options: of the method.
    """
    if method == "ms_flip":
        scales = ", ".join(f"{s:g}" for s in options["scales"])
        how = f"multi-scale ({scales}){' and flip' if options['flip'] else ''}"
    elif method == "sliding":
        window = options["window"]
        height, width = (window, window) if isinstance(window, int) else window
        how = f"sliding window {height} x {width}, overlap {options['overlap']:g}"
    else:
        how = "whole image"
    where = {"native": "scored at the label's own size", "published": "scored at the resized size, as published"}
    return f"{how}, {where[scoring]}"
