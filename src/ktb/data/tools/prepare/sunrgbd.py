"""SUN RGB-D from its pictures and its toolbox."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from ktb.data.arrays import Array
from ktb.data.readers.decode import decode
from ktb.data.tools.prepare.conversion import Conversion, Download, origin_of, required
from ktb.data.tools.prepare.matlab import load_mat, open_hdf5
from ktb.errors import DataError

FARTHEST_MM = 8191
"""What 13 bits hold; the toolbox itself cuts at 8 m."""


def plan_sunrgbd(source: Path, target: Path) -> Download:
    """The frames of SUN RGB-D that are in a split.

    Args:
        source: folder with `SUNRGBD/` and `SUNRGBDtoolbox/`, as the two archives unpack: pictures and filled depth maps
            in a folder per frame, the labels of all frames in `SUNRGBD2Dseg.mat`, the frames' paths in
            `SUNRGBDMeta.mat`, the split in `allsplit.mat`.
        target: folder of the results.

    Raises:
        DataError: a file is missing or not the original one.
    """
    from ktb.data.sets.sunrgbd import CLASSES

    toolbox = source / "SUNRGBDtoolbox"
    what = "the unpacked SUNRGBDtoolbox.zip beside the unpacked SUNRGBD.zip"
    labels = required(toolbox / "Metadata/SUNRGBD2Dseg.mat", what)
    meta = required(toolbox / "Metadata/SUNRGBDMeta.mat", what)
    split = required(toolbox / "traintestSUNRGBD/allsplit.mat", what)
    (frames,) = load_mat(meta, "SUNRGBDMeta")
    splits = {
        _below_sunrgbd(str(path)): name
        for name, paths in zip(("train", "test"), load_mat(split, "alltrain", "alltest"), strict=True)
        for path in np.atleast_1d(paths)
    }
    frames = np.atleast_1d(frames)
    with open_hdf5(labels) as file:
        held = file["SUNRGBD2Dseg/seglabel"].size if "SUNRGBD2Dseg/seglabel" in file else 0
    if held != len(frames):
        raise DataError(
            f"{labels}: holds {held} labels for the {len(frames)} frames of {meta}; expected one each: use the "
            "original files"
        )
    jobs: list[Conversion] = []
    lists: dict[str, list[str]] = {"train": [], "test": []}
    left_out = 0
    for index, frame in enumerate(frames):
        folder = PurePosixPath(_below_sunrgbd(str(frame.rgbpath))).parent.parent
        name = splits.get(str(folder))
        if name is None:
            left_out += 1
            continue
        stem = f"{name}_{len(lists[name])}"
        lists[name].append(f"RGB/{stem}.jpg labels/{stem}.png")
        place = source / "SUNRGBD" / folder
        jobs.append(
            Conversion(
                target,
                (f"RGB/{stem}.jpg", f"Depth/{stem}.png", f"labels/{stem}.png"),
                _sunrgbd_frame,
                {
                    "stem": stem,
                    "rgb": place / "image" / str(frame.rgbname),
                    "depth": place / "depth_bfx" / str(frame.depthname),
                    "mat": labels,
                    "index": index,
                    "num_classes": len(CLASSES),
                },
            )
        )
    notes = [f"{left_out} frames of {meta} are in neither split"] if left_out else []
    if not jobs:
        raise DataError(f"{split}: names none of the {len(frames)} frames of {meta}; expected the original files")
    return Download(jobs, lists, origin_of("sunrgbd", [labels, meta, split]), notes)


def _below_sunrgbd(path: str) -> str:
    """Stored are absolute paths on the authors' machine, /n/fs/sun3d/data/SUNRGBD/kv2/..., some with double slashes."""
    parts = PurePosixPath(path).parts
    at = parts.index("SUNRGBD") if "SUNRGBD" in parts else -1
    return str(PurePosixPath(*parts[at + 1 :]))


def _sunrgbd_frame(
    stem: str, rgb: Path, depth: Path, mat: Path, index: int, num_classes: int
) -> dict[str, Array | Path]:
    with open_hdf5(mat) as file:
        references = file["SUNRGBD2Dseg/seglabel"]
        label = np.asarray(file[references[np.unravel_index(index, references.shape)]]).T
    if label.max() > num_classes:
        raise DataError(f"{mat}: label {index + 1} has the id {label.max()}; expected 0 to {num_classes}")
    picture = decode(rgb)
    if picture.shape[:2] != label.shape:
        raise DataError(
            f"{rgb}: is {picture.shape[1]} x {picture.shape[0]} pixels but its label, {index + 1} in {mat}, is "
            f"{label.shape[1]} x {label.shape[0]}; expected one size: use the original files"
        )
    stored = decode(depth)
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise DataError(f"{depth}: holds {stored.dtype} values of shape {stored.shape}; expected 16-bit grey")
    # The files hold millimetres rotated to the left by three bits. Distances beyond
    # 13 bits would wrap around and look near in the high byte, which is what the loader reads.
    millimetres = (stored >> 3) | (stored << 13)
    return {
        f"RGB/{stem}.jpg": rgb,
        f"Depth/{stem}.png": np.minimum(millimetres, FARTHEST_MM).astype(np.uint16) << 3,
        f"labels/{stem}.png": label.astype(np.uint8),
    }
