"""Whole reports of small data sets, for tests of `ktb-data check`."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.nyu import NYUDataModule
from ktb.data.tools.check.look import look
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.check.summary import summarise
from ktb.data.tools.parallel import parallel

SIZE = (40, 48)


def report_of(data, workers=1):
    planned = open_splits(data)
    return summarise(data, planned, parallel(look, planned.looks, workers))


def nyu_data(root, **settings):
    return NYUDataModule(root, **({"streams": ["rgb", "depth"], "num_workers": 0, "batch_size": 1} | settings))


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
