"""Modalities of many bands: bands chosen, several files, scales of their own, no data by tag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ktb.data.sets.folder import FolderDataModule
from ktb.errors import ConfigError, DataError
from tests.ktb.data.sets.own import module
from tests.ktb.data.written import save

SIZE = (32, 48)
RNG = np.random.default_rng(0)


def bands(root: Path, x: dict[str, Any], **changes: Any) -> FolderDataModule:
    return module(root, modalities={"x": x}, splits={"train": 0.5, "val": 0.5}, batch_size=1, crop=None, **changes)


def write(root: Path, count: int = 13, dtype: str = "uint16") -> list[np.ndarray]:
    images = [RNG.integers(1, 9999, (*SIZE, count)).astype(dtype) for _ in range(2)]
    for i, image in enumerate(images):
        save(root / f"x/{i}.tif", image, planarconfig="contig")
        save(root / f"label/{i}.png", RNG.integers(0, 2, SIZE).astype(np.uint8))
    return images


def sample(data: FolderDataModule, index: int = 0) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of a sample, and what the loader and the network get of it, (C, H, W)."""
    item = data.dataset("val")[index]
    stored = item["inputs"]["x"]
    return int(item["id"]), stored.numpy(), data.modalities[0].normalize(stored[None])[0].numpy()


def test_bands_are_chosen_and_put_in_order(tmp_path: Path) -> None:
    images = write(tmp_path)
    x = {"files": "x/*.tif", "dtype": "uint16", "scale": [10, 100, 1000], "mean": [1, 2, 3], "std": [0.5, 2, 4]}
    i, stored, given = sample(bands(tmp_path, x | {"bands": [13, 1, 4]}))
    chosen = np.moveaxis(images[i][..., [12, 0, 3]].astype(np.float64), 2, 0)
    np.testing.assert_array_equal(stored, chosen)
    column = np.array([[10, 100, 1000], [1, 2, 3], [0.5, 2, 4]])[:, :, None, None]
    np.testing.assert_allclose(given, (chosen / column[0] - column[1]) / column[2], rtol=1e-4, atol=1e-3)
    from_zero = bands(tmp_path, x | {"pick": [12, 0, 3]})
    np.testing.assert_array_equal(sample(from_zero)[1], stored)
    spec = bands(tmp_path, x | {"bands": [13, 1, 4], "show": [2, 1, 3]}).modalities[0]
    assert (spec.channels, spec.shown) == (3, (1, 0, 2))


def test_rgb_out_of_many_bands_beside_them(tmp_path: Path) -> None:
    images = write(tmp_path)
    two = {
        "rgb": {"files": "x/*.tif", "bands": [4, 3, 2], "dtype": "uint16", "scale": 9999},
        "x": {"files": "x/*.tif", "channels": 13, "dtype": "uint16"},
    }
    data = module(tmp_path, modalities=two, splits={"train": 0.5, "val": 0.5}, batch_size=1, crop=None)
    item = data.dataset("val")[0]
    expected = np.rint(images[int(item["id"])][..., [3, 2, 1]] * (255 / 9999))
    np.testing.assert_allclose(item["inputs"]["rgb"].numpy(), np.moveaxis(expected, 2, 0), atol=1)
    assert item["inputs"]["x"].shape == (13, *SIZE)


def test_several_files_are_stacked_and_resized_to_the_first(tmp_path: Path) -> None:
    write(tmp_path)
    planes = {}
    for i in range(2):
        for name, size in (("b02", SIZE), ("b03", SIZE), ("b11", (16, 24))):
            planes[name, i] = RNG.integers(100, 200, size).astype(np.uint16)
            planes[name, i][:4, :4] = 0
            save(tmp_path / f"{name}/{i}.tif", planes[name, i])
    x = {"files": ["b02/*.tif", "b03/*.tif", "b11/*.tif"], "dtype": "uint16", "hole_value": 0}
    data = bands(tmp_path, x)
    i, stored, _ = sample(data)
    assert data.modalities[0].channels == 3
    np.testing.assert_array_equal(stored[0][8:, 8:], planes["b02", i][8:, 8:])
    np.testing.assert_array_equal(stored[1][8:, 8:], planes["b03", i][8:, 8:])
    assert (stored[:, :8, :8] == 0).all()  # a hole of the coarse band is one of all
    assert stored[2][8:, 8:].min() >= 100  # and none bleeds into what was measured
    (note,) = data.dataset("val").samples.notes
    assert f"resized to 32x48 (height x width) of the x: x {tmp_path / f'b11/{i}.tif'} of 16x24" in note
    with pytest.raises(
        DataError, match=rf"b11/{i}.tif: is 24 x 16 pixels but .*b02/{i}.tif, the same sample, is 48 x 32"
    ):
        bands(tmp_path, x, resize=None).dataset("val")[0]
    save(tmp_path / f"b11/{i}.tif", np.ones((16, 32), np.uint16))
    with pytest.raises(DataError, match="another aspect ratio, so they don't show the same view"):
        bands(tmp_path, x).dataset("val")[0]
    (tmp_path / f"b11/{i}.tif").unlink()
    with pytest.raises(DataError, match=rf"{i}.tif: no file of 'x, file 3' belongs to it, '{i}' in b11/\*.tif"):
        bands(tmp_path, x).dataset("val")
    with pytest.raises(
        DataError, match=r"b12/\*.tif: no file matches this pattern.*; correct dataset.modalities.x.files"
    ):
        bands(tmp_path, x | {"files": ["b02/*.tif", "b12/*.tif"]}).dataset("val")


