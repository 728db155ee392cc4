"""What `ktb-data check` says of modalities that do not line up, and that it says nothing of those that do."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ktb.data.scenes.draw import draw
from ktb.data.scenes.scene import sample_scene
from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.data.tools.align.offset import Offset
from ktb.data.tools.check.alignment import Compared, compare, misaligned, summarise_alignment, to_compare
from ktb.data.tools.check.look import look
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.check.overlays import alignment_sheet, checkerboard
from ktb.data.tools.check.summary import summarise
from tests.ktb.data.written import save

SIZE = (150, 200)
LIT = [(5, 0), (5, 6), (5, 12), (5, 20)]
"""Scenes in daylight, of which RGB and depth show the same edges."""


def folder(root, dx=0.0, dy=0.0):
    """Scenes as RGB and 16-bit depth, whose content is moved by (dx, dy)."""
    for i, scene in enumerate(LIT):
        drawn = draw(sample_scene(*scene), *SIZE)
        shift = np.array([[1.0, 0, dx], [0, 1, dy]])
        depth = cv2.warpAffine(drawn.depth, shift, SIZE[::-1], flags=cv2.INTER_NEAREST).astype(np.uint16) * 100
        save(root / f"rgb/{i}.png", drawn.rgb)
        save(root / f"depth/{i}.png", depth)
        save(root / f"label/{i}.png", drawn.label)
    return FolderDataModule(
        root,
        modalities={
            "rgb": {"files": "rgb/*.png"},
            "depth": {"files": "depth/*.png", "dtype": "uint16", "scale": 25500, "hole_value": 0},
        },
        label={"files": "label/*.png"},
        classes=[str(i) for i in range(10)],
        splits={"train": 0.5, "val": 0.5},
        streams=["rgb", "depth"],
        num_workers=0,
        batch_size=1,
    )


def aligned(data, count=24):
    looks = to_compare(open_splits(data).looks, count)
    return looks, summarise_alignment(data, map(compare, looks))


def test_modalities_that_line_up_give_no_finding(tmp_path):
    looks, alignment = aligned(folder(tmp_path))
    assert len(looks) == 4
    depth = alignment["depth"]
    assert (depth["onto"], depth["samples"], depth["lines_up"]) == ("rgb", 4, True)
    assert depth["found_in"] >= 3
    assert depth["displacement"] < 1
    assert misaligned(alignment) == []


def test_a_shifted_modality_is_a_finding_with_its_shift(tmp_path):
    data = folder(tmp_path, dx=7, dy=-4)
    planned = open_splits(data)
    looks = to_compare(planned.looks, 24)
    report = summarise(data, planned, map(look, planned.looks), map(compare, looks))
    depth = report["alignment"]["depth"]
    assert (depth["dx"], depth["dy"]) == pytest.approx((7, -4), abs=1.0)  # four small pictures, resolution 150 x 200
    assert depth["scale"] == pytest.approx(1, abs=0.02)
    (line,) = [f for f in report["findings"] if "line up" in f]
    assert line.startswith(f"depth does not line up with rgb: it lies {depth['dx']:.1f} px to the right and ")
    assert f"{-depth['dy']:.1f} px higher" in line
    assert f"median of {depth['found_in']} of 4 samples" in line
    assert report["failures"] == []


def test_the_synthetic_set_gives_no_finding():
    data = SyntheticDataModule(size=(96, 128), train=8, val=4, test=4, streams=["rgb", "depth"], num_workers=0)
    assert misaligned(aligned(data)[1]) == []


def offsets(*found):
    """(dx, dy, strength) of samples → what `compare` gave for them."""
    return [
        Compared(f"{i}", "kept", "", "train", {"depth": Offset(dx, dy, 1.0, strength, 0.2, (480, 640))})
        for i, (dx, dy, strength) in enumerate(found)
    ]


@pytest.mark.parametrize(
    ("found", "lines_up"),
    [
        ([(9, 0, 12)] * 4, False),
        ([(1.5, 1, 12)] * 4, True),  # within what sensors differ by
        ([(9, 0, 12), (-9, 0, 12), (9, 1, 12), (-8, 0, 12)], True),  # every sample says something else
        ([(9, 0, 3)] * 4, None),  # nothing but chance
        ([(9, 0, 12)] + [(0, 0, 3)] * 4, None),  # one of many
        ([(9, 0, 12)], False),
    ],
)
def test_when_modalities_are_said_not_to_line_up(found, lines_up):
    data = SyntheticDataModule(streams=["rgb", "depth"])
    alignment = summarise_alignment(data, offsets(*found))
    assert alignment["depth"]["lines_up"] is lines_up
    assert len(misaligned(alignment)) == (lines_up is False)


def test_samples_are_spread_over_all_splits_and_one_modality_needs_none():
    data = SyntheticDataModule(size=(32, 32), train=6, val=2, test=2, streams=["rgb", "depth"])
    looks = open_splits(data).looks
    assert [job.split for job in to_compare(looks, 4)] == ["train", "train", "val", "test"]
    assert len(to_compare(looks, 99)) == 10
    assert to_compare(looks, 0) == []
    alone = SyntheticDataModule(size=(32, 32), streams=["rgb"])
    assert to_compare(open_splits(alone).looks) == []


def test_a_damaged_sample_is_left_out(tmp_path):
    data = folder(tmp_path)
    looks = to_compare(open_splits(data).looks)
    (tmp_path / "depth/1.png").write_bytes(b"")
    alignment = summarise_alignment(data, map(compare, looks))
    assert alignment["depth"]["samples"] == 3
    assert alignment_sheet(data, looks, alignment) is not None


def test_checkerboards_show_both_pictures_in_turn():
    board = checkerboard(np.zeros((16, 24, 3), np.uint8), np.full((16, 24, 3), 200, np.uint8))
    assert board[:2, :2].max() == 0
    assert board[:2, 2:4].min() == 200
    assert board[2:4, :2].min() == 200
    assert (board > 0).mean() == pytest.approx(0.5)


def test_the_sheet_moves_back_what_does_not_line_up(tmp_path):
    data = folder(tmp_path, dx=7)
    looks, alignment = aligned(data)
    titles = [axis.get_title() for axis in alignment_sheet(data, looks, alignment).axes if axis.get_title()]
    assert titles == ["rgb and depth, as it is", "rgb and depth, moved back"]
    alignment["depth"]["lines_up"] = True
    titles = [axis.get_title() for axis in alignment_sheet(data, looks, alignment).axes if axis.get_title()]
    assert titles == ["rgb and depth, as it is"]
