"""A data folder → the same folder with some of its modalities moved into the view of the first one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ktb.data.arrays import Array, Size
from ktb.data.file_tree import Tree
from ktb.data.files import similar
from ktb.data.globs import match_files
from ktb.data.tools.align.calibration import Calibration
from ktb.data.tools.align.camera import Doubles
from ktb.data.tools.align.files import free_value, measured, nodata_of, stored, target_name, write
from ktb.data.tools.align.warp import by_homography, depth_in_first, sample, where_in_other
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError
from ktb.io import atomic_file, files_below

Kind = Literal["depth", "intensity", "labels"]

LOOKED_AT = 24
"""Files that are read to find a value for holes."""


@dataclass(frozen=True)
class Moved:
    """One modality to move.

    Args:
        pattern: of its files, below the folder.
        kind: depth keeps the nearest surface, intensity is interpolated, labels (ids) are not.
        hole: value that means no measurement; for labels that of void.
        files: sample → file, below the folder.
        unit_m: of depth, metres per stored unit.
    """

    pattern: str
    kind: Kind
    hole: float
    files: Mapping[str, str]
    unit_m: float = 1.0


@dataclass(frozen=True)
class Way:
    """How pictures are moved: by a homography, by depth and calibration, or by calibration at one distance.

    Args:
        homography: (3, 3), pixel of the other picture → pixel of the first.
        calibration: of both cameras.
        distance: metres at which everything is taken to be; None: depth tells.
    """

    homography: Doubles | None = None
    calibration: Calibration | None = None
    distance: float | None = None


@dataclass(frozen=True)
class AlignJob:
    """One file to move or to copy.

    Args:
        source, target: the file and the new one.
        first: the file of the first modality, whose size the new one gets; None: copy the file.
        kind, hole, unit_m: as in `Moved`.
        way: how it is moved.
        depth: the file of the depth that moves intensities and labels by calibration, with its hole and unit.
        depth_in_first: that depth lies in the view of the first modality already.
    """

    source: Path
    target: Path
    first: Path | None = None
    kind: Kind = "intensity"
    hole: float = 0.0
    unit_m: float = 1.0
    way: Way = Way()
    depth: tuple[Path, float, float] | None = None
    depth_in_first: bool = False


def matched(folder: Path, pattern: str) -> dict[str, str]:
    """Sample → file of the files that a pattern matches.

    Args:
        folder: the data folder.
        pattern: below it, as in `conf/dataset/folder.yaml`.

    Raises:
        DataError: it matches none.
    """
    files = match_files(Tree(folder), pattern)
    if not files:
        raise DataError(
            f"{folder / pattern}: no file matches this pattern{similar((folder / pattern).parent)}; expected one "
            "such as "
            "'depth/*.png'"
        )
    return files


def moved(folder: Path, pattern: str, kind: Kind, hole: float | None, unit_m: float | None = None) -> Moved:
    """A modality to move, with the value of its holes.

    Args:
        folder: the data folder.
        pattern: of its files.
        kind: see `Moved`.
        hole: value that means no measurement; None: look for one in the files.
        unit_m: of depth, metres per stored unit; None: millimetres in whole numbers, metres in floats.

    Raises:
        DataError: no file matches, one cannot be read, or every value may be a measurement.
    """
    files = matched(folder, pattern)
    names = sorted(files.values())
    chosen = np.unique(np.linspace(0, len(names) - 1, min(LOOKED_AT, len(names))).round().astype(int))
    images = [stored(folder / names[i]) for i in (chosen if hole is None else chosen[:1])]
    floats = images[0].dtype.kind == "f"
    metres = unit_m or (1.0 if floats else 1e-3)
    if hole is None and kind == "labels":
        hole = 65535.0 if any(i.dtype.itemsize > 1 for i in images) else 255.0
    elif hole is None and (tagged := nodata_of([folder / names[i] for i in chosen])) is not None:
        hole = tagged
    elif hole is None and kind == "depth":  # 0 metres is no measurement
        hole = float("nan") if any(_has_nan(i) for i in images) else 0.0
    elif hole is None:
        hole = free_value(images)
        if hole is None:
            raise DataError(
                f"{folder / pattern}: 0 is a value in its files, so it can't mean that nothing was measured; give the "
                f"value that does: --hole '{pattern}=VALUE'"
            )
    return Moved(pattern, kind, hole, files, metres)


def _has_nan(image: Array) -> bool:
    return image.dtype.kind == "f" and bool(np.isnan(image).any())


def plan(
    folder: Path,
    out: Path,
    first: Mapping[str, str],
    modalities: Sequence[Moved],
    ways: Sequence[Way],
    aligned_depth: Moved | None = None,
) -> list[AlignJob]:
    """All files to write: the moved ones, and copies of everything else.

    Args:
        folder: the data folder.
        out: the new one.
        first: sample → file of the modality whose view is kept.
        modalities: those to move.
        ways: how, for each of them.
        aligned_depth: depth that lies in the first modality's view already.

    Raises:
        DataError: a sample lacks a file, or two files would become one.
    """
    moving = {file for m in modalities for file in m.files.values()}
    depth = aligned_depth or next((m for m in modalities if m.kind == "depth"), None)
    jobs: dict[str, AlignJob] = {}
    for m, way in zip(modalities, ways, strict=True):
        by_depth = way.calibration is not None and way.distance is None and m.kind != "depth"
        for key, file in m.files.items():
            if key not in first:
                raise DataError(
                    f"{folder / file}: has no partner, as there is no file of the first modality for {key!r}; add "
                    "it, or "
                    "correct --onto"
                )
            of_depth = None
            if by_depth:
                if depth is None or key not in depth.files:
                    raise DataError(
                        f"{folder / file}: no depth tells where it belongs; give --depth or --aligned-depth with "
                        "a file "
                        f"for {key!r}, or --distance METRES where everything is far away"
                    )
                of_depth = (folder / depth.files[key], depth.hole, depth.unit_m)
            name = target_name(file)
            jobs[name] = AlignJob(
                folder / file,
                out / name,
                folder / first[key],
                m.kind,
                m.hole,
                m.unit_m,
                way,
                of_depth,
                aligned_depth is not None,
            )
    for path in files_below(folder):
        file = path.relative_to(folder).as_posix()
        if file in moving:
            continue
        if file in jobs:
            raise DataError(f"{path} and {jobs[file].source} would both become {jobs[file].target}; rename one of them")
        jobs[file] = AlignJob(path, out / file)
    return list(jobs.values())


def align(job: AlignJob, *, overwrite: bool = False) -> Outcome:
    """Write one file, or keep it if it is there.

    Args:
        job: the file.
        overwrite: write it even if it is there.

    Returns:
        What became of it; it never raises for what a file holds.
    """
    try:
        if not overwrite and job.target.is_file():
            return Outcome(job.target, "kept")
        if job.first is None:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(job.target) as temporary:
                shutil.copyfile(job.source, temporary)
            return Outcome(job.target, "written")
        image, share = _moved(job)
        write(job.target, image, job.source, job.hole)
    except DataError as error:
        return Outcome(job.source, "failed", str(error))
    except OSError as error:
        return Outcome(job.source, "failed", f"{error.filename or job.target}: {error.strerror or error}")
    odd = "" if share else f"{job.source}: nothing of it lies in the view of {job.first}; wrong calibration or unit?"
    return Outcome(job.target, "written", odd)


def _moved(job: AlignJob) -> tuple[Array, float]:
    """The picture in the first one's view, and the share of pixels with a measurement."""
    assert job.first is not None
    image = stored(job.source)
    first = stored(job.first)
    size = (first.shape[0], first.shape[1])
    way, valid = job.way, measured(image, job.hole)
    calibration = way.calibration
    if calibration is not None and job.kind == "depth":
        _check_size(job.source, image, calibration.other.size)
        _check_size(job.first, first, calibration.first.size)
        metres = _metres(image, job.hole, job.unit_m, job.source)
        found = depth_in_first(metres, calibration, size)
        seen = found > 0
        stored_depth = found / job.unit_m
        if image.dtype.kind in "iu":
            stored_depth = np.rint(stored_depth)
            seen &= stored_depth <= np.iinfo(image.dtype).max
        result = np.where(seen, stored_depth, 0).astype(image.dtype)
        return _marked(result, seen, job), float(seen.mean())
    if calibration is None:
        assert way.homography is not None
        places = by_homography(way.homography, size)
    else:
        _check_size(job.source, image, calibration.other.size)
        _check_size(job.first, first, calibration.first.size)
        places = where_in_other(_depth_of(job, calibration, size), calibration, (image.shape[0], image.shape[1]))
    warped = sample(image, valid, places, nearest=job.kind != "intensity")
    result = warped.image
    if job.kind == "intensity" and result.dtype.kind in "iu" and job.hole in range(np.iinfo(result.dtype).max + 1):
        # An interpolated value must not become the one that means nothing was measured.
        beside = job.hole + (1 if job.hole < np.iinfo(result.dtype).max else -1)
        result = np.where(result == job.hole, np.asarray(beside, result.dtype), result)
    return _marked(result, warped.valid, job), float(warped.valid.mean())


