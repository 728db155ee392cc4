"""Which files belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktb.errors import DataError
from ktb.predict.pairing import plan, plan_csv
from tests.ktb.cli.predicting import SIZES, write_pairs


def test_files_belong_together_by_folder_by_pattern_or_alone(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", SIZES)
    (pairs / "flat").mkdir()
    for name, modality in (("0_left", "rgb"), ("0_d", "depth"), ("1_left", "rgb"), ("1_d", "depth")):
        (pairs / "flat" / f"{name}.png").write_bytes((pairs / modality / "a.png").read_bytes())
    (pairs / "flat" / "notes.txt").write_text("not a picture")
    pictures, failures = plan(
        {"rgb": [f"{pairs}/flat/*_left.png"], "depth": [f"{pairs}/flat/*_d.png"]}, pairs / "flat" / "out"
    )
    assert failures == []
    assert [(picture.name, picture.files["depth"][0].name) for picture in pictures] == [
        ("0_left", "0_d.png"),
        ("1_left", "1_d.png"),
    ]
    one = {"rgb": [str(pairs / "flat" / "0_left.png")], "depth": [str(pairs / "depth" / "sub" / "b.png")]}
    ((picture,), _) = plan(one, tmp_path)
    assert picture.name == "0_left"
    # A modality in two files, and results inside the searched folder.
    results = pairs / "rgb" / "index"
    results.mkdir()
    (results / "a.png").write_bytes(b"")
    pictures, _ = plan({"rgb": [str(pairs / "rgb")], "pol": [str(pairs / "depth"), str(pairs / "rgb")]}, results)
    assert [picture.name for picture in pictures] == list(SIZES)
    assert [picture.name for picture in plan({"rgb": [str(pairs / "rgb" / "sub")]}, pairs)[0]] == ["b", "deep/c.1"]
    assert pictures[0].files["pol"] == (pairs / "depth" / "a.png", pairs / "rgb" / "a.png")


def test_pictures_of_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", SIZES)
    for name in ("rgb/z.BMP", "rgb/sub/y.webp", "rgb/notes.txt", "depth/.hidden.bmp"):
        (pairs / name).write_bytes(b"?")
    pictures, failures = plan({"rgb": [f"{pairs}/rgb"], "depth": [f"{pairs}/depth"]}, tmp_path / "out")
    assert [picture.name for picture in pictures] == list(SIZES)
    assert [failure.message for failure in failures] == [
        f"{pairs}/rgb/sub/y.webp: .webp is a format that is not read; convert it to PNG, TIFF or NPY",
        f"{pairs}/rgb/z.BMP: .BMP is a format that is not read; convert it to PNG, TIFF or NPY",
    ]
    (pairs / "only").mkdir()
    for i in range(3):
        (pairs / "only" / f"{i}.bmp").write_bytes(b"BM")
    with pytest.raises(DataError, match=r"only: no picture in this folder; .* \(3 like 0.bmp are not read: convert"):
        plan({"rgb": [f"{pairs}/only"]}, tmp_path / "out")


def test_homes_in_the_cells_of_a_table_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    table = tmp_path / "tables" / "t.csv"
    table.parent.mkdir()
    table.write_text("rgb,depth\n~/a/1.png,d/~/1.png\n~no_such_user/2.png,~/a/2.png\n", encoding="utf-8")
    first, second = plan_csv(table, ["rgb", "depth"])[0]
    assert first.files == {"rgb": (home / "a/1.png",), "depth": (table.parent / "d/~/1.png",)}
    assert second.files == {"rgb": (table.parent / "~no_such_user/2.png",), "depth": (home / "a/2.png",)}
    assert first.name == "a/1"
