"""A stopped conversion goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ktb.data.tools.parallel import parallel
from ktb.data.tools.prepare.conversion import convert
from ktb.data.tools.prepare.download import plan_download


def stored(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_a_stopped_conversion_goes_on(nyu, tmp_path):
    source, frames = nyu
    target = tmp_path / "out"
    planned = plan_download("nyu", source, target)
    first = [convert(job).state for job in planned.jobs[:2]]
    assert first == ["written", "written"]
    assert not (target / "train.txt").exists()  # a folder with lists is a complete one
    (target / "Depth/0.npy").unlink()
    marked = target / "RGB/1.png"
    Image.new("RGB", (44, 36)).save(marked)

    planned = plan_download("nyu", source, target)
    outcomes = list(parallel(convert, planned.jobs, 1))
    assert [o.state for o in outcomes] == ["written", "kept", "written", "written", "written"]
    assert stored(marked).max() == 0  # a finished file is not touched
    np.testing.assert_array_equal(np.load(target / "Depth/0.npy"), frames["depths"][0])
    assert convert(planned.jobs[1], overwrite=True).state == "written"
    np.testing.assert_array_equal(stored(marked), frames["images"][1])
    assert [p for p in target.rglob("*") if p.name.startswith(".")] == []
