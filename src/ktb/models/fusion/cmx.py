"""CMX: the streams correct each other, then attend to each other, and are mixed into one map
(docs/method.md#other-fusion-blocks).

After "CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation with Transformers" (IEEE T-ITS 2023), placed as its Swin
variant places it: rectification works on the maps before the output LayerNorm, and what it makes of them goes on into
the next stage; only the fusion sees normalised maps. More than two modalities come together by CMNeXt's hub first.
Written from the formulas; numbers of the published implementation are in tests/data/reference/fusion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ktb.models.fusion.base import Fused, Fusion, of_stage
from ktb.models.fusion.cmnext_hub import Hub, PoolingMixer, carried, depthwise
from ktb.models.layers.init import conv, trunc_linear
from ktb.models.layers.norm import BatchNorm
from ktb.models.setting_types import above_zero

HEAD_CHANNELS = 32
"""Channels per attention head where the number of heads is not given, as in every Swin stage."""


class Rectification(nn.Module):
    """The paper's feature rectification module (FRM): each stream gets a weighted share of the other one.

    `a' = a + (λ_c · w_b + λ_s · s_b) · b` and `b' = b + (λ_c · w_a + λ_s · s_a) · a`, with a weight w per channel, from
    both maps' means and maxima, and a weight s per position, from both maps there.

    Args:
        channels: C.
        reduction: by which the hidden layers are narrower than their inputs.
        lambda_channel, lambda_spatial: λ_c and λ_s.
    """

    def __init__(
        self, channels: int, reduction: int = 1, lambda_channel: float = 0.5, lambda_spatial: float = 0.5
    ) -> None:
        super().__init__()
        wide, narrow = max(1, 4 * channels // reduction), max(1, channels // reduction)
        self.channel = nn.Sequential(
            trunc_linear(4 * channels, wide), nn.ReLU(), trunc_linear(wide, 2 * channels), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(nn.Linear(2 * channels, narrow), nn.ReLU(), nn.Linear(narrow, 2), nn.Sigmoid())
        self.lambda_channel, self.lambda_spatial = lambda_channel, lambda_spatial

    def weights(self, a: Tensor, b: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Of two maps (B, H, W, C): weights of a's and of b's channels, (B, 1, 1, C) each, and of their positions,
        (B, H, W, 1) each."""
        both = torch.cat([a, b], dim=-1)
        of_channels = self.channel(torch.cat([both.mean((1, 2)), both.amax((1, 2))], dim=-1))[:, None, None]
        channel_a, channel_b = of_channels.chunk(2, dim=-1)
        spatial_a, spatial_b = self.spatial(both).chunk(2, dim=-1)
        return (channel_a, channel_b), (spatial_a, spatial_b)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Two maps (B, H, W, C) → the same two, rectified."""
        of_channels, of_positions = self.weights(a, b)
        gain_a, gain_b = (
            self.lambda_channel * w + self.lambda_spatial * s for w, s in zip(of_channels, of_positions, strict=True)
        )
        return torch.addcmul(a, gain_b, b), torch.addcmul(b, gain_a, a)


class CrossFusion(nn.Module):
    """The paper's feature fusion module (FFM): cross-attention between two streams, then one map out of both.

    Each stream's queries meet a d×d summary of the other one's keys and values per head, so that the cost grows with
    the number of positions and not with its square.

    Args:
        channels: C.
        heads: attention heads.
        reduction: by which the attention is narrower than C; the width is rounded up to a multiple of the heads.
    """

    def __init__(self, channels: int, heads: int, reduction: int = 1) -> None:
        super().__init__()
        inner = math.ceil(max(1, channels // reduction) / heads) * heads
        self.heads = heads
        self.split = nn.ModuleList(trunc_linear(channels, 2 * inner) for _ in range(2))
        self.key_value = nn.ModuleList(nn.Linear(inner, 2 * inner, bias=False) for _ in range(2))
        self.join = nn.ModuleList(trunc_linear(2 * inner, channels) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        for layer in cast(Iterable[nn.Linear], self.key_value):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        self.shortcut = conv(2 * channels, channels, bias=False)
        self.embed = nn.Sequential(
            conv(2 * channels, inner),
            depthwise(inner, 3),
            nn.ReLU(),
            conv(inner, channels),
            BatchNorm(channels),
        )
        self.fused_norm = BatchNorm(channels)

    def exchange(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Two maps (B, H, W, C) → the same two after cross-attention, normalised."""
        kept, asked = zip(
            *(split(x).relu().chunk(2, dim=-1) for split, x in zip(self.split, streams, strict=True)), strict=True
        )
        summaries = [self._summary(layer(u)) for layer, u in zip(self.key_value, asked, strict=True)]
        out = []
        for i, (x, y, u) in enumerate(zip(streams, kept, asked, strict=True)):
            queries = u.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B, heads, positions, d
            attended = (queries @ summaries[1 - i].to(queries.dtype)).transpose(1, 2).reshape(u.shape)
            out.append(self.norm[i](x + self.join[i](torch.cat([y, attended], dim=-1))))
        return out

    def _summary(self, key_value: Tensor) -> Tensor:
        """Keys and values (B, H, W, 2D) → softmax of keysᵀ · values / √d over the keys' channels, (B, heads, d, d).

        At least float32, also under autocast: the sum over all positions is not divided by their number, so scores
        reach the hundreds, and bfloat16 would round them by whole units.
        """
        # The device of tensors without values, on which operations are counted, knows no autocast.
        exact = nullcontext() if key_value.is_meta else torch.autocast(key_value.device.type, enabled=False)
        with exact:
            wide = key_value.to(torch.promote_types(key_value.dtype, torch.float32))
            key, value = (
                x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in wide.chunk(2, dim=-1)
            )
            return (key.mT @ value / math.sqrt(key.shape[-1])).softmax(dim=-2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two normalised maps (B, H, W, C) → the fused map (B, H, W, C)."""
        both = torch.cat(self.exchange((a, b)), dim=-1).movedim(-1, 1)
        return self.fused_norm(self.shortcut(both) + self.embed(both)).movedim(1, -1)


class CMX(Fusion):
    """CMX's rectification and fusion of one stage, for any number of modalities.

    Two modalities are rectified and fused as in the paper. With more, one is the main stream ("rgb", or else the first)
    and the others are scored and merged by CMNeXt's `Hub`; each goes on with the merged map's rectified values added.
    With one there is nothing to fuse, and its map is the result.

    Args:
        modalities, channels, stage, stride: see `Fusion`.
        reduction: of both modules' hidden widths.
        lambda_channel, lambda_spatial: how much of the other stream is added, by channels and by positions; 0 and 0
            leave the streams as they are.
        heads: attention heads of the fusion, one number or one per stage; None: one for every `HEAD_CHANNELS` channels.
        mixers: `PoolingMixer` blocks on the merged map of more than two modalities, one number or one per stage.
        scrambled: as published, see `carried`.
        pass_on: False keeps the rectified streams to the fusion, and the next stage goes on from the streams as they
            were: a frozen backbone has not learned to read streams that are mixed.
    """

    normalised: ClassVar[bool] = False

    def __init__(
        self,
        modalities: Sequence[str],
        channels: int,
        stage: int,
        stride: float,
        *,
        reduction: int = 1,
        lambda_channel: float = 0.5,
        lambda_spatial: float = 0.5,
        heads: int | Sequence[int] | None = None,
        mixers: int | Sequence[int] = 0,
        scrambled: bool = False,
        pass_on: bool = True,
    ) -> None:
        super().__init__(modalities, channels, stage, stride)
        above_zero("CMX", reduction=reduction, heads=1 if heads is None else heads)
        self.main = self.modalities.index("rgb") if "rgb" in self.modalities else 0
        self.scrambled, self.pass_on = scrambled, pass_on
        if len(modalities) == 1:
            return
        own_heads = of_stage(heads, stage, "heads") or max(1, round(channels / HEAD_CHANNELS))
        self.rectify = Rectification(channels, reduction, lambda_channel, lambda_spatial)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.fuse = CrossFusion(channels, own_heads, reduction)
        if len(modalities) > 2:
            self.hub = Hub(len(modalities) - 1, channels)
            self.mixers = nn.Sequential(*(PoolingMixer(channels) for _ in range(of_stage(mixers, stage, "mixers"))))
            self.mixer_norm = nn.LayerNorm(channels, eps=1e-6) if len(self.mixers) else nn.Identity()

    def forward(self, streams: Tensor) -> Tensor | Fused:
        """Streams (M, B, H, W, C), not normalised → fused map and rectified streams."""
        if len(self.modalities) == 1:
            return streams[0]
        main, other, scored = self._pair(streams)
        main, other = self.rectify(main, other)
        fused = self.fuse(self.norms[0](main), self.norms[1](other))
        if not self.pass_on:
            return fused
        others = [other] if scored is None else list(carried(scored, other, scrambled=self.scrambled).unbind(0))
        return Fused(fused, torch.stack([*others[: self.main], main, *others[self.main :]]))

    def _pair(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The main stream, the other or merged one, (B, H, W, C), and the scored maps of the hub, if there is one."""
        maps = list(streams.unbind(0))
        main = maps.pop(self.main)
        if len(maps) == 1:
            return main, maps[0], None
        scored, joint = self.hub(torch.stack(maps))
        return main, self.mixer_norm(self.mixers(joint.movedim(-1, 1)).movedim(1, -1)), scored

    def pictures(self, streams: Tensor) -> dict[str, Tensor]:
        """Per position: how much of the main stream and of the other one is given to its counterpart, and the hub's
        score of each modality."""
        if len(self.modalities) == 1:
            return {}
        main, other, scored = self._pair(streams)
        _, (of_main, of_other) = self.rectify.weights(main, other)
        names = [m for i, m in enumerate(self.modalities) if i != self.main]
        found = {f"given by {self.modalities[self.main]}": of_main[..., 0]}
        found[f"given by {' and '.join(names)}"] = of_other[..., 0]
        if scored is not None:
            maps = torch.stack([x for i, x in enumerate(streams.unbind(0)) if i != self.main])
            found.update({f"score of {m}": s for m, s in zip(names, self.hub.scores(maps).unbind(0), strict=True)})
        return found


PUBLISHED: Mapping[str, str] = {
    "channel_weights.mlp.": "channel.",
    "spatial_weights.mlp.": "spatial.",
    **{f"cross.channel_proj{i + 1}.": f"split.{i}." for i in range(2)},
    **{f"cross.cross_attn.kv{i + 1}.": f"key_value.{i}." for i in range(2)},
    **{f"cross.end_proj{i + 1}.": f"join.{i}." for i in range(2)},
    **{f"cross.norm{i + 1}.": f"norm.{i}." for i in range(2)},
    "channel_emb.residual.": "shortcut.",
    "channel_emb.channel_embed.": "embed.",
    "channel_emb.norm.": "fused_norm.",
    "score_nets.": "score.",
    "attn.conv0.": "local.",
    "attn.conv4.": "gate.",
    "mlp.fc1.": "expand.",
    "mlp.dwconv.dwconv.": "hidden.",
    "mlp.fc2.": "contract.",
    "layer_scale_": "scale",
    "c_nets.0.": "channel_weight.",
}
"""Beginnings of published names and of ours, for `Rectification`, `CrossFusion`, `Hub` and `PoolingMixer`."""


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict of one module (FRM, FFM, hub or PPX block, without its prefix) in our names."""
    renamed = {}
    for name, tensor in state.items():
        begin = next((theirs for theirs in PUBLISHED if name.startswith(theirs)), "")
        ours = PUBLISHED.get(begin, "") + name.removeprefix(begin)
        # Our weights of the positions are Linears, the published ones are convolutions 1×1.
        renamed[ours] = tensor.flatten(1) if ours.startswith("spatial.") and tensor.dim() == 4 else tensor
    return renamed
