"""What is the user's own is tried before anything is written, and leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ktb.errors import PartError
from ktb.jobs import trial_step
from ktb.jobs.trial_step import try_own_parts
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.fusion.base import Fused, Fusion
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


class Late(Fusion):
    def forward(self, streams: Tensor) -> Tensor:
        if not hasattr(self, "mix"):
            self.mix = nn.Linear(self.channels, self.channels)
        return self.mix(streams.sum(0))


class LateBuffer(Fusion):
    def forward(self, streams: Tensor) -> Tensor:
        self.register_buffer("seen", streams.detach().mean())
        return streams.sum(0)


class ChangesInPlace(Fusion):
    normalised = False

    def forward(self, streams: Tensor) -> Tensor:
        fused = streams.square().sum(0)
        streams.zero_()
        return fused


class Forgets(Fusion):
    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self.forgotten = nn.Linear(self.channels, 1)

    def forward(self, streams: Tensor) -> Tensor:
        return streams.sum(0)


class Untrue(FrozenSwin):
    """A backbone that says something else than it does."""

    def __init__(self, strides: Sequence[int] = (4, 8, 16, 32), *, again: Any = None) -> None:
        super().__init__(SwinArch(16, (1, 1, 1, 1), (1, 1, 2, 2), 4))
        self.strides, self.config = tuple(strides), again if isinstance(again, dict) else {"strides": list(strides)}
        if again == "wider":
            self.extra = nn.Linear(4, 4)
            self.requires_grad_(False)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        return cls(**config)


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


class OneOfAList(SelfTeachingLoss):
    def forward(self, out: SegOutput, target: Tensor) -> dict[str, Tensor]:
        terms = super().forward(out, target)
        return {**terms, "last": terms["loss"][None]}


class Balanced(Fusion):
    def forward(self, streams: Tensor) -> Fused:
        return Fused(streams.sum(0), losses={"depth": streams.mean()})


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
        ({}, OneOfAList, {}, "the loss {}.OneOfAList returned 'last' as (1,), expected a scalar"),
        ({"fusion": Balanced}, SelfTeachingLoss, {},
         "the fusion block {0}.Balanced has a term 'depth', which is logged as 'loss_depth', and the loss "
         "ktb.losses.self_teaching.SelfTeachingLoss has one of that name: choose another"),
        ({}, SelfTeachingLoss, {"counts": PerClass},
         "metrics.counts: {}.PerClass.compute() returned a tensor of shape (5,), expected one number"),
    ],
)  # fmt: skip
def test_what_does_not_keep_to_its_place(
    parts: dict[str, type], loss: type, metrics: Mapping[str, type], message: str
) -> None:
    with pytest.raises(PartError) as error:
        try_own_parts(model_of(**parts), loss(), {name: metric() for name, metric in metrics.items()})
    cls = next(iter(parts.values()), loss if loss is not SelfTeachingLoss else None)
    method = "prompt" if "peft" in parts else "forward"
    line = f" ({__file__}, line {getattr(cls, method).__code__.co_firstlineno})" if cls else ""
    assert str(error.value) == message.format(__name__) + line


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


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (Late, "fusion.0.mix.weight is made only when the model runs"),
        (LateBuffer, "fusion.0.seen is made only when the model runs"),
        (ChangesInPlace, f"{__name__}.ChangesInPlace: a trial with two images of 64 × 96 pixels fails: RuntimeError: "
         "one of the variables needed for gradient computation"),
    ],
)  # fmt: skip
def test_what_happens_only_when_the_model_runs(block: type, said: str) -> None:
    model = model_of(fusion=block)
    with pytest.raises(PartError) as error:
        try_own_parts(model, SelfTeachingLoss(), {})
    assert str(error.value).startswith(said)
    where = f"({__file__}, line {block.forward.__code__.co_firstlineno})"  # type: ignore[attr-defined]
    assert str(error.value).endswith(where)


def test_parameters_without_gradients_are_told_or_refused_where_processes_wait_for_them() -> None:
    said = "8 parameters get no gradient in a trial step, fusion.0.forgotten.weight among them"
    where = f" ({__file__}, line {Forgets.forward.__code__.co_firstlineno})"
    model = model_of(fusion=Forgets)
    assert try_own_parts(model, SelfTeachingLoss(), {}) == [f"{said}: not trained unless other steps use it{where}"]
    with pytest.raises(PartError) as error:
        try_own_parts(model, SelfTeachingLoss(), {}, all_trained=True)
    assert str(error.value) == (
        f"{said}, and several processes would wait for it: use it, remove it, or set "
        f"trainer.strategy=ddp_find_unused_parameters_true{where}"
    )
    assert try_own_parts(model_of(fusion=Sum), SelfTeachingLoss(), {}, all_trained=True) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, None),
        ({"strides": (2, 4, 8, 16)}, "has a map of (13, 19) positions in stage 0 for an image of (50, 75) pixels: "
         "covers says (50, 75) pixels, strides one position in 2"),
        ({"again": {"strides": np.int64(4)}}, "its config, {'strides': np.int64(4)}, has to hold numbers, text, "
         "lists and mappings only: Object of type int64 is not JSON serializable"),
        ({"again": {"stride": 4}}, "its config, {'stride': 4}, does not build it again: TypeError: Untrue.__init__() "
         "got an unexpected keyword argument 'stride'"),
        ({"again": "wider"}, "builds another one: extra.weight is not there, here (4, 4)"),
    ],
)  # fmt: skip
def test_a_backbone_that_says_what_is_not_true(settings: dict[str, Any], message: str | None) -> None:
    model = KTBSegmentor(Untrue(**settings), ("rgb", "depth"), 5, head={"width": 16})
    if message is None:
        assert try_own_parts(model, SelfTeachingLoss(), {}) == []
        return
    with pytest.raises(PartError) as error:
        try_own_parts(model, SelfTeachingLoss(), {})
    assert message in str(error.value)
    assert __file__ in str(error.value)
