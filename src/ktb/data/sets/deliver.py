"""DELIVER (Zhang et al., CVPR 2023): rendered street scenes in five weathers with failing sensors; 25 classes.

On disk: `{img,hha,depth,event,lidar,semantic}/<weather>/<split>/<scene>/<frame>_<kind>_front.png`, 1042x1042 pixels,
3983 / 2005 / 1897 samples; no lists. The sensor case is the suffix of the scene, none is a normal one. The literature
reports on val (test is about ten points lower).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack, get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from ktb.data.arrays import Reading, Source
from ktb.data.file_tree import Tree
from ktb.data.files import similar
from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.decode import decode
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.resizing import Resizing
from ktb.data.samples import Entry, FileSamples, Reader
from ktb.data.spec import RGB, DatasetSpec, ModalitySpec
from ktb.data.steps import Step
from ktb.errors import ConfigError, DataError, did_you_mean

CLASSES = (
    "Building", "Fence", "Other", "Pedestrian", "Pole", "RoadLine", "Road", "SideWalk", "Vegetation", "Cars", "Wall",
    "TrafficSign", "Sky", "Ground", "Bridge", "RailTrack", "GroundRail", "TrafficLight", "Static", "Dynamic", "Water",
    "Terrain", "TwoWheeler", "Bus", "Truck",
)  # fmt: skip
PALETTE = (
    (70, 70, 70), (100, 40, 40), (55, 90, 80), (220, 20, 60), (153, 153, 153), (157, 234, 50), (128, 64, 128),
    (244, 35, 232), (107, 142, 35), (0, 0, 142), (102, 102, 156), (220, 220, 0), (70, 130, 180), (81, 0, 81),
    (150, 100, 100), (230, 150, 140), (180, 165, 180), (250, 170, 30), (110, 190, 160), (170, 120, 50), (45, 60, 150),
    (145, 170, 100), (0, 0, 230), (0, 60, 100), (0, 0, 70),
)  # fmt: skip

WEATHERS = ("cloud", "fog", "night", "rain", "sun")
CASES = ("normal", "motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")

DepthSource = Literal["hha", "depth"]

EVENT = ModalitySpec("event", title="events")
LIDAR = ModalitySpec("lidar", title="LiDAR")


class DELIVERDataModule(RGBXDataModule):
    """DELIVER. Conditions of a sample: "weather" (`WEATHERS`) and "case" (`CASES`).

    Args:
        root: folder that holds `img`, `semantic` and so on.
        depth_source: folder of the modality "depth": "hha" (as published) or "depth".
        weather, case: use samples of these only, in all splits; None: all.
        **loading: see `RGBXDataModule`.

    Event pictures of the case "eventlowres" are 512x512 and resized (nearest). Labels are 1..25 in the first channel,
    with 0 and 255 = void.
    """

    resizing = Resizing(("event",))

    def __init__(
        self,
        root: str | Path,
        *,
        depth_source: DepthSource = "hha",
        weather: Sequence[str] | None = None,
        case: Sequence[str] | None = None,
        **loading: Unpack[Loading],
    ) -> None:
        if depth_source not in get_args(DepthSource):
            raise ConfigError(
                f"dataset.depth_source is {depth_source!r}; expected one of {', '.join(get_args(DepthSource))}"
            )
        self.root = Path(root)
        self.depth_source = depth_source
        self.weather = _chosen("weather", weather, WEATHERS)
        self.case = _chosen("case", case, CASES)
        spec = DatasetSpec(
            name="deliver",
            classes=CLASSES,
            palette=PALETTE,
            modalities={
                "rgb": RGB,
                "depth": ModalitySpec("depth", title="HHA" if depth_source == "hha" else "depth"),
                "event": EVENT,
                "lidar": LIDAR,
            },
            report_split="val",
            counts={"train": 3983, "val": 2005, "test": 1897},
        )
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        """RGB without its alpha; all others by `ReadRendering`."""
        rgb = ImageReader(channels=3, pick=(0, 1, 2))
        return {"rgb": rgb, "depth": ReadRendering(), "event": ReadRendering(), "lidar": ReadRendering()}

    def open_split(self, split: str) -> FileSamples:
        """The samples of the chosen weathers and cases in the split's folders; see `RGBXDataModule.open_split`."""
        tree = Tree(self.root)
        if not tree.names("").get("img"):
            path = self.root / "img"
            raise DataError(f"{path}: no such folder{similar(path)}; set dataset.root to the folder that holds it")
        entries = [
            entry
            for weather in self.weather
            for scene in sorted(tree.names(f"img/{weather}/{split}"))
            for entry in self._scene(tree, weather, split, scene)
        ]
        if not entries:
            folders = self.root / "img" / f"{{{','.join(self.weather)}}}" / split
            raise DataError(
                f"{folders}: no picture of the cases {', '.join(self.case)}; expected <scene>/<frame>_rgb_front.png: "
                "set dataset.root, or other values of dataset.weather and dataset.case"
            )
        streams = [m.name for m in self.modalities]
        tree.require(
            (file for entry in entries for file in entry.paths(streams)), str(self.root / "img"), "copy the files there"
        )
        small = sum(entry.condition["case"] == "eventlowres" for entry in entries)
        if small and "event" in streams:
            rank_zero_info(f"deliver: {split}: {small} of {len(entries)} event pictures are of low resolution (case "
                           "eventlowres) and are resized to RGB, nearest")  # fmt: skip
        return FileSamples(
            self.root,
            entries,
            self.readers(),
            LabelReader(id_table(self.spec.num_classes, offset=-1, ignore=(0, self.spec.ignore_index)), channel=0),
            resizing=self.resizing,
        )

    def _scene(self, tree: Tree, weather: str, split: str, scene: str) -> list[Entry]:
        folder = f"{weather}/{split}/{scene}"
        match = re.fullmatch(r"MAP_\d+_point\d+(?:_(\w+))?", scene)
        case = (match[1] or "normal") if match else None
        if case not in CASES:
            raise DataError(
                f"{self.root / 'img' / folder}: unknown kind of scene; expected MAP_<x>_point<y>, alone or followed by "
                f"one of {', '.join(f'_{name}' for name in CASES[1:])}: move the folder elsewhere"
            )
        if case not in self.case:
            return []
        suffix = "_rgb_front.png"
        frames = sorted(n.removesuffix(suffix) for n in tree.names(f"img/{folder}") if n.endswith(suffix))
        kinds = {"rgb": ("img", "rgb"), "depth": (self.depth_source, "depth"), "event": ("event",) * 2}
        kinds |= {"lidar": ("lidar",) * 2}
        return [
            Entry(
                f"{folder}/{frame}",
                {name: (f"{top}/{folder}/{frame}_{kind}_front.png",) for name, (top, kind) in kinds.items()},
                f"semantic/{folder}/{frame}_semantic_front.png",
                {"weather": weather, "case": case},
            )
            for frame in frames
        ]


