"""Patterns of file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktb.data.file_tree import Tree
from ktb.data.globs import match_files
from ktb.errors import DataError

ODD = ("a b", "c#d", "e[1]", "{f}", "g%20", "-h", "i\nj", "k\r", "l,m;n", "o.p.q", "r\\s", "t*?", "(u)", "字 ü")


def test_names_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "set [1] {x}"
    folder.mkdir()
    for name in ODD:
        (folder / f"x_{name}.png").touch()
    assert match_files(Tree(tmp_path), "set [1] {x}/x_*.png") == {name: f"set [1] {{x}}/x_{name}.png" for name in ODD}
    assert set(match_files(Tree(folder), "x_*.*")) == set(ODD)


def test_two_files_of_one_sample_are_refused(tmp_path: Path) -> None:
    for name in ("1.png", "1.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"1.png: is the same sample as 1.jpg by the pattern '\*\.\*' .*; remove one, or"
    ):
        match_files(Tree(tmp_path), "*.*")
