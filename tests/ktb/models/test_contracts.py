"""A class that cannot take a place in the model is refused before it is built, with what it lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktb.errors import PartError
from ktb.models.backbones.base import Backbone, Tokens
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.fusion.base import Fused, Fusion
from ktb.models.fusion.simple import PlainSum
from ktb.models.peft.base import Peft
from ktb.models.segmentor import KTBSegmentor, backbone_of


class Nothing(Fusion):
    pass


class NoPictures(nn.Module):
    normalised = True

    def __init__(self, modalities: Any, channels: int, stage: int, stride: float) -> None:
        super().__init__()

    def forward(self, streams: Tensor) -> Tensor:
        return streams.sum(0)


class OfTwo(Fusion):
    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:  # type: ignore[override]
        return rgb + depth


class OtherPlace(PlainSum):
    def __init__(self, channels: int, alpha: float = 1.0) -> None:
        super().__init__((), channels, 0, 4)


class NeedsMore(Peft):
    def __init__(self, modalities: Any, backbone: Any, *, ranks: int) -> None:
        super().__init__(modalities, backbone)


class Fails(Peft):
    def __init__(self, modalities: Any, backbone: Any) -> None:
        super().__init__(modalities, backbone)
        raise RuntimeError("no licence")


class Forgetful(Fusion):
    def __init__(self, modalities: Any, channels: int, stage: int, stride: float) -> None:
        self.size = channels

    def forward(self, streams: Tensor) -> Tensor:
        return streams.sum(0)


class OfAnySize(PlainSum):
    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self.mix = nn.LazyLinear(self.channels)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.low = inner, nn.Linear(inner.in_features, inner.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.low(x)  # type: ignore[no-any-return]


class Wraps(Peft):
    """Puts layers of its own into the backbone."""

    def __init__(self, modalities: Any, backbone: Any) -> None:
        super().__init__(modalities, backbone)
        for stage in range(4):
            for block in backbone.blocks(stage):
                block.mlp.fc1 = Wrapped(block.mlp.fc1)


class WrapsFrozen(Wraps):
    def __init__(self, modalities: Any, backbone: Any) -> None:
        super().__init__(modalities, backbone)
        backbone.requires_grad_(False)


class WrapsAndSaysSo(Wraps):
    trains_backbone = True


class Biases(Peft):
    def __init__(self, modalities: Any, backbone: Any) -> None:
        super().__init__(modalities, backbone)
        for name, p in backbone.named_parameters():
            p.requires_grad_(name.endswith("bias"))


class KeepsALayer(Peft):
    def __init__(self, modalities: Any, backbone: Any) -> None:
        super().__init__(modalities, backbone)
        self.layers = nn.ModuleList([backbone.blocks(0)[0].mlp.fc1])


class OneAdapter(Peft):
    def adapters_of(self, stage: int) -> Any:
        return [lambda given, add: add] * (2 - stage)


class Narrow(Peft):
    def adapters_of(self, stage: int) -> Any:
        return [lambda given, add: add[..., :3]]


class NoHead(nn.Module):
    def __init__(self, channels: Any, num_classes: int) -> None:
        super().__init__()


class Small(FrozenSwin):
    def __init__(self, trained: bool = False, short: bool = False, fewer: bool = False) -> None:
        super().__init__(SwinArch(16, (1, 1, 1, 1), (1, 1, 2, 2), 4))
        if short:
            self.strides = self.strides[:3]
        if fewer:
            self.adapter_channels = ((16, 16), *self.adapter_channels[1:])
        if trained:
            self.requires_grad_(True)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        return cls(**config)


class HalfABackbone(Backbone):
    def embed(self, images: Tensor, entry: nn.Module | None = None) -> Tokens:
        return Tokens(images)


def refusal(**parts: Any) -> str:
    swin = FrozenSwin(SwinArch(16, (1, 1, 1, 1), (1, 1, 2, 2), 4))
    with torch.device("meta"), pytest.raises(PartError) as error:
        KTBSegmentor(swin, ("rgb", "depth"), 3, **{"head": {"width": 8}, **parts})
    return str(error.value).replace(f"{__name__}.", "")


def spec(cls: type, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{cls.__name__}", **settings}


def test_what_a_part_lacks() -> None:
    shared = "; ktb.models.fusion.base.Fusion has what all of them share"
    here = f" ({__file__})"
    assert refusal(fusion=spec(Nothing)) == f"Nothing is no fusion block: it lacks the method forward(streams){here}"
    assert refusal(fusion=spec(NoPictures)) == (
        f"NoPictures is no fusion block: it lacks the method pictures(streams){shared}{here}"
    )
    line = OfTwo.forward.__code__.co_firstlineno
    assert refusal(fusion=spec(OfTwo)).endswith(f"is called as forward(streams) ({__file__}, line {line})")
    assert refusal(fusion={"_target_": "pathlib.Path"}) == (
        "pathlib.Path is no fusion block: it must derive from torch.nn.modules.module.Module"
    )
    assert refusal(peft=spec(Nothing)) == (
        f"Nothing is no PEFT method: it must derive from ktb.models.peft.base.Peft{here}"
    )
    for head in ("head", "side_head"):
        assert refusal(**{head: spec(NoHead)}) == (
            f"NoHead is no head: it lacks the method forward(features, size){here}"
        )


def test_how_a_part_is_built() -> None:
    assert refusal(fusion=spec(OtherPlace)).startswith(
        "OtherPlace cannot be built: ktb calls OtherPlace(modalities=..., channels=..., stage=..., stride=...), and "
    )
    assert refusal(peft=spec(NeedsMore)) == "NeedsMore needs a value for its setting 'ranks'"
    assert refusal(peft=spec(NeedsMore, rank=3)) == (
        "NeedsMore takes no setting 'rank'; did you mean 'ranks'? (it takes ranks)"
    )
    line = Fails.__init__.__code__.co_firstlineno + 2
    assert refusal(peft=spec(Fails)) == f"Fails cannot be built: RuntimeError: no licence ({__file__}, line {line})"


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (Small, {"trained": True}, r"parameters require gradients, patch_embed\.proj\.weight among them; its constr"),
        (Small, {"short": True}, r"strides is \(4, 8, 16\), expected one entry per stage, 4"),
        (Small, {"fewer": True}, r"stage 0 has 1 blocks, and adapter_channels has 2 of it"),
        (HalfABackbone, {}, r"HalfABackbone is no backbone: it lacks the method entry_for\(channels\)"),
        (NoHead, {}, r"NoHead is no backbone: it must derive from ktb\.models\.backbones\.base\.Backbone"),
    ],
)
def test_what_is_no_backbone(cls: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PartError, match=message):
        backbone_of(spec(cls, **settings))
    assert backbone_of(spec(Small)).strides == (4, 8, 16, 32)


def place(cls: Any, method: str = "__init__") -> str:
    return f" ({__file__}, line {getattr(cls, method).__code__.co_firstlineno})"


def test_a_module_that_is_not_fully_built() -> None:
    assert refusal(fusion=spec(Forgetful)) == (
        f"Forgetful cannot be built: the constructor does not call super().__init__(){place(Forgetful)}"
    )
    assert refusal(fusion=spec(OfAnySize)) == (
        "OfAnySize cannot be built: its LazyLinear: weight has no shape; say how many channels it takes"
        f"{place(OfAnySize)}"
    )


def test_a_peft_method_whose_training_no_checkpoint_would_hold() -> None:
    remedy = "or say trains_backbone = True in the class, and checkpoints hold the whole backbone"
    first = "layers.0.blocks.0"
    assert refusal(peft=spec(Wraps)) == (
        f"Wraps lets 8 parameters of the backbone be trained, {first}.mlp.fc1.low.weight among them, which checkpoints "
        f"leave out: keep what is trained in the method itself, {remedy}{place(Wraps)}"
    )
    assert refusal(peft=spec(WrapsFrozen)) == (
        f"WrapsFrozen puts other names into the backbone's state, {first}.mlp.fc1.bias among them, which checkpoints "
        f"leave out: keep what is new in the method itself (docs/extend.md#peft-method), {remedy}{place(WrapsFrozen)}"
    )
    assert refusal(peft=spec(Biases)).startswith("Biases lets 29 parameters of the backbone be trained, patch_embed.")
    assert refusal(peft=spec(KeepsALayer)) == (
        "KeepsALayer keeps layers of the backbone as parts of its own, as layers.0: it refers to them by something "
        f"that is no module, such as a list{place(KeepsALayer)}"
    )
    swin = FrozenSwin(SwinArch(16, (1, 1, 1, 1), (1, 1, 2, 2), 4))
    model = KTBSegmentor(swin, ("rgb", "depth"), 3, head={"width": 8}, peft=spec(WrapsAndSaysSo))
    assert "backbone.layers.0.blocks.0.mlp.fc1.low.weight" in model.state_dict()


def test_adapters_of_ones_own() -> None:
    swin = FrozenSwin(SwinArch(16, (1, 1, 1, 1), (1, 1, 2, 2), 4))
    images = {"rgb": torch.zeros(1, 3, 32, 32)}
    for peft, message in (
        (OneAdapter, "the PEFT method {}.OneAdapter gave 2 adapters for the 1 blocks of stage 0"),
        (Narrow, "the PEFT method {}.Narrow returned from an adapter of stage 0 a map (S, H, W, C) as (1, 8, 8, 3), "
         "expected (1, 8, 8, 16)"),
    ):  # fmt: skip
        model = KTBSegmentor(swin, ("rgb",), 3, head={"width": 8}, peft=spec(peft))
        with pytest.raises(PartError) as error:
            model(images)
        assert str(error.value) == message.format(__name__) + place(peft, "adapters_of")


@pytest.mark.parametrize(("change", "found"), [("double", "torch.float64"), ("bfloat16", "torch.bfloat16")])
def test_a_map_of_another_type(change: str, found: str) -> None:
    block = PlainSum(("rgb",), 2, 0, 4)
    streams = torch.zeros(1, 1, 4, 4, 2)
    with pytest.raises(PartError, match=rf"returned map \(B, H, W, C\) as {found}, expected torch\.float32, as its "):
        Fused.of(getattr(block(streams), change)(), streams, block)
    with torch.autocast("cpu", torch.bfloat16):
        assert Fused.of(block(streams).bfloat16(), streams, block).map.dtype == torch.bfloat16
    with pytest.raises(PartError, match=r"returned map \(B, H, W, C\) on meta, expected cpu, where its argument is"):
        Fused.of(block(streams).to("meta"), streams, block)
