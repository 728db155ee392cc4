"""What a class must have to take a place in the model, checked before it is built (docs/extend.md)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ktb.errors import PartError
from ktb.models.backbones.base import Backbone
from ktb.models.fusion.base import Fusion
from ktb.models.parts import Spec, class_of
from ktb.models.peft.base import Peft


@dataclass(frozen=True)
class Contract:
    """A place in the model.

    Attributes:
        what: what stands there.
        base: what a class derives from, at least.
        methods: name → arguments that it is called with; those that end in "=" by name.
        own: the methods that `model` only describes.
        model: the class that describes the place, and of which the other methods may be.
        attributes: what instances or the class have beside methods.
    """

    what: str
    base: type[nn.Module]
    methods: Mapping[str, tuple[str, ...]]
    own: tuple[str, ...] = ("forward",)
    model: type[nn.Module] = nn.Module
    attributes: tuple[str, ...] = field(default=())


BACKBONE = Contract(
    "backbone",
    Backbone,
    {
        "entry_for": ("channels",),
        "embed": ("images", "entry"),
        "covers": ("height", "width"),
        "enter": ("stage", "tokens"),
        "stage": ("stage", "tokens", "adapters", "recompute="),
        "blocks": ("stage",),
        "necks": (),
    },
    own=("entry_for", "embed", "enter", "stage", "blocks"),
    model=Backbone,
)
PEFT = Contract(
    "PEFT method",
    Peft,
    {"prompt": ("stage", "streams"), "adapters_of": ("stage",), "lr_factors": ("backbone",), "merge": ()},
    own=(),
    model=Peft,
)
FUSION = Contract(
    "fusion block",
    nn.Module,
    {"forward": ("streams",), "pictures": ("streams",)},
    model=Fusion,
    attributes=("normalised",),
)
HEAD = Contract("head", nn.Module, {"forward": ("features", "size")})


def check_class(spec: Spec, contract: Contract) -> None:
    """Refuse a class that cannot take a place in the model.

    Args:
        spec: names the class.
        contract: of the place.

    Raises:
        PartError: saying what it lacks.
    """
    cls, target = class_of(spec), str(spec["_target_"])
    what, base, model = contract.what, contract.base, contract.model
    if not issubclass(cls, base):
        raise PartError(f"{target} is no {what}: it must derive from {_name(base)}")
    derive = "" if model is nn.Module or issubclass(cls, model) else f"; {_name(model)} has what all of them share"
    for name, arguments in contract.methods.items():
        method = getattr(cls, name, None)
        call = f"{name}({', '.join(arguments)})"
        stub = getattr(model, name) if name in contract.own else None
        if not callable(method) or method is stub or method is nn.Module.forward:
            raise PartError(f"{target} is no {what}: it lacks the method {call}{derive}")
        signature = inspect.signature(method)
        try:
            signature.bind(
                cls,
                *(name for name in arguments if not name.endswith("=")),
                **{name[:-1]: None for name in arguments if name.endswith("=")},
            )
        except TypeError:
            raise PartError(f"{target}: its method {name}{signature} is called as {call}") from None
    for name in contract.attributes:
        if not hasattr(cls, name):
            raise PartError(f"{target} is no {what}: it lacks the attribute {name}{derive}")


def check_backbone(backbone: Any, target: str) -> None:
    """Refuse a backbone that lacks what the model reads from it, or would be trained.

    Raises:
        PartError: saying what is wrong.
    """
    if not isinstance(backbone, Backbone):
        raise PartError(f"{target}.from_config gave a {type(backbone).__name__}, expected a backbone")
    cls = f"{type(backbone).__module__}.{type(backbone).__qualname__}"
    for name in ("channels", "strides", "prompt_channels", "adapter_channels", "config"):
        if not hasattr(backbone, name):
            raise PartError(f"{cls} is no backbone: its constructor sets no attribute {name}")
    stages = len(backbone.channels)
    for name in ("strides", "prompt_channels", "adapter_channels"):
        if len(getattr(backbone, name)) != stages:
            raise PartError(f"{cls}: {name} is {getattr(backbone, name)}, expected one entry per stage, {stages}")
    for stage, channels in enumerate(backbone.adapter_channels):
        if len(backbone.blocks(stage)) != len(channels):
            found = len(backbone.blocks(stage))
            raise PartError(f"{cls}: stage {stage} has {found} blocks, and adapter_channels has {len(channels)} of it")
    moved = [name for name, p in backbone.named_parameters() if p.requires_grad]
    if moved:
        raise PartError(
            f"{cls}: {len(moved)} parameters require gradients, {moved[0]} among them; its constructor ends with "
            "self.requires_grad_(False)"
        )


def _name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
