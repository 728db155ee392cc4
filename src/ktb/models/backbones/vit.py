"""Any plain vision transformer of timm: DINOv2, DINOv3, EVA-02, SigLIP, and so on.

Its blocks all work on one map of patches, so they are taken in four groups, and a small trained pyramid makes maps of
four scales of what the groups give.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ktb.errors import first_line
from ktb.models.backbones.base import Tokens
from ktb.models.backbones.entry import Entry, padded
from ktb.models.backbones.of_timm import OfTimm
from ktb.models.backbones.timm_model import example, intermediates, refuse_difference, refuse_entry, taps_of
from ktb.models.layers.window_fast import Constants
from ktb.models.peft.base import Adapt

GROUPS = 4
SCALES = (4, 2, 1, 0.5)
"""Sizes of the four output maps, in those of the transformer's own."""
KEPT = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "blocks", "rope")
"""Parts of a model up to its last block; norm, pooling and classifier that follow are left out."""


class ViT(OfTimm):
    """A plain vision transformer of timm (docs/backbones.md).

    State-dict names are timm's after "model.", without what follows the blocks. Images are padded to a multiple of two
    patches. Learned position embeddings are resampled to the map's size as timm does it, rotary ones made for it. Class
    and register tokens go along from group to group; adapters meet them together with the patches, prompts do not.

    Args:
        timm_name: as in `timm.list_models()`, or with the tag of its weights.
        drop_path: largest rate of stochastic depth.
        mean, std: of the images (RGB in [0, 1]) that the weights were trained on; None: as timm says.
        options: further arguments of timm's constructor.

    Raises:
        ConfigError: timm has no such model, or it is not a plain vision transformer.

    Attributes:
        left_out: names of the model's parts that no feature map needs.
    """

    kind: ClassVar[str] = "a plain vision transformer"

    def _build(self) -> None:
        model = self.model
        blocks = getattr(model, "blocks", None)
        if not is_plain(model) or blocks is None:
            raise ValueError("it has no list of blocks, patch embedding and position embedding as timm's have")
        if len(blocks) < GROUPS:
            raise ValueError(f"it has {len(blocks)} blocks, needed are {GROUPS} or more")
        self.patch = int(taps_of(model)[0]["reduction"])
        width = int(model.embed_dim)
        self._ends = [(len(blocks) * (i + 1) + GROUPS // 2) // GROUPS for i in range(GROUPS)]
        self._takes_rope = "rope" in inspect.signature(blocks[0].forward).parameters
        self.channels = (width // 4, width // 2, width, width)
        self.strides = tuple(self.patch / scale for scale in SCALES)
        self.prompt_channels = (width,) * GROUPS
        self.adapter_channels = tuple((width,) * len(self.blocks(i)) for i in range(GROUPS))
        rope = getattr(model, "rope", None)
        if rope is not None and not list(rope.parameters()) and not getattr(rope, "aug_active", False):
            rope.get_embed = _Kept(rope)
        training = self.training
        self.eval()
        images = example(2 * self.patch, 4 * self.patch, next(self.parameters()).device)
        with torch.no_grad():
            try:
                theirs = intermediates(model, images, [end - 1 for end in self._ends])
            except Exception as error:  # whatever a model among timm's many raises at a size it does not take
                raise ValueError(f"it takes only images of one size: {first_line(error)}") from None
            self.left_out = tuple(name for name, _ in model.named_children() if name not in KEPT)
            for name in self.left_out:
                setattr(model, name, nn.Identity())
            refuse_difference(self._maps(images), theirs)
            refuse_entry(model.patch_embed, self.entry_for, images)
        self.train(training)

    def _maps(self, images: Tensor) -> Iterator[Tensor]:
        tokens = self._with_positions(self.model.patch_embed(images))
        for i in range(GROUPS):
            tokens = self.stage(i, tokens)
            yield tokens.map

    def entry_for(self, channels: int) -> Entry:
        return Entry({"patch_embed": self.model.patch_embed}, channels)

    def own_entry(self) -> Iterable[nn.Module]:
        return (self.model.patch_embed,)

    def embed(self, images: Tensor, entry: nn.Module | None = None) -> Tokens:
        if entry is None:
            images, entry = self._normalise(images), self.model.patch_embed
        return self._with_positions(entry(padded(images, 2 * self.patch)))

    def _with_positions(self, patches: Tensor) -> Tokens:
        """Patches (S, H, W, C) with position embeddings, and class and register tokens."""
        h, w = patches.shape[1:3]
        x = self.model._pos_embed(patches)
        x = x[0] if isinstance(x, tuple) else x  # rotary embeddings, which each group makes again
        return self._split(self.model.norm_pre(x), h, w)

    def _split(self, x: Tensor, h: int, w: int) -> Tokens:
        extra = x.shape[1] - h * w
        return Tokens(x[:, extra:].unflatten(1, (h, w)), x[:, :extra] if extra else None)

    def covers(self, height: int, width: int) -> tuple[int, int]:
        side = 2 * self.patch
        return height + -height % side, width + -width % side

    def enter(self, stage: int, tokens: Tokens) -> Tokens:
        return tokens

    def stage(
        self, stage: int, tokens: Tokens, adapters: Sequence[Adapt] | None = None, *, recompute: bool = False
    ) -> Tokens:
        h, w = tokens.map.shape[1:3]
        x = tokens.map.flatten(1, 2)
        if tokens.extra is not None:
            x = torch.cat([tokens.extra, x], dim=1)
        ropes = self._ropes(stage, h, w)
        for i, block in enumerate(self.blocks(stage)):
            run = partial(block, rope=ropes[i]) if self._takes_rope else block
            adapter = None if adapters is None else adapters[i]
            if recompute and torch.is_grad_enabled():
                x = checkpoint(_beside, run, adapter, x, use_reentrant=False)
            else:
                x = _beside(run, adapter, x)
        return self._split(x, h, w)

    def _ropes(self, stage: int, h: int, w: int) -> Sequence[Tensor | None]:
        """Rotary position embeddings of a group's blocks."""
        start, end = ([0, *self._ends])[stage], self._ends[stage]
        rope = getattr(self.model, "rope", None)
        if rope is None:
            return [None] * (end - start)
        made = rope.get_embed(shape=[h, w])
        mixed = getattr(self.model, "rope_mixed", False)
        return list(made[start:end]) if mixed else [made] * (end - start)

    def blocks(self, stage: int) -> Sequence[nn.Module]:
        start, end = ([0, *self._ends])[stage], self._ends[stage]
        return list(cast(nn.ModuleList, self.model.blocks))[start:end]

    def necks(self) -> nn.ModuleList:
        width = self.channels[-1]
        return nn.ModuleList(Neck(width, c, scale) for c, scale in zip(self.channels, SCALES, strict=True))


class _Kept:
    """Called instead of a rotary embedding's `get_embed`: made once per size. timm makes them on the CPU, which a GPU
    would wait for in every group of blocks. Not for embeddings that are learned, or drawn while training."""

    def __init__(self, rope: nn.Module) -> None:
        self.rope, self.made = rope, Constants(32)

    def __call__(self, shape: Sequence[int], **given: Any) -> Tensor:
        buffer = next(self.rope.buffers(), None)
        key = (*shape, None if buffer is None else (buffer.device, buffer.dtype), *given.items())
        make = partial(cast(Any, type(self.rope)).get_embed, self.rope, shape=list(shape), **given)
        return self.made.get(key, make)


def is_plain(model: nn.Module) -> bool:
    """Whether a model of timm has the parts of a plain vision transformer."""
    return all(hasattr(model, name) for name in ("patch_embed", "_pos_embed", "norm_pre", "blocks", "embed_dim"))


def _beside(block: Any, adapter: Adapt | None, x: Tensor) -> Tensor:
    y: Tensor = block(x)
    return y if adapter is None else adapter(x[:, None], y[:, None])[:, 0]


class Neck(nn.Module):
    """One scale of a plain vision transformer's pyramid, for all streams: LayerNorm, a Linear to fewer channels, and
    transposed convolutions that double the map, or the largest of four positions.

    Args:
        width: channels of the transformer.
        channels: of the map that is made.
        scale: 4, 2, 1 or 0.5 times the size of the transformer's map, which is of even height and width.
    """

    def __init__(self, width: int, channels: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.reduce = nn.Linear(width, channels) if channels != width else nn.Identity()
        doubling = [nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(int(math.log2(max(scale, 1))))]
        self.grow = nn.Sequential(*(layer for one in doubling for layer in (nn.GELU(), one)))
        self.halve = scale < 1

    def forward(self, x: Tensor) -> Tensor:
        """(S, H, W, width) → (S, scale·H, scale·W, channels)."""
        x = self.grow(self.reduce(self.norm(x)).movedim(-1, 1))
        if self.halve:
            x = F.max_pool2d(x, 2)
        return x.movedim(1, -1).contiguous()
