"""NPY and NPZ: channels first or last, one array of several, nothing unpacked beyond what its header says."""

from __future__ import annotations

import io
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ktb.data.arrays import InMemory
from ktb.data.readers.decode import decode, pixel_limit
from ktb.data.readers.npy import pictures_in
from ktb.errors import DataError
from tests.ktb.data.readers.common_checks import RNG, message
from tests.ktb.data.written import save

IMAGE = RNG.integers(0, 9999, (24, 40, 18), np.uint16)


def test_channels_first_or_last(tmp_path: Path) -> None:
    first = np.moveaxis(IMAGE, 2, 0)
    for array in (IMAGE, first):
        np.testing.assert_array_equal(decode(save(tmp_path / "a.npy", array)), IMAGE)
        np.testing.assert_array_equal(decode(save(tmp_path / "a.npz", array)), IMAGE)
        np.testing.assert_array_equal(decode(InMemory("the array 'x'", array)), IMAGE)
    square = RNG.integers(0, 9, (5, 5, 5), np.uint8)  # no axis is the shortest: the last one has the channels
    np.testing.assert_array_equal(decode(save(tmp_path / "b.npy", square)), square)


def test_the_array_of_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.png"  # what a file is, its bytes say
    with path.open("wb") as file:
        np.savez(file, bands=IMAGE, label=IMAGE[..., 0])
    assert "holds the arrays bands, label; say which one is meant: key: bands" in message(decode, path)
    np.testing.assert_array_equal(decode(path, key="bands"), IMAGE)
    np.testing.assert_array_equal(decode(path, key="label"), IMAGE[..., 0])

    def read(path: Path) -> None:
        decode(path, key="lable")

    assert "has no array 'lable', but bands, label; correct the key; did you mean 'label'?" in message(read, path)


def test_the_arrays_of_an_npz_that_can_be_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, pose=np.eye(4)[0], bands=IMAGE, name=np.array("x"), label=IMAGE[..., 0], time=np.array(3.0))
    assert pictures_in(path, path.read_bytes()) == ["bands", "label"]
    alone = save(tmp_path / "b.npz", IMAGE)
    assert pictures_in(alone, alone.read_bytes()) == []
    with pytest.raises(DataError, match=r"a\.npz: damaged NPZ archive"):
        pictures_in(path, path.read_bytes()[:200])


def test_archives_that_are_none_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "is a ZIP archive without arrays; expected an NPZ file" in message(decode, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "hello")
    assert "x: is no array; expected one that numpy.savez wrote" in message(decode, path)
    path.write_bytes(b"PK\x03\x04rest")
    assert "damaged NPZ archive" in message(decode, path)
    np.savez(path, x=np.zeros((4, 4), complex))
    assert "x: NPY file of values of type complex128" in message(decode, path)


def test_an_npz_bomb_is_unpacked_no_further_than_its_header_says(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (16, 16)})
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(header.getvalue())
        for _ in range(16):
            file.write(bytes(1 << 24))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "but shape (16, 16) of uint8 needs 256" in message(decode, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    large = save(tmp_path / "b.npz", np.zeros((2000, 2000, 64), np.uint8))
    with pixel_limit(1 << 22):
        assert "claims 2000 x 2000 pixels of 64 channels" in message(decode, large)


@pytest.mark.parametrize("shape", [(480, 3, 640), (0, 5), (2, 3, 4, 5), (5,), ()])
def test_shapes_of_no_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    expected = "expected (height, width), (height, width, channels) or (channels, height, width)"
    assert expected in message(decode, save(tmp_path / "a.npy", np.zeros(shape)))
    assert expected in message(decode, InMemory("the array 'x'", np.zeros(shape)))
