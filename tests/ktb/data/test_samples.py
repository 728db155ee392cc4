"""Samples made of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.resizing import Resizing
from ktb.data.samples import Entry, FileSamples
from ktb.errors import DataError


def entries():
    return [Entry(str(i), {"rgb": (f"rgb/{i}.png",), "x": (f"x/{i}.png",)}, f"label/{i}.png") for i in range(3)]


def file_samples(root: Path, **options) -> FileSamples:
    readers = {"rgb": ImageReader(channels=3), "x": ImageReader(channels=1)}
    return FileSamples(root, entries(), readers, LabelReader(id_table(3)), **options)


def test_file_samples(root):
    raw = file_samples(root, resizing=Resizing(("x",))).read(1, ["rgb", "x"])
    assert raw.images["rgb"].shape == (40, 48, 3)
    with Image.open(root / "x/1.png") as small:
        # Exactly twice the size, nearest: every pixel becomes four.
        np.testing.assert_array_equal(raw.images["x"][..., 0], np.asarray(small).repeat(2, axis=0).repeat(2, axis=1))
    assert list(file_samples(root).read(0, ["rgb"]).images) == ["rgb"]


def test_sizes_must_agree(root):
    with pytest.raises(
        DataError, match=r"x/0.png: x is 24 x 20 pixels but its label .*label/0.png is 48 x 40; .* resize"
    ):
        file_samples(root).read(0, ["rgb", "x"])
