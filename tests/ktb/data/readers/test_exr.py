"""OpenEXR files as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenEXR
import pytest

from ktb.data.readers import exr
from ktb.data.readers.decode import decode, pixel_limit
from tests.ktb.data.readers.common_checks import RNG, message


def written(path: Path, channels: dict[str, np.ndarray], compression: object = OpenEXR.ZIP_COMPRESSION) -> Path:
    OpenEXR.File({"compression": compression, "type": OpenEXR.scanlineimage}, dict(channels)).write(str(path))
    return path


def plane(kind: str = "float32") -> np.ndarray:
    return (100 * RNG.random((12, 20))).astype(kind)


@pytest.mark.parametrize("compression", ["NO_COMPRESSION", "ZIP_COMPRESSION", "PIZ_COMPRESSION", "RLE_COMPRESSION"])
def test_bands_by_name(tmp_path: Path, compression: str) -> None:
    channels = {f"B{i}": plane() for i in (10, 2, 1)}
    read = decode(written(tmp_path / "a.png", channels, getattr(OpenEXR, compression)))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.dstack([channels["B1"], channels["B2"], channels["B10"]]))


@pytest.mark.parametrize("kind", ["float16", "float32", "uint32"])
def test_colours_before_all_others(tmp_path: Path, kind: str) -> None:
    channels = {name: plane(kind) for name in ("A", "B", "G", "R", "Z")}
    read = decode(written(tmp_path / "a.exr", channels))
    assert read.dtype == kind
    np.testing.assert_array_equal(read, np.dstack([channels[name] for name in "RGBAZ"]))


def test_one_channel(tmp_path: Path) -> None:
    depth = plane()
    np.testing.assert_array_equal(decode(written(tmp_path / "a.exr", {"Z": depth})), depth)


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.exr", {f"B{i}": plane() for i in range(8)})
    with pixel_limit(400):
        assert "claims 20 x 12 pixels of 8 channels; expected at most 200" in message(decode, path)
    data = path.read_bytes()
    cut = tmp_path / "cut.exr"
    for length in range(4, len(data), 97):
        cut.write_bytes(data[:length])
        assert "damaged OpenEXR file (" in message(decode, cut)
    parts = [OpenEXR.Part({}, {"Z": plane()}), OpenEXR.Part({}, {"Z": plane()})]
    OpenEXR.File(parts).write(str(cut))
    assert "OpenEXR file of 2 parts; expected one" in message(decode, cut)
    monkeypatch.setattr(exr, "find_spec", lambda name: None)
    assert "needs the package OpenEXR: pip install 'ktb[exr]'" in message(decode, path)
