"""DSCF: dynamic sparse cross-modality fusion (paper section 3.3; docs/method.md#dscf), for any number of modalities.

Every modality proposes sampling points from its own features; all sources are read at the points of all modalities,
mixed per point by learned modality weights, and attended to by every position, with a bias read from a table at the
distance between query and point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.models.fusion.base import Fusion, of_stage
from ktb.models.layers.dscf_blocks import blocks_pay, blockwise_attention
from ktb.models.layers.dscf_fast import sparse_attention
from ktb.models.layers.init import conv, trunc_linear
from ktb.models.layers.norm import BatchNorm
from ktb.models.layers.per_modality import apply_per_modality, per_modality_down
from ktb.models.layers.plain_or_fast import is_plain
from ktb.models.setting_types import above_zero

STRIDES, GROUPS, HEADS = (8, 4, 2, 1), (1, 2, 4, 8), (2, 4, 8, 16)
"""Per stage: pixels of the stage's map between sampling points, point sets, attention heads."""

TABLE = (2 * 60 - 1, 2 * 80 - 1)
"""Size (y, x) of the distance-bias table."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class DSCF(Fusion):
    """Fusion block of one stage. The values by default are the paper's.

    Args:
        modalities, channels, stage: see `Fusion`; the last stage (3) starts with a full share of attention, the others
            almost without.
        stride: see `Fusion`; None: that of a Swin.
        ratio: channels r of the block, as a share of C; rounded up to a multiple of the heads.
        point_stride: positions of the map between sampling points, one number or one per stage.
        groups: sets of sampling points, likewise.
        heads: attention heads, likewise; a multiple of the groups.
        table: size (y, x) of the distance-bias table.

    Raises:
        ValueError: heads that are no multiple of the groups, a list that is too short, or a number not above 0.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        channels: int,
        stage: int,
        stride: float | None = None,
        *,
        ratio: float = 0.125,
        point_stride: int | Sequence[int] = STRIDES,
        groups: int | Sequence[int] = GROUPS,
        heads: int | Sequence[int] = HEADS,
        table: tuple[int, int] = TABLE,
    ) -> None:
        super().__init__(modalities, channels, stage, 4 << stage if stride is None else stride)
        above_zero("DSCF", ratio=ratio, point_stride=point_stride, groups=groups, heads=heads, table=table)
        self.groups, self.heads = of_stage(groups, stage, "groups"), of_stage(heads, stage, "heads")
        if self.heads % self.groups:
            raise ValueError(f"stage {stage}: {self.heads} heads can't share {self.groups} groups of points equally")
        r = math.ceil(max(1, int(channels * ratio)) / self.heads) * self.heads
        apart = of_stage(point_stride, stage, "point_stride")
        count, group_channels = len(modalities), r // self.groups
        self.down = per_modality_down(modalities, channels, r)
        self.fuse = nn.Sequential(conv(count * r, r, 3, padding=1), BatchNorm(r), nn.GELU())
        self.offset = nn.ModuleDict(
            {
                m: nn.Sequential(
                    conv(group_channels, group_channels, 9, stride=apart, padding=4, groups=group_channels),
                    ChannelNorm(group_channels),
                    nn.GELU(),
                    conv(group_channels, 2, bias=False),
                )
                for m in modalities
            }
        )
        self.weight = nn.Sequential(conv(r, r), nn.ReLU(), conv(r, count))
        self.query, self.key, self.value, self.out = conv(r, r), conv(r, r), conv(r, r), conv(r, r)
        self.table = nn.Parameter(torch.empty(self.heads, *table))
        nn.init.trunc_normal_(self.table, std=0.01)
        # Early stages start almost without attention (docs/method.md#dscf).
        self.attention_gain = nn.Parameter(torch.full((r,), 1.0 if stage == 3 else 1e-3))
        self.identity_gain = nn.Parameter(torch.ones(r))
        self.up = trunc_linear(r, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Fuse the streams of a stage; the steps are those of docs/method.md#dscf.

        Args:
            features: normalised stream features (M, B, H, W, C).

        Returns:
            fused features (B, H, W, C), not yet normalised.
        """
        # 1. Fewer channels; one fused map F of all streams, and the queries from it.
        maps = apply_per_modality(self.down, features).movedim(-1, 2)  # M, B, r, H, W
        fused = self.fuse(torch.cat(maps.unbind(0), dim=1))  # B, r, H, W
        query = self.query(fused)
        # 2, 3. Where every modality wants to look.
        points = self.sampling_points(maps)  # B, groups, P, 2
        # 4, 5. What all of them see there, and whom to trust at each point.
        _, mixed = self._mix(maps, query, points)  # B, r, P
        # 6. Every position attends to all points.
        key, value = self.key(mixed[:, :, None])[:, :, 0], self.value(mixed[:, :, None])[:, :, 0]
        attend = sparse_attention
        if is_plain():
            attend = blockwise_attention if blocks_pay(query.shape[2], query.shape[3], self.table) else point_attention
        attended = self.out(attend(query, key, value, points, self.table))
        # 7. As much of that as the stage has learned to use, beside F.
        out = self.attention_gain[:, None, None] * attended + self.identity_gain[:, None, None] * fused
        return self.up(out.movedim(1, -1))

    def sampling_points(self, maps: Tensor) -> Tensor:
        """Where every modality wants to look: a regular grid, moved by offsets from its own features.

        Args:
            maps: the streams' features (M, B, r, H, W).

        Returns:
            the points of all modalities one after the other, N each, (B, groups, M·N, 2) as (y, x) in [-1, 1]. At least
            float32, also under autocast: a bfloat16 coordinate is off by more than a pixel on a map of 200.
        """
        points = []
        for offset, m in zip(self.offset.values(), maps.unbind(0), strict=True):
            b = m.shape[0]
            off = offset(m.reshape(b * self.groups, -1, *m.shape[-2:]))  # B·g, 2, Hk, Wk
            off = off.to(torch.promote_types(off.dtype, torch.float32))
            hk, wk = off.shape[-2:]
            y, x = (_reference(n, off) for n in (hk, wk))
            reference = torch.stack(torch.meshgrid(y, x, indexing="ij"))
            points.append((reference + off).clamp(-1, 1).flatten(2).mT.unflatten(0, (b, self.groups)))
        return torch.cat(points, dim=2)

    @torch.no_grad()
    def explain(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Where the block looks and which modality it trusts there, for pictures.

        Args:
            features: as in `forward`.

        Returns:
            sampling points (B, groups, M·N, 2) as (y, x) in [-1, 1], those of the first modality first, and the
            modality weights (B, M, M·N) that the channels of every group use at their own points.
        """
        maps = apply_per_modality(self.down, features).movedim(-1, 2)
        points = self.sampling_points(maps)
        weights, _ = self._mix(maps, self.query(self.fuse(torch.cat(maps.unbind(0), dim=1))), points)
        return points, weights

    def _mix(self, maps: Tensor, query: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Modality weights (B, M, P), and the features of all modalities mixed by them (B, r, P), at the P points."""
        m, b, r, h, w = maps.shape
        sources = torch.cat([maps, query[None]]).unflatten(2, (self.groups, -1))  # M+1, B, g, r/g, H, W
        sources = sources.permute(1, 2, 0, 3, 4, 5).reshape(b * self.groups, -1, h, w)
        grid = points.flatten(0, 1)[:, None].flip(-1)
        sampled = F.grid_sample(sources.to(grid.dtype), grid, mode="bilinear", align_corners=True).to(sources.dtype)
        sampled = sampled.view(b, self.groups, m + 1, r // self.groups, -1).transpose(1, 2).reshape(b, m + 1, r, -1)
        weights = self.weight(sampled[:, m, :, None])[:, :, 0].softmax(dim=1)
        return weights, torch.einsum("bmp,bmrp->brp", weights, sampled[:, :m])


def point_attention(query: Tensor, key: Tensor, value: Tensor, points: Tensor, table: Tensor) -> Tensor:
    """Attention of all positions of a map over the sampling points, as it is written down (docs/method.md#dscf).

    `sparse_attention` gives the same numbers without holding the whole attention matrix.

    Args:
        query: (B, r, H, W); channels are consecutive in groups and in heads.
        key, value: (B, r, P) at the points.
        points: (B, groups, P, 2) as (y, x) in [-1, 1]; heads of a group share them.
        table: (heads, height, width), the bias at the distance of query and point.

    Returns:
        (B, r, H, W).
    """
    b, r, h, w = query.shape
    heads, groups, count = len(table), points.shape[1], points.shape[2]
    q, k, v = (x.reshape(b, heads, r // heads, -1).mT for x in (query, key, value))  # B, heads, H·W or P, d
    y, x = (_positions(size, points) / 2 for size in (h, w))
    positions = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)  # H, W, (x, y)
    distance = positions.view(-1, 1, 2) - points.flip(-1).flatten(0, 1)[:, None] / 2  # B·groups, H·W, P, (x, y)
    tables = table.unflatten(0, (groups, -1)).expand(b, -1, -1, -1, -1).flatten(0, 1)
    bias = F.grid_sample(tables, distance.to(tables.dtype), mode="bilinear", align_corners=True)
    bias = bias.view(b, heads, h * w, count)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).mT.reshape(b, r, h, w)


def _positions(n: int, like: Tensor) -> Tensor:
    """n coordinates from -1 to 1, 0 where there is one; of operations that a size known only later can go through."""
    if isinstance(n, int) and n == 1:
        return like.new_zeros(1)
    return torch.arange(n, device=like.device, dtype=like.dtype) * (2 / (n - 1)) - 1


def _reference(n: int, like: Tensor) -> Tensor:
    """Published reference coordinates (j + 0.5)/(n − 1)·2 − 1 (sic); 0 where the formula divides by zero."""
    if n == 1:
        return like.new_zeros(1)
    return (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / (n - 1) * 2 - 1
