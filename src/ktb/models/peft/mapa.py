"""MAPA: modality-aware prompting and adaptation (paper section 3.2; docs/method.md#mapa).

Both work on all streams at once, stacked as (M, B, H, W, C) in the order of the model's modalities; parameters are
kept per modality name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ktb.models.layers.init import trunc_linear, zero_linear
from ktb.models.layers.per_modality import apply_per_modality, per_modality_down
from ktb.models.peft.base import Adapt, Adaptable, Peft
from ktb.models.setting_types import above_zero


class Prompt(nn.Module):
    """Prompt exchanged between the streams before a stage.

    `u = U(P([D_m(t_m)]_m))`, then `t_m ← t_m + u + (γ_m ⊙ u + β_m)` for every modality m.

    Args:
        modalities: names, in stream order.
        channels: channels C of the stage.
        ratio: width of D and P, as a share of C.
    """

    def __init__(self, modalities: Sequence[str], channels: int, ratio: float = 0.125) -> None:
        super().__init__()
        rank = max(1, int(channels * ratio))
        self.down = per_modality_down(modalities, channels, rank)
        self.project = trunc_linear(rank * len(modalities), rank)
        self.up = trunc_linear(rank, channels)
        # Pairs, not a dict: ParameterDict sorts the keys of a plain dict, which would swap the streams.
        self.gamma = nn.ParameterDict([(m, nn.Parameter(1 + 0.02 * torch.randn(channels))) for m in modalities])
        self.beta = nn.ParameterDict([(m, nn.Parameter(0.02 * torch.randn(channels))) for m in modalities])

    def forward(self, tokens: Tensor) -> Tensor:
        """(M, B, H, W, C) → (M, B, H, W, C)."""
        down = apply_per_modality(self.down, tokens)
        u = self.up(self.project(torch.cat(down.unbind(0), dim=-1)))
        gamma = torch.stack(list(self.gamma.values()))[:, None, None, None]
        beta = torch.stack(list(self.beta.values()))[:, None, None, None]
        return tokens + torch.addcmul(beta, 1 + gamma, u)


class Adapter(nn.Module):
    """Bottleneck adapters of one block, one per modality: `scale · Up(Dropout(ReLU(Down(y))))`.

    Up starts at zero, so an untrained model equals the frozen backbone.

    Args:
        modalities: names, in stream order.
        channels: channels C of the block.
        reduction: C divided by it is the bottleneck's width.
        dropout: rate of the dropout in between.
        scale: factor on the result.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        channels: int,
        reduction: float = 16,
        dropout: float = 0.1,
        scale: float = 0.5,
    ) -> None:
        super().__init__()
        rank = max(1, int(channels / reduction))
        self.down = per_modality_down(modalities, channels, rank)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleDict({m: zero_linear(rank, channels) for m in modalities})
        self.scale = scale

    def forward(self, tokens: Tensor, add: Tensor) -> Tensor:
        """Each stream through its modality's adapter.

        Args:
            tokens: (M·B, H, W, C), the samples of the first modality first.
            add: what the result is added to, same shape.

        Returns:
            the sum, same shape.
        """
        x = tokens.unflatten(0, (len(self.down), -1))
        up = apply_per_modality(self.up, self.dropout(apply_per_modality(self.down, x).relu()))
        return torch.add(add, up.flatten(0, 1), alpha=self.scale)


class MAPA(Peft):
    """Prompts before the stages and adapters beside their blocks. The values by default are the paper's.

    Args:
        modalities, backbone: see `Peft`.
        prompts, adapters: False leaves them out.
        stages: numbers of the stages that have them, from 0; None: all.
        prompt_ratio: width of a prompt's bottleneck over the channels.
        reduction: channels over the width of an adapter's bottleneck.
        dropout: in the adapters.
        scale: factor on what the adapters add.

    Raises:
        ValueError: a stage that the backbone does not have, or a width that is none.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        backbone: Adaptable,
        *,
        prompts: bool = True,
        adapters: bool = True,
        stages: Sequence[int] | None = None,
        prompt_ratio: float = 0.125,
        reduction: float = 16,
        dropout: float = 0.1,
        scale: float = 0.5,
    ) -> None:
        super().__init__(modalities, backbone)
        above_zero("MAPA", prompt_ratio=prompt_ratio, reduction=reduction)
        count = len(backbone.prompt_channels)
        self.stages = frozenset(range(count) if stages is None else stages)
        if unknown := self.stages - set(range(count)):
            raise ValueError(f"stages of MAPA must be from 0 to {count - 1}, got {min(unknown)}")
        # A stage without any keeps its place, so that names go on counting stages.
        if prompts:
            self.prompts = nn.ModuleList(
                Prompt(modalities, c, prompt_ratio) if i in self.stages else nn.Identity()
                for i, c in enumerate(backbone.prompt_channels)
            )
        if adapters:
            self.adapters = nn.ModuleList(
                nn.ModuleList(
                    Adapter(modalities, c, reduction, dropout, scale) for c in (channels if i in self.stages else ())
                )
                for i, channels in enumerate(backbone.adapter_channels)
            )
        self.has_prompts, self.has_adapters = prompts, adapters

    def prompt(self, stage: int, streams: Tensor) -> Tensor:
        return cast(Tensor, self.prompts[stage](streams)) if self.has_prompts else streams

    def adapters_of(self, stage: int) -> Sequence[Adapt] | None:
        if not self.has_adapters or stage not in self.stages:
            return None
        adapters: Any = self.adapters[stage]
        return list(adapters)
