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
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

PATCH = 4
"""Side of a patch in pixels."""

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
        attn = block.attn
        s, h, w, c = x.shape
        shift = block.shift_size[0]
        plan = self._plan(s, h, w, shift, x.device)
        tokens = x.reshape(-1, c)
        # The row appended for padding is zero, so its query, key and value are the bias.
        qkv = attn.qkv(torch.cat([tokens, tokens.new_zeros(1, c)]) if plan.padded else tokens)
        qkv = _Rows.apply(qkv, plan.to_windows, plan.to_tokens, False)
        qkv = qkv.view(-1, self.arch.window_size**2, 3, attn.num_heads, c // attn.num_heads)
        bias = self._bias(block, qkv.dtype)
        out = []
        for kind, windows in zip(plan.kinds, qkv.split(plan.counts), strict=True):
            q, k, v = windows.permute(2, 0, 3, 1, 4)
            mask = bias if kind == 0 else bias + self._shift_mask(kind, shift, bias)
            out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attn.scale).transpose(1, 2))
        attended = (torch.cat(out) if len(out) > 1 else out[0]).reshape(-1, c)
        attended = _Rows.apply(attended, plan.to_tokens, plan.to_windows, plan.padded)
        return attn.proj(attended).view(s, h, w, c)

    def _plan(self, s: int, h: int, w: int, shift: int, device: torch.device) -> _Windows:
        return self._constant((s, h, w, shift, device), lambda: _windows(s, h, w, self.arch.window_size, shift, device))

    def _bias(self, block: SwinTransformerBlock, dtype: torch.dtype) -> Tensor:
        """Relative-position bias of a block, (1, heads, N, N)."""
        table = block.attn.relative_position_bias_table
        key = (id(block), table._version, table.device, dtype)
        return self._constant(key, lambda: block.attn._get_rel_pos_bias().detach().to(dtype))

    def _shift_mask(self, kind: int, shift: int, like: Tensor) -> Tensor:
        """Added between tokens of different regions in a window of a kind (see `_Windows`), (N, N): 0 or −100."""
        ws = self.arch.window_size

        def build() -> Tensor:
            late = torch.arange(ws, device=like.device) >= ws - shift
            region = (late[:, None] & bool(kind & 2)).int() * 2 + (late & bool(kind & 1)).int()
            region = region.flatten()
            return torch.where(region[:, None] == region, 0.0, -100.0).to(like)

        return self._constant((kind, shift, like.device, like.dtype), build)

    def _constant(self, key: tuple[Any, ...], build: Callable[[], _T]) -> _T:
        if torch.compiler.is_compiling():
            return build()
        if key not in self._constants:
            with torch.inference_mode(False):
                self._constants[key] = build()
            # Every block's bias and the windows of some sizes; evaluation on many sizes must not grow without bound.
            while len(self._constants) > 2 * sum(self.arch.depths) + 64:
                self._constants.popitem(last=False)
        self._constants.move_to_end(key)
        return self._constants[key]


@dataclass(frozen=True)
class _Windows:
    """Where the windows of S maps take their tokens from, all maps' windows of one kind beside each other.

    Kinds say which borders of the map a shifted window holds together: 0 none, 1 the right and left one, 2 the bottom
    and top one, 3 both. Windows of a kind share one mask, so no mask is ever as large as the attention.

    Attributes:
        to_windows: row of (S·H·W, C) tokens at each place of the windows; S·H·W where there is padding.
        to_tokens: place among the windows of each token.
        kinds, counts: the kinds present, and how many windows are of each.
        padded: whether there is any padding.
    """

    to_windows: Tensor
    to_tokens: Tensor
    kinds: tuple[int, ...]
    counts: tuple[int, ...]
    padded: bool


def _windows(s: int, h: int, w: int, ws: int, shift: int, device: torch.device) -> _Windows:
    nh, nw = -(-h // ws), -(-w // ws)
    rows, cols = ((torch.arange(n * ws, device=device) + shift) % (n * ws) for n in (nh, nw))
    token = torch.where((rows < h)[:, None] & (cols < w), rows[:, None] * w + cols, -1)
    token = token.view(nh, ws, nw, ws).transpose(1, 2).reshape(nh, nw, 1, ws * ws)
    samples = torch.arange(s, device=device)[:, None] * (h * w)
    token = torch.where(token < 0, s * h * w, token + samples)  # nh, nw, S, N
    row_cut, col_cut = (nh - 1, nw - 1) if shift else (nh, nw)
    parts = (token[:row_cut, :col_cut], token[:row_cut, col_cut:], token[row_cut:, :col_cut], token[row_cut:, col_cut:])
    counts = [part[..., 0].numel() for part in parts]
    to_windows = torch.cat([part.flatten() for part in parts])
    to_tokens = torch.empty(s * h * w + 1, dtype=torch.int64, device=device)
    to_tokens[to_windows] = torch.arange(len(to_windows), device=device)
    kinds = tuple(kind for kind in range(4) if counts[kind])
    padded = nh * ws * nw * ws > h * w
    return _Windows(to_windows, to_tokens[:-1], kinds, tuple(counts[kind] for kind in kinds), padded)


class _Rows(torch.autograd.Function):
    """`x[index]` for rows, where `x[index][inverse]` gives the rows back: the gradient is a copy as well, not a sum.

    An index one past the rows of the gradient means zero when `pad_grad`. The appended row of padding gets no
    gradient, which nobody needs while the backbone is frozen.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, pad_grad: bool) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.pad_grad, ctx.rows = pad_grad, len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        zero = grad.new_zeros(1, grad.shape[1])
        grad = (torch.cat([grad, zero]) if ctx.pad_grad else grad).index_select(0, inverse)
        if len(grad) < ctx.rows:
            grad = torch.cat([grad, zero])
        return grad, None, None, None
