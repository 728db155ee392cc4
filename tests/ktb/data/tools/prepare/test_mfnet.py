"""MFNet's RGBA pictures become what was stored in them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ktb.data.sets.mfnet import MFNetDataModule
from ktb.data.tools.fixtures import make_fixture
from ktb.data.tools.prepare.download import plan_download
from ktb.errors import DataError
from tests.ktb.data.tools.prepare.calls import SIZE, call


def test_mfnet(tmp_path, capsys):
    source = make_fixture("mfnet", tmp_path / "download", layout="rgba", size=SIZE)
    target = tmp_path / "MFNet"
    assert call("prepare", "mfnet", source, target, "--workers", 1) == 0
    assert f"{target}: 12 written" in capsys.readouterr().out
    modules = [MFNetDataModule(root, streams=["rgb", "thermal"], num_workers=0) for root in (source, target)]
    for split in ("train", "val", "test"):
        before, after = (module.dataset(split) for module in modules)
        for a, b in zip(before, after, strict=True):
            assert (a["id"], a["condition"]) == (b["id"], b["condition"])
            for name in ("rgb", "thermal"):
                np.testing.assert_array_equal(a["inputs"][name], b["inputs"][name])
            np.testing.assert_array_equal(a["label"], b["label"])
    assert sorted(p.name for p in (target / "ther").iterdir())[0] == "00001D.png"
    (target / "rgb/00001D.png").unlink()
    Image.new("RGB", (44, 36)).save(source / "images/00001D.png")
    assert call("prepare", "mfnet", source, target, "--workers", 1) == 1
    assert "images/00001D.png: holds uint8 values of shape (36, 44, 3); expected 8-bit RGBA" in capsys.readouterr().err


def test_names_in_a_list_stay_below_the_target(tmp_path):
    source = make_fixture("mfnet", tmp_path / "download", layout="rgba", size=SIZE)
    for name, message in (("../../00001D", "leaves the data root"), ("sub/00001D", "expected names of pictures")):
        (source / "train.txt").write_text(f"{name}\n")
        with pytest.raises(DataError, match=message):
            plan_download("mfnet", source, tmp_path / "out")
