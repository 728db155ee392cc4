"""What is found before any file is opened."""

from __future__ import annotations

import re
import shutil

import pytest
from PIL import Image

from ktb.data.sets.folder import FolderDataModule
from ktb.data.tools.check.opened import open_splits
from ktb.errors import DataError
from tests.ktb.data.tools.check.reports import SIZE, nyu_data, report_of


def test_equal_samples_and_unnamed_files_are_findings(nyu):
    for folder, suffix in (("RGB", "jpg"), ("HHA", "jpg"), ("Label", "png")):
        shutil.copy(nyu / f"{folder}/0.{suffix}", nyu / f"{folder}/3.{suffix}")
        shutil.copy(nyu / f"{folder}/0.{suffix}", nyu / f"{folder}/77.{suffix}")
    findings = report_of(nyu_data(nyu))["findings"]
    (same,) = [line for line in findings if line.startswith("equal content")]
    assert re.fullmatch(r"equal content: test: .*3.*, train: .*0.*", same)
    assert f"{nyu / 'HHA'}: 1 files that no split names (first: 77.jpg)" in findings
    assert len([line for line in findings if "no split names" in line]) == 3


def test_a_sample_in_two_splits_is_a_finding(nyu):
    with (nyu / "test.txt").open("a") as file:
        file.write((nyu / "train.txt").read_text().splitlines()[0] + "\n")
    findings = report_of(nyu_data(nyu))["findings"]
    (line,) = [line for line in findings if "label of 2 samples" in line]
    assert line.startswith(f"{nyu / 'Label/0.png'}: ")
    assert "train: " in line
    assert "test: " in line


def test_a_split_that_cannot_be_opened_fails_alone(nyu):
    (nyu / "test.txt").unlink()
    report = report_of(nyu_data(nyu))
    assert list(report["splits"]) == ["train"]
    assert len(report["failures"]) == 1
    assert f"{nyu / 'test.txt'}: no such file" in report["failures"][0]
    (nyu / "train.txt").unlink()
    with pytest.raises(DataError, match="train.txt: no such file"):
        open_splits(nyu_data(nyu))


@pytest.mark.parametrize(("train", "val", "odd"), [(5, 20, True), (20, 5, False), (20, 20, False), (5, 15, False)])
def test_lists_that_seem_to_be_taken_for_each_other(tmp_path, train, val, odd):
    for folder, mode in (("rgb", "RGB"), ("label", "L")):
        (tmp_path / folder).mkdir()
        for i in range(train + val):
            Image.new(mode, SIZE).save(tmp_path / folder / f"{i}.png")
    for name, first, last in (("train", 0, train), ("val", train, train + val)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{i}\n" for i in range(first, last)))
    planned = open_splits(
        FolderDataModule(
            tmp_path, modalities={"rgb": {"files": "rgb/*.png"}}, label={"files": "label/*.png"}, classes=["a", "b"],
            splits={"train": "train.txt", "val": "val.txt"}, streams=["rgb"],
        )
    )  # fmt: skip
    found = [line for line in planned.findings if "the wrong way round" in line]
    assert found == [f"train has {train} samples, val {val}: are the two the wrong way round (dataset.splits)?"] * odd