def _chosen(key: str, names: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    if names is None:
        return tuple(known)
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"dataset.{key} is {name!r}; expected some of {', '.join(known)}{did_you_mean(name, known)}"
            )
    if not names:
        raise ConfigError(f"dataset.{key} is empty; expected some of {', '.join(known)}, or null for all")
    return tuple(name for name in known if name in names)


@dataclass(frozen=True)
class ReadRendering:
    """A rendered picture with 1, 3 or 4 channels as RGB: grey is taken three times, alpha is left out."""

    def __call__(self, paths: Sequence[Source]) -> Reading:
        """(H, W, 3) uint8.

        Raises:
            DataError: it cannot be read, or is no such picture.
        """
        image = decode(paths[0], expand_palette=True)
        channels = image.shape[2] if image.ndim == 3 else 1
        if image.dtype != np.uint8 or channels == 2:
            raise DataError(
                f"{paths[0]}: holds {image.dtype} values in {channels} channels; expected an 8-bit picture of 1, 3 or "
                "4 channels: copy or download it again"
            )
        return Reading(np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2) if channels == 1 else image[..., :3])

    def steps(self) -> list[Step]:
        """See `ktb.data.preparation`."""
        return [{"do": "take", "factors": {"uint8": 1.0}, "others": False}, {"do": "channels", "how": "colour"}]
