"""Frozen Swin transformer shared by every modality (docs/method.md#shifted-windows).

Parameters and their names are timm's, so its weight files load unchanged. The forward pass is ours: windows are
padded first and rolled afterwards, always at full window size, as the dense-prediction Swins do (timm's block rolls
first and shrinks the window on small maps, which changes every number wherever padding happens).

All streams go through a stage as one batch. Exact savings over the usual wiring (docs/method.md#cheaper-forms):

- Nothing is computed for padding, and masks are kept per size (`ktb.models.layers.window_fast`).
- What is frozen needs no saved input, and GELU and sums are part of the products on a CPU (`ktb.models.layers.linear`),
  as long as nobody has put something around a layer (`ktb.models.layers.backbone_linear`).
- Stochastic depth does not compute what it drops (on a CPU).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, WindowAttention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ktb.models.backbones.base import Adapt, Backbone, Tokens
from ktb.models.backbones.entry import exact_on_cpu
from ktb.models.layers.backbone_linear import through, through_gelu
from ktb.models.layers.plain_or_fast import is_plain
from ktb.models.layers.window_fast import Constants, relative_bias, window_attention

PATCH = 4
"""Side of a patch in pixels."""

LEAN_STAGES = 2
"""In this many stages, the first ones, training computes queries, keys, values and the MLP's hidden layer once more in
the backward pass instead of keeping them. Their maps are large and their matrix products small: a thirtieth of a step's
time saves a fifth of its memory."""

LEAN_VALUES = 5 << 18
"""The same only where a stage's tokens, of all streams and samples, have at least this many values (5 MiB in float32);
patch merging is then computed once more too. On smaller maps it would save little memory and cost more time."""

_again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
"""Calls a function now and once more in the backward pass, instead of keeping its activations. The function must draw
no random numbers: the second call would draw others."""

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
"""For `_again`: the attention's own result is kept, everything else is computed once more."""


@dataclass(frozen=True)
class SwinArch:
    """The numbers that define a Swin backbone (docs/method.md#data-flow).

    Attributes:
        embed_dim: channels of stage 0; each stage after it has twice as many as the one before.
        depths, num_heads: blocks and attention heads of the four stages.
        window_size: side of an attention window in tokens.
        mlp_ratio: width of an MLP's hidden layer, in channels of its stage.
        drop_path: largest rate of stochastic depth, that of the last block.

    Raises:
        ValueError: numbers that can be none of a Swin.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.3

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            kinds = (int, float) if key in ("mlp_ratio", "drop_path") else (int,)
            least = 1 if key in ("embed_dim", "depths", "num_heads", "window_size") else 0
            if any(isinstance(n, bool) or not isinstance(n, kinds) or n < least for n in numbers):
                raise ValueError(f"{key} of a Swin must be a number of {least} or more, got {value!r}")
        if len(self.depths) != 4 or len(self.num_heads) != 4:
            raise ValueError(f"a Swin backbone has four stages, got depths {self.depths}, heads {self.num_heads}")
        if any(self.embed_dim * 2**i % heads for i, heads in enumerate(self.num_heads)):
            raise ValueError(f"num_heads {self.num_heads} must divide the channels {self.channels} of their stages")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels after each stage."""
        return tuple(self.embed_dim * 2**i for i in range(4))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SwinArch:
        """Out of the plain values of `to_dict`, lists instead of tuples allowed."""
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
        return cls(**options)


