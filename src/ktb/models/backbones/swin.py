"""Frozen Swin transformer shared by every modality (docs/method.md#shifted-windows).

Parameters and their names are timm's, so its weight files load unchanged. The forward pass is ours: windows are
padded first and rolled afterwards, always at full window size, as the dense-prediction Swins do (timm's block rolls
first and shrinks the window on small maps, which changes every number wherever padding happens).

All streams go through a stage as one batch. Exact savings over the usual wiring (docs/method.md#cheaper-forms):

- A padded token is zero after LayerNorm, so its query, key and value are the bias. Nothing is computed for padding; in
  its window one key stands for all of it, with the logarithm of the padded tokens' summed weights as its bias.
- Which windows there are, and biases with shift masks, are kept per size.
- What is frozen needs no saved input, and GELU and sums are part of the products on a CPU (`ktb.models.layers.linear`).
- Stochastic depth does not compute what it drops (on a CPU).
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ktb.models.layers.linear import inference_on_cpu, linear, linear_gelu

PATCH = 4
"""Side of a patch in pixels."""

LEAN_STAGES = 2
"""Stages, the first ones, in which training makes queries, keys, values and the MLP's hidden layer again instead of
keeping them: their maps are large and their products small, so that a thirtieth of a step's time saves a fifth of its
memory."""

LEAN_VALUES = 5 << 18
"""Values of a stage's tokens, of all streams and samples, from which on that is done, and patch merging made again too:
5 MiB in float32. Of smaller maps there is little memory to save, and calling anything twice takes longer than its
products."""

CPU_SCORES = 1 << 18
"""Attention scores held at a time on a CPU without gradients: what its caches hold."""

_again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
"""Calls what draws nothing, and calls it again in the backward pass instead of keeping what it made."""

_aten = torch.ops.aten
_KEEP_ATTENDED = partial(
    create_selective_checkpoint_contexts,
    [
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
    ],
)
"""Where a function is called again: all but the attention itself, whose result is kept."""

Adapt = Callable[[Tensor, Tensor], Tensor]
"""Adds to its second argument what it makes of the first, tokens (S, H, W, C) (docs/method.md#mapa)."""

_T = TypeVar("_T")  # of a constant


@dataclass(frozen=True)
class SwinArch:
    """The numbers that define a Swin backbone."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.3

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or len(self.num_heads) != 4:
            raise ValueError(f"a Swin backbone has four stages, got depths {self.depths}, heads {self.num_heads}")
        if self.embed_dim % 16:
            raise ValueError(f"embed_dim must be a multiple of 16 (DSCF splits C/8 into heads), got {self.embed_dim}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels after each stage."""
        return tuple(self.embed_dim * 2**i for i in range(4))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SwinArch:
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, Sequence) else v for k, v in values.items()}
        return cls(**options)


