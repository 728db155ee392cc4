"""MAPA: modality-aware prompting and adaptation (paper section 3.2; docs/method.md#mapa).

Both work on all streams at once, stacked as (M, B, H, W, C) in the order of the model's modalities; parameters are
kept per modality name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ktb.models.layers.init import trunc_linear, zero_linear
from ktb.models.layers.per_modality import apply_per_modality, per_modality_down


class Prompt(nn.Module):
    """Prompt exchanged between the streams before a stage.

    `u = U(P([D_m(t_m)]_m))`, then `t_m ← t_m + u + (γ_m ⊙ u + β_m)` for every modality m.
    """

    def __init__(self, modalities: Sequence[str], channels: int, ratio: float = 0.125) -> None:
        super().__init__()
        rank = int(channels * ratio)
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
    """Bottleneck adapters of one Swin block, one per modality: `0.5 · Up(Dropout(ReLU(Down(y))))`.

    Up starts at zero, so an untrained model equals the frozen backbone.
    """

    def __init__(self, modalities: Sequence[str], channels: int, reduction: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.down = per_modality_down(modalities, channels, channels // reduction)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleDict({m: zero_linear(channels // reduction, channels) for m in modalities})

    def forward(self, tokens: Tensor, add: Tensor) -> Tensor:
        """Both (M·B, H, W, C), modality-major → `add` and what the adapters make of the tokens, same shape."""
        x = tokens.unflatten(0, (len(self.down), -1))
        up = apply_per_modality(self.up, self.dropout(apply_per_modality(self.down, x).relu()))
        return torch.add(add, up.flatten(0, 1), alpha=0.5)
