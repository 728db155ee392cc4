"""Attention within shifted windows that are all alike: one call for all windows of a map, padding included.

`ktb.models.layers.window_fast` computes nothing for padding, but a call for each kind of windows: up to nine in a
block. A GPU starts kernels one after the other, and for small batches waits for that longer than it computes. There the
windows are padded and attend in one call; `worth_padding` says when. `ktb.models.backbones.swin` has the plain form.

Tokens of a window that do not see each other (shifted windows that hold both ends of the map) need no mask: a code of
their region stands beside queries and keys, which adds 100 to the scores of tokens of one region. That all scores of a
query rise or fall alike changes nothing, so it is the same as 100 less for the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LAUNCH = 1e9
"""Floating-point operations that a large GPU gets done in the time that the host takes to start a kernel (5 µs at 200
TFLOP/s). An estimate: no GPU was at hand."""

APART = 100.0
"""By how much scores of tokens of different regions are lower (docs/method.md#shifted-windows)."""

CODE = 8
"""Channels of a region's code: one for each of the four regions; kernels want a multiple of eight in half precision."""


@dataclass(frozen=True)
class PaddedPlan:
    """Where the windows of S maps take their tokens from, window after window, sample after sample.

    Attributes:
        tokens: row of the (S·H·W) tokens at each place of the windows; any row where there is padding.
        place_of: place of each token in the windows.
        padding: places that are padding, None where there are none.
        regions: (windows, N) number of the region of each place, 0 to 3, None where every window is one region.
    """

    tokens: Tensor
    place_of: Tensor
    padding: Tensor | None
    regions: Tensor | None


def worth_padding(channels: int, window: int, shift: int, *, kinds: int, padding: int) -> bool:
    """Whether windows that are all alike cost less on a GPU than as many kinds of windows as there are.

    Args:
        channels: C.
        window: side of a window in tokens.
        shift: of the windows, in tokens.
        kinds: how many kinds of windows there are.
        padding: tokens that are computed beside those that the kinds need, of all windows together.
    """
    # Each kind is a call and a copy of its result, and then one puts all results together; here it is one call, and in
    # shifted windows one for the queries and one for the keys that get their codes.
    saved = 2 * kinds - (2 if shift else 0)
    operations = channels * (6 * channels + 4 * window * window)  # of a token: query, key, value; scores and their sum
    return padding * operations <= LAUNCH * saved


def padded_plan(s: int, h: int, w: int, window: int, shift: int, device: torch.device) -> PaddedPlan:
    """The plan for S maps of H x W tokens."""
    (y, cut_y), (x, cut_x) = (_axis(size, window, shift) for size in (h, w))
    tokens = y[:, None, :, None] * w + x[:, None, :]  # rows of windows, columns of windows, N
    real = ((y < h)[:, None, :, None] & (x < w)[:, None, :]).expand(s, -1, -1, -1, -1).flatten()
    tokens = (tokens + torch.arange(s)[:, None, None, None, None] * (h * w)).flatten()
    places = real.nonzero()[:, 0]
    holes = (~real).nonzero()[:, 0]
    place_of = torch.empty_like(places).index_put_((tokens[places],), places)
    regions = None
    if shift:
        regions = (cut_y[:, None, :, None] * 2 + cut_x[:, None, :]).flatten(0, 1).flatten(1).repeat(s, 1).to(device)
    return PaddedPlan(
        tokens=tokens.masked_fill(~real, 0).to(device),
        place_of=place_of.to(device),
        padding=holes.to(device) if len(holes) else None,
        regions=regions,
    )


def _axis(size: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Coordinates of the windows along an axis, and 1 for those from its other end, both (windows, window)."""
    count = -(-size // window)
    at = ((torch.arange(count * window) + shift) % (count * window)).view(count, window)
    cut = torch.zeros_like(at)
    cut[-1, window - shift :] = 1
    return at, cut


def region_code(plan: PaddedPlan, scale: float, dtype: torch.dtype) -> Tensor | None:
    """What stands beside queries and keys, (windows, 1, N, CODE), None where every window is one region.

    Args:
        plan: of the windows.
        scale: of the scores; with it the product of two codes of one region is `APART`, of two regions 0.
        dtype: of queries and keys.
    """
    if plan.regions is None:
        return None
    one_hot = plan.regions[:, None, :, None] == torch.arange(CODE, device=plan.regions.device)
    return one_hot.to(dtype) * math.sqrt(APART / scale)


def padded_attention(qkv: Tensor, bias: Tensor, code: Tensor | None, *, scale: float) -> Tensor:
    """Attention within windows.

    Args:
        qkv: queries, keys and values (windows · N, 3C), those of padding too.
        bias: relative-position biases (1, heads, N, N), dtype of `qkv`.
        code: of the windows' regions, as `region_code` gives it.
        scale: of the scores.

    Returns:
        (windows · N, C), before the output projection; what padding gets has no meaning.
    """
    heads, n = bias.shape[1:3]
    q, k, v = qkv.view(-1, n, 3, heads, qkv.shape[1] // (3 * heads)).permute(2, 0, 3, 1, 4)
    if code is not None:
        code = code.expand(-1, heads, -1, -1)
        q, k = torch.cat([q, code], dim=-1), torch.cat([k, code], dim=-1)
    out = F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
    return out.transpose(1, 2).reshape(len(qkv), -1)
