"""NYU Depth V2 from its `.mat` files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ktb.data.arrays import Array
from ktb.data.tools.prepare.conversion import Conversion, Download, origin_of, required
from ktb.data.tools.prepare.matlab import load_mat, open_hdf5
from ktb.errors import DataError, first_line

NYU_MAT = "nyu_depth_v2_labeled.mat"


def plan_nyu(source: Path, target: Path) -> Download:
    """The frames of `nyu_depth_v2_labeled.mat`; frame i of the file, from 0, becomes sample i.

    Args:
        source: folder with that file (images, labels 0..894, depths and rawDepths in metres), `splits.mat` (frames from
            1) and `classMapping40.mat` (894 classes → 40).
        target: folder of the results.

    Raises:
        DataError: a file is missing or not the original one.
    """
    from ktb.data.sets.nyu import CLASSES

    mat = required(source / NYU_MAT, "the labelled part of NYU Depth V2 (2.8 GB) from its page")
    splits = required(source / "splits.mat", "the file with trainNdxs and testNdxs from the data set's page")
    classes = required(source / "classMapping40.mat", "the mapping of 894 classes to 40 (S. Gupta et al., CVPR 2013)")
    (mapping,) = load_mat(classes, "mapClass")
    mapping = np.asarray(mapping).ravel()
    if mapping.size != 894 or mapping.min() < 1 or mapping.max() > len(CLASSES):
        raise DataError(
            f"{classes}: mapClass has {mapping.size} values from {mapping.min()} to {mapping.max()}; expected 894 from "
            f"1 to {len(CLASSES)}: use the original file"
        )
    with open_hdf5(mat) as file:
        for name, axes in (("images", 4), ("labels", 3), ("depths", 3), ("rawDepths", 3)):
            if name not in file or file[name].ndim != axes:
                raise DataError(f"{mat}: has no {axes}-dimensional {name!r}; expected the original file")
        count = file["images"].shape[0]
    train, test = (np.asarray(v).ravel().astype(int) - 1 for v in load_mat(splits, "trainNdxs", "testNdxs"))
    every = np.concatenate([train, test])
    if len(set(every.tolist())) != len(every) or every.min() < 0 or every.max() >= count:
        raise DataError(
            f"{splits}: frames {every.min() + 1} to {every.max() + 1}, {len(every) - len(set(every.tolist()))} of them "
            f"twice; expected each of 1 to {count} at most once: use the original file"
        )
    table = (0, *(int(v) for v in mapping))
    jobs = [
        Conversion(
            target,
            (f"RGB/{i}.png", f"Label/{i}.png", f"Depth/{i}.npy", f"RawDepth/{i}.npy"),
            _nyu_frame,
            {"mat": mat, "index": i, "table": table},
        )
        for i in sorted(every.tolist())
    ]
    lists = {split: [f"RGB/{i}.png\tLabel/{i}.png" for i in v] for split, v in (("train", train), ("test", test))}
    return Download(jobs, lists, origin_of("nyu", [mat, splits, classes]))


def _nyu_frame(mat: Path, index: int, table: Sequence[int]) -> dict[str, Array]:
    with open_hdf5(mat) as file:
        try:
            # MATLAB's (H, W, 3, N) and (H, W, N), which HDF5 shows in the reverse order.
            rgb, label = np.asarray(file["images"][index]).T, np.asarray(file["labels"][index]).T
            depth, raw = (np.asarray(file[name][index], np.float32).T for name in ("depths", "rawDepths"))
        except OSError as error:
            raise DataError(
                f"{mat}: frame {index + 1} cannot be read ({first_line(error)}); download it again"
            ) from None
    if label.max() >= len(table):
        raise DataError(f"{mat}: frame {index + 1} has label {label.max()}; expected 0 to {len(table) - 1}")
    return {
        f"RGB/{index}.png": np.ascontiguousarray(rgb),
        f"Label/{index}.png": np.asarray(table, np.uint8)[label],
        f"Depth/{index}.npy": np.ascontiguousarray(depth),
        f"RawDepth/{index}.npy": np.ascontiguousarray(raw),
    }
