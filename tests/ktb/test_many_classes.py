"""More than 255 classes: labels are 16-bit, 255 is a class, 65535 is void, from the file to the masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ktb.cli import data as data_cli
from ktb.cli import predict as predict_cli
from ktb.cli.report import main as report
from ktb.config.overrides import as_override
from ktb.data.augment import TrainTransform
from ktb.data.pictures import VOID_DARK, VOID_LIGHT, paint
from ktb.data.spec import IGNORE, IGNORE_WIDE, MAX_CLASSES, DatasetSpec, ignore_index, voc_colour
from ktb.data.tools.check.look import look
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.check.summary import summarise
from ktb.data.tools.new.output import write_yaml
from ktb.data.tools.new.survey import survey
from ktb.data.tools.preview import contact_sheet, draw_samples
from ktb.jobs.build import build_data
from ktb.jobs.train import train
from ktb.losses.cross_entropy import cross_entropy, ohem_cross_entropy
from ktb.losses.pixel import PixelLoss
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.metrics.counts import ConfusionMatrix, boundary_counts
from ktb.models.segmentor import SegOutput
from tests.ktb.jobs.test_train import configured

CLASSES = 300
SIZE = (64, 96)


def drawn(seed: int) -> np.ndarray:
    """Blocks of 4 x 4 pixels with all classes, 255 among them, in both halves of the data; some void."""
    ids = np.random.default_rng(seed).permutation(np.arange(16 * 24) % CLASSES).reshape(16, 24)
    label = ids.repeat(4, axis=0).repeat(4, axis=1)
    label[:4, :8] = IGNORE_WIDE
    return label.astype(np.uint16)


def write(root: Path, count: int) -> None:
    for i in range(count):
        label = drawn(i)
        colours = np.stack([label % 7 * 40, label % 11 * 23, label % 13 * 19], axis=-1).astype(np.uint8)
        for name, array in (("rgb", colours), ("label", label)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / name / f"{i}.png")
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))


def test_the_void_value_is_never_a_class() -> None:
    assert [ignore_index(k) for k in (1, 255, 256, MAX_CLASSES)] == [IGNORE, IGNORE, IGNORE_WIDE, IGNORE_WIDE]
    names = tuple(str(i) for i in range(MAX_CLASSES + 1))
    assert DatasetSpec("many", names[1:], (voc_colour(0),) * MAX_CLASSES, {}).ignore_index == IGNORE_WIDE
    with pytest.raises(ValueError, match="at most 4096 classes, got 4097"):
        DatasetSpec("more", names, (voc_colour(0),) * (MAX_CLASSES + 1), {})


def test_losses_count_class_255_and_leave_void_out() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, CLASSES, 6, 8)
    target = torch.randint(CLASSES, (2, 6, 8))
    target[0, :2], target[1, 3] = 255, IGNORE_WIDE
    expected = F.cross_entropy(logits, target, ignore_index=IGNORE_WIDE)
    torch.testing.assert_close(cross_entropy(logits, target), expected)
    weights = torch.rand(CLASSES) + 0.5
    torch.testing.assert_close(
        cross_entropy(logits, target, weights), F.cross_entropy(logits, target, weights, ignore_index=IGNORE_WIDE)
    )
    torch.testing.assert_close(PixelLoss()(SegOutput(logits, {}), target.int())["loss"], expected)
    each = F.cross_entropy(logits, target, ignore_index=IGNORE_WIDE, reduction="none").flatten()
    hard = each[each > -np.log(0.7)]
    torch.testing.assert_close(ohem_cross_entropy(logits, target), hard.mean())
    right = logits.argmax(1)  # the fused head is right everywhere, so it teaches every pixel
    loss = SelfTeachingLoss(side_weight=1.0)(SegOutput(logits, {"rgb": logits}), right)
    torch.testing.assert_close(loss["loss_rgb"], F.cross_entropy(logits, right))


def test_metrics_count_class_255_and_leave_void_out() -> None:
    truth, prediction = (torch.from_numpy(drawn(i).astype(np.int32))[None] for i in (0, 1))
    prediction[prediction == IGNORE_WIDE] = 255
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(prediction, truth)
    valid = (truth != IGNORE_WIDE).numpy()
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(expected, (truth.numpy()[valid], prediction.numpy()[valid]), 1)
    np.testing.assert_array_equal(matrix.compute().numpy(), expected)
    assert expected[255].sum() > 0
    both, in_truth, _ = boundary_counts(truth, truth, CLASSES)[0]
    assert torch.equal(both, in_truth)
    assert in_truth[255] == (truth == 255).sum()  # blocks of four pixels have no inside here


def test_augmentation_pads_with_void_and_mixes_no_ids() -> None:
    label, image = drawn(3), np.zeros((*SIZE, 3), np.uint8)
    transform = TrainTransform(["rgb"], (96, 160))
    seen = set()
    for epoch in range(8, 20):
        _, out = transform({"rgb": image}, label, entropy=(0, epoch, 0))
        assert (out.dtype, out.shape) == (np.uint16, (96, 160))
        seen |= set(np.unique(out).tolist())
    assert seen <= set(np.unique(label).tolist())
    assert {255, 299, IGNORE_WIDE} <= seen
    palette = [voc_colour(i) for i in range(CLASSES)]
    picture = paint(label, palette)
    assert picture[label == 255].tolist() == [list(voc_colour(255))] * int((label == 255).sum())
    assert set(picture[label == IGNORE_WIDE].ravel().tolist()) <= {VOID_LIGHT, VOID_DARK}


@pytest.mark.slow
def test_from_the_files_to_a_model_its_masks_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "many", 6)
    found = survey(tmp_path / "many", workers=1)
    assert found.label.settings == {"files": "label/*.png"}
    assert len(found.classes) == CLASSES
    write_yaml(found, "many", tmp_path / "conf")
    folder = tmp_path / "run"
    overrides = [
        "dataset=many", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", as_override("run_dir", str(folder)),
        "trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "trainer.num_sanity_val_steps=0",
        "backbone=swin_nano", "backbone.weights=random", "dataset.batch_size=2", "dataset.crop=[64,64]",
        "dataset.num_workers=0",
    ]  # fmt: skip
    cfg = configured("train", overrides)
    data = build_data(cfg)
    sample = data.dataset("val")[0]
    assert sample["label"].dtype == torch.int32
    np.testing.assert_array_equal(sample["label"].numpy(), drawn(int(sample["id"])))
    planned = open_splits(data)
    checked = summarise(data, planned, map(look, planned.looks))
    assert checked["failures"] == []
    pixels = checked["splits"]["train"]["classes"]["class 255"]
    assert pixels == sum((drawn(int(e.id)) == 255).sum() for e in data.open_split("train").entries)
    assert checked["splits"]["train"]["void"] == planned.counts["train"] * 32
    assert contact_sheet(data, "val", draw_samples(data, "val", 1)) is not None

    train(cfg)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished"
    matrix = np.array(result["confusion_matrix"])
    assert matrix.shape == (CLASSES, CLASSES)
    truths = [drawn(int(e.id)) for e in data.open_split("val").entries]
    labelled = np.concatenate([t[t != IGNORE_WIDE] for t in truths])
    np.testing.assert_array_equal(matrix.sum(1), np.bincount(labelled, minlength=CLASSES))
    capsys.readouterr()

    out = tmp_path / "masks"
    arguments = [str(folder), "--rgb", str(tmp_path / "many/rgb"), "--out", str(out), "--device", "cpu"]
    assert predict_cli.main([*arguments, "--config-dir", str(tmp_path / "conf")]) == 0
    ids = np.array(Image.open(out / "index/0.png"))
    assert (ids.dtype, ids.shape) == (np.uint16, SIZE)
    assert ids.max() < CLASSES
    palette = np.array([voc_colour(i) for i in range(CLASSES)], np.uint8)
    np.testing.assert_array_equal(np.array(Image.open(out / "colour/0.png")), palette[ids])
    assert report([str(folder), "--out", str(tmp_path / "report.html")]) == 0
    page = tmp_path / "report.html"
    assert 0 < page.stat().st_size < 4_000_000


def test_what_check_says_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "many", 4)
    bad = drawn(0)
    bad[0, 9] = CLASSES
    Image.fromarray(bad).save(tmp_path / "many/label/0.png")
    (tmp_path / "conf/dataset").mkdir(parents=True)
    classes = ", ".join(f"c{i}" for i in range(CLASSES))
    (tmp_path / "conf/dataset/many.yaml").write_text(
        f"defaults: [folder]\nname: many\nroot: {tmp_path / 'many'}\nmodalities: {{rgb: {{files: 'rgb/*.png'}}}}\n"
        f"label: {{files: 'label/*.png'}}\nclasses: [{classes}]\nsplits: {{train: 0.5, val: 0.5}}\nbatch_size: 1\n"
    )
    arguments = ["check", "--config-dir", str(tmp_path / "conf"), "--workers", "1", "dataset=many"]
    assert data_cli.main(arguments) == 1
    assert "label id 300 at 1 pixels, the first at row 0, column 9; expected 0-299, 65535" in capsys.readouterr().out
