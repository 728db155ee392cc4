"""A model that takes what sensors give and answers with class ids, as one module for exporters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.data.label_size import LabelSizes
from ktb.export.graph_steps import prepare, refuse_unknown
from ktb.export.sensors import Preparation, Sensor, sizes
from ktb.models.segmentor import KTBSegmentor


class RawModel(nn.Module):
    """Preparation, network and the likeliest class, for frames of one size.

    Called with the sensors' arrays, one argument each in the order of `sensors`, it gives (H, W) class ids, uint8, or
    uint16 where there are more than 256 classes: those of `ktb.Predictor`, which does not cut the frame into tiles.

    Args:
        model: the network.
        preparation: modality → its steps, in the model's order.
        sensors: modality → what its sensor gives.
        label_sizes: see `ktb.predict.reading.PictureReader`.

    Raises:
        ConfigError: a step that a graph cannot have.
    """

    def __init__(
        self,
        model: KTBSegmentor,
        preparation: Preparation,
        sensors: Mapping[str, Sensor],
        label_sizes: LabelSizes,
    ) -> None:
        super().__init__()
        refuse_unknown(preparation)
        self.model = model
        self.preparation = preparation
        self.sensors = sensors
        self.size, self.like, self.seen = sizes(preparation, sensors, label_sizes)

    @property
    def id_type(self) -> torch.dtype:
        """The type of class ids."""
        return torch.uint16 if self.model.num_classes > 256 else torch.uint8

    def forward(self, *arrays: Tensor) -> Tensor:
        inputs = {
            name: prepare(array, self.preparation[name], self.like, self.seen)
            for name, array in zip(self.sensors, arrays, strict=True)
        }
        logits: Tensor = self.model(inputs, side=False).logits
        if self.seen != self.size:
            logits = F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False)
        return logits[0].argmax(0).to(self.id_type)

    def described(self) -> dict[str, Any]:
        """What a program has to know of the inputs and the output, as plain values."""
        return {
            "inputs": {
                name: {"type": s.type, "shape": list(s.shape), "channels": s.channels}
                for name, s in self.sensors.items()
            },
            "output": {"name": "mask", "type": str(self.id_type).removeprefix("torch."), "shape": list(self.size)},
            "prepared_in_graph": True,
        }
