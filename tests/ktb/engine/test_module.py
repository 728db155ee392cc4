"""What a training step hands over."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.losses.base import Loss
from ktb.models.segmentor import SegOutput
from tests.ktb.engine.test_memory import batch, gradients, model


class CrossEntropy(Loss):
    """A loss as one writes it first."""

    def forward(self, out: SegOutput, target: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(out.logits, target, ignore_index=255)}


def test_labels_are_of_the_type_that_losses_of_pytorch_take() -> None:
    data = batch(2)
    assert data["label"].dtype == torch.uint8
    found = gradients(model(), data, loss=CrossEntropy())
    assert found
    assert all(gradient.isfinite().all() for gradient in found.values())
