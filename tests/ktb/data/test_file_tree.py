"""What lies below a data root."""

from __future__ import annotations

import pytest

from ktb.data.file_tree import Tree
from ktb.errors import DataError


def test_tree(root):
    tree = Tree(root)
    assert "rgb/0.png" in tree
    assert "rgb" not in tree
    assert tree.missing(["rgb/0.png", "rgb/9.png", "nope/0.png"]) == ["rgb/9.png", "nope/0.png"]
    assert tree.find(("RGB", "rgb"), "1", (".jpg", ".png")) == "rgb/1.png"
    assert tree.find(("RGB", "rgb"), "9", (".jpg", ".png")) == "RGB/9.jpg"
    with pytest.raises(DataError) as caught:
        tree.require(["rgb/0.png", "RGB/1.png", "rgb/9.png"], "train.txt", "add them")
    assert str(caught.value) == (
        f"{root}/RGB/1.png: no such file, but train.txt names it (and 1 more); {root} has 'rgb', not 'RGB': upper and "
        "lower case matter, rename it; add them"
    )


def test_data_root(tmp_path):
    (tmp_path / "NYUDepthv2").mkdir()
    with pytest.raises(
        DataError, match="nyudepthv2 does not exist; .* has 'NYUDepthv2', not 'nyudepthv2'.*dataset.root="
    ):
        Tree(tmp_path / "nyudepthv2")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder; set dataset.root"):
        Tree(tmp_path / "file")
