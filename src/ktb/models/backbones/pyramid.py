"""Any model of timm that consists of stages of blocks: ConvNeXt, Swin V2, EfficientNet, ResNet, PVT v2, and so on.

timm's own code computes a stage; this module finds where stages and blocks begin, and stands beside each block. What it
finds is tried on an example and compared with what timm itself computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ktb.models.backbones.base import Tokens
from ktb.models.backbones.entry import Entry, padded
from ktb.models.backbones.of_timm import OfTimm
from ktb.models.backbones.timm_model import refuse_difference, refuse_entry
from ktb.models.backbones.timm_plan import STAGES, Plan, Seen, blocks_in, try_out
from ktb.models.peft.base import Adapt


class Pyramid(OfTimm):
    """A model of timm with feature maps of four scales (docs/backbones.md).

    State-dict names are timm's after "model.", without what follows the last stage. Images are padded to a multiple of
    32 pixels, or of what the model's windows need.

    Args:
        timm_name: as in `timm.list_models()`, or with the tag of its weights.
        drop_path: largest rate of stochastic depth.
        mean, std: of the images (RGB in [0, 1]) that the weights were trained on; None: as timm says.
        options: further arguments of timm's constructor.

    Raises:
        ConfigError: timm has no such model, or it is not such a pyramid.

    Attributes:
        left_out: names of the model's parts that no feature map needs.
    """

    kind: ClassVar[str] = "a backbone of four stages"

    def _build(self) -> None:
        plan = Plan(self.model)
        training = self.training
        self.eval()
        with torch.no_grad():
            self.multiple, images, seen = try_out(self.model, plan)
            self._entry = plan.entry
            self._stages = [_Stage.of(i, plan, seen) for i in range(STAGES)]
            self.channels = tuple(tap["num_chs"] for tap in plan.taps)
            self.strides = tuple(tap["reduction"] for tap in plan.taps)
            self.prompt_channels = tuple(stage.prompt_channels for stage in self._stages)
            self.adapter_channels = tuple(tuple(b.channels for b in stage.blocks) for stage in self._stages)
            self.left_out = tuple(plan.after)
            for name in plan.after:
                setattr(self.model, name, nn.Identity())
            for stage in self._stages:
                stage.interpose()
            refuse_difference(self._maps(images), seen.maps)
            refuse_entry(self._own_entry, self.entry_for, images)
        self.train(training)

    def _maps(self, images: Tensor) -> Iterator[Tensor]:
        tokens = self._enter_first(self._own_entry(images))
        for i in range(STAGES):
            tokens = self.stage(i, self.enter(i, tokens) if i else tokens)
            yield tokens.map

    def entry_for(self, channels: int) -> Entry:
        return Entry({name.replace(".", "_"): layer for name, layer in self._entry.items()}, channels)

    def own_entry(self) -> Iterable[nn.Module]:
        return self._entry.values()

    def embed(self, images: Tensor, entry: nn.Module | None = None) -> Tokens:
        if entry is None:
            x = self._own_entry(padded(self._normalise(images), self.multiple))
        else:
            x = entry(padded(images, self.multiple))
        return self._enter_first(x)

    def _own_entry(self, images: Tensor) -> Tensor:
        for layer in self._entry.values():
            images = layer(images)
        return images

    def _enter_first(self, x: Tensor) -> Tokens:
        positions = getattr(self.model, "_pos_embed", None)  # of SAM 2's Hiera; the only method that lies between
        return Tokens(_map_of(x if positions is None else positions(x), self._stages[0].layout_in))

    def covers(self, height: int, width: int) -> tuple[int, int]:
        return height + -height % self.multiple, width + -width % self.multiple

    def enter(self, stage: int, tokens: Tokens) -> Tokens:
        return Tokens(self._stages[stage].enter(tokens.map))

    def stage(
        self, stage: int, tokens: Tokens, adapters: Sequence[Adapt] | None = None, *, recompute: bool = False
    ) -> Tokens:
        return Tokens(self._stages[stage](tokens.map, adapters, recompute))

    def blocks(self, stage: int) -> Sequence[nn.Module]:
        return [block.module for block in self._stages[stage].blocks]


def _map_of(x: Tensor, layout: str, size: tuple[int, int] | None = None) -> Tensor:
    """(S, H, W, C); tokens that are no map of the given size come as (S, 1, T, C)."""
    if layout == "NCHW":
        return x.movedim(1, -1)
    if layout == "NHWC":
        return x
    return x.unflatten(1, size if size is not None and size[0] * size[1] == x.shape[1] else (1, -1))


def _from_map(x: Tensor, layout: str) -> Tensor:
    """Inverse of `_map_of`."""
    return x.movedim(-1, 1) if layout == "NCHW" else x if layout == "NHWC" else x.flatten(1, 2)


class _Block:
    """Called instead of a block of timm's, and calls it, and its adapter beside it.

    It stands as the block's `forward`, so that timm's own code calls it and names in the state stay timm's.
    """

    def __init__(self, module: nn.Module, layouts: tuple[str, str], channels: int, beside: bool) -> None:
        self.module, self.layouts, self.channels, self.beside = module, layouts, channels, beside
        self.adapter: Adapt | None = None
        self.size: tuple[int, int] | None = None
        self.recompute = False

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            y: Tensor = checkpoint(self._run, self.adapter, self.size, x, *args, use_reentrant=False, **kwargs)
            return y
        return self._run(self.adapter, self.size, x, *args, **kwargs)

    def _run(self, adapter: Adapt | None, size: tuple[int, int] | None, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = type(self.module).forward(self.module, x, *args, **kwargs)
        if adapter is None:
            return y
        out = _map_of(y, self.layouts[1], size)
        given = _map_of(x, self.layouts[0], size) if self.beside else out
        return _from_map(adapter(given, out), self.layouts[1])


class _Passed:
    """Called instead of a stage's downsampling from inside the stage: `enter` has done that already."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def run(self, x: Tensor) -> Tensor:
        y: Tensor = type(self.module).forward(self.module, x)
        return y


