"""Attention of all positions of a map over sampling points, with a bias read from a table (docs/method.md#dscf).

`ktb.models.fusion.dscf.point_attention` is the plain form of the same; tests hold the two together. The bias is as
large as the attention matrix, so both exist for one chunk of queries at a time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ktb.models.layers.dscf_device import entries_at_a_time, triton_kernel
from ktb.models.layers.dscf_positions import evenly_spaced
from ktb.models.layers.linear import inference_on_cpu

CHUNK = 1 << 22
"""Attention entries (batch · heads · queries · points) that are kept for the backward pass; of more, each chunk is
computed again there."""

CPU_CHUNK = 1 << 20
"""Entries held at a time on a CPU: what its caches hold. Elsewhere a share of the device's memory."""


def sparse_attention(query: Tensor, key: Tensor, value: Tensor, points: Tensor, table: Tensor) -> Tensor:
    """Attention of all positions over the points, the form that is fastest here.

    In chunks of query rows; the backward pass computes a chunk again instead of keeping it.

    Args:
        query: (B, r, H, W); channels are consecutive in groups and in heads.
        key, value: (B, r, P) at the points.
        points: (B, groups, P, 2) as (y, x) in [-1, 1]; heads of a group share them.
        table: (heads, height, width), the bias at the distance of query and point.

    Returns:
        (B, r, H, W).
    """
    if kernel := triton_kernel(query):
        attended: Tensor = kernel.attend(query, key, value, points, table)
        return attended
    b, r, h, w = query.shape
    heads, g = len(table), points.shape[1]
    limit = min(CHUNK, CPU_CHUNK) if query.device.type == "cpu" else entries_at_a_time(query.device)
    row = heads * w * points.shape[2]
    if b > 1 and b * row > limit:
        samples = zip(query.split(1), key.split(1), value.split(1), points.split(1), strict=True)
        return torch.cat([sparse_attention(q, k, v, p, table) for q, k, v, p in samples])
    per_group = heads // g
    q = query.reshape(b, g, per_group, -1, h, w)
    q = q * (q.shape[3] ** -0.5 / math.log(2))  # 2 to the power of scores, which takes a third of exp's time
    k, v = (x.reshape(b, g, per_group, -1, x.shape[-1]) for x in (key, value))
    # The last row of the values sums the weights.
    k, v = k.mT, torch.cat([v, torch.ones_like(v[:, :, :, :1])], dim=3)
    table = (table / math.log(2)).unflatten(0, (g, per_group))
    # Rows of the table are worth preparing where more positions than the table has entries read it.
    if inference_on_cpu(q) and h * w > table[0, 0].numel() and min(table.shape[-2:]) > 1:
        tables = table.expand(b, -1, -1, -1, -1)
        return _by_columns(*(x.flatten(0, 1) for x in (q, k, v, tables, points))).reshape(b, r, h, w)
    # Groups first: then samples read their group's table together, and no sample needs a copy of it.
    q, k, v, points = (x.transpose(0, 1) for x in (q, k, v, points))
    # Distance (query - point) / 2 as (x, y): all of it but the query's y, which is added chunk by chunk.
    y, x = (evenly_spaced(size, points) / 2 for size in (h, w))
    half = points[:, :, :, None] / 2  # g, B, P, 1, (y, x)
    distance = torch.stack([x - half[..., 1], -half[..., 0].expand(-1, -1, -1, w)], dim=-1)
    y = torch.stack([torch.zeros_like(y), y], dim=-1)[:, None].expand(-1, w, -1)
    rows = max(1, min(h, limit // (b * row)))
    recompute = b * row * h > min(limit, CHUNK) and torch.is_grad_enabled()
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
        table: (groups, heads, height, width).
        distance, y: (groups, B, P, W, 2) and (rows, W, 2), their sum is where the table is read.

    Returns:
        (groups, B, heads, d, rows, W).
    """
    groups, b, heads, _, rows, w = q.shape
    grid = (distance.flatten(3)[:, :, :, None] + y.flatten(1)).view(groups, -1, rows * w, 2)
    # As `F.grid_sample`, bilinear with corners aligned, but always PyTorch's own kernel: cuDNN's, which that may choose
    # on a GPU, is not made for grids of a hundred million places.
    bias = torch.grid_sampler_2d(table, grid.to(table.dtype), 0, 0, True)  # groups, heads, B·P, L
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
        table: (N, heads, height, width).
        points: (N, P, 2) as (y, x) in [-1, 1].

    Returns:
        (N, heads, d, H, W).
    """
    n, heads, _, h, w = q.shape
    count, (ty, tx) = points.shape[1], table.shape[-2:]
    y, x = (
        ((evenly_spaced(size, points) - points[..., axis, None]) / 2 + 1) * (entries - 1) / 2
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
