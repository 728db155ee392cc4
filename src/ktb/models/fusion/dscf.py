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
from torch.utils.checkpoint import checkpoint

from ktb.models.layers.linear import inference_on_cpu
from ktb.models.layers.norm import BatchNorm
from ktb.models.peft.mapa import apply_per_modality, per_modality_down, trunc_linear

STRIDES, GROUPS, HEADS = (8, 4, 2, 1), (1, 2, 4, 8), (2, 4, 8, 16)
"""Per stage: pixels of the stage's map between sampling points, point sets, attention heads."""

TABLE = (2 * 60 - 1, 2 * 80 - 1)
"""Size (y, x) of the distance-bias table."""

CHUNK = 1 << 22
"""Attention entries (batch · heads · queries · points) held at a time."""

CPU_CHUNK = 1 << 20
"""The same on a CPU: what its caches hold."""


def conv(in_channels: int, out_channels: int, kernel: int = 1, **kwargs: int | bool) -> nn.Conv2d:
    """Convolution with the published initialisation N(0, √(2/(k²·c_out))), bias 0 (docs/method.md#dscf)."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, **kwargs)  # type: ignore[arg-type]
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (kernel * kernel * out_channels)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class DSCF(nn.Module):
    """Fusion block of one stage.

    Args:
        modalities: names, in stream order.
        channels: channels C of the stage.
        stage: 0..3, sets stride, groups, heads and the start value of the attention's share.
    """

    def __init__(self, modalities: Sequence[str], channels: int, stage: int, ratio: float = 0.125) -> None:
        super().__init__()
        r = int(channels * ratio)
        self.stride, self.groups, self.heads = STRIDES[stage], GROUPS[stage], HEADS[stage]
        if r % self.heads or r % self.groups:
            raise ValueError(f"stage {stage}: {channels} channels leave {r} for fusion, not divisible by {self.heads}")
        count, group_channels = len(modalities), r // self.groups
        self.down = per_modality_down(modalities, channels, r)
        self.fuse = nn.Sequential(conv(count * r, r, 3, padding=1), BatchNorm(r), nn.GELU())
        self.offset = nn.ModuleDict(
            {
                m: nn.Sequential(
                    conv(group_channels, group_channels, 9, stride=self.stride, padding=4, groups=group_channels),
                    ChannelNorm(group_channels),
                    nn.GELU(),
                    conv(group_channels, 2, bias=False),
                )
                for m in modalities
            }
        )
        self.weight = nn.Sequential(conv(r, r), nn.ReLU(), conv(r, count))
        self.query, self.key, self.value, self.out = conv(r, r), conv(r, r), conv(r, r), conv(r, r)
        self.table = nn.Parameter(torch.empty(self.heads, *TABLE))
        nn.init.trunc_normal_(self.table, std=0.01)
        # Early stages start almost without attention (docs/method.md#dscf).
        self.attention_gain = nn.Parameter(torch.full((r,), 1.0 if stage == 3 else 1e-3))
        self.identity_gain = nn.Parameter(torch.ones(r))
        self.up = trunc_linear(r, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Normalised stream features (M, B, H, W, C) → fused features (B, H, W, C), not yet normalised."""
        maps = apply_per_modality(self.down, features).movedim(-1, 2)  # M, B, r, H, W
        fused = self.fuse(torch.cat(maps.unbind(0), dim=1))
        query = self.query(fused)
        points = self.sampling_points(maps)
        weights, mixed = self._mix(maps, query, points)
        key, value = self.key(mixed[:, :, None])[:, :, 0], self.value(mixed[:, :, None])[:, :, 0]
        attended = self.out(self._attend(query, key, value, points))
        out = self.attention_gain[:, None, None] * attended + self.identity_gain[:, None, None] * fused
        return self.up(out.movedim(1, -1))

    def sampling_points(self, maps: Tensor) -> Tensor:
        """Points of all modalities in [-1, 1], (B, groups, M·N, 2) as (y, x); N points per modality (§3.2-3.3).

        At least float32, also under autocast: a bfloat16 coordinate is off by more than a pixel on a map of 200.
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
        """Where the block looks and which modality it trusts there, for pictures; arguments as in `forward`.

        Returns:
            Sampling points (B, groups, M·N, 2) as (y, x) in [-1, 1], those of the first modality first, and the
            modality weights (B, M, M·N) that the channels of every group use at their own points (§3.2-3.5).
        """
        maps = apply_per_modality(self.down, features).movedim(-1, 2)
        points = self.sampling_points(maps)
        weights, _ = self._mix(maps, self.query(self.fuse(torch.cat(maps.unbind(0), dim=1))), points)
        return points, weights

    def _mix(self, maps: Tensor, query: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Modality weights (B, M, P) and mixed features (B, r, P) at the P points (§3.4-3.5)."""
        m, b, r, h, w = maps.shape
        sources = torch.cat([maps, query[None]]).unflatten(2, (self.groups, -1))  # M+1, B, g, r/g, H, W
        sources = sources.permute(1, 2, 0, 3, 4, 5).reshape(b * self.groups, -1, h, w)
        grid = points.flatten(0, 1)[:, None].flip(-1)
        sampled = F.grid_sample(sources.to(grid.dtype), grid, mode="bilinear", align_corners=True).to(sources.dtype)
        sampled = sampled.view(b, self.groups, m + 1, r // self.groups, -1).transpose(1, 2).reshape(b, m + 1, r, -1)
        weights = self.weight(sampled[:, m, :, None])[:, :, 0].softmax(dim=1)
        return weights, torch.einsum("bmp,bmrp->brp", weights, sampled[:, :m])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, points: Tensor) -> Tensor:
        """Attention of all positions over the points, in chunks of query rows (§3.6): (B, r, H, W).

        The bias is as large as the attention matrix, so both exist for one chunk at a time; the backward pass
        computes a chunk again instead of keeping it.
        """
        b, r, h, w = query.shape
        limit = min(CHUNK, CPU_CHUNK) if query.device.type == "cpu" else CHUNK
        row = self.heads * w * points.shape[2]
        if b > 1 and b * row > limit:
            parts = (x.split(1) for x in (query, key, value, points))
            return torch.cat([self._attend(*one) for one in zip(*parts, strict=True)])
        g, per_group = self.groups, self.heads // self.groups
        q = query.reshape(b, g, per_group, -1, h, w)
        q = q * (q.shape[3] ** -0.5 / math.log(2))  # 2 to the power of scores, which takes a third of exp's time
        k, v = (x.reshape(b, g, per_group, -1, x.shape[-1]) for x in (key, value))
        # The last row of the values sums the weights.
        k, v = k.mT, torch.cat([v, torch.ones_like(v[:, :, :, :1])], dim=3)
        table = (self.table / math.log(2)).view(g, per_group, *TABLE)
        # Rows of the table are worth preparing where more positions than the table has entries read it.
        if inference_on_cpu(q) and h * w > TABLE[0] * TABLE[1]:
            tables = table.expand(b, -1, -1, -1, -1)
            return _by_columns(*(x.flatten(0, 1) for x in (q, k, v, tables, points))).reshape(b, r, h, w)
        # Groups first: then samples read their group's table together, and no sample needs a copy of it.
        q, k, v, points = (x.transpose(0, 1) for x in (q, k, v, points))
        # Distance (query - point) / 2 as (x, y): all of it but the query's y, which is added chunk by chunk.
        y, x = (_linspace(size, points) / 2 for size in (h, w))
        half = points[:, :, :, None] / 2  # g, B, P, 1, (y, x)
        distance = torch.stack([x - half[..., 1], -half[..., 0].expand(-1, -1, -1, w)], dim=-1)
        y = torch.stack([torch.zeros_like(y), y], dim=-1)[:, None].expand(-1, w, -1)
        rows = max(1, min(h, limit // (b * row)))
        recompute = rows < h and torch.is_grad_enabled()
        out = []
        for q_rows, y_rows in zip(q.split(rows, dim=4), y.split(rows), strict=True):
            args = (q_rows, k, v, table, distance, y_rows)
            out.append(checkpoint(_chunk, *args, use_reentrant=False) if recompute else _chunk(*args))
        return torch.cat(out, dim=4).transpose(0, 1).reshape(b, r, h, w)


def _chunk(q: Tensor, k: Tensor, v: Tensor, table: Tensor, distance: Tensor, y: Tensor) -> Tensor:
    """Attention of some query rows.

    The matrix stands transposed (points by queries): queries are then contiguous from the maps to the output.

    Args:
        q: scaled queries (groups, B, heads, d, rows, W).
        k, v: (groups, B, heads, P, d) and (groups, B, heads, d + 1, P).
        table: (groups, heads, *TABLE).
        distance, y: (groups, B, P, W, 2) and (rows, W, 2), their sum is where the table is read.

    Returns:
        (groups, B, heads, d, rows, W).
    """
    groups, b, heads, _, rows, w = q.shape
    grid = (distance.flatten(3)[:, :, :, None] + y.flatten(1)).view(groups, -1, rows * w, 2)
    bias = F.grid_sample(table, grid.to(table.dtype), mode="bilinear", align_corners=True)  # groups, heads, B·P, L
    bias = bias.unflatten(2, (b, -1)).flatten(0, 2)
    q, k, v = (x.flatten(4).transpose(1, 2).flatten(0, 2) for x in (q, k, v))
    return _weigh(bias, q, k, v).view(groups, heads, b, -1, rows, w).transpose(1, 2)


def _weigh(scores: Tensor, q: Tensor, k: Tensor, v: Tensor, *, small: bool = False) -> Tensor:
    """Attention given its bias (N, P, L), overwritten; q (N, d, L), k (N, P, d), v (N, d + 1, P) → (N, d, L).

    `small`: no score is so large that 2 to its power, or the sum of them, is out of range.
    """
    scores = scores.baddbmm_(k.to(scores.dtype), q.to(scores.dtype))
    if not small:
        scores = scores.sub_(scores.detach().amax(1, keepdim=True))
    weights = scores.exp2_()
    out = torch.bmm(v.to(weights.dtype), weights)
    return out[:, :-1] / out[:, -1:]


def _by_columns(q: Tensor, k: Tensor, v: Tensor, table: Tensor, points: Tensor) -> Tensor:
    """The same as all `_chunk`s together, for a CPU and without gradients, where reading the table at every place with
    `grid_sample` takes most of the time.

    For one point the table is read at a regular grid, so the two directions can be interpolated one after the other:
    first along y, for the table's columns that some columns of queries lie between, then along x. Either is a weighted
    sum of two contiguous rows, one of the fastest things a CPU can be asked for; in between the matrix is transposed.

    Args:
        q: scaled queries (N, heads, d, H, W), N = batch · groups.
        k, v: (N, heads, P, d) and (N, heads, d + 1, P).
        table: (N, heads, *TABLE).
        points: (N, P, 2) as (y, x) in [-1, 1].

    Returns:
        (N, heads, d, H, W).
    """
    n, heads, _, h, w = q.shape
    count, (ty, tx) = points.shape[1], TABLE
    y, x = (
        ((_linspace(size, points) - points[..., axis, None]) / 2 + 1) * (entries - 1) / 2
        for axis, (size, entries) in enumerate(((h, ty), (w, tx)))
    )  # where the table is read: (N, P, H) and (N, P, W)
    per_column = n * heads * count * h
    step = min(w, max(8, min(32, 8 * CHUNK // per_column)))  # few: the cache; many: the columns at the seams count less
    fine = max(1, CPU_CHUNK // per_column)
    wide = min(tx, math.floor((step - 1) * (tx - 1) / 2 / max(w - 1, 1)) + 3)  # the table's columns for `step` queries
    strips = table.unfold(-1, wide, 1).transpose(2, 3).reshape(-1, wide)
    upper = y.long().clamp(0, ty - 2)
    below = _shares((y - upper)[:, :, None].expand(-1, -1, heads, -1))
    head = torch.arange(n)[:, None, None] * heads + torch.arange(heads)
    place = (torch.arange(n * count).view(n, 1, count) * heads + torch.arange(heads)[:, None]) * wide  # N, heads, P
    # Of all scores, by Cauchy-Schwarz. Where even their sums are far inside the range, no maximum need be subtracted.
    largest = float(q.norm(dim=2).amax() * k.norm(dim=3).amax() + table.abs().amax())
    small = largest + math.log2(count) < math.log2(torch.finfo(table.dtype).max) / 2
    q, k, v = q.mT, k.flatten(0, 1), v.flatten(0, 1)
    out = []
    for x_part, q_part in zip(x.split(step, dim=2), q.split(step, dim=3), strict=True):
        first = x_part[..., 0].long().clamp(0, tx - wide)
        rows = (head * (tx - wide + 1) + first[..., None])[..., None] * ty + upper[:, :, None]  # N, P, heads, H
        columns = _lerp(strips, _pairs(rows), below).view(-1, h, wide).mT.reshape(-1, h)
        cells = x_part - first[..., None]
        left = cells.long().clamp(0, wide - 2)
        at = _pairs(place[..., None] + left[:, None])
        right = _shares((cells - left)[:, None].expand(-1, heads, -1, -1))
        for some in zip(at.split(fine, 3), right.split(fine, 3), q_part.split(fine, 3), strict=True):
            bias = _lerp(columns, *some[:2]).view(n * heads, count, -1)
            attended = _weigh(bias, some[2].flatten(3).flatten(0, 1), k, v, small=small)
            out.append(attended.view(n, heads, -1, some[2].shape[3], h))
    return torch.cat(out, dim=3).mT


def _lerp(matrix: Tensor, pairs: Tensor, shares: Tensor) -> Tensor:
    """Weighted sums of two rows of the matrix (R, C), pairs and shares (*, 2): (prod(*), C)."""
    pairs, shares = pairs.reshape(-1, 2), shares.reshape(-1, 2)
    return F.embedding_bag(pairs, matrix, per_sample_weights=shares, mode="sum")


def _pairs(row: Tensor) -> Tensor:
    """A row and the next one: (*) → (*, 2)."""
    return torch.stack([row, row + 1], dim=-1)


def _shares(of_next: Tensor) -> Tensor:
    """Their shares, given that of the next one: (*) → (*, 2)."""
    return torch.stack([1 - of_next, of_next], dim=-1)


def _reference(n: int, like: Tensor) -> Tensor:
    """Published reference coordinates (j + 0.5)/(n − 1)·2 − 1 (sic); 0 where the formula divides by zero."""
    if n == 1:
        return like.new_zeros(1)
    return (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / (n - 1) * 2 - 1


def _linspace(n: int, like: Tensor) -> Tensor:
    if n == 1:
        return like.new_zeros(1)
    return torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype)


class PlainSum(nn.Module):
    """Fusion by adding the streams: what DSCF is compared with in the ablation."""

    def forward(self, features: Tensor) -> Tensor:
        """(M, B, H, W, C) → (B, H, W, C)."""
        return features.sum(0)
