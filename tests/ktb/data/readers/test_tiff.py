"""TIFF files of every form → the values that were written; everything else is one line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from ktb.data.readers import extras, tiff
from ktb.data.readers.decode import decode, pixel_limit
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from tests.ktb.data.readers.common_checks import RNG, message
from tests.ktb.data.written import save

BANDS = RNG.integers(0, 9999, (48, 32, 13), np.uint16)
PLANES = np.moveaxis(BANDS, 2, 0)
NODATA = 42113


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_bands_compressed_in_tiles_or_strips(
    tmp_path: Path, compression: str | None, tile: tuple[int, int] | None
) -> None:
    predictor = compression in ("deflate", "lzw", "zstd")
    form = {"compression": compression, "predictor": predictor, "tile": tile}
    together = save(tmp_path / "a.tif", BANDS, planarconfig="contig", **form)
    apart = save(tmp_path / "b.tif", PLANES, planarconfig="separate", **form)
    for path in (together, apart):
        read = decode(path)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, BANDS)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("form", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}])
def test_types_and_byte_orders(tmp_path: Path, dtype: str, form: dict[str, object]) -> None:
    image = (BANDS[..., 0] // 80).astype(dtype)
    read = decode(save(tmp_path / "a.tif", image, **form))
    assert read.dtype == dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, image)


def test_pages_are_bands(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in PLANES:
            writer.write(plane, metadata=None, compression="lzw")
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), BANDS)


@pytest.mark.parametrize("array", [BANDS, PLANES], ids=["channels last", "channels first"])
def test_an_array_written_without_a_word_on_its_axes(tmp_path: Path, array: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", array)
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), BANDS)


def test_overviews_and_masks_beside_the_picture_are_left_out(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(BANDS, photometric="minisblack", planarconfig="contig", tile=(16, 16), subifds=0)
        writer.write(BANDS[::2, ::2], photometric="minisblack", planarconfig="contig", tile=(16, 16), subfiletype=1)
        writer.write(BANDS[..., 0] > 5, photometric="minisblack", subfiletype=4)
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), BANDS)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_one_bit_is_0_and_1(tmp_path: Path, photometric: str) -> None:
    mask = BANDS[..., 0] > 5000
    read = decode(save(tmp_path / "a.tif", mask, photometric=photometric))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, mask)
    by_pillow = tmp_path / "b.tif"
    Image.fromarray(mask).save(by_pillow, compression="group4")
    np.testing.assert_array_equal(decode(by_pillow) > 0, mask)


def test_palettes_are_indices_or_colours(tmp_path: Path) -> None:
    ids = RNG.integers(0, 4, (16, 24), np.uint8)
    colours = RNG.integers(0, 256, (256, 3))
    path = save(tmp_path / "a.png", ids)  # what a file is, its bytes say
    tifffile.imwrite(path, ids, photometric="palette", colormap=(colours.T * 257).astype(np.uint16))
    np.testing.assert_array_equal(decode(path), ids)
    np.testing.assert_array_equal(decode(path, expand_palette=True), colours[ids])
    np.testing.assert_array_equal(ImageReader(channels=3, colour=True)([path]).image, colours[ids])
    np.testing.assert_array_equal(LabelReader(id_table(4))(path), ids)
    by_colour = LabelReader(colours={tuple(colours[i].tolist()): 3 - i for i in range(4)})
    np.testing.assert_array_equal(by_colour(path), 3 - ids)
    assert LabelReader(id_table(4)).describe(path) == "palette: ids"


def test_labels_and_their_transparency(tmp_path: Path) -> None:
    ids = RNG.integers(0, 3, (16, 24), np.uint8)
    for stored in (ids, ids.astype(np.int16), ids.astype(np.float32), ids.astype(np.uint32)):
        path = save(tmp_path / "a.tif", stored, compression="lzw")
        np.testing.assert_array_equal(LabelReader(id_table(3))(path), ids)
    alpha = np.where(RNG.random(ids.shape) < 0.5, 255, 0).astype(np.uint8)
    both = save(tmp_path / "b.tif", np.dstack([ids, alpha]), planarconfig="contig", extrasamples=["unassalpha"])
    read = LabelReader(id_table(3), alpha="void")(both)
    np.testing.assert_array_equal(read, np.where(alpha == 0, 255, ids))
    assert extras.has_alpha(both.read_bytes())
    more = save(tmp_path / "c.tif", np.dstack([ids, alpha]), planarconfig="contig", extrasamples=["unspecified"])
    assert not extras.has_alpha(more.read_bytes())


def test_jpeg_within_a_tiff_holds_no_label(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", RNG.integers(0, 3, (16, 24), np.uint8), compression="jpeg")
    assert decode(path).shape == (16, 24)
    assert "is compressed as JPEG, which changes values, so it can hold no label" in message(
        LabelReader(id_table(3)), path
    )


def test_orientation_is_what_viewers_show(tmp_path: Path) -> None:
    image = RNG.integers(0, 99, (16, 24), np.uint8)
    path = save(tmp_path / "a.tif", image, extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(decode(path), np.rot90(image, -1))


@pytest.mark.parametrize(("text", "value"), [("-9999", -9999.0), ("0", 0.0), ("nan", np.nan), ("-3.4e+38 ", -3.4e38)])
def test_the_tag_of_no_data(tmp_path: Path, text: str, value: float) -> None:
    path = save(tmp_path / "a.tif", PLANES[0], extratags=[(NODATA, "s", 0, text, True)])
    np.testing.assert_equal(tiff.nodata(path.read_bytes()), value)
    assert tiff.nodata(save(tmp_path / "b.tif", PLANES[0]).read_bytes()) is None
    odd = save(tmp_path / "c.tif", PLANES[0], extratags=[(NODATA, "s", 0, "none", True)])
    assert tiff.nodata(odd.read_bytes()) is None


def write(path: Path, **form: object) -> Path:
    return save(path, BANDS, planarconfig="contig", **form)


def test_what_is_no_picture_of_numbers_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    save(path, BANDS[..., 0].astype(np.complex64))
    assert "values of type complex64; expected whole or real numbers" in message(decode, path)
    save(path, BANDS[..., :4].astype(np.uint8), photometric="separated", planarconfig="contig")
    assert "holds CMYK colours; expected RGB" in message(decode, path)
    with tifffile.TiffWriter(path) as writer:
        writer.write(BANDS[..., 0], metadata=None)
        writer.write(BANDS[:40, :, 0], metadata=None)
    assert "holds pictures of 32 x 48 and 32 x 40 pixels; expected one size" in message(decode, path)
    tifffile.imwrite(path, np.zeros((5, 16, 24, 3), np.uint8), photometric="rgb")
    assert "TIFF file of 5 x 16 x 24 x 3 values; expected one picture" in message(decode, path)
    path.write_bytes(b"II*\0\0\0\0\0")
    assert "TIFF file without a picture" in message(decode, path)
    circle = bytearray(save(path, BANDS[..., 0]).read_bytes())
    (first,) = struct.unpack_from("<I", circle, 4)
    (tags,) = struct.unpack_from("<H", circle, first)
    struct.pack_into("<I", circle, first + 2 + 12 * tags, first)
    path.write_bytes(circle)
    assert "4096 or more pages" in message(decode, path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.zeros((2048, 2048), np.uint8), compression="deflate")
    assert path.stat().st_size < 20_000
    with pixel_limit(2048 * 2047):
        assert "claims 2048 x 2048 pixels; expected at most" in message(decode, path)
    many = save(tmp_path / "b.tif", np.zeros((64, 256, 256), np.uint8), compression="deflate", planarconfig="separate")
    with pixel_limit(256 * 256 * 15):
        text = message(decode, many)
    assert "claims 256 x 256 pixels of 64 channels; expected at most 61440" in text
    assert "set dataset.max_pixels=1048576" in text
    with pixel_limit(1048576):
        assert decode(many).shape == (256, 256, 64)


def test_nan_is_told_by_its_place_or_is_a_hole(tmp_path: Path) -> None:
    image = BANDS.astype(np.float32)
    image[3, 5, 2] = np.nan
    path = save(tmp_path / "a.tif", image, planarconfig="contig", compression="lzw", predictor=True)
    reader = ImageReader(channels=13, dtype="float32")
    assert "1 values are NaN or infinite, the first at row 3, column 5" in message(reader, [path])
    read = ImageReader(channels=13, dtype="float32", hole_value=np.nan)([path])
    assert read.valid is not None
    assert np.argwhere(~read.valid).tolist() == [[3, 5]]


def test_a_file_of_other_bands_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", BANDS[..., :12], planarconfig="contig")
    reader = ImageReader(channels=13, dtype="uint16")
    assert "has 12 channels, expected 13" in message(reader, [path])
    wide = save(tmp_path / "b.tif", np.zeros((80, 80, 65), np.uint16), planarconfig="contig")
    assert "has 65 channels, expected 13" in message(reader, [wide])
    picked = ImageReader(channels=2, dtype="uint16", pick=(12, 3))([write(tmp_path / "c.tif")]).image
    np.testing.assert_array_equal(picked, BANDS[..., [12, 3]])
