"""LoRA: a trained product of two narrow matrices beside frozen layers of the backbone
(docs/method.md#other-ways-to-train-a-backbone).

After "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022). All modalities share the products, as they share
the backbone, so that they can be folded into its weights for inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.models.layers.linear import linear
from ktb.models.peft.base import Adaptable, Peft
from ktb.models.setting_types import above_zero


class LowRank(nn.Module):
    """`x ↦ alpha / rank · up · down · x`; `up` starts at zero, so that a layer starts as it was.

    Args:
        in_features, out_features: of the layer; of a convolution k×k, in_features counts C_in · k².
        rank: rows of `down`.
        alpha: scale, which lets the rank change without another learning rate.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = alpha / rank

    def product(self) -> Tensor:
        """What is added to the layer's weight, (out_features, in_features)."""
        return self.scale * (self.up @ self.down)


def _frozen(layer: nn.Module) -> Tensor:
    """A layer's own weight, without what stands beside it."""
    # Not by the attribute, which gives both together; PyTorch has no public way around it.
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


class LoRALinear(nn.Linear):
    """A frozen Linear of the backbone with a `LowRank` beside it. Made by `attach` only.

    `weight` reads as the weight that the layer has in effect: some of timm's blocks, and fast forms everywhere, take a
    layer's weight instead of calling it, and must not pass LoRA by. A call takes the cheaper way: two narrow products.
    """

    low_rank: tuple[LowRank]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The frozen weight plus the product, (out, in)."""
        return _frozen(self) + self.low_rank[0].product()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        (low,) = self.low_rank
        return linear(x, _frozen(self), self.bias, F.linear(low.scale * F.linear(x, low.down), low.up))


class LoRAConv2d(nn.Conv2d):
    """A frozen convolution of the backbone with a `LowRank` beside it; as `LoRALinear`."""

    low_rank: tuple[LowRank]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The frozen weight plus the product, (C_out, C_in, k, k)."""
        return _frozen(self) + self.low_rank[0].product().view_as(_frozen(self))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C_out, H', W')."""
        (low,), frozen = self.low_rank, _frozen(self)
        down = low.down.view(-1, *frozen.shape[1:])
        narrow = low.scale * F.conv2d(x, down, None, self.stride, self.padding, self.dilation)
        wide = F.conv2d(x, frozen, self.bias, self.stride, self.padding, self.dilation)
        return wide + F.conv2d(narrow, low.up[:, :, None, None])


_FORMS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LoRALinear, nn.Conv2d: LoRAConv2d}


def attach(layer: nn.Module, low_rank: LowRank) -> None:
    """Turn a layer into its LoRA form, in place: parameters and their names stay, and whoever holds the layer calls the
    new form. The layer refers to `low_rank` without owning it, so that its parameters are not among the backbone's."""
    layer.__class__ = _FORMS[type(layer)]
    layer.low_rank = (low_rank,)  # type: ignore[assignment]


def detach(layer: nn.Module) -> None:
    """Fold the product into the layer's weight and give the layer its own form back."""
    form = next(plain for plain, form in _FORMS.items() if type(layer) is form)
    with torch.no_grad():
        _frozen(layer).copy_(cast(LoRALinear, layer).weight)
    del layer.low_rank
    layer.__class__ = form


def candidates(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a block that LoRA can stand beside, by name: Linears, and convolutions of one group."""
    for name, layer in block.named_modules():
        ungrouped = type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros"
        if type(layer) is nn.Linear or ungrouped:
            yield name or "layer", layer  # a block may be a convolution itself, as in VGG


class LoRA(Peft):
    """Low-rank products beside layers of every block.

    Args:
        modalities, backbone: see `Peft`.
        rank: of every product.
        alpha: scale of the products; None: as the rank, so that the factor is 1.
        layers: last parts of the names of the layers, such as `qkv` or `mlp.fc1`; None: all Linears and ungrouped
            convolutions of the blocks.

    Raises:
        ValueError: a rank below 1, an alpha that is not above 0, or layers that no block has.
    """

    merges: ClassVar[bool] = True

    def __init__(
        self,
        modalities: Sequence[str],
        backbone: Adaptable,
        *,
        rank: int = 8,
        alpha: float | None = None,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__(modalities, backbone)
        if rank < 1:
            raise ValueError(f"the rank of LoRA must be 1 or more, got {rank}")
        above_zero("LoRA", alpha=rank if alpha is None else alpha)
        self.lora = nn.ModuleList()
        self._attached: list[nn.Module] = []
        seen: set[str] = set()
        used: set[str] = set()
        for stage in range(len(backbone.adapter_channels)):
            blocks = nn.ModuleList()
            for block in backbone.blocks(stage):
                products = nn.ModuleDict()
                for name, layer in candidates(block):
                    seen.add(name)
                    wanted = [end for end in layers or () if f".{name}".endswith(f".{end}")]
                    if layers is not None and not wanted:
                        continue
                    used.update(wanted)
                    weight = cast(nn.Linear, layer).weight
                    low_rank = LowRank(weight[0].numel(), len(weight), rank, rank if alpha is None else alpha)
                    products[name.replace(".", "_")] = low_rank.to(weight)
                    attach(layer, low_rank)
                    self._attached.append(layer)
                blocks.append(products)
            self.lora.append(blocks)
        if unknown := sorted(set(layers or ()) - used):
            raise ValueError(f"no block has a layer called {unknown[0]!r}; there are {', '.join(sorted(seen))}")
        if not self._attached:
            raise ValueError("LoRA has no layer to stand beside: no Linear or ungrouped convolution was chosen")

    def merge(self) -> None:
        for layer in self._attached:
            detach(layer)
        self._attached, self.lora = [], nn.ModuleList()
