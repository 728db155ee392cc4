"""One homography for a whole folder, estimated from the edges of several samples together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from ktb.data.arrays import Array, Mask, Size
from ktb.data.tools.align.calibration import check_homography
from ktb.data.tools.align.camera import Doubles
from ktb.data.tools.align.edges import Correlator, edges, peak
from ktb.data.tools.align.files import measured, stored
from ktb.data.tools.align.offset import LONGEST, Offset, find_offset
from ktb.data.tools.align.warp import by_homography, sample
from ktb.data.tools.parallel import Outcome, parallel
from ktb.errors import DataError

Model = Literal["similarity", "affine", "homography"]
MODELS: tuple[Model, ...] = get_args(Model)

SAMPLES = 24
"""Pairs that are looked at, spread over all."""
TILES = 4
"""Parts of the picture along each side whose shifts are found one by one, over all samples together."""
TILE_REACH = 12
"""Largest shift of a part in pixels."""
TURNS = 3
STRENGTH, UNCERTAINTY = 5.0, 1.5
"""Of a part that is believed, as in `ktb.data.tools.align.offset`."""
NEEDED: dict[Model, int] = {"similarity": 0, "affine": 6, "homography": 8}
"""Believed parts."""
NEAR = 1.5
"""Pixels by which a part may deviate from the homography of the others."""


@dataclass(frozen=True)
class Pair:
    """Two files of one sample.

    Args:
        first: the one whose view is kept.
        other: the one to move.
        hole: value of `other` that means no measurement, see `measured`.
        homography: first → other, of pictures as `_at_working_size` gives them; None: not known yet.
    """

    first: Path
    other: Path
    hole: float | None
    homography: Doubles | None = None


@dataclass(frozen=True)
class Seen(Outcome):
    """What one pair says: its offset, or the agreement of each part under every shift."""

    offset: Offset | None = None
    surfaces: list[Array] = field(default_factory=list)
    sizes: tuple[Size, Size, Size] = ((0, 0), (0, 0), (0, 0))
    """(height, width) of the first and of the other file, and of both while they are compared."""


def estimate(
    pairs: Sequence[Pair],
    model: Model,
    *,
    watch: Callable[[Iterable[Outcome], int, str], Sequence[Outcome]],
    workers: int | None = None,
) -> tuple[Doubles, int]:
    """The homography that moves the other pictures onto the first ones.

    Args:
        pairs: all samples; `SAMPLES` of them are looked at.
        model: how much it may do: shift and scale (similarity), also turn and shear (affine), also tilt (homography).
        watch: shows the progress.
        workers: processes.

    Returns:
        (3, 3), pixel of the other picture → pixel of the first, and the number of samples it was found in.

    Raises:
        DataError: the pictures have too few edges in common, or differ in size from sample to sample.
    """
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(SAMPLES, len(pairs))).round().astype(int))
    looked_at = [pairs[i] for i in chosen]
    seen = _seen(watch(parallel(_offset, looked_at, workers), len(looked_at), "estimate, whole pictures"))
    sizes = {s.sizes for s in seen}
    if len(sizes) > 1:
        (a, b), (c, d) = ([f"{h}x{w}" for h, w in s[:2]] for s in sorted(sizes)[:2])
        raise DataError(
            f"{seen[0].path}: one matrix can't hold for pictures of several sizes; found {b} beside {a} and {d} "
            f"beside {c} "
            "(height x width): align each by itself"
        )
    found = [s.offset for s in seen if s.offset is not None and s.offset.reliable]
    if not found or len(found) < 0.25 * len(seen):
        raise DataError(
            f"{looked_at[0].other}: the pictures have too few edges in common with {looked_at[0].first} to "
            "estimate how they "
            f"lie (found in {len(found)} of {len(seen)} samples); give a calibration"
        )
    dx, dy, scale = (float(np.median([getattr(o, name) for o in found])) for name in ("dx", "dy", "scale"))
    matrix = np.vstack([Offset(dx, dy, scale, 0, 0, found[0].size).matrix(), (0, 0, 1)])
    first_size, other_size, size = seen[0].sizes
    for turn in range(TURNS if model != "similarity" else 0):
        jobs = [Pair(p.first, p.other, p.hole, matrix) for p in looked_at]
        title = f"estimate, parts, {turn + 1} of {TURNS}"
        surfaces = [s.surfaces for s in _seen(watch(parallel(_parts, jobs, workers), len(jobs), title))]
        matrix = _fit([np.sum(part, axis=0) for part in zip(*surfaces, strict=True)], size, matrix, model, looked_at[0])
    whole = np.linalg.inv(_resize_matrix(other_size, size)) @ matrix @ _resize_matrix(first_size, size)
    check_homography(f"{looked_at[0].other}", whole)
    back = np.linalg.inv(whole)
    return back / back[2, 2], len(found)


def _seen(outcomes: Iterable[Outcome]) -> list[Seen]:
    seen = sorted((s for s in outcomes if isinstance(s, Seen)), key=lambda s: s.path)
    good = [s for s in seen if s.state != "failed"]
    if not good:
        raise DataError(seen[0].message)
    return good


def _at_working_size(pair: Pair) -> tuple[Array, Array, Mask | None, tuple[Size, Size, Size]]:
    """Both pictures at one size, that of the first or smaller; where the other was measured; all three sizes."""
    first, other = (stored(path) for path in (pair.first, pair.other))
    valid = measured(other, pair.hole)
    first_size, other_size = ((a.shape[0], a.shape[1]) for a in (first, other))
    shrink = max(1.0, max(first_size) / LONGEST)
    size = (round(first_size[0] / shrink), round(first_size[1] / shrink))
    if valid is not None:
        other = np.where(valid if other.ndim == 2 else valid[..., None], other, np.zeros((), other.dtype))
        kept = cv2.resize(valid.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        valid = kept >= 1 - 1e-6
    images = []
    for image in (first, other):
        smaller = image.shape[0] > size[0]
        kind = image if image.dtype in (np.uint8, np.uint16) else image.astype(np.float32)
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        images.append(image if image.shape[:2] == size else cv2.resize(kind, size[::-1], interpolation=how))
    return images[0], images[1], valid, (first_size, other_size, size)


def _resize_matrix(size: Size, to: Size) -> Doubles:
    """(3, 3): pixel of a picture → pixel of the same picture resized."""
    y, x = (b / a for a, b in zip(size, to, strict=True))
    return np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5], [0, 0, 1]])


def _offset(pair: Pair) -> Seen:
    try:
        first, other, valid, sizes = _at_working_size(pair)
    except DataError as error:
        return Seen(pair.other, "failed", str(error))
    return Seen(pair.other, "kept", offset=find_offset(first, other, valid), sizes=sizes)


def _windows(size: Size) -> list[tuple[slice, slice]]:
    """The parts of a picture, which overlap by half."""
    parts = []
    for length in size:
        side = 2 * length // (TILES + 1)
        starts = np.linspace(0, length - side, TILES).round().astype(int)
        parts.append([slice(int(s), int(s) + side) for s in starts])
    return [(rows, columns) for rows in parts[0] for columns in parts[1]]


def _parts(pair: Pair) -> Seen:
    try:
        first, other, valid, sizes = _at_working_size(pair)
    except DataError as error:
        return Seen(pair.other, "failed", str(error))
    assert pair.homography is not None
    moved = sample(
        other, valid, by_homography(np.asarray(np.linalg.inv(pair.homography), np.float64), sizes[2]), nearest=False
    )
    fields = edges(first), edges(moved.image, moved.valid)
    surfaces = []
    for window in _windows(sizes[2]):
        surface = Correlator(fields[0][window], TILE_REACH).surface(fields[1][window])
        spread = float(surface.std())
        surfaces.append(surface / spread if spread > 0 else surface)  # no sample counts more for being contrasty
    return Seen(pair.other, "kept", surfaces=surfaces, sizes=sizes)


def _fit(surfaces: Sequence[Array], size: Size, matrix: Doubles, model: Model, pair: Pair) -> Doubles:
    """The matrix first → other that the shifts of the parts ask for."""
    here, there = [], []
    for (rows, columns), surface in zip(_windows(size), surfaces, strict=True):
        best = peak(surface)
        if best.strength >= STRENGTH and best.uncertainty <= UNCERTAINTY:
            centre = ((columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
            here.append(centre)
            there.append((centre[0] + best.dx, centre[1] + best.dy))
    source = np.array(here, np.float64).reshape(-1, 1, 2)
    target = cv2.perspectiveTransform(np.array(there, np.float64).reshape(-1, 1, 2), matrix) if there else source
    found = None
    if len(here) >= NEEDED[model]:
        if model == "affine":
            affine, _ = cv2.estimateAffine2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=NEAR)
            found = None if affine is None else np.vstack([affine, (0, 0, 1)])
        else:
            found, _ = cv2.findHomography(source, target, cv2.RANSAC, NEAR)
    if found is None:
        raise DataError(
            f"{pair.other}: only {len(here)} of {len(surfaces)} parts of the pictures have edges in common with "
            f"{pair.first}, and {model} needs {NEEDED[model]}; try --estimate "
            f"{'similarity' if model == 'affine' else 'affine or similarity'}, or give a calibration"
        )
    return np.asarray(found, np.float64)
