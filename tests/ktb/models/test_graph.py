"""Recording and replay need a GPU; what is refused before does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.graph import CudaGraph
from ktb.models.segmentor import KTBSegmentor


@pytest.fixture
def model() -> KTBSegmentor:
    torch.manual_seed(0)
    arch = SwinArch(32, (1, 1, 2, 1), (1, 2, 4, 8), 4, 2.0)
    return KTBSegmentor(FrozenSwin(arch), ("rgb", "depth"), 5, head={"width": 32}, side_head={"width": 16}).eval()


def inputs(size: tuple[int, int] = (48, 40), device: str = "cpu") -> dict[str, Tensor]:
    return {m: torch.rand(2, 3, *size, device=device) for m in ("rgb", "depth")}


def test_a_cpu_has_no_graphs(model: KTBSegmentor) -> None:
    with pytest.raises(ValueError, match=r"on one GPU, got \['cpu'\]"):
        CudaGraph(model, inputs())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnGPU:
    def test_replay_gives_what_the_model_gives(self, model: KTBSegmentor) -> None:
        model.cuda()
        graph = CudaGraph(model, inputs(device="cuda"))
        first = None
        for _ in range(3):
            given = inputs(device="cuda")
            with torch.no_grad():
                expected = model(given).logits
            found = graph(given)
            assert torch.allclose(found, expected, atol=1e-5)
            assert first is None or not torch.equal(found, first)
            first = found

    def test_a_recording_outlives_changes_of_the_model(self, model: KTBSegmentor) -> None:
        model.cuda()
        given = inputs(device="cuda")
        graph = CudaGraph(model, given, autocast=torch.bfloat16)
        before = graph(given)
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
            model(inputs((64, 72), device="cuda"))
        assert torch.equal(graph(given), before)

    def test_refusals(self, model: KTBSegmentor) -> None:
        model.cuda()
        with pytest.raises(ValueError, match="eval"):
            CudaGraph(model.train(), inputs(device="cuda"))
        graph = CudaGraph(model.eval(), inputs(device="cuda"))
        with pytest.raises(ValueError, match="recorded for"):
            graph(inputs((48, 44), device="cuda"))
