"""NYU Depth V2 (Silberman et al., ECCV 2012): 40 classes, 795 training and 654 test images of 480x640.

On disk: `RGB/<i>.jpg`, `HHA/<i>.jpg`, `Depth/<i>.npy|.png`, `Label/<i>.png`, `train.txt`, `test.txt`. There is no
validation split, and the literature selects and reports on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, Unpack, get_args

from lightning.pytorch.utilities import rank_zero_info

from ktb.data.file_tree import Tree
from ktb.data.lists import ListLine, read_list
from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.samples import Entry, FileSamples, Reader
from ktb.data.spec import RGB, DatasetSpec, ModalitySpec, voc_colour
from ktb.errors import ConfigError, DataError

# fmt: off
CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refridgerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)
# fmt: on

MAX_DEPTH = 10.0
"""Metres that become 1 (the sensor's range)."""

DepthSource = Literal["hha", "depth"]
Missing = Literal["error", "skip"]

HHA = ModalitySpec("depth", title="HHA")
DEPTH = ModalitySpec("depth", scale=MAX_DEPTH, title="depth")
READERS = {
    "hha": ImageReader(channels=3),
    # Always metres: 16-bit files hold millimetres, 8-bit files are stretched over the sensor's range.
    "depth": ImageReader(channels=1, dtype="float32", units={"uint16": 1e-3, "uint8": MAX_DEPTH / 255}, hole_value=0.0),
}


class NYUDataModule(RGBXDataModule):
    """NYU Depth V2.

    Args:
        root: folder that holds `RGB`, `Label`, the lists and so on.
        depth_source: what the modality "depth" is: "hha" (as published), or "depth" (raw: `.npy` in metres, 16-bit PNG
            in millimetres, 8-bit PNG scaled per image and so not metric), scaled by 10 m, 0 = no measurement.
        lists: split → list file, below the root or absolute; default `train.txt` and `test.txt`.
        missing: "skip" leaves out samples whose files do not exist and says how many; "error" stops at the first.
        **loading: see `RGBXDataModule`.

    Lists of all forms in circulation are read: `RGB/2.jpg<TAB>Label/2.png`, the same with a space, a bare `2`, and
    `rgb/000003.png masks/000003.png depth/000003.png`. Labels of the last form are class ids already (255 = void); all
    others are 1..40, with 0 and 255 = void.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        depth_source: DepthSource = "hha",
        lists: Mapping[str, str] | None = None,
        missing: Missing = "error",
        **loading: Unpack[Loading],
    ) -> None:
        for key, value, known in (
            ("depth_source", depth_source, get_args(DepthSource)),
            ("missing", missing, get_args(Missing)),
        ):
            if value not in known:
                raise ConfigError(f"dataset.{key} is {value!r}; expected one of {', '.join(known)}")
        self.root = Path(root)
        self.depth_source = depth_source
        self.lists = dict(lists or {"train": "train.txt", "test": "test.txt"})
        self.missing = missing
        spec = DatasetSpec(
            name="nyu",
            classes=CLASSES,
            palette=tuple(voc_colour(i + 1) for i in range(len(CLASSES))),
            modalities={"rgb": RGB, "depth": HHA if depth_source == "hha" else DEPTH},
            splits=tuple(self.lists),
            selection_split="test",
            counts={"train": 795, "test": 654},
        )
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        """RGB in 8 bits; depth as `depth_source` says."""
        return {"rgb": ImageReader(channels=3, colour=True), "depth": READERS[self.depth_source]}

    def open_split(self, split: str) -> FileSamples:
        """The samples that the split's list names; see `RGBXDataModule.open_split`."""
        tree = Tree(self.root)
        path = self.root / self.lists[split]
        lines = read_list(path, self.root)
        columns = _dialect(path, lines)
        entries = [self._entry(tree, path, line) for line in lines]
        streams = [m.name for m in self.modalities]
        if self.missing == "skip":
            kept = [entry for entry in entries if not tree.missing(entry.paths(streams))]
            if not kept:
                raise DataError(f"{path}: none of its {len(entries)} samples has all its files below {self.root}")
            if len(kept) < len(entries):
                rank_zero_info(
                    f"nyu: {split}: {len(entries) - len(kept)} of {len(entries)} listed samples left out, "
                    "because files of theirs do not exist (dataset.missing=skip)"
                )
            entries = kept
        else:
            tree.require(
                (file for entry in entries for file in entry.paths(streams)),
                str(path),
                "copy the files there, or set dataset.missing=skip",
            )
        table = (
            id_table(self.spec.num_classes)
            if columns == 3
            else id_table(self.spec.num_classes, offset=-1, ignore=(0, self.spec.ignore_index))
        )
        return FileSamples(self.root, entries, self.readers(), LabelReader(table))

    def _entry(self, tree: Tree, path: Path, line: ListLine) -> Entry:
        columns = line.columns
        if len(columns) == 1:
            if not columns[0].isdigit():
                raise DataError(
                    f"{path}, line {line.number}: {columns[0]!r} alone; expected a frame number, or image and label"
                )
            rgb, label = tree.find(("RGB",), columns[0], (".jpg", ".png")), f"Label/{columns[0]}.png"
        else:
            rgb, label = columns[0], columns[1]
        stem = PurePosixPath(rgb).stem
        if self.depth_source == "hha":
            depth = tree.find(("HHA", "hha"), stem, (".jpg", ".png"))
        else:
            depth = columns[2] if len(columns) == 3 else tree.find(("Depth",), stem, (".npy", ".png"))
        return Entry(str(PurePosixPath(rgb).with_suffix("")), {"rgb": (rgb,), "depth": (depth,)}, label)


def _dialect(path: Path, lines: Sequence[ListLine]) -> int:
    """Number of columns, 1 to 3, which must be the same on all lines."""
    count = len(lines[0].columns)
    for line in lines:
        if len(line.columns) != count or count > 3:
            raise DataError(
                f"{path}, line {line.number}: {len(line.columns)} columns; expected {'1 to 3' if count > 3 else count} "
                "as on the first line: a number, image and label, or image, label and depth"
            )
    return count
