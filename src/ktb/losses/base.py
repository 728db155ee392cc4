"""What a training step asks of a loss, ktb's or your own."""

from __future__ import annotations

from torch import Tensor, nn

from ktb.models.segmentor import SegOutput


class Loss(nn.Module):
    """A loss of the whole output of a model: of the fused head, and of the side heads where it uses them."""

    masking = False
    """Whether training samples lose modalities (see `ktb.losses.masking.draw_masks`)."""
    uses_side_heads = False
    """Whether every modality has a head of its own, whose logits are `out.side`."""

    def forward(self, out: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """The terms of the loss.

        Args:
            out: what the model gave.
            target: class ids (B, H, W) int64; `ktb.data.spec.ignore_index` where a pixel has no class.

        Returns:
            terms by name, scalars: "loss", which is minimised, and any others, which are logged. Of several processes
            each returns its own; the mean over them is what is minimised.
        """
        raise NotImplementedError