class FrozenSwin(nn.Module):
    """Swin stages whose parameters never change.

    State-dict names are timm's (`patch_embed.proj.weight`, `layers.0.blocks.0.attn.qkv.weight`, ...) without the
    classifier and the final norm.
    """

    def __init__(self, arch: SwinArch) -> None:
        super().__init__()
        swin = SwinTransformer(
            img_size=256,
            patch_size=PATCH,
            num_classes=0,
            embed_dim=arch.embed_dim,
            depths=arch.depths,
            num_heads=arch.num_heads,
            window_size=arch.window_size,
            mlp_ratio=arch.mlp_ratio,
            drop_path_rate=arch.drop_path,
            always_partition=True,
            strict_img_size=False,
        )
        self.arch = arch
        self.patch_embed = cast(PatchEmbed, swin.patch_embed)
        self.layers: nn.Sequential = swin.layers
        self.requires_grad_(False)
        # Biases per block, and windows and shift masks per size: constants while the weights are frozen, so they are
        # not part of the state.
        self._constants: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constants": OrderedDict()}

    def stage(self, i: int, x: Tensor, adapters: Sequence[Adapt], *, recompute: bool = False) -> Tensor:
        """Blocks of stage `i`.

        Args:
            x: tokens (S, H, W, C) of all streams, S = modalities · batch, un-normalised.
            adapters: one per block.
            recompute: keep only each block's input and run the block again in the backward pass.

        Returns:
            tokens (S, H, W, C), un-normalised.
        """
        blocks = cast(Sequence[SwinTransformerBlock], self.layers[i].blocks)
        lean = i < LEAN_STAGES and _is_large(x) and not recompute
        for block, adapter in zip(blocks, adapters, strict=True):
            if recompute and torch.is_grad_enabled():
                x = checkpoint(self._block, block, x, adapter, lean, use_reentrant=False)
            else:
                x = self._block(block, x, adapter, lean)
        return x

    def merge(self, i: int, x: Tensor) -> Tensor:
        """Patch merging into stage `i` > 0: (S, H, W, C) → (S, ⌈H/2⌉, ⌈W/2⌉, 2C). timm keeps it in stage i."""
        merging = self.layers[i].downsample
        assert isinstance(merging, PatchMerging)
        if _is_large(x):
            # The gradient needs the gathered patches, another copy of what the stage before has kept.
            merged: Tensor = _again(_merge, merging, x)
            return merged
        return _merge(merging, x)

    def _block(self, block: SwinTransformerBlock, x: Tensor, adapter: Adapt, lean: bool) -> Tensor:
        attention, mlp = partial(self._attention, block), partial(self._mlp, block)
        if lean:
            attention = partial(_again, attention, context_fn=_KEEP_ATTENDED)
            mlp = partial(_again, mlp)
        if not self.training:
            y = attention(x, x)
            return mlp(y, adapter(y, y))
        y = _add_branch(x, attention, block.drop_path1)
        return adapter(y, _add_branch(y, mlp, block.drop_path2))

    def _attention(self, block: SwinTransformerBlock, x: Tensor, add: Tensor | None = None) -> Tensor:
        proj = block.attn.proj
        return linear(self._attend(block, block.norm1(x)), proj.weight, proj.bias, add)

    @staticmethod
    def _mlp(block: SwinTransformerBlock, y: Tensor, add: Tensor | None = None) -> Tensor:
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        return linear(linear_gelu(block.norm2(y), fc1.weight, fc1.bias), fc2.weight, fc2.bias, add)

    def _attend(self, block: SwinTransformerBlock, x: Tensor) -> Tensor:
        """Pad-then-roll (shifted) window attention of normalised tokens (S, H, W, C), before the output projection."""
        attn = block.attn
        s, h, w, c = x.shape
        plan = self._plan(s, h, w, block.shift_size[0], x.device)
        qkv = linear(_Rows.apply(x.view(-1, c), plan.keys, plan.key_of, plan.padding), attn.qkv.weight, attn.qkv.bias)
        kinds = []
        for kind, windows in zip(plan.kinds, qkv.split([k.count * k.keys for k in plan.kinds]), strict=True):
            q, k, v = windows.view(kind.count, kind.keys, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
            kinds.append((q[:, :, : kind.queries], k, v, self._mask(block, kind, qkv.dtype)))
        if inference_on_cpu(x) and qkv.dtype.itemsize >= 4:
            attended = qkv.new_empty(s * h * w, c)
            for one, out in zip(kinds, attended.split([k.count * k.queries for k in plan.kinds]), strict=True):
                _attend_windows(*one, attn.scale, out=out)
        else:
            parts = [F.scaled_dot_product_attention(q, k, v, mask, scale=attn.scale) for q, k, v, mask in kinds]
            attended = torch.cat([part.transpose(1, 2).reshape(-1, c) for part in parts])
        return _Rows.apply(attended, plan.query_of, plan.queries).view(s, h, w, c)

    def _plan(self, s: int, h: int, w: int, shift: int, device: torch.device) -> _Plan:
        ws = self.arch.window_size
        if torch.compiler.is_compiling():
            return _compiled_plan(s, h, w, ws, shift, device)
        return self._constant((s, h, w, shift, device), lambda: _plan(s, h, w, ws, shift, device))

    def _bias(self, block: SwinTransformerBlock, dtype: torch.dtype) -> Tensor:
        """Relative-position bias of a block, (1, heads, N, N)."""
        table = block.attn.relative_position_bias_table
        key = (id(block), table._version, table.device, dtype)
        return self._constant(key, lambda: block.attn._get_rel_pos_bias().detach().to(dtype))

    def _mask(self, block: SwinTransformerBlock, kind: _Kind, dtype: torch.dtype) -> Tensor:
        """Added to the scores of a kind of windows, (1, heads, queries, keys)."""
        bias = self._bias(block, dtype)
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

        if bias.requires_grad:  # of a backbone in training, so no constant
            return build()
        version = block.attn.relative_position_bias_table._version
        return self._constant((id(block), version, bias.device, dtype, kind.name), build)

    def _constant(self, key: tuple[Any, ...], build: Callable[[], _T]) -> _T:
        if torch.compiler.is_compiling():
            return build()
        if key not in self._constants:
            with torch.inference_mode(False):
                self._constants[key] = build()
            # Every block's bias and the windows of some sizes; evaluation on many sizes must not grow without bound.
            while len(self._constants) > 12 * sum(self.arch.depths) + 64:
                self._constants.popitem(last=False)
        self._constants.move_to_end(key)
        return self._constants[key]


def _is_large(x: Tensor) -> bool:
    """Whether what can be made again of these tokens is not kept for the backward pass."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and x.numel() >= LEAN_VALUES


def _apart(bias: Tensor) -> float:
    """Added to scores of tokens that do not see each other, before the softmax (docs/method.md#shifted-windows: -100).

    In float32 e⁻¹⁰⁰ is a denormal number, and a CPU takes up to ten times as long for a product with one. There it is
    a number whose weight is exactly zero; what -100 gives is as good as zero unless scores differ by more than 80.
    """
    return -1000.0 if bias.device.type == "cpu" and bias.dtype == torch.float32 else -100.0


def _merge(merging: PatchMerging, x: Tensor) -> Tensor:
    s, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2)).reshape(s, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    # A patch's four tokens in columns: upper left, lower left, upper right, lower right.
    return linear(merging.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)), merging.reduction.weight, None)


def _add_branch(x: Tensor, branch: Callable[[Tensor], Tensor], drop_path: Callable[[Tensor], Tensor]) -> Tensor:
    """`x + drop_path(branch(x))` (S, H, W, C); on a CPU a dropped sample's branch is not computed at all."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":  # elsewhere the host would wait for the draw
        return x + drop_path(branch(x))
    factor = drop_path(x.new_ones(len(x), 1, 1, 1))  # per sample: 0 or 1 / (1 - p)
    kept = factor.flatten().nonzero()[:, 0]
    if len(kept) == len(x):
        return torch.addcmul(x, branch(x), factor)
    if len(kept) == 0:
        return x
    return x.index_add(0, kept, branch(x[kept]) * factor[kept])


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


class _Rows(torch.autograd.Function):
    """`x[index]` for rows, with zero in the rows `holes`, where `x[index][inverse]` gives x back: so the gradient is a
    copy as well, not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, holes: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(inverse)
        out = x.index_select(0, index)
        return out if holes is None else out.index_fill_(0, holes, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None, None
