"""A class that cannot take a place in the model is refused before it is built, with what it lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktb.errors import PartError
from ktb.models.backbones.base import Backbone, Tokens
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.fusion.base import Fusion
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
    assert refusal(fusion=spec(Nothing)) == "Nothing is no fusion block: it lacks the method forward(streams)"
    assert refusal(fusion=spec(NoPictures)) == (
        f"NoPictures is no fusion block: it lacks the method pictures(streams){shared}"
    )
    assert refusal(fusion=spec(OfTwo)).endswith("is called as forward(streams)")
    assert refusal(fusion={"_target_": "pathlib.Path"}) == (
        "pathlib.Path is no fusion block: it must derive from torch.nn.modules.module.Module"
    )
    assert refusal(peft=spec(Nothing)) == "Nothing is no PEFT method: it must derive from ktb.models.peft.base.Peft"
    for head in ("head", "side_head"):
        assert refusal(**{head: spec(NoHead)}) == "NoHead is no head: it lacks the method forward(features, size)"


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
