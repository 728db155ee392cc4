"""Attention within shifted windows of maps of any size (docs/method.md#shifted-windows), nothing computed for padding.

`ktb.models.backbones.swin.shifted_window_attention` is the plain form of the same; tests hold the two together. On a
GPU small batches take another form, where all windows are alike (`ktb.models.layers.window_padded`).

- A padded token is zero after LayerNorm, so its query, key and value are the bias. In its window one key stands for all
  padding, with the logarithm of the padded tokens' summed weights as its bias.
- Which windows there are, and biases with shift masks, are kept per size.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention
from torch import Tensor

from ktb.models.layers.backbone_linear import through
from ktb.models.layers.linear import inference_on_cpu
from ktb.models.layers.permuted_rows import take_rows
from ktb.models.layers.window_padded import padded_attention, padded_plan, region_code, worth_padding

CPU_SCORES = 1 << 18
"""Attention scores held at a time on a CPU without gradients: what its caches hold."""

NO_LAUNCHES = ("cpu", "meta")
"""Devices that start no kernels; on "meta" operations are counted, and those for padding are no part of the model."""

_T = TypeVar("_T")  # of a constant


class Constants:
    """Values that follow from frozen weights and from sizes, made once; the least recently used ones go first.

    They are no part of a model's state: a copy, also one by pickle, begins empty.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def __reduce__(self) -> tuple[type[Constants], tuple[int]]:
        return Constants, (self._limit,)

    def get(self, key: tuple[Any, ...], build: Callable[[], _T]) -> _T:
        """The value under `key`, built where there is none; a compiled graph holds its own."""
        if torch.compiler.is_compiling():
            return build()
        if key not in self._made:
            with torch.inference_mode(False):
                self._made[key] = build()
            while len(self._made) > self._limit:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        value: _T = self._made[key]
        return value


def relative_bias(attn: WindowAttention) -> Tensor:
    """Relative-position biases of all pairs of tokens of a window, (1, heads, N, N).

    timm's own method for it is private; a test says so when it goes.
    """
    return attn._get_rel_pos_bias()


