"""MFNet from its RGBA pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ktb.data.arrays import Array
from ktb.data.files import similar
from ktb.data.lists import read_list
from ktb.data.readers.decode import decode
from ktb.data.tools.prepare.conversion import Conversion, Download, origin_of, required
from ktb.errors import DataError


def plan_mfnet(source: Path, target: Path) -> Download:
    """The pictures that MFNet's lists name.

    Args:
        source: folder with `images/<name>.png`, RGBA with the thermal picture as alpha, `labels/<name>.png` and the
            lists.
        target: folder of the results.

    Raises:
        DataError: a list is missing or names something else.
    """
    if not (source / "images").is_dir():
        path = source / "images"
        raise DataError(f"{path}: no such folder{similar(path)}; expected MFNet as first published, RGBA pictures")
    lists = {}
    for name in ("train", "val", "test"):
        path = required(source / f"{name}.txt", "the list of the split, as downloaded")
        lists[name] = [line.columns[0] for line in read_list(path, path.parent)]
        if bad := [stem for stem in lists[name] if "/" in stem]:
            raise DataError(f"{path}: names {bad[0]!r}; expected names of pictures without folder, such as '00001D'")
    stems = sorted({stem for names in lists.values() for stem in names})
    jobs = [
        Conversion(
            target,
            (f"rgb/{stem}.png", f"ther/{stem}.png", f"labels/{stem}.png"),
            _mfnet_frame,
            {"stem": stem, "image": source / f"images/{stem}.png", "label": source / f"labels/{stem}.png"},
        )
        for stem in stems
    ]
    return Download(jobs, lists, origin_of("mfnet", [source / f"{name}.txt" for name in lists]))


def _mfnet_frame(stem: str, image: Path, label: Path) -> dict[str, Array | Path]:
    rgba = decode(image)
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise DataError(
            f"{image}: holds {rgba.dtype} values of shape {rgba.shape}; expected 8-bit RGBA, the thermal picture as "
            "alpha: already converted?"
        )
    decode(label, lossless=True)  # a damaged file is not copied
    return {
        f"rgb/{stem}.png": np.ascontiguousarray(rgba[..., :3]),
        f"ther/{stem}.png": np.ascontiguousarray(rgba[..., 3]),
        f"labels/{stem}.png": label,
    }
