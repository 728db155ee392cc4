"""What is the user's own is tried before anything is written, and leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from ktb.errors import PartError
from ktb.jobs import trial_step
from ktb.jobs.trial_step import try_own_parts
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.fusion.base import Fusion
from ktb.models.heads.linear import LinearHead
from ktb.models.peft.base import Peft
from ktb.models.segmentor import KTBSegmentor, SegOutput


class Sum(Fusion):
    def forward(self, streams: Tensor) -> Tensor:
        return streams.sum(0)


class Transposed(Fusion):
    def forward(self, streams: Tensor) -> Tensor:
        return streams.sum(0).movedim(-1, 1)


class Broken(Fusion):
    def forward(self, streams: Tensor) -> Tensor:
        return streams.sum(0) @ torch.zeros(3, 3)


class OfOneSize(Fusion):
    def forward(self, streams: Tensor) -> Tensor:
        h, w = 64 // int(self.stride), 96 // int(self.stride)
        return streams.sum(0).reshape(-1, h, w, self.channels)


class Small(LinearHead):
    def forward(self, features: Any, size: tuple[int, int]) -> Tensor:
        return super().forward(features, (size[0] // 4, size[1] // 4))


class Flat(Peft):
    def prompt(self, stage: int, streams: Tensor) -> Tensor:
        return streams.flatten(0, 1)


class JustANumber(SelfTeachingLoss):
    def forward(self, out: SegOutput, target: Tensor) -> Any:
        return super().forward(out, target)["loss"]


class PerImage(SelfTeachingLoss):
    def forward(self, out: SegOutput, target: Tensor) -> dict[str, Tensor]:
        return {**super().forward(out, target), "loss": out.logits.mean((1, 2, 3))}


class PerClass(Metric):
    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(5), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.counts += torch.bincount(prediction.flatten(), minlength=5)

    def compute(self) -> Tensor:
        return self.counts


def model_of(**parts: type) -> KTBSegmentor:
    torch.manual_seed(0)
    specs = {name: {"_target_": f"{__name__}.{cls.__name__}"} for name, cls in parts.items()}
    arch = SwinArch(16, (1, 1, 1, 1), (1, 1, 2, 2), 4)
    return KTBSegmentor(FrozenSwin(arch), ("rgb", "depth"), 5, **{"head": {"width": 16}, **specs})  # type: ignore[arg-type]


def test_nothing_is_different_afterwards() -> None:
    model, loss = model_of(fusion=Sum), SelfTeachingLoss()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    draws = torch.get_rng_state()
    model.eval()
    try_own_parts(model, loss, {})
    assert torch.equal(torch.get_rng_state(), draws)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_parts_of_ktb_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(trial_step, "_step", fails)
    try_own_parts(model_of(), SelfTeachingLoss(), {})
    with pytest.raises(PartError):
        try_own_parts(model_of(fusion=Sum), SelfTeachingLoss(), {})
    with pytest.raises(PartError):
        try_own_parts(model_of(), SelfTeachingLoss(), {"counts": PerClass()})


@pytest.mark.parametrize(
    ("parts", "loss", "metrics", "message"),
    [
        ({"fusion": Transposed}, SelfTeachingLoss, {},
         "the fusion block {}.Transposed returned map (B, H, W, C) as (2, 16, 16, 24), expected (2, 16, 24, 16)"),
        ({"head": Small}, SelfTeachingLoss, {},
         "the head {}.Small returned logits (B, K, H, W) as (2, 5, 16, 24), expected (2, 5, 64, 96)"),
        ({"peft": Flat}, SelfTeachingLoss, {},
         "the PEFT method {}.Flat returned streams (M, B, H, W, C) of stage 0 as (4, 16, 24, 16), expected (2, 2, 16, "
         "24, 16)"),
        ({}, JustANumber, {}, "the loss {}.JustANumber returned Tensor, expected a mapping with the scalar 'loss'"),
        ({}, PerImage, {}, "the loss {}.PerImage returned 'loss' as (2,), expected a scalar"),
        ({}, SelfTeachingLoss, {"counts": PerClass},
         "metrics.counts: {}.PerClass.compute() returned a tensor of shape (5,), expected one number"),
    ],
)  # fmt: skip
def test_what_does_not_keep_to_its_place(
    parts: dict[str, type], loss: type, metrics: Mapping[str, type], message: str
) -> None:
    with pytest.raises(PartError) as error:
        try_own_parts(model_of(**parts), loss(), {name: metric() for name, metric in metrics.items()})
    assert str(error.value) == message.format(__name__)


@pytest.mark.parametrize(
    ("block", "size", "said"), [(Broken, "64 × 96", "mat1 and mat2 shapes"), (OfOneSize, "50 × 75", "shape '")]
)
def test_an_error_in_code_of_ones_own_is_told_with_its_line(block: type, size: str, said: str) -> None:
    with pytest.raises(PartError) as error:
        try_own_parts(model_of(fusion=block), SelfTeachingLoss(), {})
    text, line = str(error.value), block.forward.__code__.co_firstlineno  # type: ignore[attr-defined]
    assert text.startswith(
        f"{__name__}.{block.__name__}: a trial with two images of {size} pixels fails: RuntimeError: "
    )
    assert said in text
    assert any(text.endswith(f"({__file__}, line {line + n})") for n in (1, 2))
