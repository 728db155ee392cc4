"""The model's answer for a picture of any size: arrays in, class ids out, in bands of rows and through tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktb.data.arrays import Array, Size
from ktb.data.augment import EvalTransform
from ktb.data.dataset import to_sample
from ktb.data.module import RGBXDataModule
from ktb.data.samples import RawSample
from ktb.data.spec import ModalitySpec, normalize
from ktb.engine.inference import BAND_VALUES, most_likely, sliding_bands
from ktb.errors import ConfigError, NotFiniteError, first_line
from ktb.models.segmentor import KTBSegmentor


class Band(NamedTuple):
    """The answer for some rows of a picture.

    Args:
        rows: which rows of the picture.
        ids: (rows, W) class ids, uint8, or uint16 where there are more than 256 classes.
        logits: (K, rows, W), on the model's device.
    """

    rows: slice
    ids: NDArray[Any]
    logits: Tensor


@dataclass
class TiledModel:
    """A model and how it is applied to pictures of any size.

    Args:
        model: in evaluation mode, on `device`.
        data: the data set it was trained on: classes, modalities, normalisation.
        short_side: pictures are resized to it for the model, as in evaluation; None: not at all.
        tile: pictures with more than 2·tile² pixels (after resizing) are cut into tiles of this side.
        overlap: share of a tile's side that neighbours have in common at least.
        device: where the model is.
        bf16: compute in bfloat16 where PyTorch's autocast does.
    """

    model: KTBSegmentor
    data: RGBXDataModule
    short_side: int | None = None
    tile: int = 768
    overlap: float = 0.25
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False

    def __post_init__(self) -> None:
        self.modalities: Mapping[str, ModalitySpec] = {m.name: m for m in self.data.modalities}
        self._transform = EvalTransform(self.short_side)

    def input_size(self, size: Size) -> Size:
        """The (height, width) at which the model sees a picture of `size` (height, width)."""
        return size if self.short_side is None else self._transform.size(size)

    def inputs(
        self, images: Mapping[str, Array], valid: Mapping[str, NDArray[np.bool_]], name: str
    ) -> dict[str, Tensor]:
        """What the readers of the data set give → what the model is given, before normalisation.

        Args:
            images: modality → (H, W, C), all of one size, as in `RawSample`.
            valid: modality → (H, W), False at holes, as in `RawSample`.
            name: of the picture, for messages.

        Returns:
            Modality → (1, C, h, w), h and w as in `input_size`.

        Raises:
            DataError: a value that is not finite.
        """
        height, width = next(iter(images.values())).shape[:2]
        label = np.zeros((height, width), np.uint8)  # the transform wants one
        raw = RawSample(dict(images), label, name, {}, dict(valid))
        sample = to_sample(raw, [self.modalities[name] for name in images], self._transform)
        return {name: x[None] for name, x in sample["inputs"].items()}

    @torch.inference_mode()
    def bands(self, inputs: Mapping[str, Tensor], size: Size) -> Iterator[Band]:
        """The answer for one picture, from top to bottom; the logits of a large picture never exist as a whole.

        Args:
            inputs: as `inputs` returns them. Modalities that the model knows and that are not there count as missing.
            size: (height, width) of the answer: the picture's own.

        Yields:
            Bands without gaps. The logits of one may be overwritten when the next one is asked for.

        Raises:
            NotFiniteError: the largest logit of a pixel is NaN or infinite.
        """
        height, width = next(iter(inputs.values())).shape[-2:]
        window = (height, width) if height * width <= 2 * self.tile**2 else (self.tile, self.tile)
        modalities = [self.modalities[name] for name in inputs]

        def logits(tile: dict[str, Tensor]) -> Tensor:
            on_device = {name: x.to(self.device) for name, x in tile.items()}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                found = self.model(normalize(on_device, modalities), side=False).logits
            return found.float() if self.bf16 else found

        stored = torch.int32 if self.id_type == np.uint16 else torch.uint8
        for row, band in sliding_bands(logits, inputs, size, window=window, overlap=self.overlap):
            for start, part in _chunks(row, band[0]):
                ids, answered = most_likely(part[None])
                if not answered:
                    raise NotFiniteError(
                        "the model's answer is not finite; look for extreme values in the picture, and whether they "
                        "have the unit of the training data"
                    )
                found = ids[0].to(stored).cpu().numpy().astype(self.id_type, copy=False)
                yield Band(slice(start, start + part.shape[1]), found, part)

    @property
    def id_type(self) -> type[np.uint8] | type[np.uint16]:
        """The type of class ids."""
        return np.uint16 if self.data.spec.num_classes > 256 else np.uint8


def device_called(name: str, setting: str) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one.

    Args:
        name: cpu, cuda, cuda:1, mps or auto.
        setting: the setting as the user wrote it, for the message.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "meta":  # has shapes, and no values
        raise ConfigError(f"{setting}: cannot be used here; expected auto, cpu, cuda, cuda:1 or mps")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{setting}: cannot be used here ({first_line(error)})") from None
    return device


def _chunks(row: int, band: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Rows of (K, rows, W) in parts small enough for a few copies."""
    most = max(1, BAND_VALUES // (band.shape[0] * band.shape[2]))
    for start in range(0, band.shape[1], most):
        yield row + start, band[:, start : start + most]
