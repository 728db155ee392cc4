"""Backbones of every family, as small as timm makes them, with weights of a size that shows every mistake."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ktb.models.backbones.base import Backbone
from ktb.models.backbones.pyramid import Pyramid
from ktb.models.backbones.vit import ViT

STAGES: dict[str, Any] = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}
TINY: dict[str, Any] = {"depth": 4, "embed_dim": 32, "num_heads": 2}

PYRAMIDS: dict[str, dict[str, Any]] = {
    "convnext_atto": STAGES,
    "convnextv2_atto": STAGES,
    "convnext_tiny.dinov3_lvd1689m": STAGES,
    "swinv2_tiny_window8_256": {"embed_dim": 16, "depths": [2, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4},
    "swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": [2, 1, 2, 1], "num_heads": [1, 2, 2, 4]},
    "tf_efficientnet_lite0": {},
    "mobilenetv3_small_050": {},
    "resnet18": {"layers": [1, 2, 1, 1], "channels": [8, 16, 24, 32]},
    "resnetv2_50": {"layers": [1, 2, 1, 1], "channels": [32, 32, 64, 64]},
    "regnetx_002": {},
    "pvt_v2_b0": {"depths": [1, 2, 1, 1], "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 2, 4]},
    "mambaout_femto": STAGES,
    "sam2_hiera_tiny": {"embed_dim": 16},
    "davit_tiny": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 2, 4]},
    "inception_next_atto": {"depths": [1, 1, 2, 1], "dims": [16, 32, 64, 64]},
    "edgenext_xx_small": {},
    "efficientvit_b0": {},
    "densenet121": {"block_config": [1, 2, 1, 1], "growth_rate": 8},
    "fasternet_t0": {"depths": [1, 2, 1, 1], "embed_dim": 8},
}
VITS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": TINY,
    "vit_small_patch14_dinov2": TINY,
    "vit_small_patch14_reg4_dinov2": TINY,
    "vit_small_patch16_dinov3": TINY,
    "eva02_tiny_patch14_224": TINY,
    "vit_base_patch16_siglip_224": TINY,
    "vit_small_patch16_rope_mixed_224": {"depth": 6, "embed_dim": 32, "num_heads": 2},
}
ALL = {**PYRAMIDS, **VITS}
FEW = ("convnext_atto", "tf_efficientnet_lite0", "resnet18", "pvt_v2_b0", "swinv2_tiny_window8_256",
       "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3")  # fmt: skip
"""One of each kind: maps of either layout, tokens, running statistics, blocks that change the size; both kinds of
position embeddings."""
COMPILED = ("convnext_atto", "resnet18", "pvt_v2_b0", "vit_small_patch16_dinov3")
"""One of each way in which blocks are called."""


def member(name: str, drop_path: float = 0.0, **given: Any) -> Backbone:
    """A backbone in evaluation mode."""
    family = ViT if name in VITS else Pyramid
    return lively(family(name, drop_path, options=ALL[name], **given)).eval()


def lively(module: Any) -> Any:
    """Parameters and statistics that neither vanish nor hide what follows them, as some start values do."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(1 + 0.3 * noise.abs())
        elif value.dim() > 1:
            value.copy_(noise * (2 / value[0].numel()) ** 0.5)
        else:
            value.copy_(1 + 0.2 * noise if name.endswith(("weight", "gamma", "alpha")) else 0.2 * noise)
    return module


def features(backbone: Backbone, images: torch.Tensor, adapters: Any = None, **given: Any) -> list[torch.Tensor]:
    """What the stages give, (B, H, W, C) each."""
    tokens, found = backbone.embed(images), []
    for i in range(4):
        if i:
            tokens = backbone.enter(i, tokens)
        tokens = backbone.stage(i, tokens, None if adapters is None else list(adapters[i]), **given)
        found.append(tokens.map)
    return found


class Beside(nn.Module):
    """An adapter of one Linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, tokens: torch.Tensor, add: torch.Tensor) -> torch.Tensor:
        return add + 0.1 * self.linear(tokens)


def beside(backbone: Backbone) -> nn.ModuleList:
    """An adapter for each block of a backbone."""
    torch.manual_seed(1)
    return nn.ModuleList(nn.ModuleList(Beside(c) for c in channels) for channels in backbone.adapter_channels)
