"""Frames of sensors at their own rates, paired by time for prediction as for training."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktb.errors import DataError
from ktb.predict.pairing import plan
from ktb.predict.pairing_by_time import plan_by_time
from tests.ktb.data.sets.own import module, timed


def test_frames_get_the_nearest_of_a_list_or_of_names_as_in_training(tmp_path: Path) -> None:
    settings = timed(tmp_path)
    sources = {"rgb": [str(tmp_path / "rgb")], "thermal": [str(tmp_path / "thermal.txt")]}
    (tmp_path / "rgb" / "100.05.bmp").write_bytes(b"BM")
    pictures, failures, note = plan_by_time(sources, tmp_path / "out", max_gap=0.03)
    assert [failure.message for failure in failures] == [
        f"{tmp_path}/rgb/100.05.bmp: .bmp is a format that is not read; convert it to PNG, TIFF or NPY"
    ]
    (tmp_path / "rgb" / "100.05.bmp").unlink()
    assert [(p.name, p.files["thermal"][0].name) for p in pictures] == [
        (f"{100 + i / 10:.6f}", f"{i} x.png") for i in range(10) if i not in (4, 5)
    ]
    assert note == (
        "8 of 10 frames of rgb paired by time, within 30 ms; 2 without partner are left out (or --allow-missing)"
    )
    # The same partners as in training, which needs a label as well: those of the even frames.
    split = module(tmp_path, **settings, split_seed=1).open_split("train")
    trained = {Path(e.files["rgb"][0]).name: Path(e.files["thermal"][0]).name for e in split.entries}
    mine = {p.files["rgb"][0].name: p.files["thermal"][0].name for p in pictures}
    assert trained
    assert trained.items() <= mine.items()
    everything, _, note = plan_by_time(sources, tmp_path / "out", max_gap=0.03, allow_missing=True)
    assert len(everything) == 10
    assert [len(picture.files) for picture in everything] == [2, 2, 2, 2, 1, 1, 2, 2, 2, 2]
    assert note.endswith("2 without partner go without")
    # The other way round the results are called as the list's files; names before the time are no part of it.
    (tmp_path / "rgb").rename(tmp_path / "left")
    for file in (tmp_path / "left").iterdir():
        file.rename(file.with_name(f"left_{file.name}"))
    swapped = {"thermal": sources["thermal"], "rgb": [f"{tmp_path}/left/left_*.png"]}
    pictures, _, _ = plan_by_time(swapped, tmp_path / "out", max_gap=0.03)
    assert [(p.name, p.files["rgb"][0].name) for p in pictures[:2]] == [
        ("thermal/0 x", "left_100.000000.png"),
        ("thermal/1 x", "left_100.100000.png"),
    ]


@pytest.mark.parametrize(
    ("rgb", "thermal", "gap", "message"),
    [
        (
            "rgb",
            "thermal.txt",
            0.001,
            "none of 10 frames .* of thermal within 1 ms; correct --max-gap",
        ),
        ("rgb", "thermal", 0.03, "is no time stamp; .*or use --max-gap none to pair by name"),
        ("rgb", "thermal/0 x.png", 0.03, "--thermal .*0 x.png: is one file, which cannot be paired by time"),
    ],
)
def test_what_has_no_time_is_refused(tmp_path: Path, rgb: str, thermal: str, gap: float, message: str) -> None:
    timed(tmp_path)
    with pytest.raises(DataError, match=message):
        plan_by_time({"rgb": [f"{tmp_path}/{rgb}"], "thermal": [f"{tmp_path}/{thermal}"]}, tmp_path, max_gap=gap)


def test_a_list_by_name_says_what_it_needs(tmp_path: Path) -> None:
    timed(tmp_path)
    with pytest.raises(DataError, match=r"thermal.txt: is a list.* by time; add --max-gap SECONDS"):
        plan({"rgb": [str(tmp_path / "rgb")], "thermal": [str(tmp_path / "thermal.txt")]}, tmp_path / "out")
