"""Files written for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image


def save(path: Path, array: np.ndarray, **options) -> Path:
    """Write an array as the file that the name's ending says, with the folders that it needs; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, array)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array, photometric=options.pop("photometric", "minisblack"), **options)
    else:
        Image.fromarray(array).save(path, **options)
    return path
