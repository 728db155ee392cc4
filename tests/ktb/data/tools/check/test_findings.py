"""What all samples together say of a data set."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.ktb.data.tools.check.reports import SIZE, nyu_data, own_labels, report_of


def test_files_of_different_size(nyu):
    Image.new("RGB", (48, 41)).save(nyu / "HHA/0.jpg")
    (line,) = report_of(nyu_data(nyu))["failures"]
    assert line.startswith(f"{nyu / 'HHA/0.jpg'}: depth is 48 x 41 pixels but its label")


def test_labels_off_by_one_show_in_the_classes(nyu):
    void = [report_of(nyu_data(nyu))["splits"][split]["void"] for split in ("train", "test")]
    for path in (nyu / "Label").iterdir():
        stored = np.array(Image.open(path))
        Image.fromarray(np.where(stored == 40, 0, stored + 1).astype(np.uint8)).save(path)
    report = report_of(nyu_data(nyu))
    assert [split["classes"]["wall"] for split in report["splits"].values()] == void
    assert report["failures"] == []


def test_a_mask_of_0_and_255_is_not_taken_for_void_without_a_word(tmp_path):
    mask = Image.fromarray(np.where(np.arange(SIZE[1]) < 9, 255, 0).astype(np.uint8) * np.ones((SIZE[0], 1), np.uint8))
    findings = own_labels(tmp_path / "a", [mask])["findings"]
    assert any("no pixel of 1 classes (b); where class 1 is stored as 255" in text for text in findings)
    right = own_labels(tmp_path / "b", [mask], map={0: 0, 255: 1})
    assert right["splits"]["train"]["classes"] == {"a": 39 * SIZE[0], "b": 9 * SIZE[0]}
    assert not any("no pixel" in text for text in right["findings"])


def test_masks_of_0_and_1_among_masks_of_0_and_255_are_pointed_out(tmp_path):
    def mask(value):
        return Image.fromarray((np.arange(SIZE[1]) < 9).astype(np.uint8) * value * np.ones((SIZE[0], 1), np.uint8))

    remedy = "say label.map: {0: 0, 1: 1, 255: 1}"
    findings = own_labels(tmp_path / "a", [mask(255), mask(1), mask(1), mask(0)])["findings"]
    (found,) = [text for text in findings if "none has both" in text]
    assert found.startswith(
        "train: 2 labels have class 1 and no void (first: 1), 1 have void and no class 1 (first: 0)"
    )
    assert found.endswith(remedy)
    assert any(text.startswith("val: no pixel of 1 classes (b)") and text.endswith(remedy) for text in findings)
    right = own_labels(tmp_path / "b", [mask(255), mask(1), mask(1)], map={0: 0, 1: 1, 255: 1})
    assert right["splits"]["train"]["classes"]["b"] == 3 * 9 * SIZE[0]
    assert not any("none has both" in text or "no pixel" in text for text in right["findings"])
