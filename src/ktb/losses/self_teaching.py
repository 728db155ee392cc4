"""Self-teaching: the fused head teaches the side heads where it is right (docs/method.md#mmst)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ktb.data.spec import ignore_index
from ktb.losses.pixel import PixelLoss, PixelLossKind, named
from ktb.models.segmentor import SegOutput


class SelfTeachingLoss(PixelLoss):
    """Self-teaching: the fused head teaches the side heads where it is right.

    `y* = y where argmax(fused) = y, else ignore`; `loss = L(fused, y) + side_weight · Σ_m L(side_m, y*)`.

    Args:
        pixel_loss: L, used for all terms, as `kind` of `PixelLoss`: "ce", "dice", {"ce": 1.0, "dice": 0.5}, ...
        side_weight: weight of each side head's term.
        masking: modality masking while training.
        class_weights, label_smoothing: of all terms, see `PixelLoss`.
    """

    uses_side_heads = True

    def __init__(
        self,
        pixel_loss: PixelLossKind = "ce",
        side_weight: float = 0.01,
        masking: bool = True,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(pixel_loss, class_weights, label_smoothing)
        self.side_weight = side_weight
        self.masking = masking

    def forward(self, out: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """The terms of the loss.

        Args:
            out: what the model gave, with the side heads' logits.
            target: class ids (B, H, W), any integer type.

        Returns:
            terms by name: "loss", which is minimised, "loss_fused" and "loss_<modality>", and where L is a sum the
            parts of the fused head's, "loss_fused_<name>".
        """
        target = target.long()
        # The first of the largest, as argmax gives it, which on a CPU takes ten times as long.
        predicted = out.logits.max(1).indices
        taught = torch.where(predicted == target, target, ignore_index(out.logits.shape[1]))
        parts = self.pixel_terms(out.logits, target)
        terms = {"loss_fused": self.combined(parts), **named(parts, "loss_fused")}
        terms.update({f"loss_{m}": self.pixel_loss(logits, taught) for m, logits in out.side.items()})
        side = sum(terms[f"loss_{m}"] for m in out.side)
        return {"loss": terms["loss_fused"] + self.side_weight * side, **terms}
