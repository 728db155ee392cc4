"""No PEFT: the whole backbone is trained, slower than what is new, and its early blocks slower than its late ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ktb.models.peft.base import Adaptable, Peft


class Full(Peft):
    """Trains every parameter of the backbone.

    A block has `lr_factor · layer_decay ^ (blocks after it)` of the learning rate. What runs before a block has that of
    the block before it: a downsampling that of the last block of its stage before, the patch embedding that of a block
    before the first.

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
        for p in backbone.parameters():
            p.requires_grad_(True)

    def lr_factors(self, backbone: Adaptable) -> Mapping[str, float]:
        blocks = sum(map(len, backbone.adapter_channels))
        before = backbone.blocks_before()
        return {name: self.lr_factor * self.layer_decay ** (blocks - number) for name, number in before.items()}
