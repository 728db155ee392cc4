"""Which files are of one kind, and which kind holds what, by names and depth of folders."""

from __future__ import annotations

import numpy as np
import pytest

from ktb.data.tools.new.output import write_yaml
from tests.ktb.data.tools.new.folders import depth, label, look, modalities, opened, rgb
from tests.ktb.data.written import save


def test_words_in_names(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i:03d}_rgb.png", rgb(i))
        save(tmp_path / f"{i:03d}_ir.png", rgb(i)[..., 0])
        save(tmp_path / f"{i:03d}_gt.png", label(0, 1, 3))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": "*_rgb.png"}, "thermal": {"files": "*_ir.png"}}
    assert found.label.settings == {"files": "*_gt.png"}
    assert "no pixel of the ids 2" in " ".join(found.notes)
    assert len(found.classes) == 4
    assert len(opened(found).open_split("train")) == 3


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_without_a_word_beside_masks_with_one(tmp_path, suffix):
    for i in range(5):
        save(tmp_path / f"data/{i:03d}.{suffix}", rgb(i))
        save(tmp_path / f"data/{i:03d}_mask.png", label(0, 1))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": f"data/*.{suffix}"}}
    assert found.label.settings == {"files": "data/*_mask.png"}
    write_yaml(found, "mine", tmp_path / "conf")
    assert [len(opened(found).open_split(s)) for s in ("train", "val")] == [4, 1]


def test_folders_of_several_depths_and_words_that_part_the_samples(tmp_path):
    for i, name in enumerate(("1_day", "2_night", "north/3_day", "north/hill/4_night")):
        save(tmp_path / f"rgb/{name}.PNG", rgb(i))
        save(tmp_path / f"label/{name}.PNG", label(0, 1))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": "rgb/**/*.PNG"}}
    assert found.label.settings == {"files": "label/**/*.PNG"}
    ids = [e.id for split in ("train", "val") for e in opened(found).open_split(split).entries]
    assert sorted(ids) == ["1_day", "2_night", "north/3_day", "north/hill/4_night"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    for i in range(3):
        save(tmp_path / f"disk/{i}.png", rgb(i))
        save(tmp_path / f"mine/label/{i}.png", label(0, 1))
    (tmp_path / "mine/rgb").symlink_to(tmp_path / "disk")
    (tmp_path / "mine/rgb/again").symlink_to(tmp_path / "mine")
    found = look(tmp_path / "mine")
    assert modalities(found) == {"rgb": {"files": "rgb/*.png"}}
    assert len(opened(found).open_split("train")) == 2


def test_cities_with_several_renderings_of_one_label(tmp_path):
    for split in ("train", "val"):
        for city in ("ulm", "bonn"):
            for i in range(2):
                name = f"{city}_{i:06d}_000019"
                save(tmp_path / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", rgb(i))
                save(tmp_path / f"disparity/{split}/{city}/{name}_disparity.png", depth(i, high=32000))
                folder = tmp_path / f"gtFine/{split}/{city}"
                save(folder / f"{name}_gtFine_labelIds.png", label(0, 1, 2))
                save(folder / f"{name}_gtFine_instanceIds.png", label(0, 1000, 2000, dtype=np.uint16))
                save(folder / f"{name}_gtFine_color.png", np.dstack([label(0, 70)] * 3))
    found = look(tmp_path)
    assert found.label.settings["files"] == "gtFine/{split}/*/*_gtFine_labelIds.png"
    assert modalities(found)["rgb"] == {"files": "leftImg8bit/{split}/*/*_leftImg8bit.png"}
    assert modalities(found)["disparity"]["files"] == "disparity/{split}/*/*_disparity.png"
    assert found.splits == {"train": "train", "val": "val"}
    assert len(opened(found).open_split("train")) == 4
