"""PST900 (Shivakumar et al., ICRA 2020): RGB + thermal from a subterranean challenge, 5 classes, 720x1280.

On disk: `{train,test}/{rgb,thermal,thermal_raw,depth,labels}/<same name>.png`, 597 training and 288 test images; no
lists. There is no validation split, and the literature selects and reports on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, Unpack, get_args

from ktb.data.file_tree import Tree
from ktb.data.files import similar
from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.samples import Entry, FileSamples, Reader
from ktb.data.spec import RGB, DatasetSpec, ModalitySpec
from ktb.errors import ConfigError, DataError

CLASSES = ("Background", "Fire-Extinguisher", "Backpack", "Hand-Drill", "Survivor")
PALETTE = ((0, 0, 0), (100, 40, 40), (55, 90, 80), (220, 20, 60), (153, 153, 153))

ThermalSource = Literal["thermal", "thermal_raw"]

THERMAL = ModalitySpec("thermal", title="thermal")
THERMAL_RAW = ModalitySpec("thermal", scale=1.0, title="thermal (16-bit)")
DEPTH = ModalitySpec("depth", scale=65535.0, title="depth")
"""Stored in units of 1/2560 m, so 1 is 25.6 m; 0 where nothing was measured."""


class PST900DataModule(RGBXDataModule):
    """PST900.

    Args:
        root: folder that holds `train` and `test`.
        thermal_source: folder of the modality "thermal": "thermal" (8 bits, as published), or "thermal_raw" (16 bits,
            each picture scaled between its 2nd and 98th percentile).
        **loading: see `RGBXDataModule`.

    Labels are 0..4; there is no void, and the background counts.
    """

    def __init__(
        self, root: str | Path, *, thermal_source: ThermalSource = "thermal", **loading: Unpack[Loading]
    ) -> None:
        if thermal_source not in get_args(ThermalSource):
            raise ConfigError(
                f"dataset.thermal_source is {thermal_source!r}; expected one of {', '.join(get_args(ThermalSource))}"
            )
        self.root = Path(root)
        self.thermal_source = thermal_source
        spec = DatasetSpec(
            name="pst900",
            classes=CLASSES,
            palette=PALETTE,
            modalities={
                "rgb": RGB,
                "thermal": THERMAL if thermal_source == "thermal" else THERMAL_RAW,
                "depth": DEPTH,
            },
            splits=("train", "test"),
            selection_split="test",
            counts={"train": 597, "test": 288},
        )
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        """RGB in 8 bits; thermal as `thermal_source` says; depth in 16 bits."""
        return {
            "rgb": ImageReader(channels=3, colour=True),
            "thermal": ImageReader(channels=1)
            if self.thermal_source == "thermal"
            else ImageReader(channels=1, dtype="uint16", hole_value=0, normalise="percentile"),
            "depth": ImageReader(channels=1, dtype="uint16", hole_value=0),
        }

    def open_split(self, split: str) -> FileSamples:
        """The samples in the split's folder; see `RGBXDataModule.open_split`."""
        tree = Tree(self.root)
        folder = f"{split}/rgb"
        names = sorted(name for name, is_dir in tree.names(folder).items() if name.endswith(".png") and not is_dir)
        if not names:
            path = self.root / folder
            what = "holds no .png file" if path.is_dir() else "is not there" + similar(path)
            raise DataError(f"{path}: {what}; expected the RGB pictures of the split: set dataset.root to their root")
        # Only the folder differs between the files of a sample. (The names contain "rgb" themselves.)
        entries = [
            Entry(
                f"{split}/{PurePosixPath(name).stem}",
                {
                    "rgb": (f"{folder}/{name}",),
                    "thermal": (f"{split}/{self.thermal_source}/{name}",),
                    "depth": (f"{split}/depth/{name}",),
                },
                f"{split}/labels/{name}",
            )
            for name in names
        ]
        streams = [m.name for m in self.modalities]
        tree.require(
            (file for entry in entries for file in entry.paths(streams)),
            str(self.root / folder),
            "copy the files there",
        )
        return FileSamples(
            self.root,
            entries,
            self.readers(),
            LabelReader(id_table(self.spec.num_classes, ignore=())),
        )
