"""What becomes of a file's format, its value for no data and its palette when it is moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from ktb.data.readers import tiff
from ktb.data.tools.align.files import measured, nodata_of, stored, target_name, write
from ktb.errors import DataError


def test_names_of_formats_that_hold_any_value_stay() -> None:
    names = ["a/1.png", "a/1.npy", "a/1.TIF", "a/1.tiff", "a/1.jpg", "a/1.npz", "a/1.exr"]
    assert [target_name(name) for name in names] == [
        "a/1.png", "a/1.npy", "a/1.TIF", "a/1.tiff", "a/1.png", "a/1.npy", "a/1.npy",
    ]  # fmt: skip


def tagged(path: Path, image: np.ndarray, nodata: str | None) -> Path:
    extra = () if nodata is None else [(42113, "s", 0, nodata, True)]
    tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig", extratags=extra)
    return path


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 4)])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_bands_of_any_type_stay_tiff_with_their_value_for_no_data(
    shape: tuple[int, ...], dtype: str, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).uniform(1, 900, shape).astype(dtype)
    old = tagged(tmp_path / "old.tif", image, "-9999.5" if dtype == "float32" else "7")
    write(tmp_path / "new.tif", image, old, 7.0)
    np.testing.assert_array_equal(stored(tmp_path / "new.tif"), image)
    assert stored(tmp_path / "new.tif").dtype == dtype
    assert tiff.nodata((tmp_path / "new.tif").read_bytes()) == 7.0
    untagged = tagged(tmp_path / "untagged.tif", image, None)
    write(tmp_path / "plain.tif", image, untagged, 7.0)
    assert tiff.nodata((tmp_path / "plain.tif").read_bytes()) is None


def test_a_palette_stays(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 1]], np.uint8).repeat(20, 0).repeat(20, 1)
    picture = Image.fromarray(ids)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 10, 200])
    for name in ("old.tif", "old.png"):
        picture.save(tmp_path / name)
        new = tmp_path / name.replace("old", "new")
        write(new, ids, tmp_path / name, 255.0)
        np.testing.assert_array_equal(stored(new), ids)
        with Image.open(new) as written:
            assert written.convert("RGB").getpixel((0, 20)) == (0, 10, 200)


def test_what_the_files_say_is_no_data(tmp_path: Path) -> None:
    image = np.ones((40, 30), np.float32)
    a, b = (tagged(tmp_path / f"{name}.tif", image, "-9999") for name in "ab")
    none = tagged(tmp_path / "none.tif", image, None)
    assert nodata_of([a, b, none]) == -9999.0
    assert nodata_of([none]) is None
    assert np.isnan(nodata_of([tagged(tmp_path / "nan.tif", image, "nan")]) or 0)
    other = tagged(tmp_path / "other.tif", image, "-1")
    with pytest.raises(
        DataError, match=r"a\.tif: is one of files whose tags .* different values .*-9999, -1; expected one"
    ):
        nodata_of([a, other])


def test_nan_is_never_a_measurement() -> None:
    image = np.array([[1.0, np.nan], [-9999.0, np.inf]], np.float32)
    np.testing.assert_array_equal(measured(image, -9999.0), [[True, False], [False, False]])
    np.testing.assert_array_equal(measured(image, None), [[True, False], [True, False]])
    assert measured(np.ones((2, 2), np.uint8), None) is None
