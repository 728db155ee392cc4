"""`ktb.data.tools.check`: what it counts is what lies on disk, and nothing unusable passes it."""

from __future__ import annotations

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ktb.data.sets.deliver import DELIVERDataModule
from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.mcubes import MCubeSDataModule
from ktb.data.sets.mfnet import MFNetDataModule
from ktb.data.sets.nyu import NYUDataModule
from ktb.data.sets.pst900 import PST900DataModule
from ktb.data.sets.sunrgbd import SUNRGBDDataModule
from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.data.tools.check.look import look
from ktb.data.tools.check.plan import plan
from ktb.data.tools.check.report import _page, show, write_report
from ktb.data.tools.check.summary import summarise
from ktb.data.tools.fixtures import make_fixture
from ktb.data.tools.parallel import parallel
from ktb.errors import DataError

SIZE = (40, 48)


def report_of(data, workers=1):
    planned = plan(data)
    return summarise(data, planned, parallel(look, planned.looks, workers))


@pytest.fixture
def nyu(tmp_path):
    return make_fixture("nyu", tmp_path / "nyu", counts={"train": 3, "test": 2}, size=SIZE)


def nyu_data(root, **settings):
    return NYUDataModule(root, **({"streams": ["rgb", "depth"], "num_workers": 0, "batch_size": 1} | settings))


def test_counts_sizes_classes_and_void_of_nyu(nyu):
    report = report_of(nyu_data(nyu))
    assert report["failures"] == []
    assert list(report["splits"]) == ["train", "test"]
    for split, indices, published in (("train", (0, 1, 2), 795), ("test", (3, 4), 654)):
        found = report["splits"][split]
        stored = np.concatenate([np.array(Image.open(nyu / f"Label/{i}.png")).ravel() for i in indices])
        assert (found["samples"], found["published"], found["failed"]) == (len(indices), published, 0)
        assert found["sizes"] == {"40x48": len(indices)}
        assert list(found["classes"].values()) == [int((stored == i + 1).sum()) for i in range(40)]
        assert found["void"] == int((stored == 0).sum()) > 0
        assert found["void_share"] == pytest.approx((stored == 0).mean())
        assert found["pixels"] == len(stored)
        pixels = np.stack([np.array(Image.open(nyu / f"RGB/{i}.jpg")) for i in indices])
        rgb = found["modalities"]["rgb"]
        assert rgb["kinds"] == {"uint8 x 3": len(indices)}
        # Two JPEG decoders differ by a grey value or two.
        assert [rgb["min"], rgb["max"]] == pytest.approx([pixels.min(), pixels.max()], abs=3)
        assert rgb["mean"] == pytest.approx(pixels.mean(), abs=0.5)
    assert f"train: 3 samples, published are {795}" in report["findings"]


def test_measured_share_and_range_of_raw_depth(nyu):
    report = report_of(nyu_data(nyu, streams=["depth"], depth_source="depth"))
    metres = np.stack([np.load(nyu / f"Depth/{i}.npy") for i in (3, 4)])
    depth = report["splits"]["test"]["modalities"]["depth"]
    assert depth["kinds"] == {"float32 x 1": 2}
    assert depth["measured"] == pytest.approx((metres > 0).mean())
    assert depth["measured"] < 1
    assert depth["min"] == pytest.approx(metres[metres > 0].min())
    assert depth["max"] == pytest.approx(metres.max())


@pytest.mark.parametrize(
    ("name", "module", "streams"),
    [
        ("sunrgbd", SUNRGBDDataModule, ["rgb", "depth"]),
        ("mfnet", MFNetDataModule, ["rgb", "thermal"]),
        ("pst900", PST900DataModule, ["rgb", "thermal", "depth"]),
        ("mcubes", MCubeSDataModule, ["rgb", "aolp", "dolp", "nir"]),
        ("deliver", DELIVERDataModule, ["rgb", "depth", "event", "lidar"]),
    ],
)
def test_every_data_set_with_all_its_modalities(tmp_path, name, module, streams):
    root = make_fixture(name, tmp_path / name, size=SIZE)
    report = report_of(module(root, streams=streams, crop=(32, 32)))
    assert report["failures"] == []
    for split in report["splits"].values():
        assert (split["samples"], split["failed"]) == (4, 0)
        assert list(split["modalities"]) == streams
        assert split["pixels"] == split["void"] + sum(split["classes"].values()) > 0


