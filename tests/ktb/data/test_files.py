"""Files read whole: text of every encoding, and what is said of a file that is missing."""

from __future__ import annotations

import numpy as np
import pytest

from ktb.data.lists import read_list
from ktb.data.readers.decode import decode
from tests.ktb.data.readers.common_checks import message
from tests.ktb.data.written import save


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_in_the_encodings_that_editors_write(tmp_path, encoding):
    (tmp_path / "train.txt").write_bytes("Straße/1\nwäld/2\n".encode(encoding))
    assert [line.columns for line in read_list(tmp_path / "train.txt", tmp_path)] == [("Straße/1",), ("wäld/2",)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32", "latin-1"])
def test_text_in_other_encodings_is_refused(tmp_path, encoding):
    (tmp_path / "train.txt").write_bytes("Straße/1\n".encode(encoding))
    text = message(read_list, tmp_path / "train.txt", tmp_path)
    assert "is no text in UTF-8; expected a text file: save it again" in text


def test_missing_and_misspelt(tmp_path):
    (tmp_path / "RGB").mkdir()
    save(tmp_path / "RGB/frame_a.png", np.zeros((4, 4), np.uint8))
    assert "'RGB', not 'rgb': upper and lower case matter" in message(decode, tmp_path / "rgb/frame_a.png")
    assert "did you mean 'frame_a.png'" in message(decode, tmp_path / "RGB/frame_b.png")
    save(tmp_path / "RGB/7.png", np.zeros((4, 4), np.uint8))
    assert message(decode, tmp_path / "RGB/8.png").endswith("no such file")


def test_a_link_that_leads_nowhere_is_called_one(tmp_path):
    save(tmp_path / "0.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "1.png").symlink_to("gone/1.png")
    text = message(decode, tmp_path / "1.png")
    assert text == f"{tmp_path / '1.png'}: no such file; it is a link to gone/1.png, and nothing is there"
