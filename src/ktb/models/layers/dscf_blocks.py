"""Attention over sampling points for files that other programs run: the bias by products of matrices.

Runtimes read a table at millions of single places (`grid_sample`) far slower than they multiply matrices: on a map of
86 x 144 ONNX Runtime takes 2.8 times as long for the plain form, `ktb.models.fusion.dscf.point_attention`, which gives
the same numbers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.models.layers.dscf_positions import evenly_spaced

BLOCK = 8
"""Entries of a table's row that are read together."""

ENOUGH = 16
"""A block of the table is read for every point, so a map needs positions, one per so many entries, to be worth it."""


def blocks_pay(height: int, width: int, table: Tensor) -> bool:
    """Whether `blockwise_attention` is the faster form for a map; never where a size is known only later.

    Args:
        height, width: of the map, symbols while a file for any size is traced.
        table: (heads, height, width).
    """
    known = isinstance(height, int) and isinstance(width, int)
    return known and height * width * ENOUGH > table[0].numel() and min(table.shape[1:]) > 1


def blockwise_attention(query: Tensor, key: Tensor, value: Tensor, points: Tensor, table: Tensor) -> Tensor:
    """Attention of all positions of a map over the sampling points, for inference.

    Seen from one point the positions are a regular grid, so the table is read along y and then along x, and either is
    a product with a matrix of two shares per row. One point sees only half of the table's rows and of its columns.

    Args:
        query: (B, r, H, W); channels are consecutive in groups and in heads.
        key, value: (B, r, P) at the points.
        points: (B, groups, P, 2) as (y, x) in [-1, 1]; heads of a group share them.
        table: (heads, height, width), the bias at the distance of query and point; at least 2 x 2.

    Returns:
        (B, r, H, W).
    """
    b, r, h, w = query.shape
    heads, height, width = table.shape
    groups = points.shape[1]
    q, k, v = (x.reshape(b, heads, r // heads, -1).mT for x in (query, key, value))  # B, heads, H·W or P, d
    first_row, rows = _shares(h, points[..., 0], height, 1)  # (B, groups, P), (B, groups, P, H, rows)
    first_block, columns = _shares(w, points[..., 1], width, BLOCK)
    # The part of the table that each point sees: B, groups, heads of a group, P, rows, columns.
    per_row = math.ceil(width / BLOCK)
    blocks = F.pad(table, (0, per_row * BLOCK - width)).reshape(-1, BLOCK)
    row = (torch.arange(heads, device=table.device).view(groups, -1, 1) * height + first_row[:, :, None])[..., None]
    row = row + torch.arange(rows.shape[-1], device=table.device)
    block = torch.arange(columns.shape[-1] // BLOCK, device=table.device)
    place = (row * per_row + first_block[:, :, None, :, None])[..., None] + block
    seen = blocks[place].flatten(-2)
    bias = rows[:, :, None] @ seen @ columns.mT[:, :, None]  # B, groups, heads of a group, P, H, W
    bias = bias.reshape(b, heads, -1, h * w).mT
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).mT.reshape(b, r, h, w)


def _shares(n: int, points: Tensor, entries: int, block: int) -> tuple[Tensor, Tensor]:
    """Along one axis: where the part of the table begins that a point sees, and what its entries count.

    Args:
        n: positions from -1 to 1.
        points: (*) in [-1, 1].
        entries: of the table.
        block: entries that are read together.

    Returns:
        the first block (*), and the shares (*, n, entries of the part): of two neighbours per position, all others 0.
    """
    count = math.ceil(entries / block)
    # Distances cover half of the table, then there is the next entry, and a part begins where a block does.
    part = min(count, math.ceil((math.ceil((entries - 1) / 2) + 1 + block) / block))
    place = ((evenly_spaced(n, points) - points[..., None]) / 2 + 1) * ((entries - 1) / 2)  # 0 to entries - 1
    first = (place[..., 0] / block).long().clamp(0, count - part)
    place = place - (first * block)[..., None]
    low = place.long().clamp(0, part * block - 2)
    share = place - low
    shares = place.new_zeros(*place.shape, part * block)
    shares = shares.scatter(-1, torch.stack([low, low + 1], -1), torch.stack([1 - share, share], -1))
    return first, shares
