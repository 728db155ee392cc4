"""Files are read exactly as stored, and whatever else lies there gives one clear line."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ktb.data.lists import read_list
from ktb.data.readers.decode import decode, pixel_limit
from ktb.data.readers.holes import fill_holes
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.readers.plane import plane_residual
from ktb.data.samples import Entry, FileSamples
from ktb.data.sets.folder_settings import FolderModality
from ktb.data.spec import IGNORE
from ktb.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
NAN = float("nan")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, *, extra: bytes = b"") -> bytes:
    """A PNG of unfiltered rows, for the kinds Pillow cannot write."""
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def save(path: Path, array: np.ndarray, **options) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


def message(call, *args) -> str:
    """The error's message, which must be one line that begins with the file."""
    with pytest.raises(DataError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    path = args[0][0] if isinstance(args[0], list) else args[0]
    assert text.startswith(str(path)), text
    return text


def attempt(call, *args):
    """(result, None) or (None, the DataError's message)."""
    try:
        return call(*args), None
    except DataError as error:
        return None, str(error)


# --- as stored -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3), (7, 9, 4)])
def test_png_8bit(tmp_path, shape):
    image = RNG.integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", image)), image)


def test_png_16bit(tmp_path):
    grey = RNG.integers(0, 65536, (7, 9), np.uint16)
    np.testing.assert_array_equal(decode(save(tmp_path / "grey.png", grey)), grey)
    for channels, colour_type in ((3, 2), (4, 6), (2, 4)):
        image = RNG.integers(0, 65536, (7, 9, channels), np.uint16)
        path = tmp_path / f"{channels}.png"
        path.write_bytes(png(9, 7, 16, colour_type, image.astype(">u2").tobytes()))
        read = decode(path)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, image)


def test_png_grey_alpha(tmp_path):
    image = RNG.integers(0, 256, (7, 9, 2), np.uint8)
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", image)), image)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_grey_values_are_numbers(tmp_path, bits):
    """A 1-bit mask is 0 and 1, not 0 and 255."""
    per_byte = 8 // bits
    values = RNG.integers(0, 2**bits, (5, 16), np.uint8)
    packed = sum(values[:, i::per_byte] << (8 - bits * (i + 1)) for i in range(per_byte)).astype(np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(png(16, 5, bits, 0, packed.tobytes()))
    np.testing.assert_array_equal(decode(path), values)


def test_transparency_adds_no_channel(tmp_path):
    rgb, grey = RNG.integers(0, 256, (5, 6, 3), np.uint8), RNG.integers(0, 256, (5, 6), np.uint8)
    (tmp_path / "rgb.png").write_bytes(
        png(6, 5, 8, 2, rgb.tobytes(), extra=chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    )
    (tmp_path / "grey.png").write_bytes(png(6, 5, 8, 0, grey.tobytes(), extra=chunk(b"tRNS", struct.pack(">H", 7))))
    np.testing.assert_array_equal(decode(tmp_path / "rgb.png"), rgb)
    np.testing.assert_array_equal(decode(tmp_path / "grey.png"), grey)


def test_palette_png_is_indices_or_colours(tmp_path):
    ids = RNG.integers(0, 5, (6, 8), np.uint8)
    image = Image.fromarray(ids)
    colours = RNG.integers(0, 256, (256, 3), np.uint8)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), ids)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", expand_palette=True), colours[ids])


def test_jpeg(tmp_path):
    image = RNG.integers(0, 256, (24, 40, 3), np.uint8)
    for name, array in (("rgb", image), ("grey", image[..., 0])):
        path = save(tmp_path / f"{name}.jpg", array, quality=95)
        read = decode(path)
        assert read.shape == array.shape
        with Image.open(path) as reference:
            assert np.abs(read.astype(int) - np.asarray(reference).astype(int)).max() <= 1


