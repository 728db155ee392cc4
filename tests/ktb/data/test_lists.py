"""Split lists: what a line may hold, and which lists are refused."""

from __future__ import annotations

import pytest

from ktb.data.lists import read_list
from ktb.errors import DataError


def test_lists(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xef\xbb\xbfRGB/2.jpg\tLabel/2.png\r\n\r\nRGB/3.jpg Label/3.png\r\n 4 \n")
    assert [tuple(line) for line in read_list(path, tmp_path)] == [
        (1, ("RGB/2.jpg", "Label/2.png")),
        (3, ("RGB/3.jpg", "Label/3.png")),
        (4, ("4",)),
    ]
    path.write_text("a frame\nb\tc d\n")
    assert [line.columns for line in read_list(path, tmp_path, spaces=False)] == [("a frame",), ("b", "c d")]


def test_names_in_lists_that_mean_a_file_below_the_root(tmp_path):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "rgb/1.png").touch()
    path = tmp_path / "list.txt"
    for written in (f"{tmp_path}/rgb/1.png", "/rgb/1.png", "rgb\\1.png", "./rgb/1.png", '"rgb/1.png"', "rgb/1.png  "):
        for encoded in (written.encode(), f"{written}\r\n".encode("utf-16"), f"\ufeff{written}\n".encode()):
            path.write_bytes(encoded)
            for spaces in (True, False):
                assert read_list(path, tmp_path, spaces=spaces) == [(1, ("rgb/1.png",))], (written, encoded)
    path.write_text("RGB/2.jpg,Label/2.png\nRGB/3.jpg; Label/3.png\n")
    assert [line.columns for line in read_list(path, tmp_path)] == [
        ("RGB/2.jpg", "Label/2.png"),
        ("RGB/3.jpg", "Label/3.png"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"\n \n", "lists no sample; expected one per line"),
        (b"a\n../b\n", "line 2: '../b' leaves the data root"),
        (b"a\n/etc/passwd\n", "line 2: '/etc/passwd' leaves the data root"),
        (b"a x/../../b\n", "line 1: 'x/../../b' leaves the data root"),
        (b"C:\\a\n", "line 1: 'C:\\\\a' leaves the data root"),
        (b"a\nb\na\n", "'a' stands on lines 1 and 3; expected each sample once: remove one of them"),
        (b"\xfe\xed\x00a", "is no text in UTF-8"),
        (b"\xff\xfea\x00\x00", "is no text in UTF-8"),
    ],
)
def test_broken_lists(tmp_path, content, expected):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_list(path, tmp_path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)
