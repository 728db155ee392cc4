"""Image files of one modality: expected form, units, colour, channels, holes, normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from ktb.data.readers.image import ImageReader
from ktb.data.sets.folder_settings import FolderModality
from ktb.errors import ConfigError, DataError
from tests.ktb.data.readers.common_checks import RNG, message
from tests.ktb.data.written import save

NAN = float("nan")


def test_expected_form(tmp_path):
    rgb = save(tmp_path / "rgb.png", RNG.integers(0, 256, (6, 8, 3), np.uint8))
    deep = save(tmp_path / "deep.png", np.full((6, 8), 1000, np.uint16))
    assert "has 3 channels, expected 1" in message(ImageReader(channels=1), [rgb])
    assert "has 1 channel, expected 3" in message(ImageReader(channels=3, dtype="uint16"), [deep])
    assert "holds uint16 values, expected uint8" in message(ImageReader(), [deep])
    assert "holds uint8 values, expected uint16" in message(ImageReader(dtype="uint16"), [rgb])
    assert "expected at least 4 to take channels [3]" in message(ImageReader(pick=(3,)), [rgb])


def test_units_bring_stored_types_together(tmp_path):
    reader = ImageReader(channels=1, dtype="float32", units={"uint16": 1e-3, "uint8": 10 / 255})
    for name, array, metres in (
        ("a.npy", np.full((4, 5), 2.5, np.float64), 2.5),
        ("a.png", np.full((4, 5), 2500, np.uint16), 2.5),
        ("b.png", np.full((4, 5), 255, np.uint8), 10.0),
    ):
        image = reader([save(tmp_path / name, array)]).image
        assert image.dtype == np.float32
        np.testing.assert_allclose(image, metres, rtol=1e-6)
    deep = np.array([[0, 128, 129, 257, 32768, 65535]] * 2, np.uint16)
    image = ImageReader(units={"uint16": 1 / 257})([save(tmp_path / "c.png", deep)]).image
    assert image.dtype == np.uint8
    assert image[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (10, 0), (12, 0), (14, 0), (16, 0)])
def test_sixteen_bit_colour_keeps_all_grey_levels_of_the_bits_it_uses(tmp_path, bits, shift):
    white = 2**bits - 1
    levels = np.rint(np.linspace(0, white, 256)).astype(np.uint16)
    path = save(tmp_path / "a.npy", np.broadcast_to(levels[None, :, None], (4, 256, 3)))
    settings = {"files": "*", "dtype": "uint16", "scale": white if bits < 16 else None}
    modality = FolderModality(**settings)
    image = modality.reader("rgb")([path]).image
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[0, :, 0], np.arange(256))
    assert modality.spec("rgb").scale == 255
    # What is brighter than white is white, not black again.
    bright = save(tmp_path / "b.npy", np.full((4, 4, 3), 65535, np.uint16))
    assert (modality.reader("rgb")([bright]).image == 255).all()


def test_a_scale_of_values_divided_before_is_refused():
    with pytest.raises(ConfigError, match=r"scale is 16; expected the stored value of white.* is now 4112"):
        FolderModality("rgb/*.png", dtype="uint16", scale=16).reader("rgb")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("channels", "words"), [(1, "grey, taken as three"), (2, "grey, taken as three"), (3, ""), (4, "fourth channel")]
)
def test_colour_is_made_of_grey_and_without_alpha(tmp_path, dtype, channels, words):
    image = RNG.integers(0, 256, (6, 8, channels)).astype(dtype)
    path = save(tmp_path / "a.npy", image)
    read = ImageReader(channels=3, dtype=np.dtype(dtype).name, colour=True)([path])
    expected = image[..., [0, 0, 0]] if channels < 3 else image[..., :3]
    np.testing.assert_array_equal(read.image, expected)
    assert words in read.converted
    assert bool(words) == bool(read.converted)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_channel_is_taken_of_grey_saved_as_colour(tmp_path, dtype):
    grey = RNG.integers(0, 256, (6, 8, 1)).astype(dtype)
    full = np.full_like(grey, np.iinfo(dtype).max)
    reader = ImageReader(channels=1, dtype=np.dtype(dtype).name)
    for parts in ([grey] * 3, [grey, full], [grey, grey, grey, full]):
        np.testing.assert_array_equal(reader([save(tmp_path / "a.npy", np.concatenate(parts, 2))]).image, grey)
    odd, clear = grey.copy(), full.copy()
    odd[3, 4], clear[2, 2] = odd[3, 4] ^ 1, 0
    for parts in ([grey, odd, grey], [grey, clear], [grey, grey, grey, clear]):
        path = save(tmp_path / "a.npy", np.concatenate(parts, 2))
        assert f"has {len(parts)} channels, expected 1" in message(reader, [path])


def test_pick_and_stack(tmp_path):
    image = RNG.integers(0, 256, (6, 8, 4), np.uint8)
    path = save(tmp_path / "a.png", image)
    np.testing.assert_array_equal(ImageReader(pick=(3,))([path]).image, image[..., 3:])
    np.testing.assert_array_equal(ImageReader(pick=(0, 1, 0))([path]).image, image[..., [0, 1, 0]])
    sin, cos = (save(tmp_path / f"{n}.npy", RNG.random((6, 8), np.float32)) for n in "sc")
    read = ImageReader(dtype="float32", pick=(0, 1, 0))([sin, cos]).image
    np.testing.assert_array_equal(read, np.stack([np.load(sin), np.load(cos), np.load(sin)], axis=-1))
    other = save(tmp_path / "o.npy", np.zeros((6, 9), np.float32))
    with pytest.raises(DataError, match="9 x 6 pixels but .*s.npy, the same sample, is 8 x 6"):
        ImageReader(dtype="float32")([sin, other])


def test_nan_is_an_error_unless_declared(tmp_path):
    image = RNG.random((6, 8)).astype(np.float32) + 1
    image[2, 3], image[4, 5] = NAN, np.inf
    path = save(tmp_path / "a.npy", image)
    assert "2 values are NaN or infinite, the first at row 2, column 3" in message(ImageReader(dtype="float32"), [path])
    read = ImageReader(dtype="float32", hole_value=NAN)([path])
    np.testing.assert_array_equal(~read.valid, ~np.isfinite(image))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_holes(tmp_path, dtype):
    image = np.full((20, 24), 100, dtype)
    image[5:9, 6:12] = 0
    path = save(tmp_path / ("a.npy" if dtype == np.float32 else "a.png"), image)
    options = {"channels": 1, "dtype": np.dtype(dtype).name, "hole_value": 0}
    zero = ImageReader(**options)([path])
    np.testing.assert_array_equal(zero.image[..., 0], image)
    np.testing.assert_array_equal(zero.valid, image > 0)
    fill = ImageReader(**options, holes="fill")([path])
    assert fill.valid is None
    assert fill.image.dtype == dtype
    assert (fill.image == 100).all()
    # A frame without holes still tells that it has none where the validity is a channel.
    full = save(path, np.full_like(image, 7))
    assert ImageReader(**options)([full]).valid is None
    assert ImageReader(**options, holes="validity")([full]).valid.all()


def test_plane_and_percentile_normalisation(tmp_path):
    rows, columns = np.mgrid[0:60, 0:80]
    image = (20000 + 100 * rows + 10 * columns).astype(np.uint16)
    image[10:20, 10:20] -= 1500
    image[30:33, 40:44] = 0
    path = save(tmp_path / "a.png", image)
    options = {"channels": 1, "dtype": "uint16", "hole_value": 0}
    plane = ImageReader(**options, normalise="plane", plane_range=3000)([path])
    assert plane.image.dtype == np.float32
    np.testing.assert_allclose(plane.image[15, 15], 0.25, atol=0.002)
    np.testing.assert_allclose(plane.image[50, 70], 0.5, atol=0.002)
    filled = ImageReader(**options, normalise="plane", plane_range=3000, holes="fill")([path])
    np.testing.assert_allclose(filled.image[31, 42], 0.5, atol=0.002)
    spread = ImageReader(**options, normalise="percentile", percentiles=(0, 100))([path])
    values = spread.image[..., 0][spread.valid]
    # Percentiles come from every fourth pixel.
    kept = image[::4, ::4][image[::4, ::4] > 0].astype(float)
    expected = np.clip((image[spread.valid] - kept.min()) / (kept.max() - kept.min()), 0, 1)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    flat = save(tmp_path / "flat.png", np.full((8, 8), 500, np.uint16))
    assert np.isfinite(ImageReader(channels=1, dtype="uint16", normalise="percentile")([flat]).image).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"dtype": "uint32"}, "dtype is 'uint32'; expected one of uint8, uint16, float32"),
        ({"holes": "fill"}, "holes: fill needs a hole_value"),
        ({"normalise": "plane", "channels": 1}, "plane needs channels: 1 and a positive plane_range"),
        ({"normalise": "percentile", "percentiles": (98, 2)}, "expected 0 <= low < high <= 100"),
    ],
)
def test_settings_that_cannot_work(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        ImageReader(**settings)