def window_attention(attn: WindowAttention, x: Tensor, window: int, shift: int, constants: Constants) -> Tensor:
    """Attention within windows, the form that is fastest here.

    Args:
        attn: query, key and value weights, and the table of relative-position biases.
        x: normalised tokens (S, H, W, C).
        window: side of a window in tokens.
        shift: by how many tokens the windows are shifted, 0 in every other block.
        constants: of the backbone.

    Returns:
        (S, H, W, C), before the output projection.
    """
    s, h, w, c = x.shape
    if torch.compiler.is_compiling():
        plan = _compiled_plan(s, h, w, window, shift, x.device)
    else:
        plan = constants.get((s, h, w, shift, x.device), lambda: _plan(s, h, w, window, shift, x.device))
        if _alike_costs_less(plan, x, window, shift):
            key = (s, h, w, shift, x.device, "padded")
            padded = constants.get(key, lambda: padded_plan(s, h, w, window, shift, x.device))
            rows = take_rows(x.view(-1, c), padded.tokens, padded.place_of, holes=padded.padding)
            qkv = through(attn.qkv, rows)
            code = constants.get((*key, attn.scale, qkv.dtype), lambda: region_code(padded, attn.scale, qkv.dtype))
            attended = padded_attention(qkv, _bias(attn, qkv.dtype, constants), code, scale=attn.scale)
            return take_rows(attended, padded.place_of, padded.tokens, unused=padded.padding).view(s, h, w, c)
    qkv = through(attn.qkv, take_rows(x.view(-1, c), plan.keys, plan.key_of, holes=plan.padding))
    kinds = []
    for kind, windows in zip(plan.kinds, qkv.split([k.count * k.keys for k in plan.kinds]), strict=True):
        q, k, v = windows.view(kind.count, kind.keys, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        kinds.append((q[:, :, : kind.queries], k, v, _mask(attn, kind, qkv.dtype, constants)))
    if inference_on_cpu(x) and qkv.dtype.itemsize >= 4:
        attended = qkv.new_empty(s * h * w, c)
        for one, out in zip(kinds, attended.split([k.count * k.queries for k in plan.kinds]), strict=True):
            _attend_windows(*one, attn.scale, out=out)
    else:
        parts = [F.scaled_dot_product_attention(q, k, v, mask, scale=attn.scale) for q, k, v, mask in kinds]
        attended = torch.cat([part.transpose(1, 2).reshape(-1, c) for part in parts])
    return take_rows(attended, plan.query_of, plan.queries).view(s, h, w, c)


def _alike_costs_less(plan: _Plan, x: Tensor, window: int, shift: int) -> bool:
    """Whether one call for windows that are all padded to the same is the faster form."""
    padding = sum(kind.count for kind in plan.kinds) * window * window - len(plan.keys)
    kinds = len(plan.kinds)
    return x.device.type not in NO_LAUNCHES and worth_padding(x.shape[-1], window, shift, kinds=kinds, padding=padding)


def _bias(attn: WindowAttention, dtype: torch.dtype, constants: Constants) -> Tensor:
    """Relative-position bias of a block, (1, heads, N, N)."""
    table = attn.relative_position_bias_table
    if table.requires_grad:  # of a backbone in training, so no constant
        return relative_bias(attn).to(dtype)
    key = (id(attn), table._version, table.device, dtype)
    return constants.get(key, lambda: relative_bias(attn).to(dtype))


def _mask(attn: WindowAttention, kind: _Kind, dtype: torch.dtype, constants: Constants) -> Tensor:
    """Added to the scores of a kind of windows, (1, heads, queries, keys)."""
    bias = _bias(attn, dtype, constants)
    if kind.regions is None and kind.keys == kind.queries:
        return bias

    def build() -> Tensor:
        mask, region = bias, kind.regions
        if region is not None:
            mask = mask + torch.where(region[:, None] == region, 0.0, _apart(bias)).to(dtype)
        if kind.keys == kind.queries:
            return mask
        # All padding has one key and one value, so its shares of the softmax add up to that of a single token.
        mask = mask[:, :, kind.real]
        return torch.cat([mask[..., kind.real], mask[..., kind.padding].logsumexp(-1, keepdim=True)], dim=-1)

    if bias.requires_grad:
        return build()
    version = attn.relative_position_bias_table._version
    return constants.get((id(attn), version, bias.device, dtype, kind.name), build)


def _apart(bias: Tensor) -> float:
    """Added to scores of tokens that do not see each other, before the softmax (docs/method.md#shifted-windows: -100).

    In float32 e⁻¹⁰⁰ is a denormal number, and a CPU takes up to ten times as long for a product with one. There it is
    a number whose weight is exactly zero; what -100 gives is as good as zero unless scores differ by more than 80.
    """
    return -1000.0 if bias.device.type == "cpu" and bias.dtype == torch.float32 else -100.0


@dataclass(frozen=True)
class _Kind:
    """Windows that lie alike, so that they share one mask.

    Attributes:
        name: tells kinds apart, across sizes.
        count: how many windows there are, over all maps.
        queries, keys: of a window: its real tokens, and one key more that stands for all of its padding.
        real, padding: places of real and of padded tokens in the window; padding may be empty.
        regions: (N,) numbers; tokens of different regions do not see each other. None: one region.
    """

    name: tuple[Any, ...]
    count: int
    queries: int
    keys: int
    real: Tensor
    padding: Tensor
    regions: Tensor | None


@dataclass(frozen=True)
class _Plan:
    """Where the windows of S maps take their tokens from, all windows of a kind beside each other.

    Attributes:
        kinds: the kinds of windows present.
        keys: row of the (S·H·W) tokens at each key of the windows; any row for a key of padding.
        key_of: place of each token among the keys.
        padding: places of the keys of padding, None where there are none.
        queries: token at each query; queries are the real tokens, each of them once.
        query_of: place of each token among the queries.
    """

    kinds: tuple[_Kind, ...]
    keys: Tensor
    key_of: Tensor
    padding: Tensor | None
    queries: Tensor
    query_of: Tensor


def _plan(s: int, h: int, w: int, ws: int, shift: int, device: torch.device) -> _Plan:
    rows, columns = _alike(h, ws, shift), _alike(w, ws, shift)
    kinds, keys, queries, padding = [], [], [], []
    start = 0
    for (row_name, y), (column_name, x) in itertools.product(rows, columns):
        inside = ((y[0] < h)[:, None] & (x[0] < w)).flatten()
        real, padded = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
        tokens = (y[:, None, :, None] * w + x[:, None, :]).flatten(2)[:, :, None, real]
        tokens = (tokens + torch.arange(s)[:, None] * (h * w)).flatten(0, 2)  # windows, real tokens
        queries.append(tokens.flatten())
        if len(padded):
            tokens = F.pad(tokens, (0, 1))
            padding.append(start + torch.arange(1, len(tokens) + 1) * tokens.shape[1] - 1)
        keys.append(tokens.flatten())
        start += tokens.numel()
        # A shifted window that holds both ends of the map together is cut where they meet.
        cut = [torch.arange(ws) >= (ws - shift if at_end else ws) for _, at_end in (row_name, column_name)]
        regions = (cut[0][:, None] * 2 + cut[1].int()).flatten()
        kinds.append(
            _Kind(
                name=(row_name, column_name, shift),
                count=len(tokens),
                queries=len(real),
                keys=tokens.shape[1],
                real=real.to(device),
                padding=padded.to(device),
                regions=regions.to(device) if regions.any() else None,
            )
        )
    all_queries, all_keys = torch.cat(queries), torch.cat(keys)
    holes = torch.cat(padding) if padding else None
    key_of = torch.arange(len(all_keys))
    if holes is not None:
        key_of = key_of[torch.ones(len(all_keys), dtype=torch.bool).index_fill_(0, holes, False)]
    # Keys without those of padding are the queries, in the same order.
    query_of = all_queries.argsort()
    return _Plan(
        kinds=tuple(kinds),
        keys=all_keys.to(device),
        key_of=key_of[query_of].to(device),
        padding=None if holes is None else holes.to(device),
        queries=all_queries.to(device),
        query_of=query_of.to(device),
    )


_compiled_plan = torch.compiler.assume_constant_result(_plan)


def _alike(size: int, ws: int, shift: int) -> list[tuple[tuple[int, bool], Tensor]]:
    """The windows along one axis, those that lie alike together: a name (how many of their places are real, whether
    they hold both ends of the map) and the coordinates (windows, ws)."""
    count = -(-size // ws)
    places = ((torch.arange(count * ws) + shift) % (count * ws)).view(count, ws)
    groups: dict[tuple[int, bool], list[int]] = {}
    for i, window in enumerate(places):
        name = (int((window < size).sum()), shift > 0 and i == count - 1)
        groups.setdefault(name, []).append(i)
    return [(name, places[members]) for name, members in groups.items()]


def _attend_windows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, *, out: Tensor) -> None:
    """`scaled_dot_product_attention` of windows, on a CPU and without gradients.

    PyTorch's kernel cuts a window into blocks of 32 queries. Products of many windows or heads, whichever there are
    more of, take less time; few enough for their scores to stay in the caches.

    Args:
        q: (n, heads, queries, d), k and v (n, heads, keys, d), of n windows.
        mask: (1, heads, queries, keys), added to the scores.
        out: where the result goes, (n · queries, heads · d).
    """
    n, heads, queries, d = q.shape
    out = out.view(n, queries, heads, d).transpose(1, 2)
    batched = max(n, heads)
    together = math.ceil(batched / math.ceil(batched * mask[0, 0].numel() / CPU_SCORES))
    tensors = (out, q, k, v, mask.expand(n, -1, -1, -1))
    for one in zip(*(x.transpose(0, 1) if n > heads else x for x in tensors), strict=True):
        for o, q, k, v, bias in zip(*(x.split(together) for x in one), strict=True):
            o.copy_(torch.bmm(torch.baddbmm(bias, q, k.mT, alpha=scale).softmax(-1), v))
