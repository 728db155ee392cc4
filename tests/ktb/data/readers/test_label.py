"""Label files → class ids."""

from __future__ import annotations

import numpy as np

from ktb.data.readers.label import LabelReader, id_table
from tests.ktb.data.readers.common_checks import RNG, message
from tests.ktb.data.written import save


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