def _depth_of(job: AlignJob, calibration: Calibration, size: Size) -> Doubles:
    """The depth in the first view that moves a picture, in metres."""
    if job.way.distance is not None:
        return np.full(size, job.way.distance)
    assert job.depth is not None
    path, hole, unit_m = job.depth
    metres = _metres(stored(path), hole, unit_m, path)
    if job.depth_in_first:
        _check_size(path, metres, size)
        return metres
    _check_size(path, metres, calibration.other.size)
    return depth_in_first(metres, calibration, size)


def _metres(image: Array, hole: float, unit_m: float, path: Path) -> Doubles:
    if image.ndim != 2:
        raise DataError(f"{path}: has {image.shape[2]} channels; expected depth with one")
    valid = measured(image, hole)
    metres = image.astype(np.float64) * unit_m
    return metres if valid is None else np.where(valid, metres, 0.0)


def _check_size(path: Path, image: Array, size: Size | None) -> None:
    if size is not None and image.shape[:2] != size:
        raise DataError(
            f"{path}: is {image.shape[0]}x{image.shape[1]} (height x width), but the calibration holds for "
            f"{size[0]}x{size[1]}; align pictures of another size by themselves"
        )


def _marked(image: Array, seen: Array, job: AlignJob) -> Array:
    """`image` with the value of holes where nothing was measured."""
    kind = image.dtype
    if kind.kind in "iu" and (np.isnan(job.hole) or not np.iinfo(kind).min <= job.hole <= np.iinfo(kind).max):
        raise DataError(
            f"{job.source}: holds {kind} values, among which there is no {job.hole:g} to mark what was not "
            "measured; give "
            "another --hole"
        )
    where = seen if image.ndim == 2 else seen[..., None]
    return np.where(where, image, np.asarray(job.hole, kind)).astype(kind)
