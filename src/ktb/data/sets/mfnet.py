"""MFNet (Ha et al., IROS 2017): RGB + thermal street scenes, 9 classes, 784 / 392 / 393 images of 480x640.

On disk either three folders, `rgb/<name>.png`, `ther/<name>.png`, `labels/<name>.png`, or as first published
`images/<name>.png`, RGBA with the thermal picture as alpha, and `labels/<name>.png`; and `train.txt`, `val.txt`,
`test.txt` with names like `00001D`. The last letter of a name is day (D) or night (N).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from ktb.data.arrays import Reading, Source
from ktb.data.file_tree import Tree
from ktb.data.lists import read_list
from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.samples import Entry, FileSamples, Reader
from ktb.data.spec import RGB, DatasetSpec, ModalitySpec
from ktb.data.steps import Step
from ktb.errors import DataError

CLASSES = ("unlabeled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
PALETTE = (
    (0, 0, 0), (64, 0, 128), (64, 64, 0), (0, 128, 192), (0, 0, 192), (128, 128, 0), (64, 64, 128), (192, 128, 128),
    (192, 64, 0),
)  # fmt: skip

THERMAL = ModalitySpec("thermal", title="thermal")

RGB_FOLDERS, THERMAL_FOLDERS = ("rgb", "RGB"), ("ther", "Thermal", "thermal")
LABEL_FOLDERS = ("labels", "Label", "label")
RGBA_FOLDER = "images"
READERS: dict[str, Reader] = {"rgb": ImageReader(channels=3, colour=True), "thermal": ImageReader(channels=1)}
RGBA_READERS: dict[str, Reader] = {
    "rgb": ImageReader(channels=3, pick=(0, 1, 2)),
    "thermal": ImageReader(channels=1, pick=(3,)),
}
TIMES = {"D": "day", "N": "night"}


class MFNetDataModule(RGBXDataModule):
    """MFNet. The condition "time" of a sample is "day" or "night".

    Args:
        root: folder that holds the pictures, in either layout, and the lists.
        lists: split → list file or files, below the root or absolute; default `train.txt`, `val.txt`, `test.txt`.
            Part of the literature trains on train and val: `{train: [train.txt, val.txt], test: test.txt}` with
            selection_split="test".
        **loading: see `RGBXDataModule`.

    Labels are 0..8; there is no void, and class 0 ("unlabeled") counts.
    """

    def __init__(
        self, root: str | Path, *, lists: Mapping[str, str | Sequence[str]] | None = None, **loading: Unpack[Loading]
    ) -> None:
        self.root = Path(root)
        self.lists = dict(lists or {split: f"{split}.txt" for split in ("train", "val", "test")})
        spec = DatasetSpec(
            name="mfnet",
            classes=CLASSES,
            palette=PALETTE,
            modalities={"rgb": RGB, "thermal": THERMAL},
            splits=tuple(self.lists),
            counts={"train": 784, "val": 392, "test": 393},
        )
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        """Of pictures in either layout."""
        return {"rgb": RGBA_READERS["rgb"], "thermal": _ReadThermal()}

    def open_split(self, split: str) -> FileSamples:
        """The samples that the split's list names; see `RGBXDataModule.open_split`."""
        tree = Tree(self.root)
        files = self.lists[split]
        paths = [self.root / file for file in ([files] if isinstance(files, str) else files)]
        rgba = _is_rgba(tree)
        entries: dict[str, Entry] = {}
        for path in paths:
            for line in read_list(path, self.root):
                stem = line.columns[0]
                if len(line.columns) > 1 or "/" in stem:
                    raise DataError(
                        f"{path}, line {line.number}: {' '.join(line.columns)!r}; expected the name of a picture "
                        "without folder, such as '00001D'"
                    )
                stem = stem.removesuffix(".png").removesuffix(".jpg")
                if stem in entries:
                    raise DataError(f"{path}, line {line.number}: {stem!r} is listed before; expected each sample once")
                entries[stem] = _entry(tree, stem, rgba)
        streams = [m.name for m in self.modalities]
        wanted = (file for entry in entries.values() for file in entry.paths(streams))
        tree.require(wanted, " and ".join(map(str, paths)), "copy the files there")
        readers = RGBA_READERS if rgba else READERS
        label = LabelReader(id_table(self.spec.num_classes, ignore=()))
        return FileSamples(self.root, list(entries.values()), readers, label)


@dataclass(frozen=True)
class _ReadThermal:
    """The thermal picture of either layout: a file of its own, or the fourth channel beside RGB."""

    def __call__(self, paths: Sequence[Source]) -> Reading:
        rgba = ImageReader()(paths).image.shape[2] == 4
        return (RGBA_READERS if rgba else READERS)["thermal"](paths)

    def steps(self) -> list[Step]:
        """See `ktb.data.preparation`."""
        return [{"do": "take", "factors": {"uint8": 1.0}, "others": False}, {"do": "channels", "how": "fourth"}]


def _is_rgba(tree: Tree) -> bool:
    top = tree.names("")
    if any(top.get(folder) for folder in THERMAL_FOLDERS):
        return False
    if top.get(RGBA_FOLDER):
        return True
    folders = ", ".join(sorted(name for name, is_folder in top.items() if is_folder)[:9])
    raise DataError(
        f"{tree.root}: has {'the folders ' + folders if folders else 'no folders'}; expected rgb, ther and labels, or "
        "images (RGBA, the thermal picture as alpha) and labels: set dataset.root to the folder that holds them"
    )


def _entry(tree: Tree, stem: str, rgba: bool) -> Entry:
    suffixes = (".png", ".jpg")
    if rgba:
        rgb = thermal = f"{RGBA_FOLDER}/{stem}.png"
    else:
        rgb, thermal = tree.find(RGB_FOLDERS, stem, suffixes), tree.find(THERMAL_FOLDERS, stem, suffixes)
    # Mirrored copies that a script of the data set's authors makes are called 00001D_flip.
    letter = re.fullmatch(r"\d+([DN])(_flip)?", stem)
    condition = {"time": TIMES[letter[1]]} if letter else {}
    return Entry(stem, {"rgb": (rgb,), "thermal": (thermal,)}, tree.find(LABEL_FOLDERS, stem, (".png",)), condition)
