"""The subcommand of `ktb-data` that moves sensors which do not line up: align."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ktb.cli.arguments import HelpFormatter, Subparsers, named_path, positive
from ktb.cli.progress import print_outcomes, watch
from ktb.data.files import read_text
from ktb.data.tools.align.calibration import read_calibration, read_homography
from ktb.data.tools.align.files import stored, target_name
from ktb.data.tools.align.folder import Kind, Moved, Way, align, matched, moved, plan
from ktb.data.tools.align.homography import MODELS, Pair, estimate
from ktb.data.tools.hha_files import parse_unit
from ktb.data.tools.parallel import parallel
from ktb.data.tools.prepare.conversion import claim
from ktb.errors import ConfigError, DataError

RECORD = "aligned.json"
"""In the new folder: what was done."""


def add_align(commands: Subparsers) -> None:
    """Add `align` to the command's parser."""
    sub = commands.add_parser(
        "align",
        help="move modalities into the view of another one",
        description="Write a data folder again with some of its modalities moved into the view of another one: by a "
        "calibration and depth (the nearest surface wins), or by a homography that is estimated or given. What was not "
        "measured gets the modality's value for that, types stay as they are, and everything else is copied. Finished "
        "files are kept, so a stopped call goes on where it stopped. docs/datasets.md says which fields of calibration "
        "files are read.",
        epilog="Example: ktb-data align /data/raw /data/aligned --onto 'rgb/*.jpg' --depth 'depth/*.png' --unit mm "
        "--calibration rig.yml",
        formatter_class=HelpFormatter,
    )
    sub.add_argument("folder", type=named_path, help="the data folder; nothing in it is changed")
    sub.add_argument("out", type=named_path, help="new folder, the dataset.root of a training")
    sub.add_argument("--onto", default="rgb/*", metavar="PATTERN", help="files whose view is kept (default: 'rgb/*')")
    sub.add_argument(
        "--depth", action="append", default=[], metavar="PATTERN", help="metric depth to move; may be repeated"
    )
    sub.add_argument(
        "--intensity",
        action="append",
        default=[],
        metavar="PATTERN",
        help="pictures to move, interpolated linearly; likewise",
    )
    sub.add_argument(
        "--labels", action="append", default=[], metavar="PATTERN", help="ids to move, by the nearest pixel; likewise"
    )
    sub.add_argument(
        "--hole",
        action="append",
        default=[],
        metavar="[PATTERN=]VALUE",
        help="value of pixels without a measurement, nan for NaN (default: what TIFF files say by GDAL_NODATA; depth "
        "NaN if there is any, else 0; labels 255, or 65535 of 16 bits; others NaN, or 0 if it is no value in them)",
    )
    how = sub.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--calibration",
        type=named_path,
        metavar="FILE",
        help="OpenCV (M1 D1 M2 D2 R T, or H alone), RealSense JSON, Azure Kinect JSON, or the aligned.json of an "
        "earlier call",
    )
    how.add_argument(
        "--estimate",
        choices=MODELS,
        help="estimate one matrix for all samples from their edges: shift and scale, also turn and shear, also tilt",
    )
    sub.add_argument(
        "--unit",
        action="append",
        default=[],
        metavar="[PATTERN=]UNIT",
        help="of stored depth: m, cm, mm, 0.1mm, or metres such as 0.0001 (default: mm for whole numbers, m for "
        "floats)",
    )
    sub.add_argument("--translation-unit", default="m", metavar="UNIT", help="of T in OpenCV files (default: m)")
    sub.add_argument(
        "--scale-camera", action="store_true", help="pictures of another size are the whole picture resized"
    )
    sub.add_argument(
        "--aligned-depth", metavar="PATTERN", help="depth that lies in the view of --onto already and moves the others"
    )
    sub.add_argument("--distance", type=float, metavar="METRES", help="without depth: how far away everything is")
    sub.add_argument("--overwrite", action="store_true", help="make every file again")
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_align)


def _align(arguments: argparse.Namespace) -> int:
    folder, out = arguments.folder, arguments.out
    _check_folders(folder, out)
    if arguments.distance is not None and not 0 < arguments.distance < math.inf:
        raise ConfigError(f"--distance {arguments.distance:g}: expected a number of metres above 0")
    first = matched(folder, arguments.onto)
    modalities = _modalities(arguments)
    aligned_depth = _moved(arguments, arguments.aligned_depth, "depth") if arguments.aligned_depth else None
    settings: dict[str, Any] = {
        "folder": str(folder.resolve()),
        "onto": arguments.onto,
        "moved": [
            {"files": m.pattern, "as": m.kind, "hole": _hole_in_words(m.hole)}
            | ({"unit_m": m.unit_m} if m.kind == "depth" else {})
            for m in modalities
        ],
        "translation_unit": arguments.translation_unit,
        "scale_camera": arguments.scale_camera,
        "aligned_depth": arguments.aligned_depth,
        "distance": arguments.distance,
    }
    if arguments.estimate:
        settings["estimate"] = arguments.estimate
        ways = _estimated(arguments, first, modalities, settings)
    else:
        # The content, not the name: another calibration under the same name makes other pictures.
        settings["calibration"] = read_text(arguments.calibration)
        ways = [_calibrated(arguments, first, m) for m in modalities]
    jobs = plan(folder, out, first, modalities, ways, aligned_depth)
    claim(out, settings, RECORD)
    work = partial(align, overwrite=arguments.overwrite)
    code = print_outcomes(watch(parallel(work, jobs, arguments.workers), len(jobs), "align"), str(out))
    for m in modalities:
        renamed = {Path(target_name(file)).suffix for file in m.files.values() if target_name(file) != file}
        print(
            f"{m.pattern}: {'void' if m.kind == 'labels' else 'hole_value'} is {_hole_in_words(m.hole)}"
            + (f"; its files end in {' or '.join(sorted(renamed))} now" if renamed else "")
        )
    if not code:
        print(f"next: ktb-data check with dataset.root={out}")
    return code