# What a viewer does with a stored picture of this EXIF orientation, in the words of the standard: where the stored
# first row and first column lie in the picture shown.
SHOWN = {
    1: lambda x: x,  # top, left
    2: np.fliplr,  # top, right
    3: lambda x: np.rot90(x, 2),  # bottom, right
    4: np.flipud,  # bottom, left
    5: lambda x: np.swapaxes(x, 0, 1),  # left, top
    6: lambda x: np.rot90(x, -1),  # right, top
    7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),  # right, bottom
    8: np.rot90,  # left, bottom
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_are_turned_as_viewers_show_them(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x010F] = "a maker"  # another tag before it
    exif[0x0112] = orientation
    image = RNG.integers(0, 256, (24, 40, 3), np.uint8)
    for name, array in (("rgb", image), ("grey", image[..., 0])):
        path = save(tmp_path / f"{name}{suffix}", array, exif=exif)
        plain = decode(save(tmp_path / f"plain{suffix}", array))
        shown = decode(path)
        np.testing.assert_array_equal(shown, SHOWN[orientation](plain))
        with Image.open(path) as reference:
            other = np.asarray(ImageOps.exif_transpose(reference)).astype(int)
        assert np.abs(shown.astype(int) - other).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_orientation_of_every_byte_order_and_type(tmp_path, order, kind):
    magic = b"II*\0" if order == "<" else b"MM\0*"
    value = {1: b"\x06\0\0\0", 3: struct.pack(f"{order}HH", 6, 0), 4: struct.pack(f"{order}I", 6)}[kind]
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + value
    ids = RNG.integers(0, 3, (5, 8), np.uint8)
    path = tmp_path / "a.png"
    directory = magic + struct.pack(f"{order}IH", 8, 1)
    path.write_bytes(png(8, 5, 8, 0, ids.tobytes(), extra=chunk(b"eXIf", directory + entry + bytes(4))))
    np.testing.assert_array_equal(decode(path), np.rot90(ids, -1))
    # Labels are turned by the same rule.
    np.testing.assert_array_equal(LabelReader(id_table(3))(path), np.rot90(ids, -1))
    for broken in (
        b"",
        magic,
        directory,
        directory + entry[:6],
        magic + b"\xff" * 6,
        directory + entry[:8] + b"\xff" * 4,
    ):
        path.write_bytes(png(8, 5, 8, 0, ids.tobytes(), extra=chunk(b"eXIf", broken)))
        np.testing.assert_array_equal(decode(path), ids)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "float16", "float32", "float64", ">f4", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, dtype, order):
    array = np.asarray(RNG.integers(0, 2, (5, 8, 2)), dtype, order=order)
    read = decode(save(tmp_path / "a.npy", array))
    np.testing.assert_array_equal(read, array)
    assert read.dtype.isnative


def test_content_decides_not_the_name(tmp_path):
    image = RNG.integers(0, 256, (7, 9, 3), np.uint8)
    (tmp_path / "a.jpg").write_bytes(save(tmp_path / "a.png", image).read_bytes())
    np.testing.assert_array_equal(decode(tmp_path / "a.jpg"), image)
    (tmp_path / "b.png").write_bytes(save(tmp_path / "b.npy", image).read_bytes())
    np.testing.assert_array_equal(decode(tmp_path / "b.png"), image)


def test_labels_are_lossless_whatever_their_name(tmp_path):
    ids = RNG.integers(0, 3, (16, 16), np.uint8)
    named = save(tmp_path / "label.jpg", ids)
    disguised = tmp_path / "label.png"
    disguised.write_bytes(named.read_bytes())
    for reader in (LabelReader(id_table(3)), LabelReader(colours={(0, 0, 0): 0})):
        assert "JPEG changes values, so it can hold no label; expected PNG or NPY: export" in message(reader, named)
        assert "is a JPEG file, though named .png; JPEG changes values" in message(reader, disguised)
    # And a PNG that is called .jpg holds what its bytes say.
    named.write_bytes(save(tmp_path / "plain.png", ids).read_bytes())
    np.testing.assert_array_equal(LabelReader(id_table(3))(named), ids)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("TIFF", "a TIFF file"), ("GIF", "a GIF file"), ("BMP", "a BMP file"), ("WEBP", "a WebP file"),
     ("PPM", "a PPM file"), ("JPEG2000", "a JPEG 2000 file")],
)  # fmt: skip
def test_foreign_formats_under_a_png_name_are_called_by_theirs(tmp_path, kind, what):
    path = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).save(path, kind)
    for read in (decode, LabelReader(id_table(3)), lambda p: ImageReader()([p])):
        assert f"is {what}, which is none of PNG, JPEG and NPY; convert it to PNG" in message(read, path)


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "a Git LFS pointer", "git lfs pull"),
        (b"\n<!DOCTYPE html><p>Sign in</p>", "an HTML page", "fetch the file itself"),
        (b"<?xml version='1.0'?><svg/>", "an XML or SVG file", "convert it"),
        (b"PK\x03\x04rest", "a ZIP or NPZ archive", "unpack it"),
        (b"Permission denied", "text ('Permission denied', ...)", "fetch the file itself"),
        (b"\x00\x01\x02\x03", "of an unknown kind, starting with", "copy it again"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path, content, what, remedy):
    (tmp_path / "a.jpg").write_bytes(content)
    text = message(decode, tmp_path / "a.jpg")
    assert f"is {what}" in text
    assert text.endswith(remedy) or remedy in text.split("; ")[-1]


