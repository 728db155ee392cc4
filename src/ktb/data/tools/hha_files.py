"""Folders of depth maps → HHA files: what `ktb-data hha` finds, how it reads depth, and what it leaves as it is."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ktb.data.files import read_bytes
from ktb.data.globs import fixed_parts
from ktb.data.readers.decode import decode
from ktb.data.readers.png import png_text
from ktb.data.tools.hha import Camera, hha
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError
from ktb.io import atomic_file, files_below, is_hidden, leads_back

DEPTH_SUFFIXES = (".png", ".npy", ".tif", ".tiff")
PLAUSIBLE_M = (0.05, 500.0)
"""Median depth in metres that some depth sensor could have measured."""

_STAMP = "ktb-hha"
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6}


def parse_unit(text: str) -> float:
    """Metres per stored unit.

    Args:
        text: "mm", "0.1mm", "cm", "m", or a plain number of metres such as "0.0001".

    Raises:
        DataError: it is none of these.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]*?)\s*(um|mm|cm|m)?\s*", text)
    try:
        unit = float(match[1] or "1") * _METRES[match[2] or "m"] if match and (match[1] or match[2]) else 0.0
    except ValueError:
        unit = 0.0
    if not 0.0 < unit < float("inf"):
        raise DataError(
            f"unit {text!r}: expected mm, cm, m, a multiple like 0.1mm, or metres per stored unit like 0.0001"
        )
    return unit


@dataclass(frozen=True)
class HHAJob:
    """One depth map to encode.

    Args:
        source: its file.
        raw: the sensor's own map (see `hha`), or None.
        target: the PNG to write.
        unit_m: metres per stored unit.
        camera: that of the map.
        scale_camera: resize the camera to the map's size where the two differ.
    """

    source: Path
    raw: Path | None
    target: Path
    unit_m: float
    camera: Camera
    scale_camera: bool = False


def plan_hha(
    source: str,
    target: Path,
    *,
    unit_m: float,
    camera: Camera,
    raw: Path | None = None,
    scale_camera: bool = False,
) -> list[HHAJob]:
    """Find the depth maps to encode.

    Args:
        source: a folder, searched with its subfolders for .png, .npy and .tif(f), or a glob pattern (`**` included).
        target: folder of the results, laid out as the source.
        unit_m, camera, scale_camera: as in `HHAJob`.
        raw: folder of the sensor's own maps, laid out as the source (same stems).

    Returns:
        One job per depth map, sorted.

    Raises:
        DataError: nothing is found, or results would overwrite inputs or each other.
    """
    if Path(source).is_dir():
        root = Path(source)
        found = [p for p in files_below(root) if p.suffix.lower() in DEPTH_SUFFIXES]
        wanted = f"files ending in {' '.join(DEPTH_SUFFIXES)}"
    else:
        root = Path(*fixed_parts(source))
        found = [Path(p) for p in glob.glob(source, recursive=True)]  # noqa: PTH207 - also takes absolute patterns
        circles = {folder for folder in {parent for p in found for parent in p.parents} if leads_back(folder)}
        found = [p for p in found if circles.isdisjoint(p.parents)]
        found = [p for p in found if not any(map(is_hidden, p.relative_to(root).parts))]
        wanted = "an existing folder, or a pattern that matches depth maps, quoted, such as 'Depth/*.npy'"
    inside = target.resolve()
    if inside == root.resolve():
        raise DataError(
            f"{target}: is the folder of the depth maps themselves, expected another folder for the results"
        )
    files = sorted(p for p in found if p.is_file() and not is_hidden(p.name) and inside not in p.resolve().parents)
    if not files:
        raise DataError(f"{source}: no depth map found, expected {wanted}")
    jobs: dict[Path, HHAJob] = {}
    for path in files:
        relative = path.relative_to(root)
        output = target / relative.with_suffix(".png")
        if output in jobs:
            raise DataError(
                f"{path} and {jobs[output].source.name} would both become {output}: choose one kind with a pattern "
                f"such as '{root}/*{path.suffix}'"
            )
        raw_path = None
        if raw is not None:
            raw_path = next(
                (p for s in (path.suffix, *DEPTH_SUFFIXES) if (p := (raw / relative).with_suffix(s)).is_file()),
                raw / relative,
            )
        jobs[output] = HHAJob(path, raw_path, output, unit_m, camera, scale_camera)
    return list(jobs.values())


def convert_hha(job: HHAJob, *, overwrite: bool = False) -> Outcome:
    """Encode one map and write it, or keep a result made from the same bytes with the same settings.

    The PNG carries the settings and a hash of its source as a text chunk, so that a stopped conversion goes on where it
    stopped and a changed input or camera is noticed, whatever the times of the files.

    Args:
        job: the map.
        overwrite: encode it again even if the result is there.

    Returns:
        What became of it; it never raises for what a file holds.
    """
    try:
        data = read_bytes(job.source)
        raw_data = None if job.raw is None else read_bytes(job.raw)
        stamp = json.dumps(
            {
                "source": hashlib.blake2b(data, digest_size=16).hexdigest(),
                "raw": None if raw_data is None else hashlib.blake2b(raw_data, digest_size=16).hexdigest(),
                "unit_m": job.unit_m,
                "camera": astuple(job.camera),
                "scale_camera": job.scale_camera,
            }
        )
        if not overwrite and png_text(job.target, _STAMP) == stamp:
            return Outcome(job.target, "kept")
        depth = _decode_depth(data, job.source) * job.unit_m
        measured = depth[np.isfinite(depth) & (depth > 0)]
        median = float(np.median(measured)) if measured.size else None
        if median is not None and not PLAUSIBLE_M[0] <= median <= PLAUSIBLE_M[1]:
            raise DataError(
                f"{job.source}: median depth would be {median:.4g} m with {job.unit_m:g} m per stored unit, expected "
                f"{PLAUSIBLE_M[0]:g} to {PLAUSIBLE_M[1]:g} m: give the unit the file is stored in"
            )
        raw = None if job.raw is None or raw_data is None else _decode_depth(raw_data, job.raw) * job.unit_m
        height, width = depth.shape
        camera = job.camera.scaled((height, width)) if job.scale_camera else job.camera
        try:
            encoded = hha(depth, raw_depth_m=raw, camera=camera)
        except DataError as error:
            raise DataError(f"{job.source}: {error}") from None
        job.target.parent.mkdir(parents=True, exist_ok=True)
        info = PngInfo()
        info.add_text(_STAMP, stamp)
        with atomic_file(job.target) as temporary:
            Image.fromarray(encoded).save(temporary, "PNG", pnginfo=info, compress_level=3)
    except DataError as error:
        return Outcome(job.source, "failed", str(error))
    except OSError as error:
        return Outcome(job.source, "failed", f"{error.filename or job.target}: {error.strerror or error}")
    return Outcome(
        job.target, "written", "" if median is not None else f"{job.source}: no measurement in the whole map"
    )


def _decode_depth(data: bytes, path: Path) -> NDArray[np.float64]:
    """Stored depth values of an image or array file as float64 (H, W)."""
    values = decode(path, data=data)
    if values.dtype == np.uint8:
        raise DataError(
            f"{path}: 8-bit {'x'.join(map(str, values.shape))}, expected metric depth in 16 bits or as floats: "
            "an 8-bit picture of depth has lost its units"
        )
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2:
        raise DataError(f"{path}: array of shape {values.shape}, expected one channel (height, width)")
    return np.asarray(values, np.float64)
