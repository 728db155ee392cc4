"""The contract of a backbone: four stages of frozen blocks that the streams of all modalities share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ktb.models.backbones.running_order import blocks_begun
from ktb.models.layers.statistics import keep_statistics
from ktb.models.peft.base import Adapt


class Tokens(NamedTuple):
    """What goes from stage to stage.

    Attributes:
        map: (S, H, W, C), S = modalities · batch.
        extra: class and register tokens (S, P, C) of a plain vision transformer; None for all others.
    """

    map: Tensor
    extra: Tensor | None = None


class Backbone(nn.Module):
    """Four stages, whose weights stay as they are unless a PEFT method trains them.

    Parameters do not require gradients, and the running statistics of batch norms stay as they are under `.train()`
    too; dropout and stochastic depth follow `.train()`. A backbone of your own derives from this class, sets the
    attributes below in its constructor, and then calls `requires_grad_(False)`.

    Attributes:
        channels: of the four maps that fusion and heads get.
        strides: pixels of the image per position of these maps.
        prompt_channels: of the maps that a prompt before each stage meets.
        adapter_channels: per stage and block, of the maps that the block's adapter meets.
        config: plain values, the arguments of the constructor that build this backbone again, without its weights.
    """

    channels: tuple[int, ...]
    strides: tuple[float, ...]
    prompt_channels: tuple[int, ...]
    adapter_channels: tuple[tuple[int, ...], ...]
    config: dict[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Backbone:
        """Build the backbone that a `config` describes, with fresh weights."""
        return cls(**config)

    def entry_for(self, channels: int) -> nn.Module:
        """The entry of another modality than RGB: a trained copy of this backbone's own, with weights as they are now.

        Args:
            channels: C of the modality's images.
        """
        raise NotImplementedError

    def own_entry(self) -> Iterable[nn.Module]:
        """The layers that nothing but RGB passes, of which `entry_for` gives copies: without RGB they are not trained,
        whatever the PEFT method trains."""
        return ()

    def embed(self, images: Tensor, entry: nn.Module | None = None) -> Tokens:
        """Images as they enter the first stage.

        Args:
            images: (B, C, H, W) of one modality, any H, W ≥ 1: RGB with ImageNet's statistics, others in [0, 1].
            entry: what `entry_for` made for the modality; None: RGB, through the backbone's own.
        """
        raise NotImplementedError

    def covers(self, height: int, width: int) -> tuple[int, int]:
        """The size in pixels that the output maps of an image of this size stand for: not smaller, and larger where
        the image is padded, at the right and at the bottom."""
        return height, width

    def enter(self, stage: int, tokens: Tokens) -> Tokens:
        """What happens between two stages, most often halving the map.

        Args:
            stage: the one to come, from 1.
            tokens: as the stage before has left them.
        """
        raise NotImplementedError

    def stage(
        self, stage: int, tokens: Tokens, adapters: Sequence[Adapt] | None = None, *, recompute: bool = False
    ) -> Tokens:
        """The blocks of a stage, for all streams at once.

        Args:
            stage: from 0.
            tokens: of all streams, S = modalities · batch.
            adapters: one per block; None: none. An adapter adds to its second argument what it makes of the first,
                both (S, H, W, C) (docs/method.md#mapa); blocks that know no places hand T tokens over as (S, 1, T, C).
            recompute: keep only each block's input and run the block again in the backward pass.
        """
        raise NotImplementedError

    def blocks(self, stage: int) -> Sequence[nn.Module]:
        """The blocks of a stage, in order: as many as there are adapters."""
        raise NotImplementedError

    def blocks_before(self) -> Mapping[str, int]:
        """Name of a parameter → the number of blocks that have begun when it is used, with a block's own parameters the
        block itself: 0 in a patch embedding, 3 in block 2 (from 0) and in what lies between that and the next.

        A small image is put through the stages to see it.
        """
        blocks = [block for stage in range(len(self.channels)) for block in self.blocks(stage)]
        some = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        training = self.training

        def run() -> None:
            tokens = self.embed(torch.zeros(1, 3, 64, 64, dtype=some.dtype, device=some.device))
            for stage in range(len(self.channels)):
                tokens = self.stage(stage, self.enter(stage, tokens) if stage else tokens)

        self.eval()  # nothing is drawn or dropped
        try:
            return blocks_begun(self, blocks, run)
        finally:
            self.train(training)

    def necks(self) -> nn.ModuleList | None:
        """New trained layers, one per stage, that make the output maps of what the stages give, (S, H, W, C) → (S, H',
        W', C'); the model keeps them. None: the stages' maps are the output maps."""
        return None

    def spec(self) -> dict[str, Any]:
        """Plain values that say how this backbone is built: `config` and its class as "_target_"."""
        return {"_target_": f"{type(self).__module__}.{type(self).__qualname__}", **self.config}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        keep_statistics(self)
        return self
