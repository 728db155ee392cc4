"""Procedural RGB + depth scenes in which neither modality alone suffices; nothing is read from disk.

A room seen by a pinhole camera (y up, z forward, metres): floor, walls, and large objects standing on the floor.
What a sensor cannot tell is built in, exactly:

- `rug` lies in the floor's plane: depth equals the floor's to the last bit, only RGB shows it.
- `crate` and `locker` are boxes of one size distribution: only RGB tells them apart.
- `print` is a flat, trompe-l'œil picture of one of the other objects on floor and walls: its RGB is that of the real
  object, shadow included; only depth tells a print from the object. Depth alone cannot tell it from floor and wall.
- `step` and `pit` wear the floor's own material.
- `screen` is black and returns no depth; other things lose their depth in patches too, and pictures have dark parts
  (light "dark") and blinding ones (light "glare").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.image import ImageReader
from ktb.data.samples import RawSample, Reader
from ktb.data.scenes.draw import MIN_SIZE, Rendering, draw
from ktb.data.scenes.scene import CLASSES, sample_scene
from ktb.data.spec import RGB, DatasetSpec, ModalitySpec
from ktb.errors import ConfigError

PALETTE = (
    (84, 92, 110), (176, 184, 196), (238, 130, 98), (245, 200, 80), (166, 110, 60),
    (58, 134, 196), (224, 78, 120), (120, 190, 120), (70, 52, 120), (20, 24, 30),
)  # fmt: skip

CACHE_BYTES = 256 * 2**20
"""At most this much of a split is kept in memory once drawn (per process)."""


class SyntheticSamples:
    """`count` scenes of one seed, drawn when asked for and then kept as bytes."""

    def __init__(self, split: str, seed: int, count: int, size: tuple[int, int]) -> None:
        self.split, self.seed, self.count, self.size = split, seed, count, size
        self._kept: dict[int, tuple[Rendering, str]] = {}
        self._room = CACHE_BYTES // (5 * size[0] * size[1])

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, streams: Sequence[str]) -> RawSample:
        """As `ktb.data.samples.Samples.read`; the id is "<split>/<index>", the condition "light" day, dark or glare.

        Args:
            index: from 0.
            streams: modalities to return.
        """
        if index not in self._kept:
            scene = sample_scene(self.seed, index)
            drawn = draw(scene, *self.size), scene.light
            if len(self._kept) >= self._room:
                return self._sample(index, streams, *drawn)
            self._kept[index] = drawn
        return self._sample(index, streams, *self._kept[index])

    def _sample(self, index: int, streams: Sequence[str], frame: Rendering, light: str) -> RawSample:
        images = {"rgb": frame.rgb, "depth": frame.depth[..., None]}
        return RawSample(
            images={name: images[name] for name in streams},
            label=frame.label.copy(),  # a copy, as the label that is kept must not change
            id=f"{self.split}/{index:05d}",
            condition={"light": light},
            valid={"depth": frame.depth > 0} if "depth" in streams else {},
        )


class SyntheticDataModule(RGBXDataModule):
    """Procedural scenes; every split has scenes of its own.

    Args:
        size: (height, width) of the pictures in pixels, each 32 or more.
        train, val, test: number of scenes per split.
        scene_seed: which scenes; independent of `seed`, so runs with several seeds train on the same ones.
        **loading: see `RGBXDataModule`.

    Raises:
        ConfigError: a size or a number of scenes that cannot work.
    """

    def __init__(
        self,
        *,
        size: Sequence[int] = (96, 128),
        train: int = 400,
        val: int = 40,
        test: int = 120,
        scene_seed: int = 0,
        **loading: Unpack[Loading],
    ) -> None:
        if len(size) != 2 or min(size) < MIN_SIZE:
            raise ConfigError(f"dataset.size is {list(size)}; expected [height, width], both {MIN_SIZE} or more")
        counts = {"train": train, "val": val, "test": test}
        for split, count in counts.items():
            if count < 1:
                raise ConfigError(f"dataset.{split} is {count}; expected the number of its scenes, 1 or more")
        if scene_seed < 0:
            raise ConfigError(f"dataset.scene_seed is {scene_seed}; expected 0 or more")
        self.size = (int(size[0]), int(size[1]))
        self.scene_seed = scene_seed
        spec = DatasetSpec(
            name="synthetic",
            classes=CLASSES,
            palette=PALETTE,
            modalities={"rgb": RGB, "depth": ModalitySpec("depth", title="depth")},
            counts=counts,
        )
        super().__init__(spec, **loading)

    def readers(self) -> Mapping[str, Reader]:
        """RGB as 8 bits, depth as the 8 bits of `Rendering.depth`."""
        return {"rgb": ImageReader(channels=3, colour=True), "depth": ImageReader(channels=1, hole_value=0)}

    def open_split(self, split: str) -> SyntheticSamples:
        # A seed for each split, so that no scene occurs in two of them.
        """The split's scenes, drawn from a seed that no other split has."""
        splits = list(self.spec.counts)
        seed = len(splits) * self.scene_seed + splits.index(split)
        return SyntheticSamples(split, seed, self.spec.counts[split], self.size)
