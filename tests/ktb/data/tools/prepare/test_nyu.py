"""NYU's `.mat` files become what was stored in them."""

from __future__ import annotations

import numpy as np

from ktb.data.sets.nyu import NYUDataModule
from ktb.data.spec import IGNORE
from tests.ktb.data.tools.prepare.calls import call


def test_nyu(nyu, tmp_path, capsys):
    source, frames = nyu
    target = tmp_path / "NYUDepthv2"
    assert call("prepare", "nyu", source, target, "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert f"{target}: 5 written, 0 kept, 0 failed" in printed
    assert f"next: ktb-data hha {target}/Depth {target}/HHA --raw {target}/RawDepth --unit m" in printed
    assert (target / "train.txt").read_text() == "".join(f"RGB/{i}.png\tLabel/{i}.png\n" for i in (2, 3, 5))
    assert (target / "test.txt").read_text().splitlines()[0] == "RGB/0.png\tLabel/0.png"
    assert not (target / "RGB/4.png").exists()  # in neither split
    np.testing.assert_array_equal(np.load(target / "RawDepth/3.npy"), frames["rawDepths"][3])

    data = NYUDataModule(target, streams=["rgb", "depth"], depth_source="depth", num_workers=0)
    sample = data.dataset("train")[1]
    np.testing.assert_array_equal(sample["inputs"]["rgb"].permute(1, 2, 0), frames["images"][3])
    np.testing.assert_array_equal(sample["inputs"]["depth"][0], frames["depths"][3])
    classes = np.concatenate([[IGNORE + 1], frames["mapClass"]])[frames["labels"][3]] - 1
    np.testing.assert_array_equal(sample["label"], classes)

    hha = ("hha", target / "Depth", target / "HHA", "--raw", target / "RawDepth", "--unit", "m", "--workers", 1)
    assert call(*hha, "--scale-camera") == 0
    settings = (f"dataset.root={target}", "dataset.batch_size=2", "--workers", 1)
    assert call("check", "dataset=nyu", *settings) == 0