def test_no_data_by_the_tag_of_each_file(tmp_path: Path) -> None:
    write(tmp_path)
    for i in range(2):
        image = RNG.normal(0, 1, (*SIZE, 2)).astype(np.float32)
        image[2:5, 7], image[9, 9, 1] = -3e38 - i, np.nan
        tag = [(42113, "s", 0, str(float(np.float32(-3e38 - i))), True)]
        save(tmp_path / f"y/{i}.tif", image, planarconfig="contig", extratags=tag)
    y = {"files": "y/*.tif", "channels": 2, "dtype": "float32", "mean": 5, "std": 2}
    for how, value in (("mean", 0.0), ("zero", -2.5)):
        _, stored, given = sample(bands(tmp_path, y | {"hole_value": "nodata", "holes": how}))
        hole = np.zeros(SIZE, bool)
        hole[2:5, 7] = hole[9, 9] = True
        np.testing.assert_allclose(given[:, hole], value, atol=1e-6)
        assert np.abs(stored[:, ~hole]).max() < 9
    image[9, 9, 1] = 0
    save(tmp_path / "y/0.tif", image, planarconfig="contig", extratags=tag)
    save(tmp_path / "y/1.tif", image, planarconfig="contig", extratags=tag)
    (note,) = bands(tmp_path, y).dataset("val").samples.notes
    assert "says by its tag (GDAL_NODATA) that -3e+38 is no measurement, but x has no hole_value" in note


def test_what_training_pads_is_the_mean(tmp_path: Path) -> None:
    write(tmp_path)
    x = {"files": "x/*.tif", "channels": 13, "dtype": "uint16", "holes": "mean", "mean": 0.07, "std": 0.01}
    data = module(tmp_path, modalities={"x": x}, splits={"train": 0.5, "val": 0.5}, batch_size=1, crop=[64, 96])
    padded = 0
    for epoch in range(8):
        item = data.dataset("train", train=True)[epoch, 0]
        outside = (item["label"] == 255).numpy()
        given = data.modalities[0].normalize(item["inputs"]["x"][None])[0].numpy()
        np.testing.assert_allclose(given[:, outside], 0, atol=1e-4)
        padded += outside.any()
    assert padded > 3


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ({"bands": [0, 1]}, r"bands is \[0, 1\]; expected numbers of stored bands, the first being 1"),
        ({"bands": [1], "pick": [0]}, "bands and pick both choose channels; use one of them"),
        ({"bands": ["b02/*.tif"]}, r"x.bands is \['b02/\*.tif'\]; expected a list of whole numbers"),
        ({"channels": 4, "show": [1, 2, 5]}, r"show is \[1, 2, 5\]; expected three of the 4 channels"),
        ({"channels": 3, "scale": [1, 2]}, r"scale is \[1.0, 2.0\]; expected 1 or 3 numbers"),
        ({"channels": 3, "scale": [1, 2, "x"]}, "x.scale is .*; expected a list of numbers"),
        ({"channels": 13, "mean": [1, 2]}, r"mean is \[1.0, 2.0\]; expected 1 or 13 numbers"),
        ({"hole_value": "nodata", "dtype": "uint16"}, "hole_value: nodata needs dtype: float32"),
        ({"hole_value": "nothing"}, r"x.hole_value is 'nothing'; expected a number"),
        ({"files": []}, "x.files is empty; expected a pattern below dataset.root, as in 'rgb/.*', or a list of them"),
        ({"files": ["a/*.tif", 3]}, r"x.files is \['a/\*.tif', 3\]; expected a pattern"),
        ({"files": ["a/*.tif", "../b/*.tif"]}, "expected a pattern below dataset.root, without '..'"),
        ({"holes": "fill"}, "holes: fill needs a hole_value"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, x: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        bands(tmp_path, {"files": "x/*.tif"} | x)
    assert "\n" not in str(caught.value)
