"""SegFormer MLP head (docs/method.md#heads), computed scale by scale.

The published wiring upsamples four maps, concatenates them and multiplies by one 4D×D matrix. That matrix, the
Linears and the resize are all linear, so each scale's share is taken at its own resolution with one merged matrix,
resized and added: the same numbers for a fraction of the work (docs/method.md#cheaper-forms).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.models.layers.init import conv, trunc_linear
from ktb.models.layers.linear import linear
from ktb.models.layers.norm import BatchNorm
from ktb.models.setting_types import above_zero

HeadInit = Literal["published", "small"]
SMALL_STD = 0.01


class MLPHead(nn.Module):
    """Features of four scales → logits.

    Args:
        channels: channels of each scale, finest first.
        num_classes: K.
        width: D of the paper, 512 for the fused and 256 for the side heads.
        init: start of the predictor's weight. "published": N(0, √(2/K)), which for few classes makes the first
            predictions wild and sure of themselves (with K = 2 and D = 512 logits of about ±16); "small":
            N(0, `SMALL_STD`), with which all classes start about equally likely, whatever K and D are.

    Raises:
        ValueError: another init, or a width that is not above 0.
    """

    START: ClassVar = ("init",)
    """Settings that only say how weights start; no part of a model's `config`."""

    def __init__(self, channels: Sequence[int], num_classes: int, width: int, *, init: HeadInit = "published") -> None:
        super().__init__()
        above_zero("the MLP head", width=width)
        self.linear = nn.ModuleList(trunc_linear(c, width) for c in channels)
        self.fuse = conv(width * len(channels), width, bias=False)
        self.norm = BatchNorm(width)
        self.dropout = nn.Dropout2d(0.1)
        self.predict = conv(width, num_classes)
        if init == "small":
            # Drawn second, so that everything before it is drawn as with the published start.
            nn.init.normal_(self.predict.weight, 0.0, SMALL_STD)
        elif init != "published":
            raise ValueError(f"init of the MLP head must be 'published' or 'small', got {init!r}")
        # Made of the weights in evaluation, so not part of the state.
        self._folded: tuple[object, list[tuple[Tensor, Tensor]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": None}

    def train(self, mode: bool = True) -> Self:
        """As of any module; what was made of the weights for evaluation is made anew."""
        # `parameter.data.copy_()`, with which Lightning swaps averaged weights in, leaves no trace in the version.
        self._folded = None
        return super().train(mode)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits of a picture.

        Args:
            features: of the four scales, finest first, each (B, H_i, W_i, C_i).
            size: height and width of the logits.

        Returns:
            contiguous logits (B, K, *size).
        """
        fold = not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or features[0].is_meta)
        grid = features[0].shape[1:3]
        finest, *coarser = self._fold() if fold else self._merge()
        x: Tensor | None = None
        for feature, (weight, bias) in zip(features[1:], coarser, strict=True):
            part = linear(feature, weight, bias).movedim(-1, 1)
            part = F.interpolate(part, size=grid, mode="bilinear", align_corners=False)
            x = part if x is None else part.add_(x)
        assert x is not None
        x = linear(features[0], *finest, add=x.movedim(1, -1)).movedim(-1, 1)
        # Dropout before ReLU is the same and keeps one map less for the gradient.
        x = torch.relu_(self.dropout(x if fold else self.norm(x)))
        x = linear(x.movedim(1, -1), self.predict.weight.flatten(1), self.predict.bias)
        # Made contiguous while small: softmax and loss over channels-last logits take several times as long.
        return _resize(x.movedim(-1, 1).contiguous(), size)

    def _merge(self) -> list[tuple[Tensor, Tensor]]:
        """Each scale's Linear times its share of the fuse convolution: weight (D, C_i) and bias (D), finest first."""
        # The fuse convolution's input is ordered coarsest scale first.
        shares = self.fuse.weight.flatten(1).chunk(len(self.linear), dim=1)[::-1]
        linears = cast(Iterable[nn.Linear], self.linear)
        return [(s @ linear.weight, s @ linear.bias) for s, linear in zip(shares, linears, strict=True)]

    def _fold(self) -> list[tuple[Tensor, Tensor]]:
        """`_merge` with evaluation's BatchNorm folded in, kept until one of them or the mode changes."""
        state = [*self.linear.parameters(), self.fuse.weight, *self.norm.parameters(), *self.norm.buffers()]
        key = [(x.data_ptr(), x._version, x.dtype, x.device) for x in state]
        if self._folded is None or self._folded[0] != key:
            norm = self.norm
            assert norm.running_mean is not None
            assert norm.running_var is not None
            with torch.autocast(self.fuse.weight.device.type, enabled=False):
                scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
                merged = [(scale[:, None] * weight, scale * bias) for weight, bias in self._merge()]
                weight, bias = merged[0]
                merged[0] = weight, bias + norm.bias - scale * norm.running_mean
            self._folded = key, merged
        return self._folded[1]


RESIZE_PRODUCTS = 64
"""Multiplications for a value of resized logits, up to which matrices are faster than PyTorch's own resize."""


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners=False: (B, K, H, W) → (B, K, *size), contiguous where x is.

    On a CPU the gradient of PyTorch's resize takes several times as long as the result. For small maps both are faster
    as products with the matrices that hold the same weights.
    """
    h, w = x.shape[-2:]
    plain = (
        x.device.type != "cpu"
        or not (torch.is_grad_enabled() and x.requires_grad)
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or h * (1 + w / size[0]) > RESIZE_PRODUCTS
    )
    if plain:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    rows, columns = (
        F.interpolate(torch.eye(n, dtype=x.dtype)[None], size=m, mode="linear", align_corners=False)[0]
        for n, m in zip((h, w), size, strict=True)
    )
    return rows.mT @ (x @ columns)
