"""Where the stages and blocks of a model of timm begin: told by the names of its parts and of its feature maps, and by
what the parts are given and give when it runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from ktb.errors import first_line
from ktb.models.backbones.entry import takes_rgb
from ktb.models.backbones.timm_model import Taps, example, intermediates, taps_of

STAGES = 4
MULTIPLES = (32, 64, 128, 224, 256)
"""Sizes, of which an image's height and width are made a multiple; the first that a model takes."""


class Plan:
    """The parts of a model in the order in which they are called, as timm's names and feature maps tell it.

    Attributes:
        taps: the four feature maps.
        indices: their places among all of timm's.
        entry: name → layer, up to the first stage.
        before: per stage, layers between it and the stage before.
        stages: per stage, its modules.
        after: names of what follows the last stage.

    Raises:
        ValueError: there are no four maps of different scales, or a map belongs to no module.
    """

    def __init__(self, model: nn.Module) -> None:
        if not hasattr(model, "forward_intermediates"):
            raise ValueError("timm gives no feature maps of it (forward_intermediates)")
        self.indices, self.taps = _four_scales(taps_of(model))
        parts, self.after = _in_order(model, [tap["module"] for tap in self.taps])
        holders = {tap["module"].rpartition(".")[0] for tap in self.taps}
        names = list(parts)
        self.entry: dict[str, nn.Module] = {}
        self.before: list[list[nn.Module]] = []
        self.stages: list[list[nn.Module]] = []
        start = 0
        for tap in self.taps:
            end = names.index(tap["module"]) + 1
            segment = names[start:end]
            # A stage begins with the first part that lies where timm's maps do; of parts of the model itself these
            # are the maps' own.
            first = next(n for n in segment if n == tap["module"] or (n.rpartition(".")[0] or None) in holders)
            at = segment.index(first)
            if start == 0:
                while not any(takes_rgb(part) for n in segment[:at] for part in parts[n].modules()):
                    at += 1
                    if at == len(segment):
                        raise ValueError("no convolution of three channels stands before its first stage")
                self.entry = {n: parts[n] for n in segment[:at]}
                self.before.append([])
            else:
                self.before.append([parts[n] for n in segment[:at]])
            self.stages.append([parts[n] for n in segment[at:]])
            start = end


def _four_scales(taps: Taps) -> tuple[list[int], Taps]:
    """Of maps of the same size the last, and of all sizes the four coarsest."""
    last = {tap["reduction"]: i for i, tap in enumerate(taps)}
    indices = sorted(last.values())[-STAGES:]
    if len(indices) < STAGES:
        scales = ", ".join(str(scale) for scale in sorted(last)) or "none"
        raise ValueError(
            f"it has feature maps of {len(last)} scales (pixels per position: {scales}); needed are four, or the "
            "blocks of a plain vision transformer"
        )
    return indices, [taps[i] for i in indices]


def _in_order(model: nn.Module, wanted: Sequence[str]) -> tuple[dict[str, nn.Module], list[str]]:
    """Parts up to the last wanted one, children of lists as parts of their own; and names of what follows."""
    opened = {name.rpartition(".")[0] for name in wanted}
    parts: dict[str, nn.Module] = {}
    after = []
    for name, child in model.named_children():
        if wanted[-1] in parts:
            after.append(name)
        elif name in opened:
            parts.update({f"{name}.{key}": part for key, part in child.named_children()})
        else:
            parts[name] = child
    if missing := [name for name in wanted if name not in parts]:
        raise ValueError(f"its feature map {missing[0]!r} is not one of its parts")
    return parts, after


def blocks_in(module: nn.Module) -> list[nn.Module]:
    """The blocks of a stage's module: the children of its `blocks`, or its own where it is a list of them, whether one
    of PyTorch's or numbered children of one class; else the module itself."""
    inner = getattr(module, "blocks", None)
    if _is_list(inner):
        module = inner
    children = dict(module.named_children())
    numbered = len(set(map(type, children.values()))) == 1 and all(re.fullmatch(r"\D*\d+", name) for name in children)
    if not children or not (_is_list(module) or numbered):
        return [module]
    return [block for child in children.values() for block in (blocks_in(child) if _is_list(child) else [child])]


def _is_list(module: Any) -> TypeGuard[nn.Module]:
    return isinstance(module, nn.Sequential | nn.ModuleList)


@dataclass
class Seen:
    """What the parts of a model were given and what they gave, in two runs.

    Attributes:
        maps: timm's own feature maps, of the first run.
        shapes: per module and run, the shapes of its input and output; without modules that did not take and give one
            tensor, or were called twice.
        given: per module, its input in the first run.
    """

    maps: list[Tensor] = field(default_factory=list)
    shapes: dict[nn.Module, list[tuple[torch.Size, torch.Size]]] = field(default_factory=dict)
    given: dict[nn.Module, Tensor] = field(default_factory=dict)

    def layouts(self, module: nn.Module) -> tuple[str, str] | None:
        """Layouts of a module's input and output; None where they are no maps."""
        runs = self.shapes.get(module, [])
        if len(runs) != 2:
            return None
        found = tuple(_layout([run[i] for run in runs]) for i in range(2))
        return cast(tuple[str, str], found) if all(found) else None


def try_out(model: nn.Module, plan: Plan) -> tuple[int, Tensor, Seen]:
    """Run a model on two sizes: the multiple of pixels it needs, the first images, and what was seen."""
    device = next(model.parameters()).device
    problem: Exception = ValueError()
    for multiple in MULTIPLES:
        seen = Seen()
        sizes = [(multiple, 2 * multiple), (2 * multiple, 3 * multiple)]
        images = [example(*size, device=device) for size in sizes]
        try:
            for run in images:
                _watch(model, run, plan, seen)
        except Exception as error:  # whatever a model among timm's many raises at a size it does not take
            problem = error
            continue
        return multiple, images[0], seen
    raise ValueError(f"it takes none of the sizes tried: {first_line(problem)}")


def _watch(model: nn.Module, images: Tensor, plan: Plan, seen: Seen) -> None:
    first = not seen.maps
    called: set[nn.Module] = set()

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module in called:
            seen.shapes.pop(module, None)
        elif inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            called.add(module)
            seen.shapes.setdefault(module, []).append((inputs[0].shape, output.shape))
            if first:
                seen.given[module] = inputs[0]

    handles = [module.register_forward_hook(watch) for module in model.modules() if module is not model]
    try:
        maps = intermediates(model, images, plan.indices)
    finally:
        for handle in handles:
            handle.remove()
    if first:
        seen.maps = maps


def _layout(shapes: Sequence[torch.Size]) -> str | None:
    """The axes of maps of two sizes, by which of them differ."""
    if len(set(map(len, shapes))) != 1:
        return None
    differ = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
    return {(4, 2, 3): "NCHW", (4, 1, 2): "NHWC", (3, 1): "NLC"}.get((len(shapes[0]), *differ))
