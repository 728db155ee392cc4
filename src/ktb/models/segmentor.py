"""The whole model: streams → stages → fusion → heads (docs/method.md#data-flow)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn

from ktb.models.backbones.swin import PATCH, FrozenSwin, SwinArch
from ktb.models.fusion.dscf import DSCF
from ktb.models.fusion.simple import PlainSum
from ktb.models.heads.mlp import HeadInit, MLPHead
from ktb.models.peft.mapa import Adapter, Prompt


@dataclass
class SegOutput:
    """logits (B, K, H, W) of the fused head; side: the same per modality, empty unless asked for."""

    logits: Tensor
    side: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Features:
    """Normalised features of the four stages, finest first, each (B, H_i, W_i, C_i)."""

    fused: list[Tensor]
    streams: dict[str, list[Tensor]]


class KTBSegmentor(nn.Module):
    """Symmetric parameter-efficient RGB+X segmentor ("Keep the Balance", CVPR 2025), for one or more modalities.

    The modality named "rgb" enters through the backbone's own frozen patch embedding, every other one through a
    trained copy of it. Adapters, prompts, fusion and heads are trained; the backbone and the output norms are not
    and stay as they are under `.train()` (they hold no running statistics).

    Args:
        backbone: with its weights already loaded: the other modalities' patch embeddings are copied from it.
        modalities: names in stream order, or name → number of channels (3 when only names are given).
        num_classes: K.
        head_dim, side_head_dim: widths of the fused head and of the side heads.
        prompts: False leaves the MAPA prompts out (ablation).
        fusion: "dscf", or "sum" for adding the streams (ablation).
        side_heads: False leaves the side heads out (a loss that does not teach them would never train them).
        head_init: start of the heads' last layer, "published" or "small" (see `MLPHead`); no part of `config`.
        recompute: run Swin blocks again in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        backbone: FrozenSwin,
        modalities: Sequence[str] | Mapping[str, int],
        num_classes: int,
        *,
        head_dim: int = 512,
        side_head_dim: int = 256,
        prompts: bool = True,
        fusion: str = "dscf",
        side_heads: bool = True,
        head_init: HeadInit = "published",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        channels = dict(modalities) if isinstance(modalities, Mapping) else dict.fromkeys(modalities, 3)
        if not channels or len(channels) != len(modalities):
            raise ValueError(f"modalities must be one or more different names, got {list(modalities)}")
        if channels.get("rgb", 3) != 3:
            raise ValueError(f"the modality 'rgb' has 3 channels, got {channels['rgb']}")
        if fusion not in ("dscf", "sum"):
            raise ValueError(f"fusion must be 'dscf' or 'sum', got {fusion!r}")
        for name in channels:
            if not name.isidentifier() or hasattr(nn.ModuleDict, name):
                raise ValueError(f"{name!r} can't name a modality: use letters, digits and underscores")
        self.config: dict[str, Any] = {
            "arch": backbone.arch.to_dict(),
            "modalities": channels,
            "num_classes": num_classes,
            "head_dim": head_dim,
            "side_head_dim": side_head_dim,
            "prompts": prompts,
            "fusion": fusion,
            "side_heads": side_heads,
        }
        names, dims, depths = tuple(channels), backbone.arch.channels, backbone.arch.depths
        self.modalities = names
        self.num_classes = num_classes
        self.recompute = recompute
        self.about: dict[str, Any] = {}
        """Plain values that a bundle keeps: classes, data set, which base weights the backbone is."""
        self.backbone = backbone
        self.patch_embeds = nn.ModuleDict(
            {m: _patch_embed_for(backbone.patch_embed, c) for m, c in channels.items() if m != "rgb"}
        )
        self.prompts = nn.ModuleList(Prompt(names, c) for c in dims) if prompts else None
        self.adapters = nn.ModuleList(
            nn.ModuleList(Adapter(names, c) for _ in range(depth)) for c, depth in zip(dims, depths, strict=True)
        )
        self.norms = nn.ModuleDict({m: nn.ModuleList(nn.LayerNorm(c) for c in dims) for m in names})
        self.fused_norms = nn.ModuleList(nn.LayerNorm(c) for c in dims)
        self.fusion = nn.ModuleList(DSCF(names, c, i) if fusion == "dscf" else PlainSum() for i, c in enumerate(dims))
        self.head = MLPHead(dims, head_dim, num_classes, init=head_init)
        self.side_heads = nn.ModuleDict(
            {m: MLPHead(dims, side_head_dim, num_classes, init=head_init) for m in names if side_heads}
        )
        self.norms.requires_grad_(False)
        self.fused_norms.requires_grad_(False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Rebuild the model a `config` attribute describes, with fresh weights."""
        options = dict(config)
        return cls(FrozenSwin(SwinArch.from_dict(options.pop("arch"))), **options)

    def forward(
        self, inputs: Mapping[str, Tensor], *, side: bool | None = None, masked: Tensor | None = None
    ) -> SegOutput:
        """Segment a batch.

        Args:
            inputs: modality → (B, C, H, W), normalised (RGB with ImageNet statistics, others in [0, 1]); any H, W ≥ 1.
                A modality that is absent counts as masked for the whole batch; at least one must be there.
            side: also compute the side heads; default: in training mode, if the model has them.
            masked: (M, B) bool in the order of `modalities`; True removes that modality from that sample
                (docs/method.md#mmst).

        Raises:
            ValueError: unknown modality, none at all, sizes that differ, a wrong number of channels, or side heads
                asked of a model that has none.
        """
        if side is None:
            side = self.training and bool(self.side_heads)
        elif side and not self.side_heads:
            raise ValueError("this model was built with side_heads=False")
        features, size = self.features(inputs, masked=masked)
        out = SegOutput(self.head(features.fused, size))
        if side:
            out.side = {m: self.side_heads[m](features.streams[m], size) for m in self.modalities}
        return out

    def features(
        self, inputs: Mapping[str, Tensor], *, masked: Tensor | None = None
    ) -> tuple[Features, tuple[int, int]]:
        """What the heads are given.

        Args:
            inputs, masked: as in `forward`.

        Returns:
            the features of streams and fusion, normalised, and the inputs' (H, W).
        """
        tokens, size = self._embed(inputs, masked)
        features = Features(fused=[], streams={m: [] for m in self.modalities})
        for i in range(4):
            if i > 0:
                tokens = self.backbone.merge(i, tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
            if self.prompts is not None:
                tokens = self.prompts[i](tokens)
            adapters = cast(Sequence[Adapter], self.adapters[i])
            tokens = self.backbone.stage(i, tokens.flatten(0, 1), adapters, recompute=self.recompute).unflatten(
                0, tokens.shape[:2]
            )
            norms = [cast(nn.ModuleList, self.norms[m])[i] for m in self.modalities]
            normed = torch.stack([norm(t) for norm, t in zip(norms, tokens.unbind(0), strict=True)])
            for m, t in zip(self.modalities, normed.unbind(0), strict=True):
                features.streams[m].append(t)
            features.fused.append(self.fused_norms[i](self.fusion[i](normed)))
        return features, size

    def _embed(self, inputs: Mapping[str, Tensor], masked: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        """Patch tokens (M, B, ⌈H/4⌉, ⌈W/4⌉, C), zero where a modality is absent or masked."""
        unknown = set(inputs) - set(self.modalities)
        if unknown or not inputs:
            raise ValueError(f"inputs must hold some of {list(self.modalities)}, got {list(inputs)}")
        shapes = {m: tuple(x.shape) for m, x in inputs.items()}
        first = next(iter(shapes.values()))
        if any((s[0], *s[2:]) != (first[0], *first[2:]) for s in shapes.values()):
            raise ValueError(f"batch and image size of all modalities must agree, got {shapes}")
        for m, shape in shapes.items():
            if len(shape) != 4 or shape[1] != self.config["modalities"][m]:
                raise ValueError(f"{m} must be (B, {self.config['modalities'][m]}, H, W), got {shape}")
        h, w = first[2:]
        streams = []
        for m in self.modalities:
            if m in inputs:
                embed = self.backbone.patch_embed if m == "rgb" else cast(PatchEmbed, self.patch_embeds[m])
                x = F.pad(inputs[m], (0, -w % PATCH, 0, -h % PATCH))
                streams.append(embed.norm(embed.proj(x).movedim(1, -1)))
            else:
                streams.append(None)
        some = next(t for t in streams if t is not None)
        tokens = torch.stack([torch.zeros_like(some) if t is None else t for t in streams])
        if masked is not None:
            tokens = tokens.masked_fill(masked[:, :, None, None, None], 0.0)
        return tokens, (h, w)


def _patch_embed_for(rgb: PatchEmbed, channels: int) -> PatchEmbed:
    """A trainable copy of the RGB patch embedding. With other than 3 channels the filters are repeated in turn and
    scaled, so that the response to a constant image keeps its size."""
    embed = copy.deepcopy(rgb)
    if channels != 3:
        old = embed.proj
        new = nn.Conv2d(channels, old.out_channels, PATCH, stride=PATCH)
        new.weight = nn.Parameter(old.weight.detach()[:, [c % 3 for c in range(channels)]] * (3 / channels))
        new.bias = copy.deepcopy(old.bias)
        embed.proj = new
    return embed.requires_grad_(True)
