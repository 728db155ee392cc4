"""Contact sheets show what the loaders give, in the data set's colours, with a legend of just what occurs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ktb.data.pictures import VOID_DARK, VOID_LIGHT, overlay, paint, to_picture
from ktb.data.sets.mfnet import MFNetDataModule
from ktb.data.sets.nyu import NYUDataModule
from ktb.data.spec import IGNORE, RGB, ModalitySpec
from ktb.data.tools.fixtures import make_fixture
from ktb.data.tools.preview import contact_sheet, draw_samples, write_sheet

SIZE = (40, 48)
PALETTE = ((10, 20, 30), (200, 100, 0))


def test_paint_uses_the_palette_and_hatches_void():
    label = np.full((64, 64), IGNORE, np.uint8)
    label[:8], label[8:16] = 0, 1
    picture = paint(label, PALETTE)
    assert (picture[:8] == PALETTE[0]).all()
    assert (picture[8:16] == PALETTE[1]).all()
    void = picture[16:]
    assert set(np.unique(void)) == {VOID_LIGHT, VOID_DARK}
    assert (void == VOID_DARK).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(void[1:, :-1], void[:-1, 1:])  # lines run diagonally


def test_paint_knows_void_beside_256_classes():
    palette = [(i, 0, 0) for i in range(256)]
    picture = paint(np.array([[3, 255]], np.uint8), palette)
    assert picture.tolist() == [[[3, 0, 0], [255, 0, 0]]]


def test_overlay_mixes_colours_with_grey_and_darkens_edges():
    grey = np.full((8, 8, 3), (90, 100, 110), np.uint8)
    label = np.zeros((8, 8), np.uint8)
    label[:, 4:] = 1
    mixed = overlay(grey, label, PALETTE, alpha=0.5)
    np.testing.assert_array_equal(mixed[0, 0], [55, 60, 65])
    np.testing.assert_array_equal(mixed[0, 7], [150, 100, 50])
    np.testing.assert_array_equal(mixed[0, 4], [60, 40, 20])


def test_pictures_of_modalities():
    rgb = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    np.testing.assert_array_equal(to_picture(rgb, RGB), rgb.permute(1, 2, 0))
    ramp = torch.linspace(0, 1000, 100).reshape(1, 10, 10)
    shown = to_picture(torch.cat([ramp, torch.ones_like(ramp)]), ModalitySpec("x", channels=2, validity=True))
    assert shown.shape == (10, 10, 3)
    np.testing.assert_array_equal(shown[0, 0], [68, 1, 84])  # both ends of the colour map
    np.testing.assert_array_equal(shown[-1, -1], [253, 231, 36])


def test_pictures_of_many_bands_show_three_of_them_each_stretched_on_its_own():
    ramp = torch.linspace(0, 1, 100).reshape(10, 10)
    bands = torch.stack([ramp * 10**i if i % 2 else 7 - ramp * i for i in range(13)])
    bands[:, 0, 0] = float("nan")
    x = ModalitySpec("x", channels=13, shown=(3, 2, 1))
    shown = to_picture(bands, x)
    np.testing.assert_array_equal(shown[0, 0], [0, 0, 0])  # nothing was measured
    np.testing.assert_array_equal(shown[-1, -1], [255, 0, 255])
    np.testing.assert_array_equal(shown[0, 1], [0, 255, 0])
    np.testing.assert_array_equal(shown, to_picture(bands[[3, 2, 1, 0]], ModalitySpec("x", channels=4)))
    usual = to_picture(bands, ModalitySpec("x", channels=13))
    np.testing.assert_array_equal(usual, to_picture(bands, ModalitySpec("x", channels=13, shown=(12, 6, 0))))
    one = to_picture(bands, ModalitySpec("x", channels=13, shown=(5,)))
    np.testing.assert_array_equal(one, to_picture(bands[5:6], ModalitySpec("x", channels=3)))


@pytest.fixture
def nyu(tmp_path):
    root = make_fixture("nyu", tmp_path / "nyu", counts={"train": 5, "test": 2}, size=SIZE)
    return NYUDataModule(root, streams=["rgb", "depth"], crop=(48, 64), batch_size=2, num_workers=0)


def test_train_samples_are_those_of_the_loader(nyu):
    loader = nyu.train_dataloader()
    loader.sampler.set_epoch(3)
    loaded = {
        name: (batch["inputs"]["rgb"][i], batch["label"][i]) for batch in loader for i, name in enumerate(batch["id"])
    }
    drawn = draw_samples(nyu, "train", 3, epoch=3)
    assert [s["id"] for s in drawn] == ["RGB/0", "RGB/2", "RGB/4"]
    common = [s for s in drawn if s["id"] in loaded]
    assert common
    for s in common:
        assert torch.equal(s["inputs"]["rgb"], loaded[s["id"]][0])
        assert torch.equal(s["label"], loaded[s["id"]][1])
    assert not torch.equal(draw_samples(nyu, "train", 1)[0]["inputs"]["rgb"], drawn[0]["inputs"]["rgb"])
    assert [tuple(s["label"].shape) for s in draw_samples(nyu, "test", 9)] == [SIZE, SIZE]  # as evaluated, no crop


def test_sheet(nyu, tmp_path):
    samples = draw_samples(nyu, "train", 3, epoch=2)
    figure = contact_sheet(nyu, "train", samples, epoch=2)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(shown) == 3 * 3
    np.testing.assert_array_equal(shown[0], samples[0]["inputs"]["rgb"].permute(1, 2, 0))
    picture = samples[0]["inputs"]["rgb"].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(shown[2], overlay(picture, samples[0]["label"].numpy(), nyu.spec.palette))
    labels = torch.stack([s["label"] for s in samples])
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    present = [int(i) for i in torch.unique(labels) if i != IGNORE]
    assert [text.rpartition(" ")[0] for text in entries[:-1]] == [nyu.spec.classes[i] for i in present]
    share = float((labels == present[0]).sum() / (labels != IGNORE).sum())
    assert entries[0] == f"{nyu.spec.classes[present[0]]} {share:.1%}"
    assert entries[-1] == f"void {float((labels == IGNORE).float().mean()):.1%} of all"
    assert figure.get_suptitle() == "nyu, train: 3 of 5 samples, augmented (crops of 48x64, seed 3407, epoch 2)"
    write_sheet(figure, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width >= 600
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_conditions_and_labels_of_another_size(tmp_path):
    root = make_fixture("mfnet", tmp_path / "mfnet", counts=dict.fromkeys(("train", "val", "test"), 2), size=SIZE)
    data = MFNetDataModule(root, streams=["thermal"], eval_size=64, num_workers=0)
    samples = draw_samples(data, "val", 2)
    assert samples[0]["inputs"]["thermal"].shape[1:] == (64, 96)
    figure = contact_sheet(data, "val", samples)
    captions = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert captions == ["00003D  (day)", "00004N  (night)"]
    assert figure.axes[1].images[0].get_array().shape == (*SIZE, 3)