@dataclass
class _Stage:
    """One stage: its modules, what comes before them, and the blocks in them.

    Attributes:
        before: called by `enter`, with the layouts before and after.
        modules: called by the stage.
        layout_in, layout_out: of the stage itself.
        blocks: what stands beside an adapter.
        prompt_channels: of the map that comes into the stage.
        passed: downsampling inside the stage's first module, which `enter` calls.
    """

    before: list[Callable[[Tensor], Tensor]]
    before_layouts: tuple[str, str]
    modules: list[nn.Module]
    layout_in: str
    layout_out: str
    blocks: list[_Block]
    prompt_channels: int
    passed: _Passed | None

    @classmethod
    def of(cls, index: int, plan: Plan, seen: Seen) -> _Stage:
        modules = [module for module in plan.stages[index] if module in seen.shapes]
        if not modules:
            raise ValueError(f"its stage {index} is not called with one map")
        first = modules[0]
        ends = [seen.layouts(first), seen.layouts(modules[-1])]
        if ends[0] is None or ends[1] is None or "NLC" in (ends[0][0], ends[1][1]):
            raise ValueError(f"its stage {index} does not take and give one map")
        layout_in, shape = ends[0][0], seen.shapes[first][0][0]
        before: list[Callable[[Tensor], Tensor]] = list(plan.before[index])
        start = layout_in
        if before:
            layouts = seen.layouts(plan.before[index][0])
            if layouts is None:
                raise ValueError(f"what comes before its stage {index} does not take one map")
            start = layouts[0]
        passed = None
        down = getattr(first, "downsample", None)
        if index and isinstance(down, nn.Module) and not isinstance(down, nn.Identity):
            layouts = seen.layouts(down)
            if layouts and "NLC" not in layouts and seen.given[down] is seen.given[first]:
                passed = _Passed(down)
                before.append(passed.run)
                layout_in, shape = layouts[1], seen.shapes[down][0][1]
        return cls(
            before=before,
            before_layouts=(start, layout_in),
            modules=modules,
            layout_in=layout_in,
            layout_out=ends[1][1],
            blocks=[block for module in modules for block in _interposed(module, seen)],
            prompt_channels=shape[_channel_axis(layout_in)],
            passed=passed,
        )

    def interpose(self) -> None:
        """Put blocks and downsampling in the place of timm's."""
        for block in self.blocks:
            block.module.forward = block
        if self.passed is not None:
            self.passed.module.forward = self.passed

    def enter(self, x: Tensor) -> Tensor:
        x = _from_map(x, self.before_layouts[0])
        for layer in self.before:
            x = layer(x)
        return _map_of(x, self.before_layouts[1])

    def __call__(self, x: Tensor, adapters: Sequence[Adapt] | None, recompute: bool) -> Tensor:
        for i, block in enumerate(self.blocks):
            block.adapter = None if adapters is None else adapters[i]
            block.size, block.recompute = (x.shape[1], x.shape[2]), recompute
        x = _from_map(x, self.layout_in)
        for module in self.modules:
            x = module(x)
        for block in self.blocks:
            block.adapter = None
        return _map_of(x, self.layout_out).contiguous()


def _channel_axis(layout: str) -> int:
    return 1 if layout == "NCHW" else -1


def _interposed(module: nn.Module, seen: Seen) -> list[_Block]:
    """The blocks of a stage's module; the module itself as one block where they do not take and give one map."""
    for candidates in (blocks_in(module), [module]):
        found = []
        for block in candidates:
            layouts = seen.layouts(block)
            if layouts is None or layouts[0] != layouts[1]:
                break
            given, made = seen.shapes[block][0]
            if any(p.dim() > 1 for p in block.parameters()):  # more than a norm or an activation
                found.append(_Block(block, layouts, made[_channel_axis(layouts[1])], beside=given == made))
        else:
            return found
    raise ValueError("its blocks do not take and give one map")
