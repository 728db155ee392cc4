"""Each unusable file is named, the others go on, and several processes see what one sees."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image
from rich.console import Console

from ktb.data.tools.check.look import look
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.check.report import show
from tests.ktb.data.tools.check.reports import SIZE, nyu_data, own_labels, report_of


def test_workers_see_the_same(nyu):
    assert report_of(nyu_data(nyu), workers=2) == report_of(nyu_data(nyu))


def test_each_unusable_file_is_named_and_the_others_go_on(nyu):
    cut = nyu / "RGB/1.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    (nyu / "HHA/1.jpg").write_bytes(b"")
    label = np.array(Image.open(nyu / "Label/4.png"))
    label[0, :5] = 41
    Image.fromarray(label).save(nyu / "Label/4.png")
    report = report_of(nyu_data(nyu))
    assert len(report["failures"]) == 3
    empty, label_line, short = sorted(report["failures"])
    assert empty.startswith(f"{nyu / 'HHA/1.jpg'}: the file is empty")
    assert label_line.startswith(f"{nyu / 'Label/4.png'}: label id 41 at 5 pixels")
    assert short.startswith(f"{cut}: JPEG cut short")
    assert [(s["samples"], s["failed"]) for s in report["splits"].values()] == [(3, 1), (2, 1)]


def test_ids_that_a_data_set_of_ones_own_lets_pass(nyu):
    job = open_splits(nyu_data(nyu)).looks[0]
    job.samples.label = lambda _: np.full(SIZE, 40, np.uint8)
    seen = look(job)
    assert seen.state == "failed"
    assert seen.message.endswith("label ids 40; expected 0-39 and 255")


def test_how_labels_are_taken_is_listed(tmp_path):
    ids = np.zeros(SIZE, np.uint8)
    ids[:, 10:] = 1
    grey, transparent = Image.fromarray(ids), np.full(SIZE, 255, np.uint8)
    transparent[:4] = 0
    alpha = Image.merge("LA", (grey, Image.fromarray(transparent)))
    indexed = Image.fromarray(ids)
    indexed.putpalette([200, 0, 0, 0, 200, 0])
    split = own_labels(tmp_path / "ids", [grey, grey, alpha, Image.merge("RGB", [grey] * 3)])["splits"]["train"]
    assert split["labels"] == {
        "uint8 x 1: ids": 2,
        "uint8 x 1: ids, transparent is void": 1,
        "uint8 x 3: ids in equal channels": 1,
    }
    assert split["void"] == 4 * SIZE[1]
    report = own_labels(tmp_path / "colours", [indexed, indexed.convert("RGB")], colours=True)
    assert report["splits"]["train"]["labels"] == {"palette: classes by colour": 1, "uint8 x 3: classes by colour": 1}
    assert report["splits"]["train"]["classes"] == {"a": 2 * 10 * SIZE[0], "b": 2 * 38 * SIZE[0]}
    console = Console(file=io.StringIO(), width=120)
    show(report, console)
    assert re.search(r"train +│ palette +│ classes by colour +│ 1", console.file.getvalue())
