"""Samples without files, for tests of what loads samples."""

from __future__ import annotations

import numpy as np

from ktb.data.module import RGBXDataModule
from ktb.data.samples import RawSample
from ktb.data.spec import RGB, DatasetSpec, ModalitySpec
from ktb.errors import DataError

SPEC = DatasetSpec(
    "toy",
    classes=("a", "b", "c"),
    palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
    modalities={"rgb": RGB, "depth": ModalitySpec("depth", scale=1000.0)},
)


class Toy:
    """Noise images of one size (or of sizes that differ); one of them may be broken."""

    def __init__(self, length: int = 11, broken: int | None = None, grow: int = 0) -> None:
        self.length = length
        self.broken = broken
        self.grow = grow

    def __len__(self) -> int:
        return self.length

    def read(self, index, streams):
        if index == self.broken:
            raise DataError(f"/data/{index}.png: holds: nonsense; expected sense, mend it")
        rng = np.random.default_rng(index)
        shape = (40 + self.grow * index, 56)
        images = {
            "rgb": rng.integers(0, 256, (*shape, 3), np.uint8),
            "depth": rng.integers(1, 65536, (*shape, 1)).astype(np.uint16),
        }
        label = rng.integers(0, 3, shape).astype(np.uint8)
        return RawSample({name: images[name] for name in streams}, label, f"s/{index}", {"time": "day"})


class ToyModule(RGBXDataModule):
    def __init__(self, samples=None, **options) -> None:
        super().__init__(SPEC, **{"streams": ["rgb", "depth"], "num_workers": 0, "crop": (32, 48), **options})
        self.toy = samples or Toy()

    def open_split(self, split):
        return self.toy
