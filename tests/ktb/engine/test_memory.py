"""What saves memory or time changes the result by rounding only."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.data.spec import RGB, Batch, ModalitySpec
from ktb.engine.draws import SampleDropout
from ktb.engine.module import SegmentationModule
from ktb.engine.optim import published
from ktb.losses.base import Loss
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.fusion.dscf import DSCF
from ktb.models.layers.norm import BatchNorm
from ktb.models.segmentor import KTBSegmentor
from tests.ktb.jobs.test_train import last_state, train


def model(**options: Any) -> KTBSegmentor:
    torch.manual_seed(0)
    arch = SwinArch(32, (1, 1, 2, 1), (1, 2, 4, 8), 4, drop_path=0.1)
    built = KTBSegmentor(FrozenSwin(arch), ("rgb", "depth"), 5, head={"width": 32}, side_head={"width": 16}, **options)
    for name, p in built.named_parameters():
        if "adapters" in name and ".up." in name and p.dim() == 2:
            torch.nn.init.normal_(p, std=0.02)  # they start at zero, where adapters do nothing
    return built


def batch(size: int = 4) -> Batch:
    rng = np.random.default_rng(0)
    pictures = {m: torch.from_numpy(rng.integers(0, 256, (size, 3, 64, 96), np.uint8)) for m in ("rgb", "depth")}
    label = torch.from_numpy(rng.integers(0, 5, (size, 64, 96), np.uint8))
    return Batch(inputs=pictures, label=label, id=[""] * size, condition=[{}] * size)


def gradients(
    built: KTBSegmentor, data: Batch, *, index: int = 0, loss: Loss | None = None, **options: Any
) -> dict[str, Tensor]:
    """Of one training step, dropout and masking included."""
    module = SegmentationModule(
        built, loss or SelfTeachingLoss(), modalities=(RGB, ModalitySpec("depth")), classes=list("abcde"), seed=1,
        optim=published(lr=1.0, weight_decay=0.0), **options,
    )  # fmt: skip
    trainer = SimpleNamespace(world_size=1, global_rank=0, current_epoch=0)
    module._trainer = trainer  # type: ignore[assignment]
    module.log_dict = module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    module.train()
    module.training_step(data, index).backward()
    return {n: p.grad for n, p in built.named_parameters() if p.grad is not None}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative, over all parameters."""
    assert a.keys() == b.keys()
    return float(sum(((a[n] - b[n]) ** 2).sum() for n in b) ** 0.5 / sum((g**2).sum() for g in b.values()) ** 0.5)


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    return gradients(model(), batch())


def test_recompute(plain: dict[str, Tensor]) -> None:
    assert distance(gradients(model(recompute=True), batch()), plain) < 1e-6


def test_channels_last(plain: dict[str, Tensor]) -> None:
    assert distance(gradients(model(), batch(), channels_last=True), plain) < 2e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_compile(plain: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """As traced; what Inductor makes of that is PyTorch's to test, and takes minutes on a CPU."""
    built = model()
    monkeypatch.setattr(built, "compile", partial(built.compile, backend="eager"))
    assert distance(gradients(built, batch(), compile=True), plain) < 1e-4
    torch.compiler.reset()


def test_bfloat16(plain: dict[str, Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert distance(gradients(model(), batch()), plain) < 0.1


def test_sampling_points_stay_exact_in_bfloat16() -> None:
    """Of [-1, 1] on a map 200 wide bfloat16 knows every second column only."""
    block = DSCF(("rgb", "depth"), 128, stage=3)
    for offset in block.offset.values():
        torch.nn.init.zeros_(offset[-1].weight)  # type: ignore[index]
    maps = torch.randn(2, 1, 16, 3, 200)
    with torch.autocast("cpu", torch.bfloat16):
        points = block.sampling_points(maps)
    assert torch.equal(points, block.sampling_points(maps))


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing looks across samples and nothing is drawn per batch: batch statistics are those of each part."""

    def running(self: BatchNorm, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    monkeypatch.setattr(BatchNorm, "forward", running)
    monkeypatch.setattr(SampleDropout, "forward", lambda self, x: x)
    options = ["loss=ce", "dataset.train=8", "trainer.precision=64-true", "test=false"]
    train(tmp_path / "whole", *options, "dataset.batch_size=4")
    train(tmp_path / "parts", *options, "dataset.batch_size=2", "trainer.accumulate_grad_batches=2")
    whole, parts = last_state(tmp_path / "whole"), last_state(tmp_path / "parts")
    assert max(float((parts[n] - whole[n]).abs().max()) for n in whole) < 1e-9
