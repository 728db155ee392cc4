"""What the data layer hands to the engine: samples, modality and data set descriptions.

Nothing here imports Lightning, Hydra or albumentations, so model and engine code can rely on it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

IGNORE = 255
"""Label value of pixels that take part in neither loss nor metrics, where there are at most 255 classes."""
IGNORE_WIDE = 65535
"""The same where there are more; labels are then 16-bit."""
MAX_CLASSES = 4096
"""More would need over 128 MiB for one confusion matrix."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Colour = tuple[int, int, int]
"""(red, green, blue), 0 to 255 each."""


class Sample(TypedDict):
    """One item of a data set; `Batch` is the same with a leading batch axis (strings become lists).

    inputs: modality name → (C, H, W) tensor as stored, not normalised: uint8, or float32 where the source is
        16-bit or float. C is the number of stored channels (1 for one-channel sources; the normalisation on the
        device repeats it to the modality's `channels`). All inputs of a sample share H and W.
    label: (H, W) uint8, class ids 0..K-1 and `IGNORE`; with more than 255 classes int32 and `IGNORE_WIDE`. In
        evaluation at native size its H and W may differ from those of the inputs: logits are resized to it before
        scoring.
    id: path-like name of the sample, unique in its split ("RGB/12", "cloud/test/MAP_1_point2/0001").
    condition: name → value, e.g. {"weather": "fog"}; empty when the data set has none.
    """

    inputs: dict[str, Tensor]
    label: Tensor
    id: str
    condition: dict[str, str]


class Batch(TypedDict):
    """Samples collated: inputs (B, C, H, W), label (B, H, W), id and condition lists of length B."""

    inputs: dict[str, Tensor]
    label: Tensor
    id: list[str]
    condition: list[dict[str, str]]


@dataclass(frozen=True)
class ModalitySpec:
    """How one modality is stored and what the model receives.

    The model gets `(stored / scale - mean) / std` with `channels` channels (docs/method.md#data-flow: RGB with ImageNet
    statistics, every other modality in [0, 1]).
    """

    name: str
    channels: int = 3
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    title: str = ""
    """Label for pictures and tables; the name when empty."""
    validity: bool = False
    """The last stored channel is a mask, 1 after scaling where the sensor measured something and 0 elsewhere."""
    holes_at_mean: bool = False
    """Holes are given the mean, so that they are 0 after normalisation; otherwise they are 0 as stored."""
    shown: tuple[int, ...] = ()
    """Channels that pictures show as red, green, blue, or the one that they show; none: see `ktb.data.pictures`."""

    def normalize(self, stored: Tensor) -> Tensor:
        """(B, C, H, W) as stored → (B, channels, H, W) in torch's default type, float32, on the tensor's device."""
        x = stored.to(torch.get_default_dtype()) / self.scale
        mean = torch.tensor(self.mean, device=x.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(-1, 1, 1)
        x = (x - mean) / std
        return x.expand(-1, self.channels, -1, -1) if x.shape[1] == 1 else x


RGB = ModalitySpec("rgb", mean=IMAGENET_MEAN, std=IMAGENET_STD, title="RGB")


def voc_colour(index: int) -> Colour:
    """Colour of an id by the PASCAL VOC rule: bit 3j + c of the id is bit 7 - j of channel c; 0 is black."""
    red, green, blue = (sum((index >> (3 * j + c) & 1) << (7 - j) for j in range(8)) for c in range(3))
    return red, green, blue


def ignore_index(num_classes: int) -> int:
    """Label value of pixels that do not count, among labels of `num_classes` classes: never a class id."""
    return IGNORE if num_classes <= IGNORE else IGNORE_WIDE


@dataclass(frozen=True)
class DatasetSpec:
    """What is fixed about a data set: classes, colours, splits, protocol."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    modalities: Mapping[str, ModalitySpec]
    splits: tuple[str, ...] = ("train", "val", "test")
    selection_split: str = "val"
    """Split on which the best checkpoint is chosen; "test" where the data set has no validation split."""
    report_split: str = "test"
    """Split on which the literature reports."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Published number of samples per split."""
    mean_without: tuple[str, ...] = ()
    """Classes that mean scores (mIoU, mAcc, ...) leave out; everything else still counts them."""

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.classes)

    @property
    def ignore_index(self) -> int:
        """Label value of pixels that take part in neither loss nor metrics."""
        return ignore_index(self.num_classes)

    @property
    def ids_without(self) -> tuple[int, ...]:
        """The ids of `mean_without`."""
        return tuple(self.classes.index(name) for name in self.mean_without)

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(f"{self.name}: {len(self.classes)} classes but {len(self.palette)} colours")
        if self.num_classes > MAX_CLASSES:
            raise ValueError(f"{self.name}: at most {MAX_CLASSES} classes, got {self.num_classes}")


def normalize(inputs: Mapping[str, Tensor], modalities: Sequence[ModalitySpec]) -> dict[str, Tensor]:
    """Stored batches → model inputs.

    Args:
        inputs: modality name → (B, C, H, W) as stored.
        modalities: those wanted, in the model's order.

    Returns:
        Modality name → (B, channels, H, W), in the order of `modalities`.
    """
    return {m.name: m.normalize(inputs[m.name]) for m in modalities}
