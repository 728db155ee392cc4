"""A download of NYU as MATLAB files, for the tests of `ktb-data prepare`."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from tests.ktb.data.tools.prepare.calls import RNG, SIZE


@pytest.fixture(scope="module")
def nyu(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """The download with six frames: MATLAB 7.3 is HDF5 with reversed axes."""
    root = tmp_path_factory.mktemp("nyu")
    frames = {
        "images": RNG.integers(0, 256, (6, *SIZE, 3)).astype(np.uint8),
        "labels": RNG.integers(0, 895, (6, *SIZE)).astype(np.uint16),
        "depths": RNG.uniform(0.7, 9.9, (6, *SIZE)).astype(np.float32),
    }
    frames["rawDepths"] = np.where(RNG.random((6, *SIZE)) < 0.2, 0, frames["depths"]).astype(np.float32)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        for name, values in frames.items():
            axes = (0, 3, 2, 1) if name == "images" else (0, 2, 1)
            file.create_dataset(name, data=values.transpose(axes), compression="gzip")
    savemat(root / "splits.mat", {"trainNdxs": np.array([[3], [4], [6]]), "testNdxs": np.array([[1], [2]])})
    frames["mapClass"] = RNG.integers(1, 41, 894)
    savemat(root / "classMapping40.mat", {"mapClass": frames["mapClass"][None].astype(np.uint8)})
    return root, frames
