"""No PEFT: the whole backbone is trained, slower than what is new, and its early blocks slower than its late ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ktb.models.peft.base import Adaptable, Peft


class Full(Peft):
    """Trains every parameter of the backbone.

    A block has `lr_factor · layer_decay ^ (blocks after it)` of the learning rate; what lies before a block, such as
    the patch embedding or a downsampling, has that of the block before it.

    Args:
        modalities, backbone: see `Peft`.
        lr_factor: of the last block.
        layer_decay: from each block to the one before; 1: all alike.

    Raises:
        ValueError: factors that are not above 0.
    """

    trains_backbone: ClassVar[bool] = True

    def __init__(
        self,
        modalities: Sequence[str],
        backbone: Adaptable,
        *,
        lr_factor: float = 0.1,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__(modalities, backbone)
        if not (lr_factor > 0 and layer_decay > 0):
            raise ValueError(f"lr_factor and layer_decay must be above 0, got {lr_factor} and {layer_decay}")
        self.lr_factor, self.layer_decay = lr_factor, layer_decay
        for _, p in backbone.named_parameters():
            p.requires_grad_(True)

    def lr_factors(self, backbone: Adaptable) -> Mapping[str, float]:
        blocks = [b for stage in range(len(backbone.adapter_channels)) for b in backbone.blocks(stage)]
        number = {id(p): i for i, block in enumerate(blocks, 1) for p in block.parameters()}
        factors, reached = {}, 0
        for name, p in backbone.named_parameters():
            reached = number.get(id(p), reached)
            factors[name] = self.lr_factor * self.layer_decay ** (len(blocks) - reached)
        return factors