def _calibrated(arguments: argparse.Namespace, first: dict[str, str], m: Moved) -> Way:
    matrix = read_homography(arguments.calibration, m.pattern)
    if matrix is not None:
        return Way(homography=matrix)
    calibration = read_calibration(
        arguments.calibration,
        _size(arguments.folder, first),
        _size(arguments.folder, m.files),
        translation_m=parse_unit(arguments.translation_unit),
        scale_camera=arguments.scale_camera,
    )
    return Way(calibration=calibration, distance=arguments.distance)


def _check_folders(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder; expected the folder of the data")
    here, there = folder.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise DataError(f"{out}: lies in {folder} or around it; expected another folder, as the data are never changed")


def _modalities(arguments: argparse.Namespace) -> list[Moved]:
    given: dict[Kind, list[str]] = {
        "depth": arguments.depth,
        "intensity": arguments.intensity,
        "labels": arguments.labels,
    }
    named = [(pattern, kind) for kind, patterns in given.items() for pattern in patterns]
    patterns = [pattern for pattern, _ in named]
    if not named:
        raise ConfigError("nothing to move: give --depth, --intensity or --labels with a pattern such as 'depth/*.png'")
    if len(set(patterns)) < len(patterns) or arguments.onto in patterns:
        raise ConfigError(f"{', '.join([arguments.onto, *patterns])}: one of these patterns is given twice")
    for option, given_to in (("--hole", arguments.hole), ("--unit", arguments.unit)):
        for pattern in _per_pattern(given_to):
            if pattern and pattern not in (*patterns, arguments.aligned_depth):
                raise ConfigError(
                    f"{option} {pattern}=...: there is no such pattern among those to move: {', '.join(patterns)}"
                )
    return [_moved(arguments, pattern, kind) for pattern, kind in named]


def _moved(arguments: argparse.Namespace, pattern: str, kind: Kind) -> Moved:
    holes, units = _per_pattern(arguments.hole), _per_pattern(arguments.unit)
    hole, unit = holes.get(pattern, holes.get("")), units.get(pattern, units.get(""))
    try:
        value = None if hole is None else float(hole)
    except ValueError:
        raise ConfigError(f"--hole {hole}: is no number; expected VALUE or PATTERN=VALUE") from None
    return moved(arguments.folder, pattern, kind, value, None if unit is None else parse_unit(unit))


def _per_pattern(given: Sequence[str]) -> dict[str, str]:
    """Pattern, or "" for all others → what was given for it as PATTERN=VALUE or VALUE."""
    return {pattern: value for pattern, _, value in (text.rpartition("=") for text in given)}


def _record(path: Path) -> dict[str, Any]:
    """What an earlier call has written; empty if that is not to be read, which `claim` then refuses."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _hole_in_words(hole: float) -> str:
    return text if float(text := f"{hole:g}") == hole or math.isnan(hole) else repr(hole)


def _size(folder: Path, files: Any) -> tuple[int, int]:
    image = stored(folder / next(iter(files.values())))
    return image.shape[0], image.shape[1]


def _estimated(
    arguments: argparse.Namespace, first: dict[str, str], modalities: Sequence[Moved], settings: dict[str, Any]
) -> list[Way]:
    """A homography per modality: that of a stopped call with the same settings, or a new estimate."""
    record = arguments.out / RECORD
    earlier = _record(record) if record.is_file() else {}
    known = earlier.get("homographies", {})
    if known and earlier == {**settings, "homographies": known, "found_in": earlier.get("found_in")}:
        settings |= {"homographies": known, "found_in": earlier["found_in"]}
    else:
        settings |= {"homographies": {}, "found_in": {}}
        for m in modalities:
            pairs = [
                Pair(arguments.folder / first[key], arguments.folder / file, m.hole)
                for key, file in sorted(m.files.items())
                if key in first
            ]
            if not pairs:
                raise DataError(f"{m.pattern}: has no sample in common with {arguments.onto}; correct the patterns")
            matrix, found_in = estimate(pairs, arguments.estimate, watch=watch, workers=arguments.workers)
            settings["homographies"][m.pattern] = matrix.tolist()
            settings["found_in"][m.pattern] = found_in
            print(f"{m.pattern}: {arguments.estimate} found in {found_in} samples", file=sys.stderr)
    return [Way(homography=np.array(settings["homographies"][m.pattern])) for m in modalities]
