"""Pictures and arrays that unpack to far more than they are: refused, or read without the memory that they ask for."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from ktb.data.readers.decode import decode
from ktb.errors import DataError
from tests.ktb.hostile import Evil

pytestmark = pytest.mark.usefixtures("little_memory")


def png(width: int, height: int, body: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (8193, 8192)])
def test_a_png_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, size: tuple[int, int]) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(png(*size, zlib.compress(bytes(1 << 20), 9)))
    with pytest.raises(DataError, match="bomb.png: claims .* pixels; expected at most"):
        decode(file)


def test_a_png_that_unpacks_to_more_than_its_header_says(tmp_path: Path) -> None:
    """256 MiB of zeros in 256 KiB: at most what 16 x 16 pixels take is unpacked."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 << 24)) for _ in range(16)) + packer.flush()
    file = tmp_path / "bomb.png"
    file.write_bytes(png(16, 16, body))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode(file).shape == (16, 16, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_an_npy_bomb_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.npy"
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    file.write_bytes(text.getvalue() + bytes(64))
    with pytest.raises(DataError, match="bomb.npy"):
        decode(file)
    np.save(file, np.array([Evil(tmp_path / "executed")], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="bomb.npy"):
        decode(file)
    assert not (tmp_path / "executed").exists()
