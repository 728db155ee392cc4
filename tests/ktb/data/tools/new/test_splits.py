"""Splits by folders, by lists, or by shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ktb.data.sets.folder import FolderDataModule
from ktb.data.tools.new.found import module_settings
from ktb.data.tools.new.output import write_yaml
from tests.ktb.data.tools.new.folders import label, look, modalities, opened, rgb
from tests.ktb.data.written import save


@pytest.mark.parametrize("pattern", ["{split}/{kind}/{name}.png", "{kind}/{split}/{name}.png"])
def test_split_folders(tmp_path, pattern):
    for split, count in (("training", 3), ("validation", 2)):
        for i in range(count):
            for kind, image in (("rgb", rgb(i)), ("ther", rgb(i)[..., 0]), ("labels", label(0, 1))):
                save(tmp_path / pattern.format(split=split, kind=kind, name=f"{i}"), image)
    found = look(tmp_path)
    assert modalities(found)["thermal"] == {"files": pattern.format(split="{split}", kind="ther", name="*")}
    assert found.splits == {"train": "training", "val": "validation"}
    assert found.batch_size == 3
    assert [len(opened(found).open_split(s)) for s in ("train", "val")] == [3, 2]


def test_lists(tmp_path):
    for i in range(6):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train_v2.txt").write_text("".join(f"rgb/{i}.png label/{i}.png\n" for i in range(4)))
    (tmp_path / "splits/test.txt").write_text("4\n5\n")
    found = look(tmp_path)
    assert found.splits == {"train": "splits/train_v2.txt", "test": "splits/test.txt"}
    assert found.split_reason == "lists in the folder"
    (tmp_path / "splits/test.txt").write_text("44\n")
    found = look(tmp_path)
    assert found.splits == {"train": 0.8, "val": 0.2}
    assert any("test.txt are not used" in note for note in found.notes)


def test_incomplete_samples_are_left_out_by_lists(tmp_path):
    for i in range(10):
        save(tmp_path / f"data/rgb/{i}.png", rgb(i))
        if i != 3:
            save(tmp_path / f"data/label/{i}.png", label(0, 1))
    found = look(tmp_path / "data")
    path = write_yaml(found, "mine", tmp_path / "conf")
    written = yaml.safe_load(path.read_text())["splits"]
    names = {split: Path(file).read_text().split() for split, file in written.items()}
    assert [len(n) for n in names.values()] == [7, 2]
    assert sorted(names["train"] + names["val"]) == [str(i) for i in range(10) if i != 3]
    assert [len(opened(found).open_split(s)) for s in ("train", "val")] == [7, 2]
    assert any(note.startswith("1 names lack a file") for note in found.notes)


@pytest.mark.parametrize("pattern", ["{split}/{kind}/{i}.png", "{kind}/{split}/{i}.png"])
def test_a_test_folder_without_labels(tmp_path, pattern):
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for i in range(count):
            save(tmp_path / pattern.format(split=split, kind="rgb", i=i), rgb(i))
            if split != "test":
                save(tmp_path / pattern.format(split=split, kind="label", i=i), label(0, 1))
    found = look(tmp_path)
    assert found.splits == {"train": "train", "val": "val", "test": "test"}
    assert any("test: no labels, so evaluation on it writes predictions" in note for note in found.notes)
    data = FolderDataModule(**module_settings(found), num_workers=0)
    assert [len(data.dataset(s)) for s in found.splits] == [4, 2, 3]
    assert not data.labelled("test")
