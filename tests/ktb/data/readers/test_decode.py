"""Files → arrays exactly as stored; everything else is one line that names the file and the remedy."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ktb.data.readers.decode import FORMATS, decode, pixel_limit
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.samples import Entry, FileSamples
from ktb.data.spec import IGNORE
from ktb.errors import DataError
from tests.ktb.data.readers.common_checks import RNG, message
from tests.ktb.data.written import save


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, *, extra: bytes = b"") -> bytes:
    """A PNG of unfiltered rows, for the kinds Pillow cannot write."""
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def attempt(call, *args):
    """(result, None) or (None, the DataError's message)."""
    try:
        return call(*args), None
    except DataError as error:
        return None, str(error)


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


def test_an_animated_png_is_no_picture(tmp_path):
    frames = [Image.fromarray(np.full((6, 8), i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="a.png: is an animated PNG of 3 pictures; expected one: write each as a file"):
        decode(tmp_path / "a.png")
    frames[1].save(tmp_path / "one.png", save_all=True)
    assert decode(tmp_path / "one.png").tolist() == np.full((6, 8), 1).tolist()


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
        assert "JPEG changes values, so it can hold no label; expected PNG, TIFF or NPY: export" in message(
            reader, named
        )
        assert "is a JPEG file, though named .png; JPEG changes values" in message(reader, disguised)
    # And a PNG that is called .jpg holds what its bytes say.
    named.write_bytes(save(tmp_path / "plain.png", ids).read_bytes())
    np.testing.assert_array_equal(LabelReader(id_table(3))(named), ids)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("GIF", "a GIF file"), ("BMP", "a BMP file"), ("WEBP", "a WebP file"),
     ("PPM", "a PPM file"), ("JPEG2000", "a JPEG 2000 file")],
)  # fmt: skip
def test_foreign_formats_under_a_png_name_are_called_by_theirs(tmp_path, kind, what):
    path = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).save(path, kind)
    for read in (decode, LabelReader(id_table(3)), lambda p: ImageReader()([p])):
        assert f"is {what}, which is none of {FORMATS}; convert it to PNG" in message(read, path)


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "a Git LFS pointer", "git lfs pull"),
        (b"\n<!DOCTYPE html><p>Sign in</p>", "an HTML page", "fetch the file itself"),
        (b"<?xml version='1.0'?><svg/>", "an XML or SVG file", "convert it"),
        (b"Permission denied", "text ('Permission denied', ...)", "fetch the file itself"),
        (b"\x00\x01\x02\x03", "of an unknown kind, starting with", "copy it again"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path, content, what, remedy):
    (tmp_path / "a.jpg").write_bytes(content)
    text = message(decode, tmp_path / "a.jpg")
    assert f"is {what}" in text
    assert text.endswith(remedy) or remedy in text.split("; ")[-1]


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("a.png", "cv2.imdecode"),
        ("palette.png", "PIL.PngImagePlugin.PngImageFile.load"),
        ("a.tif", "tifffile.TiffPageSeries.asarray"),
        ("a.npz", "zipfile.ZipExtFile.read"),
    ],
)
def test_a_whole_file_is_not_called_damaged_for_want_of_memory(tmp_path, monkeypatch, name, decoder):
    image = np.zeros((8, 8), np.uint8)
    path = tmp_path / name
    if name == "palette.png":
        Image.fromarray(image).convert("P").save(path)
    else:
        save(path, image)

    def out_of_memory(*args, **kwargs):
        raise MemoryError("Unable to allocate 7.28 TiB")

    monkeypatch.setattr(decoder, out_of_memory)
    text = message(decode, path)
    assert "there is too little memory to read it (Unable to allocate 7.28 TiB); use fewer workers" in text
    assert "damaged" not in text


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
        save(folder / "tiles.tif", rgb.astype(np.uint16) * 9, tile=(16, 16), compression="deflate", predictor=True),
        save(folder / "planes.tif", np.moveaxis(rgb, 2, 0), planarconfig="separate", compression="lzw"),
        save(folder / "pages.tif", np.moveaxis(rgb, 2, 0), metadata=None),
        save(folder / "rgb.npz", rgb),
    ]


def test_cut_short_anywhere(tmp_path):
    for path in files_of_each_kind(tmp_path):
        data = path.read_bytes()
        cut = tmp_path / f"cut_{path.name}"
        for length in (*range(0, len(data), 11), *range(len(data) - 20, len(data))):
            cut.write_bytes(data[:length])
            read, _ = attempt(decode, cut)
            if read is None:
                message(decode, cut)
            else:  # the last bytes of a TIFF may be no part of its picture
                assert path.suffix == ".tif"
                assert length > len(data) - 24
                np.testing.assert_array_equal(read, decode(path))


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
        "tiles.tif": ImageReader(channels=3, dtype="uint16"),
        "planes.tif": ImageReader(channels=3),
        "pages.tif": ImageReader(channels=3),
        "rgb.npz": ImageReader(channels=3),
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


def test_not_an_image(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    assert "empty (0 bytes)" in message(decode, tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("<html>404</html>")
    assert f"none of {FORMATS}" in message(decode, tmp_path / "text.png")
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
    assert f"none of {FORMATS}" in message(decode, tmp_path / "b.npy")
    assert not (tmp_path / "ran").exists()


def test_npy_of_wrong_form(tmp_path):
    for array in (np.zeros(5), np.zeros((480, 3, 640)), np.zeros((0, 5)), np.zeros((2, 3, 4, 5))):
        assert "expected (height, width)" in message(decode, save(tmp_path / "a.npy", array))
    assert "type complex128" in message(decode, save(tmp_path / "a.npy", np.zeros((4, 4), complex)))
