"""Frozen Swin transformer shared by every modality (METHOD §1).

Parameters and their names are timm's, so its weight files load unchanged. The forward pass is ours: windows are
padded first and rolled afterwards, always at full window size, as the dense-prediction Swins do (timm's block rolls
first and shrinks the window on small maps, which changes every number wherever padding happens).

All streams go through a stage as one batch. Two exact savings over the usual wiring (METHOD §9): queries, keys,
values and the output projection are computed on real tokens only, because a padded token is zero after LayerNorm and
its query, key and value are the bias; relative-position biases and shift masks are kept per size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

PATCH = 4
"""Side of a patch in pixels."""


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
        # Biases per block and shift masks per size: constants while the weights are frozen. Not part of the state.
        self._constants: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constants": OrderedDict()}

    def stage(
        self, i: int, x: Tensor, adapters: Sequence[Callable[[Tensor], Tensor]], *, recompute: bool = False
    ) -> Tensor:
        """Blocks of stage `i`.

        Args:
            x: tokens (S, H, W, C) of all streams, S = modalities · batch, un-normalised.
            adapters: one per block, tokens → what is added to the block's output (METHOD §2).
            recompute: keep only each block's input and run the block again in the backward pass.

        Returns:
            tokens (S, H, W, C), un-normalised.
        """
        blocks = cast(Sequence[SwinTransformerBlock], self.layers[i].blocks)
        for block, adapter in zip(blocks, adapters, strict=True):
            if recompute and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(self._block, block, x, adapter, use_reentrant=False)
            else:
                x = self._block(block, x, adapter)
        return x

    def merge(self, i: int, x: Tensor) -> Tensor:
        """Patch merging into stage `i` > 0: (S, H, W, C) → (S, ⌈H/2⌉, ⌈W/2⌉, 2C). timm keeps it in stage i."""
        merging = self.layers[i].downsample
        assert isinstance(merging, PatchMerging)
        return merging(x)

    def _block(self, block: SwinTransformerBlock, x: Tensor, adapter: Callable[[Tensor], Tensor]) -> Tensor:
        y = x + block.drop_path1(self._attention(block, block.norm1(x)))
        return y + block.drop_path2(block.mlp(block.norm2(y))) + adapter(y)

    def _attention(self, block: SwinTransformerBlock, x: Tensor) -> Tensor:
        """Pad-then-roll (shifted) window attention of normalised tokens (S, H, W, C)."""
        attn, ws = block.attn, self.arch.window_size
        s, h, w, c = x.shape
        hp, wp = -(-h // ws) * ws, -(-w // ws) * ws
        heads = attn.num_heads
        shift = block.shift_size[0]

        qkv = attn.qkv(x)
        if (hp, wp) != (h, w):
            padded = attn.qkv.bias.to(qkv.dtype).expand(s, hp, wp, 3 * c).clone()
            padded[:, :h, :w] = qkv
            qkv = padded
        if shift:
            qkv = qkv.roll((-shift, -shift), (1, 2))
        nh, nw, n = hp // ws, wp // ws, ws * ws
        qkv = qkv.view(s, nh, ws, nw, ws, 3, heads, c // heads).permute(5, 0, 1, 3, 6, 2, 4, 7)
        bias = self._bias(block, qkv.dtype)
        if shift:
            # Windows stand on the head axis, so that one mask serves every image of the batch without being copied.
            mask = self._shift_mask(hp, wp, shift, bias)
            bias = (bias + mask[:, None]).view(1, nh * nw * heads, n, n)
            q, k, v = qkv.reshape(3, s, nh * nw * heads, n, c // heads)
        else:
            q, k, v = qkv.reshape(3, s * nh * nw, heads, n, c // heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=attn.scale)
        out = out.view(s, nh, nw, heads, ws, ws, c // heads).permute(0, 1, 4, 2, 5, 3, 6).reshape(s, hp, wp, c)
        if shift:
            out = out.roll((shift, shift), (1, 2))
        return attn.proj(out[:, :h, :w])

    def _bias(self, block: SwinTransformerBlock, dtype: torch.dtype) -> Tensor:
        """Relative-position bias of a block, (1, heads, N, N)."""
        table = block.attn.relative_position_bias_table
        key = (id(block), table._version, table.device, dtype)
        return self._constant(key, lambda: block.attn._get_rel_pos_bias().detach().to(dtype))

    def _shift_mask(self, hp: int, wp: int, shift: int, like: Tensor) -> Tensor:
        """Added between tokens of different regions of the rolled, padded map: 0 or −100, (windows, N, N)."""
        ws = self.arch.window_size

        def build() -> Tensor:
            rows = (torch.arange(hp) >= hp - ws).int() + (torch.arange(hp) >= hp - shift).int()
            cols = (torch.arange(wp) >= wp - ws).int() + (torch.arange(wp) >= wp - shift).int()
            region = (rows[:, None] * 3 + cols).view(hp // ws, ws, wp // ws, ws).transpose(1, 2).reshape(-1, ws * ws)
            return torch.where(region[:, None] == region[:, :, None], 0.0, -100.0).to(like)

        return self._constant((hp, wp, like.device, like.dtype), build)

    def _constant(self, key: tuple[Any, ...], build: Callable[[], Tensor]) -> Tensor:
        if torch.compiler.is_compiling():
            return build()
        if key not in self._constants:
            with torch.inference_mode(False):
                self._constants[key] = build()
            # Every block's bias and the masks of a few sizes; evaluation on many sizes must not grow without bound.
            while len(self._constants) > 2 * sum(self.arch.depths) + 24:
                self._constants.popitem(last=False)
        self._constants.move_to_end(key)
        return self._constants[key]