class FrozenSwin(Backbone):
    """Swin stages whose parameters never change.

    State-dict names are timm's (`patch_embed.proj.weight`, `layers.0.blocks.0.attn.qkv.weight`, ...) without the
    classifier and the final norm.

    Args:
        arch: the architecture; weights are random until they are loaded.
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
        self.arch, self.config = arch, arch.to_dict()
        self.channels = self.prompt_channels = arch.channels
        self.strides = (4, 8, 16, 32)
        self.adapter_channels = tuple((c,) * depth for c, depth in zip(arch.channels, arch.depths, strict=True))
        self.patch_embed = cast(PatchEmbed, swin.patch_embed)
        self.layers: nn.Sequential = swin.layers
        self.requires_grad_(False)
        # Every block's bias and the windows of some sizes; evaluation on many sizes must not grow without bound.
        self._constants = Constants(12 * sum(arch.depths) + 64)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls(SwinArch.from_dict(config))

    def entry_for(self, channels: int) -> PatchEmbed:
        entry = copy.deepcopy(self.patch_embed)
        if channels != 3:
            # The filters are repeated in turn and scaled, so that the response to a constant image keeps its size.
            old = entry.proj
            new = nn.Conv2d(channels, old.out_channels, PATCH, stride=PATCH)
            new.weight = nn.Parameter(old.weight.detach()[:, [c % 3 for c in range(channels)]] * (3 / channels))
            new.bias = copy.deepcopy(old.bias)
            entry.proj = new
        return entry.requires_grad_(True)

    def own_entry(self) -> Iterable[nn.Module]:
        return (self.patch_embed,)

    def embed(self, images: Tensor, entry: nn.Module | None = None) -> Tokens:
        embed = self.patch_embed if entry is None else cast(PatchEmbed, entry)
        h, w = images.shape[-2:]
        with nullcontext() if entry is None else exact_on_cpu(images):
            return Tokens(embed.norm(embed.proj(F.pad(images, (0, -w % PATCH, 0, -h % PATCH))).movedim(1, -1)))

    def blocks(self, stage: int) -> Sequence[SwinTransformerBlock]:
        return cast(Sequence[SwinTransformerBlock], self.layers[stage].blocks)

    def stage(
        self, stage: int, tokens: Tokens, adapters: Sequence[Adapt] | None = None, *, recompute: bool = False
    ) -> Tokens:
        x, blocks = tokens.map, self.blocks(stage)
        lean = stage < LEAN_STAGES and _is_large(x) and not recompute
        for block, adapter in zip(blocks, adapters or [_as_it_is] * len(blocks), strict=True):
            if recompute and torch.is_grad_enabled():
                x = checkpoint(self._block, block, x, adapter, lean, use_reentrant=False)
            else:
                x = self._block(block, x, adapter, lean)
        return Tokens(x)

    def enter(self, stage: int, tokens: Tokens) -> Tokens:
        """Patch merging, (S, H, W, C) → (S, ⌈H/2⌉, ⌈W/2⌉, 2C); timm keeps it in the stage that comes."""
        merging = self.layers[stage].downsample
        assert isinstance(merging, PatchMerging)
        # The gradient needs the gathered patches, another copy of what the stage before has kept.
        merge = partial(_again, _merge) if _is_large(tokens.map) else _merge
        return Tokens(merge(merging, tokens.map))

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
        window, shift = self.arch.window_size, block.shift_size[0]
        if is_plain():
            attended = shifted_window_attention(block.attn, block.norm1(x), window, shift)
        else:
            attended = window_attention(block.attn, block.norm1(x), window, shift, self._constants)
        return through(block.attn.proj, attended, add)

    @staticmethod
    def _mlp(block: SwinTransformerBlock, y: Tensor, add: Tensor | None = None) -> Tensor:
        return through(block.mlp.fc2, through_gelu(block.mlp.fc1, block.norm2(y)), add)


def shifted_window_attention(attn: WindowAttention, x: Tensor, window: int, shift: int) -> Tensor:
    """Attention within windows, as it is written down: pad, roll, windows (docs/method.md#shifted-windows).

    `window_attention` gives the same numbers and computes nothing for padding.

    Args:
        attn: query, key and value weights, and the table of relative-position biases.
        x: normalised tokens (S, H, W, C).
        window: side of a window in tokens.
        shift: by how many tokens the windows are shifted, 0 in every other block.

    Returns:
        (S, H, W, C), before the output projection.
    """
    s, h, w, c = x.shape
    heads, n = attn.num_heads, window * window
    nh, nw = (h + window - 1) // window, (w + window - 1) // window  # not negative: ONNX rounds such quotients up
    hp, wp = nh * window, nw * window
    qkv = attn.qkv(F.pad(x, (0, 0, 0, wp - w, 0, hp - h)))
    bias = relative_bias(attn)  # 1, heads, N, N
    if shift:
        qkv = qkv.roll((-shift, -shift), (1, 2))
        # Three regions along each axis, the last two of which come from both ends of the map.
        rows, columns = (
            (torch.arange(size, device=x.device) >= size - window).int()
            + (torch.arange(size, device=x.device) >= size - shift).int()
            for size in (hp, wp)
        )
        region = (rows[:, None] * 3 + columns).view(nh, window, nw, window).transpose(1, 2).reshape(-1, n)
        mask = torch.where(region[:, None] == region[:, :, None], 0.0, -100.0).to(bias.dtype)
        bias = (bias + mask[:, None]).repeat(s, 1, 1, 1)
    qkv = qkv.view(s, nh, window, nw, window, 3, heads, c // heads).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = qkv.reshape(3, s * nh * nw, heads, n, c // heads)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=attn.scale)
    out = out.view(s, nh, nw, heads, window, window, c // heads).permute(0, 1, 4, 2, 5, 3, 6).reshape(s, hp, wp, c)
    if shift:
        out = out.roll((shift, shift), (1, 2))
    return out[:, :h, :w].clone(memory_format=torch.contiguous_format)


def _as_it_is(_: Tensor, add: Tensor) -> Tensor:
    """The adapter of a block that has none."""
    return add


def _is_large(x: Tensor) -> bool:
    """Whether what can be made again of these tokens is not kept for the backward pass."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and x.numel() >= LEAN_VALUES


def _merge(merging: PatchMerging, x: Tensor) -> Tensor:
    s, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2)).reshape(s, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    # A patch's four tokens in columns: upper left, lower left, upper right, lower right.
    return through(merging.reduction, merging.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


def _add_branch(x: Tensor, branch: Callable[[Tensor], Tensor], drop_path: Callable[[Tensor], Tensor]) -> Tensor:
    """`x + drop_path(branch(x))` (S, H, W, C); on a CPU a dropped sample's branch is not computed at all."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":  # elsewhere the host would wait for the draw
        return x + drop_path(branch(x))
    factor = drop_path(x.new_ones(len(x), 1, 1, 1))  # per sample: 0 or 1 / (1 - p)
    kept = factor.flatten().nonzero()[:, 0]
    if len(kept) == len(x):
        return torch.addcmul(x, branch(x), factor)
    if len(kept) == 0:
        # One sample, times 0: what is trained in the branch needs a gradient in every process, or DDP would stop.
        kept = kept.new_zeros(1)
    return x.index_add(0, kept, branch(x[kept]) * factor[kept])