def test_conditions_are_counted(tmp_path):
    root = make_fixture("mfnet", tmp_path / "mfnet", counts={"train": 3, "val": 1, "test": 1}, size=SIZE)
    splits = report_of(MFNetDataModule(root, streams=["rgb", "thermal"]))["splits"]
    assert splits["train"]["conditions"] == {"time": {"day": 2, "night": 1}}
    assert splits["val"]["conditions"] == {"time": {"night": 1}}


def test_a_data_set_without_files(tmp_path):
    data = SyntheticDataModule(batch_size=2, train=2, val=1, test=1, size=[32, 32], streams=["rgb", "depth"])
    report = report_of(data)
    assert [s["samples"] for s in report["splits"].values()] == [2, 1, 1]
    assert report["failures"] == []


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
        plan(nyu_data(nyu))


def test_ids_that_a_data_set_of_ones_own_lets_pass(nyu):
    job = plan(nyu_data(nyu)).looks[0]
    job.samples.label = lambda _: np.full(SIZE, 40, np.uint8)
    seen = look(job)
    assert seen.state == "failed"
    assert seen.message.endswith("label ids 40; expected 0-39 and 255")


def test_written_report(nyu, tmp_path):
    (nyu / "HHA/1.jpg").write_bytes(b"")
    report = report_of(nyu_data(nyu))
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|src=|<script|<link|url\(", page)
    assert page.count('class="bar"') == 2 * 40
    split = report["splits"]["train"]
    share = split["classes"]["wall"] / (split["pixels"] - split["void"])
    assert f'<td class=n>{share:.2%}<span class="track">' in page
    assert page.count('style="width:5.50em"') >= 1  # the greatest share; the others by it
    assert f"<p>{nyu}</p>" in page
    assert "<h2 class=bad>Failures: 1</h2>" in page
    assert f"{nyu / 'HHA/1.jpg'}: the file is empty" in page
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_page_without_failures_says_so(nyu):
    page = _page(report_of(nyu_data(nyu)))
    assert "No failures: all 5 samples can be read" in page
    assert "class=bad>" not in page
    assert "<ul></ul>" not in page


def test_names_in_the_page_are_escaped(nyu):
    report = report_of(nyu_data(nyu)) | {"dataset": "<b>", "findings": ["a < b"]}
    assert "<b>" not in _page(report)
    assert "<li>a &lt; b</li>" in _page(report)


def test_terminal_report(nyu):
    (nyu / "HHA/1.jpg").write_bytes(b"")
    console = Console(width=120, record=True, file=io.StringIO())
    show(report_of(nyu_data(nyu)), console)
    text = console.export_text()
    assert re.search(r"train\W+3\W+795\W+1\W+40x48\W", text)
    assert f"failed: {nyu / 'HHA/1.jpg'}: the file is empty" in text.replace("\n", "")
    assert "finding: test: 2 samples, published are 654" in text


def test_sizes_gaps_and_missing_labels_are_facts_of_own_data(tmp_path):
    """Nothing of it stops a training, so nothing of it is a failure."""
    for i in range(6):
        for kind, size in (("rgb", (*SIZE, 3)), ("depth", (20, 24)), ("label", SIZE)):
            late = 0.004 * i if kind == "depth" else 0.0
            path = tmp_path / f"{kind}/{100 + i + late:.3f}.png"
            path.parent.mkdir(exist_ok=True)
            picture = np.random.default_rng(i).integers(0, 2, size, np.uint8)
            if kind != "label" or i != 5:
                Image.fromarray(picture).save(path)
    for split, names in {"train": (0, 1, 2), "val": (3, 4), "test": (5,)}.items():
        (tmp_path / f"{split}.txt").write_text("".join(f"{100 + i}.000\n" for i in names))
    data = FolderDataModule(
        tmp_path,
        modalities={"rgb": {"files": "rgb/*.png"}, "depth": {"files": "depth/*.png", "scale": 1}},
        label={"files": "label/*.png"},
        classes=["a", "b"],
        splits={"train": "train.txt", "val": "val.txt", "test": "test.txt"},
        max_gap=0.015,
        streams=["rgb", "depth"],
        batch_size=1,
        num_workers=0,
    )
    report = report_of(data)
    assert report["unopened"] == {"test": report["unopened"]["test"]}  # its only frame has no partner within the gap
    data.max_gap = 0.05
    report = report_of(data)
    assert (report["failures"], report["unopened"]) == ([], {})
    depth = report["splits"]["val"]["modalities"]["depth"]
    assert depth["sizes"] == {"20x24": 2}
    gap = report["splits"]["val"]["gaps"]["depth"]
    assert (gap["samples"], gap["median"], gap["max"]) == (2, pytest.approx(0.014), pytest.approx(0.016))
    assert report["splits"]["train"]["gaps"]["label"]["max"] == 0
    assert report["splits"]["test"]["sizes"] == {}
    assert report["splits"]["test"]["pixels"] == 0
    said = "\n".join(report["findings"])
    assert "val: resized to 40x48 (height x width) of the rgb: depth of 20x24" in said
    assert "test: no sample has a label" in said
    assert "void altogether" not in said
    text = io.StringIO()
    show(report, Console(file=text, width=200))
    assert "Gaps of pairs by time, milliseconds" in text.getvalue()


def own_labels(root, labels, **label):
    """A data set of RGB pictures and the label images given, as a report; train has all of them."""
    for i, image in enumerate(labels):
        for kind, picture in (("rgb", Image.fromarray(np.full((*SIZE, 3), 40 * i, np.uint8))), ("label", image)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            picture.save(root / kind / f"{i}.png")
    (root / "train.txt").write_text("".join(f"{i}\n" for i in range(len(labels))))
    (root / "val.txt").write_text("0\n")
    return report_of(
        FolderDataModule(
            root,
            modalities={"rgb": {"files": "rgb/*.png"}},
            label={"files": "label/*.png", **label},
            classes=["a", "b"],
            palette=[[200, 0, 0], [0, 200, 0]],
            splits={"train": "train.txt", "val": "val.txt"},
            streams=["rgb"],
            num_workers=0,
        )
    )


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


def test_a_mask_of_0_and_255_is_not_taken_for_void_without_a_word(tmp_path):
    mask = Image.fromarray(np.where(np.arange(SIZE[1]) < 9, 255, 0).astype(np.uint8) * np.ones((SIZE[0], 1), np.uint8))
    findings = own_labels(tmp_path / "a", [mask])["findings"]
    assert any("no pixel of 1 classes (b); where class 1 is stored as 255" in text for text in findings)
    right = own_labels(tmp_path / "b", [mask], map={0: 0, 255: 1})
    assert right["splits"]["train"]["classes"] == {"a": 39 * SIZE[0], "b": 9 * SIZE[0]}
    assert not any("no pixel" in text for text in right["findings"])


def test_names_are_no_markup_in_the_terminal(tmp_path):
    report = own_labels(tmp_path, [Image.fromarray(np.zeros(SIZE, np.uint8))])
    for split in report["splits"].values():
        split["classes"] = {"[void]": 5, "a[/x]": 7}
    console = Console(file=io.StringIO(), width=120)
    show(report, console)
    assert "[void]" in console.file.getvalue()
    assert "a[/x]" in console.file.getvalue()