def test_a_setting_lets_larger_pictures_in(tmp_path):
    image = RNG.integers(0, 256, (40, 30), np.uint8)
    label = Image.fromarray(RNG.integers(0, 3, (40, 30), np.uint8))
    label.putpalette(bytes(range(9)))
    label.save(tmp_path / "label.png")
    for path in (save(tmp_path / "a.png", image), save(tmp_path / "a.npy", image), tmp_path / "label.png"):
        with pixel_limit(1199):
            assert (
                "claims 30 x 40 pixels; expected at most 1199: the file is damaged, or set dataset.max_pixels=1200"
                in (message(decode, path))
            )
        with pixel_limit(1200):
            assert decode(path).shape == (40, 30)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_in_the_encodings_that_editors_write(tmp_path, encoding):
    (tmp_path / "train.txt").write_bytes("Straße/1\nwäld/2\n".encode(encoding))
    assert [line.columns for line in read_list(tmp_path / "train.txt", tmp_path)] == [("Straße/1",), ("wäld/2",)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32", "latin-1"])
def test_text_in_other_encodings_is_refused(tmp_path, encoding):
    (tmp_path / "train.txt").write_bytes("Straße/1\n".encode(encoding))
    text = message(read_list, tmp_path / "train.txt", tmp_path)
    assert "is no text in UTF-8; expected a text file: save it again" in text


# --- damaged, wrong or hostile ---------------------------------------------------------------------------------------


def files_of_each_kind(folder: Path) -> list[Path]:
    rgb = np.full((16, 24, 3), 90, np.uint8)
    rgb[4:9, 3:20] = RNG.integers(0, 256, (5, 17, 3))
    palette = Image.fromarray(rgb[..., 0] // 64)
    palette.putpalette(list(range(256)) * 3)
    palette.save(folder / "palette.png")
    return [
        save(folder / "rgb.png", rgb),
        save(folder / "depth.png", rgb[..., 0].astype(np.uint16) * 200),
        save(folder / "rgb.jpg", rgb),
        save(folder / "progressive.jpg", rgb, progressive=True),
        save(folder / "depth.npy", rgb[..., 0].astype(np.float32)),
        folder / "palette.png",
    ]


def test_cut_short_anywhere(tmp_path):
    for path in files_of_each_kind(tmp_path):
        data = path.read_bytes()
        cut = tmp_path / f"cut_{path.name}"
        for length in (*range(0, len(data), 11), *range(len(data) - 20, len(data))):
            cut.write_bytes(data[:length])
            message(decode, cut)


MUTANTS = 10_000


@pytest.mark.slow
def test_ten_thousand_mutated_files_give_an_error_or_a_valid_sample(tmp_path):
    """One file of a sample has bytes flipped, cut out, reversed, or replaced by a piece of another file: reading the
    sample gives it whole, in its declared form, or one line that names a file of it."""
    files = {path.name: path for path in files_of_each_kind(tmp_path)}
    readers = {
        "rgb.png": ImageReader(channels=3),
        "rgb.jpg": ImageReader(channels=3),
        "progressive.jpg": ImageReader(channels=3),
        "depth.png": ImageReader(channels=1, dtype="uint16", hole_value=0, holes="validity"),
        "depth.npy": ImageReader(channels=1, dtype="float32", hole_value=0),
        "palette.png": LabelReader(id_table(4)),
    }
    whole = {name: path.read_bytes() for name, path in files.items()}
    rng = np.random.default_rng(1)
    refused = dict.fromkeys(files, 0)
    for turn in range(MUTANTS):
        name = list(files)[turn % len(files)]
        other = whole[list(files)[int(rng.integers(len(files)))]] if rng.random() < 0.25 else None
        mutant = tmp_path / f"mutant_{name}"
        mutant.write_bytes(mutated(rng, whole[name], other))
        image = "rgb.png" if name == "palette.png" else name
        file, label = ("rgb.png", mutant.name) if name == "palette.png" else (mutant.name, "palette.png")
        samples = FileSamples(tmp_path, [Entry("s", {image: (file,)}, label)], readers, readers["palette.png"])
        read, error = attempt(samples.read, 0, [image])
        if read is None:
            assert error.startswith(str(mutant)), error
            assert "\n" not in error
            refused[name] += 1
            continue
        assert read.label.shape == (16, 24)
        assert read.label.dtype == np.uint8
        assert set(np.unique(read.label)) <= {0, 1, 2, 3, IGNORE}
        reader = readers[image]
        assert read.images[image].shape == (16, 24, reader.channels)
        assert read.images[image].dtype == reader.dtype
        assert np.isfinite(read.images[image]).all()
        if image.endswith(".png") and other is None:  # checksums tell every change
            np.testing.assert_array_equal(read.images[image], readers[image]([files[image]]).image)
    assert min(refused.values()) > MUTANTS / len(files) / 3, refused


def mutated(rng: np.random.Generator, data: bytes, other: bytes | None) -> bytes:
    """`data` damaged in one of three ways, or with a piece of `other` at its place in it."""
    changed = bytearray(data)
    first, last = sorted(int(i) for i in rng.integers(0, len(data), 2))
    match rng.integers(0, 3) if other is None else 3:
        case 0:
            for _ in range(rng.integers(1, 5)):
                changed[rng.integers(0, len(data))] ^= 1 << rng.integers(0, 8)
        case 1:
            del changed[first:last]
        case 2:
            changed[first:last] = bytes(reversed(changed[first:last]))
        case 3 if other is not None:
            changed[first:last] = other[first:last]
    return bytes(changed)


def test_missing_and_misspelt(tmp_path):
    (tmp_path / "RGB").mkdir()
    save(tmp_path / "RGB/frame_a.png", np.zeros((4, 4), np.uint8))
    assert "'RGB', not 'rgb': upper and lower case matter" in message(decode, tmp_path / "rgb/frame_a.png")
    assert "did you mean 'frame_a.png'" in message(decode, tmp_path / "RGB/frame_b.png")
    save(tmp_path / "RGB/7.png", np.zeros((4, 4), np.uint8))
    assert message(decode, tmp_path / "RGB/8.png").endswith("no such file")


def test_not_an_image(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    assert "empty (0 bytes)" in message(decode, tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("<html>404</html>")
    assert "none of PNG, JPEG and NPY" in message(decode, tmp_path / "text.png")
    assert "cannot be read" in message(decode, tmp_path)


def test_absurd_sizes_are_refused_before_decoding(tmp_path):
    (tmp_path / "a.png").write_bytes(bomb_png())
    assert "100000 x 100000 pixels" in message(decode, tmp_path / "a.png")
    jpeg = bytearray(save(tmp_path / "a.jpg", np.zeros((8, 8), np.uint8)).read_bytes())
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 65500, 65500)
    (tmp_path / "a.jpg").write_bytes(jpeg)
    assert "65500 x 65500 pixels" in message(decode, tmp_path / "a.jpg")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    (tmp_path / "a.npy").write_bytes(header.getvalue())
    assert "1000000 x 1000000 pixels" in message(decode, tmp_path / "a.npy")


def bomb_png() -> bytes:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_never_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[Evil(tmp_path / "ran")]], object), allow_pickle=True)
    assert "Python objects (a pickle), which are never loaded" in message(decode, tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert "none of PNG, JPEG and NPY" in message(decode, tmp_path / "b.npy")
    assert not (tmp_path / "ran").exists()


def test_npy_of_wrong_form(tmp_path):
    for array in (np.zeros(5), np.zeros((3, 480, 640)), np.zeros((0, 5)), np.zeros((2, 3, 4, 5))):
        assert "expected (height, width)" in message(decode, save(tmp_path / "a.npy", array))
    assert "type complex128" in message(decode, save(tmp_path / "a.npy", np.zeros((4, 4), complex)))


# --- images of a modality --------------------------------------------------------------------------------------------


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


def test_fill_is_smooth_local_and_leaves_measurements_alone():
    rows, columns = np.mgrid[0:60, 0:80].astype(np.float32)
    ramp = (2 * rows + 3 * columns)[..., None]
    valid = RNG.random((60, 80)) < 0.3
    filled = fill_holes(ramp, valid)
    np.testing.assert_array_equal(filled[valid], ramp[valid])
    assert np.abs(filled - ramp).mean() < 4  # neighbours differ by 3
    corner = np.zeros((60, 80), bool)
    corner[:10, :10] = True
    spread = fill_holes(ramp, corner)
    assert spread.min() >= 0
    assert spread.max() <= ramp[corner].max()
    assert not fill_holes(ramp, np.zeros_like(valid)).any()


def test_one_valid_pixel_of_a_large_image_fills_it():
    image, valid = np.full((1500, 1400, 1), 7, np.uint16), np.zeros((1500, 1400), bool)
    valid[800, 10] = True
    assert (fill_holes(image, valid) == 7).all()


def test_plane_residual_finds_the_surface_under_what_sticks_out():
    rows, columns = np.mgrid[0:120, 0:160].astype(np.float32)
    noise = np.random.default_rng(3).normal(0, 5, rows.shape).astype(np.float32)
    surface = 40000 + 60 * rows - 20 * columns
    dip = (rows > 70) & (rows < 110) & (columns > 20) & (columns < 80)  # an eighth of the image
    image = surface + noise - 3000 * dip
    valid = np.random.default_rng(4).random(rows.shape) > 0.1
    residual = plane_residual(np.where(valid, image, 0).astype(np.float32), valid)
    assert np.abs(residual[valid & ~dip] - noise[valid & ~dip]).max() < 3
    assert abs(residual[valid & dip].mean() + 3000) < 3


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


# --- labels ----------------------------------------------------------------------------------------------------------


def test_label_tables():
    assert id_table(3) == {0: 0, 1: 1, 2: 2, 255: 255}
    nyu = id_table(40, offset=-1, ignore=(0, 255))
    assert (nyu[0], nyu[1], nyu[40], nyu[255]) == (255, 0, 39, 255)
    assert 41 not in nyu
    assert id_table(300, ignore=(-1,), void=65535) == {-1: 65535} | {i: i for i in range(300)}


def test_label_ids(tmp_path):
    ids = np.array([[0, 1, 40], [255, 2, 3]], np.uint8)
    read = LabelReader(id_table(40, offset=-1, ignore=(0, 255)))(save(tmp_path / "a.png", ids))
    assert read.dtype == np.uint8
    assert read.tolist() == [[255, 0, 39], [255, 1, 2]]
    wide = save(tmp_path / "b.npy", np.array([[1000, 7], [7, 1000]], np.int64))
    assert LabelReader({7: 0, 1000: 1})(wide).tolist() == [[1, 0], [0, 1]]


def test_label_outside_the_classes(tmp_path):
    ids = np.zeros((4, 5), np.uint8)
    ids[1, 2], ids[3, 4] = 9, 12
    text = message(LabelReader(id_table(9)), save(tmp_path / "a.png", ids))
    assert "label ids 9, 12 at 2 pixels, the first at row 1, column 2; expected 0-8, 255" in text
    for dtype in (np.int32, np.uint16):
        values = np.array([[0, 300]] * 2, dtype)
        assert "label id 300 at 2 pixels" in message(LabelReader(id_table(9)), save(tmp_path / "a.npy", values))
    negative = save(tmp_path / "a.npy", np.array([[0, -1]] * 2, np.int32))
    assert "label id -1 at 2 pixels" in message(LabelReader(id_table(9)), negative)


def test_label_read_as_colour(tmp_path):
    colour = save(tmp_path / "a.png", RNG.integers(0, 256, (4, 5, 3), np.uint8))
    text = message(LabelReader(id_table(9)), colour)
    assert "3 channels that differ, so it holds colours; expected one channel of class ids: convert it" in text
    half = save(tmp_path / "a.npy", np.full((4, 5), 0.5, np.float32))
    assert "holds float32 values, 0.5 at row 0, column 0; expected whole" in message(LabelReader(id_table(9)), half)
    assert "JPEG changes values" in message(LabelReader(id_table(9)), save(tmp_path / "a.jpg", np.zeros((8, 8), "u1")))
    ids = RNG.integers(0, 9, (4, 5, 4), np.uint8)
    first = save(tmp_path / "b.png", ids)
    np.testing.assert_array_equal(LabelReader(id_table(9), channel=0)(first), ids[..., 0])
    assert "expected ids in channel 4" in message(LabelReader(id_table(9), channel=4), first)


def test_colour_labels(tmp_path):
    palette = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 128, 255): 2, (9, 9, 9): 255}
    ids = RNG.integers(0, 4, (6, 7))
    image = np.array(list(palette), np.uint8)[ids]
    expected = np.array(list(palette.values()), np.uint8)[ids]
    read = LabelReader(colours=palette)(save(tmp_path / "a.png", image))
    np.testing.assert_array_equal(read, expected)
    image[2, 3] = (1, 2, 3)
    text = message(LabelReader(colours=palette), save(tmp_path / "a.png", image))
    assert "label colour (1, 2, 3) at row 2, column 3 (1 pixels of unknown colours)" in text
    grey = save(tmp_path / "b.png", image[..., 0])
    assert "expected an 8-bit colour image" in message(LabelReader(colours=palette), grey)
