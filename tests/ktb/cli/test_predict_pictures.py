"""Pictures that are not as ktb-predict would like them: damaged, in another unit, grey, turned, too large."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.data import dataset as base
from tests.ktb.cli.predicting import SIZES, call, pixels, write_pairs

pytestmark = pytest.mark.usefixtures("opened_once")


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_damaged_pictures_are_reported_and_the_rest_goes_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("bomb", "cut", "deep", "empty", "good", "lonely", "other", "thin", "zgood")
    pairs = write_pairs(tmp_path / "pairs", dict.fromkeys(names, (40, 40)))
    rgb, depth = pairs / "rgb", pairs / "depth"
    (rgb / "bomb.png").write_bytes(png_of_size(100_000, 100_000))
    (rgb / "cut.png").write_bytes((rgb / "cut.png").read_bytes()[:-20])
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(depth / "deep.png")
    (depth / "empty.png").write_bytes(b"")
    (depth / "lonely.png").unlink()
    Image.fromarray(np.zeros((40, 41), np.uint8)).save(depth / "other.png")
    for folder, shape in ((rgb, (1, 20000, 3)), (depth, (1, 20000))):
        Image.fromarray(np.ones(shape, np.uint8)).save(folder / "thin.png")
    out = tmp_path / "out"
    assert call(trained, pairs, out, "--short-side", "64") == 1
    captured = capsys.readouterr()
    assert "2 written, 0 kept, 7 failed" in captured.out
    lines = captured.err.splitlines()
    for expected in (
        f"failed: {rgb / 'bomb.png'}: claims 100000 x 100000 pixels; expected at most",
        f"failed: {rgb / 'cut.png'}: PNG cut short",
        f"failed: {depth / 'deep.png'}: holds uint16 values, expected uint8",
        f"failed: {depth / 'empty.png'}: the file is empty (0 bytes)",
        f"failed: {rgb / 'lonely.png'}: nothing belongs to it as depth in {depth}",
        f"failed: {depth / 'other.png'}: depth is 41 x 40 pixels but rgb {rgb / 'other.png'} is 40 x 40",
        f"failed: {rgb / 'thin.png'}: 20000 x 1 pixels would become 1280000 x 64 for the model; expected at most",
    ):
        assert sum(line.startswith(expected) for line in lines) == 1, expected
    assert {p.name for p in (out / "index").iterdir()} == {"good.png", "zgood.png"}


def test_pictures_in_another_unit_stop_the_call_unless_forced(
    trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for path in (pairs / "rgb").rglob("*.png"):  # 0 to 1 instead of 0 to 255
        Image.fromarray((pixels(path) / 255).astype(np.uint8)).save(path)
    assert call(trained, pairs, out) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "error" in text]
    assert line.startswith(f"ktb-predict: error: {pairs / 'rgb/a.png'}: rgb has values around 0")
    assert line.endswith("correct the modality's scale, or go on with --force")
    assert not list(out.rglob("*.png"))
    assert call(trained, pairs, out, "--force") == 0
    assert len(list((out / "index").rglob("*.png"))) == 3


def test_a_picture_in_another_unit_fails_alone_after_a_stop_as_before_it(
    trained: Path, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call(trained, pairs, out) == 0
    odd = pairs / "rgb/sub/b.png"
    Image.fromarray((pixels(odd) / 255).astype(np.uint8)).save(odd)
    assert call(trained, pairs, out) == 1


def test_one_picture_without_a_measurement_fails_alone(
    trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros(SIZES["sub/b"], np.uint8)).save(pairs / "depth/sub/b.png")
    assert call(trained, pairs, tmp_path / "out") == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "failed:" in text]
    assert f"{pairs / 'depth/sub/b.png'}: depth has no measured pixel, all others are holes; in training" in line
    written = {p.relative_to(tmp_path / "out/index").as_posix() for p in (tmp_path / "out/index").rglob("*.png")}
    assert written == {"a.png", "sub/deep/c.1.png"}


def test_grey_pictures_and_such_with_alpha_are_said_once_and_read(
    trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base._said[0] = 0
    grey, rgba = pairs / "rgb/a.png", pairs / "rgb/sub/b.png"
    Image.open(grey).convert("L").save(grey)
    plain = pixels(rgba)
    Image.open(rgba).convert("RGBA").save(rgba)
    assert call(trained, pairs, tmp_path / "out") == 0
    said = [text for text in capsys.readouterr().err.splitlines() if "no plain RGB picture" in text]
    assert said == [f"{grey}: is no plain RGB picture: grey, taken as three equal channels; others like it are read "
                    "the same way"]  # fmt: skip
    Image.fromarray(plain).save(rgba)
    assert call(trained, pairs, tmp_path / "plain") == 0
    first, second = (pixels(tmp_path / f"{folder}/index/sub/b.png") for folder in ("out", "plain"))
    np.testing.assert_array_equal(first, second)


def test_a_mask_lies_as_its_picture_is_seen(trained: Path, pairs: Path, tmp_path: Path) -> None:
    """Orientation 6: stored on its side, as many phones do."""
    assert call(trained, pairs, tmp_path / "plain") == 0
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (pairs / "rgb").rglob("*.png"):
        Image.fromarray(np.rot90(pixels(path)).copy()).save(path, exif=exif)
    assert call(trained, pairs, tmp_path / "out") == 0
    for name, size in SIZES.items():
        mask = pixels(tmp_path / f"out/index/{name}.png")
        assert mask.shape == size
        np.testing.assert_array_equal(mask, pixels(tmp_path / f"plain/index/{name}.png"))


def test_larger_pictures_by_an_option(
    trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(trained, pairs, tmp_path / "out", "--max-pixels", "3000") == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "failed:" in text]
    assert "claims 64 x 96 pixels; expected at most 3000" in line
    assert "--max-pixels of ktb-predict" in line
    assert call(trained, pairs, tmp_path / "out", "--max-pixels", "6144") == 0
