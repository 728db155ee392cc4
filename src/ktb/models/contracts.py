"""What a class must have to take a place in the model, checked before it is built (docs/extend.md)."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from ktb.errors import PartError
from ktb.models.backbones.base import Backbone
from ktb.models.fusion.base import Fusion
from ktb.models.imports import place_of, told
from ktb.models.layers.check_shapes import check_shape
from ktb.models.parts import Spec, class_of
from ktb.models.peft.base import Adapt, Peft


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
        raise PartError(f"{target} is no {what}: it must derive from {_name(base)}{place_of(cls, '')}")
    derive = "" if model is nn.Module or issubclass(cls, model) else f"; {_name(model)} has what all of them share"
    for name, arguments in contract.methods.items():
        method = getattr(cls, name, None)
        call = f"{name}({', '.join(arguments)})"
        stub = getattr(model, name) if name in contract.own else None
        if not callable(method) or method is stub or method is nn.Module.forward:
            raise PartError(f"{target} is no {what}: it lacks the method {call}{derive}{place_of(cls, '')}")
        signature = inspect.signature(method)
        try:
            signature.bind(
                cls,
                *(name for name in arguments if not name.endswith("=")),
                **{name[:-1]: None for name in arguments if name.endswith("=")},
            )
        except TypeError:
            raise PartError(
                f"{target}: its method {name}{signature} is called as {call}{place_of(cls, name)}"
            ) from None
    for name in contract.attributes:
        if not hasattr(cls, name):
            raise PartError(f"{target} is no {what}: it lacks the attribute {name}{derive}{place_of(cls, '')}")


def check_backbone(backbone: Any, target: str) -> None:
    """Refuse a backbone that lacks what the model reads from it, or would be trained.

    Raises:
        PartError: saying what is wrong.
    """
    if not isinstance(backbone, Backbone):
        raise PartError(f"{target}.from_config gave a {type(backbone).__name__}, expected a backbone")
    cls, where = _name(type(backbone)), place_of(type(backbone), "__init__")
    for name in ("channels", "strides", "prompt_channels", "adapter_channels", "config"):
        if not hasattr(backbone, name):
            raise PartError(f"{cls} is no backbone: its constructor sets no attribute {name}{where}")
    stages = len(backbone.channels)
    for name in ("strides", "prompt_channels", "adapter_channels"):
        if len(getattr(backbone, name)) != stages:
            raise PartError(
                f"{cls}: {name} is {getattr(backbone, name)}, expected one entry per stage, {stages}{where}"
            )
    for stage, channels in enumerate(backbone.adapter_channels):
        if len(backbone.blocks(stage)) != len(channels):
            found = len(backbone.blocks(stage))
            raise PartError(
                f"{cls}: stage {stage} has {found} blocks, and adapter_channels has {len(channels)} of it{where}"
            )
    moved = [name for name, p in backbone.named_parameters() if p.requires_grad]
    if moved:
        raise PartError(
            f"{cls}: {len(moved)} parameters require gradients, {moved[0]} among them; its constructor ends with "
            f"self.requires_grad_(False){where}"
        )


def check_config(backbone: Backbone) -> None:
    """Refuse a backbone of the user's own whose `config` does not build it again: checkpoints hold nothing else of it.

    Raises:
        PartError: saying what is wrong.
    """
    cls, where = type(backbone), place_of(type(backbone), "__init__")
    said = f"{_name(cls)}: its config, {backbone.config}, "
    try:
        again = json.loads(json.dumps(backbone.config))
    except TypeError as error:
        raise PartError(f"{said}has to hold numbers, text, lists and mappings only: {error}{where}") from None
    try:
        other = cls.from_config(again)
    except Exception as error:  # whatever the constructor raises
        raise PartError(f"{said}does not build it again: {told(error, cls.__module__.partition('.')[0])}") from None
    shapes, others = ({k: tuple(v.shape) for k, v in one.state_dict().items()} for one in (backbone, other))
    for name in [*shapes, *others]:
        if shapes.get(name) != others.get(name):
            raise PartError(
                f"{said}builds another one: {name} is {others.get(name, 'not there')}, here "
                f"{shapes.get(name, 'not there')}{where}"
            )


def check_peft(peft: Peft, backbone: Backbone, frozen: Sequence[str]) -> None:
    """Refuse a PEFT method whose training would be lost: unless it says that it trains the backbone, checkpoints hold
    nothing of that.

    Args:
        peft: the method.
        backbone: what it has made of it.
        frozen: the names in the backbone's state before.

    Raises:
        PartError: saying what is wrong.
    """
    said, where = _name(type(peft)), place_of(type(peft), "__init__")
    of_backbone = set(map(id, backbone.modules()))
    if kept := [name for name, part in peft.named_modules() if id(part) in of_backbone]:
        raise PartError(
            f"{said} keeps layers of the backbone as parts of its own, as {kept[0]}: it refers to them by something "
            f"that is no module, such as a list{where}"
        )
    if peft.trains_backbone:
        return
    remedy = f"say trains_backbone = True in the class, and checkpoints hold the whole backbone{where}"
    if moved := [name for name, p in backbone.named_parameters() if p.requires_grad]:
        raise PartError(
            f"{said} lets {len(moved)} parameters of the backbone be trained, {moved[0]} among them, which checkpoints "
            f"leave out: keep what is trained in the method itself, or {remedy}"
        )
    if new := sorted(set(backbone.state_dict()) ^ set(frozen)):
        raise PartError(
            f"{said} puts other names into the backbone's state, {new[0]} among them, which checkpoints leave out: "
            f"keep what is new in the method itself (docs/extend.md#peft-method), or {remedy}"
        )


def checked_adapters(adapters: Sequence[Adapt], peft: Peft, blocks: int, stage: int) -> Sequence[Adapt]:
    """The adapters of a stage, with what they return checked.

    Raises:
        PartError: more or fewer than there are blocks; when called, another shape than what they add to.
    """
    if len(adapters) != blocks:
        raise PartError(
            f"the PEFT method {_name(type(peft))} gave {len(adapters)} adapters for the {blocks} blocks of stage "
            f"{stage}{place_of(type(peft), 'adapters_of')}"
        )

    def checked(adapter: Adapt, given: Tensor, add: Tensor) -> Tensor:
        added = adapter(given, add)
        what = f"from an adapter of stage {stage} a map (S, H, W, C)"
        check_shape(added, add.shape, peft, "PEFT method", what, like=add, method="adapters_of")
        return added

    return [partial(checked, adapter) for adapter in adapters]


def _name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
