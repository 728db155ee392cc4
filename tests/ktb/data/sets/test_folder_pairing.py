"""Files → samples: by name, by time, and as lists name them."""

from __future__ import annotations

import numpy as np
import pytest

from ktb.errors import DataError
from tests.ktb.data.sets.own import SIZE, ids, module, timed
from tests.ktb.data.written import save


def test_wildcards(tmp_path):
    rng = np.random.default_rng(0)
    for place in ("north/1", "north/2", "south/deep/1"):
        folder, _, frame = place.rpartition("/")
        save(tmp_path / f"data/{folder}/{frame}_colour.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(tmp_path / f"data/{folder}/{frame}_range.npy", rng.random(SIZE, np.float32))
        save(tmp_path / f"data/{folder}/{frame}_mask.png", rng.integers(0, 2, SIZE, np.uint8))
    data = module(
        tmp_path,
        modalities={
            "rgb": {"files": "data/**/*_colour.*"},
            "range": {"files": "data/**/*_range.npy", "dtype": "float32"},
        },
        label={"files": "data/**/*_mask.png"},
        splits={"train": 2 / 3, "val": 1 / 3},
    )
    assert sorted(ids(data, "train") + ids(data, "val")) == ["north/1", "north/2", "south/deep/1"]
    doubled = tmp_path / "data/north/1_colour.png"
    save(doubled, np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DataError, match=r"is the same sample as data/north/1_colour\.... by the pattern"):
        data.open_split("train")


def test_ambiguous_names_in_a_list(tmp_path):
    for folder in ("north", "south"):
        save(tmp_path / f"{folder}/rgb/1.png", np.zeros((*SIZE, 3), np.uint8))
        save(tmp_path / f"{folder}/label/1.png", np.zeros(SIZE, np.uint8))
    options = {"modalities": {"rgb": {"files": "*/rgb/*.png"}}, "label": {"files": "*/label/*.png"}}
    (tmp_path / "train.txt").write_text("north/1\n")
    (tmp_path / "val.txt").write_text("1.png\n")
    assert ids(module(tmp_path, **options), "train") == ["north/1"]
    with pytest.raises(DataError, match=r"val.txt, line 1: '1.png' is not one sample .* expected names like 'north/1'"):
        module(tmp_path, **options).dataset("val")


def test_pattern_without_files(root):
    with pytest.raises(DataError) as caught:
        module(root, label={"files": "label/*.tif"}).dataset("train")
    assert str(caught.value) == (
        f"{root}/label/*.tif: no file matches this pattern; correct dataset.label.files or dataset.root"
    )


def test_unpaired_files_without_lists(root):
    (root / "disparity/b_03.png").unlink()
    shares = {"train": 0.5, "val": 0.5}
    for streams in (["rgb", "disparity"], ["rgb"]):
        with pytest.raises(DataError, match=r"rgb/b_03.png: no file of 'disparity' belongs to it"):
            module(root, splits=shares, streams=streams).dataset("train")
    assert ids(module(root, streams=["rgb"]), "val") == ["b_01"]  # with lists, what is not used need not be there


def test_names_with_commas_spaces_and_absolute_paths_in_lists(root):
    for kind in ("rgb", "disparity", "label"):
        (root / kind / "b_03.png").rename(root / kind / "b, 03 x.png")
    for line in (
        "b, 03 x",
        "b, 03 x.png ",
        "rgb/b, 03 x.png,label/b, 03 x.png",
        "rgb/b, 03 x.png label/b, 03 x.png",
        f"{root}/rgb/b, 03 x.png {root}/label/b, 03 x.png",
        f"{root}/rgb/b, 03 x.png;{root}/label/b, 03 x.png",
        "rgb\\b, 03 x.png\tlabel\\b, 03 x.png",
        "/rgb/b, 03 x.png",
    ):
        (root / "val.txt").write_bytes(f"{line}\r\n".encode())
        assert ids(module(root), "val") == ["b, 03 x"], line
    for line, message in (
        ("rgb/a_01.png label/a_02.png", "names two samples, 'a_01' and 'a_02'; expected one per line"),
        (
            "/elsewhere/rgb/a_01.png",
            "'/elsewhere/rgb/a_01.png' leaves the data root .*; expected a name below the root",
        ),
        ("C:\\data\\rgb\\a_01.png", "leaves the data root"),
    ):
        (root / "val.txt").write_text(f"{line}\n")
        with pytest.raises(DataError, match=message):
            module(root).open_split("val")


def test_frames_are_paired_by_time(tmp_path):
    settings = timed(tmp_path)
    data = module(tmp_path, **settings)
    assert sorted(ids(data, "train") + ids(data, "val")) == ["100.000000", "100.200000", "100.600000", "100.800000"]
    for split in ("train", "val"):
        samples = data.open_split(split)
        for i, entry in enumerate(samples.entries):
            raw = samples.read(i, ["rgb", "thermal"])
            frame = int(raw.images["rgb"][0, 0, 0])
            assert entry.id == f"{100 + frame / 10:.6f}"
            assert raw.images["thermal"][0, 0, 0] == 10 * frame
            assert raw.label[0, 0] == frame % 4 // 2
            assert entry.gaps == {"thermal": pytest.approx(0.02), "label": 0.0}
    assert data.open_split("val").notes == [
        "4 of 10 frames of rgb paired by time, within 30 ms; left out: 4 without label, 2 without thermal "
        "(dataset.max_gap=0.03)"
    ]
    # Which modalities are used does not change the samples, nor their names.
    assert ids(module(tmp_path, streams=["thermal"], **settings), "val") == ids(data, "val")
    with pytest.raises(DataError, match=r"none of 10 frames of rgb has a frame of each of thermal, label within 1 ms"):
        module(tmp_path, **settings | {"max_gap": 0.001}).open_split("train")


def test_lists_of_frames_paired_by_time(tmp_path):
    settings = timed(tmp_path) | {"splits": {"train": "train.txt", "val": "val.txt"}}
    (tmp_path / "train.txt").write_text("100.000000\n100.100000\n100.200000\n100.400000\n")
    (tmp_path / "val.txt").write_text("rgb/100.600000.png\n100.800000.png\n")
    data = module(tmp_path, **settings)
    assert ids(data, "train") == ["100.000000", "100.200000"]  # the others lack a partner
    assert ids(data, "val") == ["100.600000", "100.800000"]
    (tmp_path / "val.txt").write_text("100.650000\n")
    with pytest.raises(DataError, match="val.txt, line 1: '100.650000' is not one sample"):
        module(tmp_path, **settings).open_split("val")
