"""SUN RGB-D (Song et al., CVPR 2015): 37 classes, 5285 training and 5050 test images of several sizes up to 730x531.

On disk: `RGB/{train,test}_<i>.jpg`, `Depth/{train,test}_<i>.png`, `labels/{train,test}_<i>.png`, `train.txt`,
`test.txt`. There is no validation split, and the literature selects and reports on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Unpack

import numpy as np

from ktb.data.arrays import Reading, Source
from ktb.data.file_tree import Tree
from ktb.data.lists import ListLine, read_list
from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.decode import decode
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.resizing import Resizing
from ktb.data.samples import Entry, FileSamples, Reader
from ktb.data.sets.nyu import CLASSES as NYU_CLASSES
from ktb.data.spec import RGB, DatasetSpec, ModalitySpec, voc_colour
from ktb.data.steps import Step
from ktb.errors import DataError

CLASSES = NYU_CLASSES[:37]

DEPTH = ModalitySpec("depth", title="depth")


class SUNRGBDDataModule(RGBXDataModule):
    """SUN RGB-D.

    Args:
        root: folder that holds `RGB`, `Depth`, `labels` and the lists.
        lists: split → list file, below the root or absolute; default `train.txt` and `test.txt`.
        **loading: see `RGBXDataModule`.

    List lines are `RGB/train_0.jpg labels/train_0.png`, or three columns of which the third is the depth map. A depth
    map of another size than its image is resized to it (nearest). Labels are 1..37, with 0 and 255 = void.
    """

    resizing = Resizing(("depth",))

    def __init__(self, root: str | Path, *, lists: Mapping[str, str] | None = None, **loading: Unpack[Loading]) -> None:
        self.root = Path(root)
        self.lists = dict(lists or {"train": "train.txt", "test": "test.txt"})
        spec = DatasetSpec(
            name="sunrgbd",
            classes=CLASSES,
            palette=tuple(voc_colour(i + 1) for i in range(len(CLASSES))),
            modalities={"rgb": RGB, "depth": DEPTH},
            splits=tuple(self.lists),
            selection_split="test",
            counts={"train": 5285, "test": 5050},
        )
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        """RGB in 8 bits; depth by `ReadDepth`."""
        return {"rgb": ImageReader(channels=3, colour=True), "depth": ReadDepth()}

    def open_split(self, split: str) -> FileSamples:
        """The samples that the split's list names; see `RGBXDataModule.open_split`."""
        tree = Tree(self.root)
        path = self.root / self.lists[split]
        entries = [_entry(tree, path, line) for line in read_list(path, self.root)]
        streams = [m.name for m in self.modalities]
        tree.require((file for entry in entries for file in entry.paths(streams)), str(path), "copy the files there")
        return FileSamples(
            self.root,
            entries,
            self.readers(),
            LabelReader(id_table(self.spec.num_classes, offset=-1, ignore=(0, self.spec.ignore_index))),
            resizing=self.resizing,
        )


def _entry(tree: Tree, path: Path, line: ListLine) -> Entry:
    if len(line.columns) not in (2, 3):
        raise DataError(
            f"{path}, line {line.number}: {len(line.columns)} columns; expected an image and a label, such as "
            "'RGB/train_0.jpg labels/train_0.png', and perhaps a depth map"
        )
    rgb, label = line.columns[:2]
    stem = PurePosixPath(rgb).stem
    depth = line.columns[2] if len(line.columns) == 3 else tree.find(("Depth",), stem, (".png",))
    return Entry(str(PurePosixPath(rgb).with_suffix("")), {"rgb": (rgb,), "depth": (depth,)}, label)


@dataclass(frozen=True)
class ReadDepth:
    """Depth (H, W, 1) uint8; of 16-bit files the high byte, which is what the published 8-bit reader sees."""

    def __call__(self, paths: Sequence[Source]) -> Reading:
        """One depth map.

        Raises:
            DataError: it cannot be read, or is not grey in 8 or 16 bits.
        """
        image = decode(paths[0])
        if image.ndim == 3 and (image == image[..., :1]).all():
            image = image[..., 0]  # grey saved as colour
        if image.ndim == 3 or image.dtype not in (np.uint8, np.uint16):
            raise DataError(
                f"{paths[0]}: holds {image.dtype} values of shape {image.shape}; expected depth as 8 or 16-bit grey "
                "PNG: convert it"
            )
        if image.dtype == np.uint16:
            image = (image >> 8).astype(np.uint8)
        return Reading(image[..., None])

    def steps(self) -> list[Step]:
        """See `ktb.data.preparation`."""
        return [{"do": "channels", "how": "one"}, {"do": "high byte"}]
