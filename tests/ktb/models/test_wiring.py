"""Our wiring against the published one, written out plainly: the same numbers and the same gradients."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.heads.mlp import MLPHead
from ktb.models.segmentor import KTBSegmentor
from tests.ktb.commands import load_script

published = load_script("published_wiring")


@pytest.mark.parametrize("modalities", [("rgb",), ("rgb", "depth"), ("rgb", "aolp", "nir")])
@pytest.mark.parametrize("size", [(64, 96), (50, 75)])
def test_same_logits_and_gradients(modalities: tuple[str, ...], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    arch = SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0)
    model = KTBSegmentor(FrozenSwin(arch), modalities, 5, head={"width": 16}, side_head={"width": 8}).double().eval()
    for p in model.parameters():  # away from the zeros and near-zeros of the initialisation
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    inputs = {m: torch.rand(2, 3, *size, dtype=torch.float64) for m in modalities}
    results = []
    for out in (model(inputs, side=True), published.forward(model, inputs)):
        loss = out.logits.square().mean() + sum(z.square().mean() for z in out.side.values())
        trained = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, trained)
        results.append([x.detach() for x in (out.logits, *out.side.values(), *grads)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10 * float(theirs.abs().max().clamp(min=1e-6)))


@pytest.mark.parametrize(("init", "std", "logits"), [("published", 1.0, (11, 21)), ("small", 0.01, (0.1, 0.25))])
def test_start_of_the_predictor(init: str, std: float, logits: tuple[float, float]) -> None:
    """Two classes and the published width: logits of ±16 before the first step, or almost none."""
    states = []
    for given in ({}, {"init": init}):
        torch.manual_seed(0)
        head = MLPHead((8, 16, 32, 64), 2, 512, **given)  # type: ignore[arg-type]
        states.append({name: value.clone() for name, value in head.state_dict().items()})
    assert head.predict.weight.std().item() == pytest.approx(std, rel=0.1)
    assert not head.predict.bias.any()
    features = [torch.randn(2, 16 >> i, 16 >> i, 8 << i) for i in range(4)]
    assert logits[0] < head.train()(features, (16, 16)).std().item() < logits[1]
    differ = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
    assert differ == (set() if init == "published" else {"predict.weight"})
    with pytest.raises(ValueError, match="init of the MLP head must be 'published' or 'small', got 'tiny'"):
        MLPHead((8, 16, 32, 64), 5, 16, init="tiny")  # type: ignore[arg-type]


def test_folded_head_follows_its_weights() -> None:
    """Without gradients the head multiplies its matrices and folds BatchNorm once; a change must reach the logits."""
    torch.manual_seed(0)
    head = MLPHead((8, 16, 32, 64), 5, 16).double().eval()
    features = [torch.rand(2, 16 >> i, 24 >> i, 8 << i, dtype=torch.float64) for i in range(4)]

    def folded() -> torch.Tensor:
        with torch.no_grad():
            return head(features, (50, 70))

    def replace() -> None:
        head.fuse.weight.data = torch.randn_like(head.fuse.weight)

    def behind_autograd() -> None:
        head.fuse.weight.data.copy_(torch.randn_like(head.fuse.weight))
        head.eval()  # as whoever averages weights that way does before using them

    values = {name: value for name, value in head.state_dict().items() if value.is_floating_point()}
    variance = values.pop("norm.running_var")
    in_place = [partial(variance.uniform_, 0.5, 2), *(value.normal_ for value in values.values())]
    loaded = {**head.state_dict(), "fuse.weight": torch.randn_like(head.fuse.weight)}
    seen = [folded()]
    for change in (*in_place, partial(head.load_state_dict, loaded), replace, behind_autograd):
        change()
        seen.append(folded())
        assert not torch.allclose(seen[-1], seen[-2], rtol=1e-3)
        assert torch.allclose(seen[-1], head(features, (50, 70)), rtol=1e-11, atol=1e-12)
    assert torch.equal(copy.deepcopy(head)(features, (50, 70)), head(features, (50, 70)))
    assert folded().is_contiguous()


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_compiles_without_graph_breaks(train: bool) -> None:
    model = KTBSegmentor(
        FrozenSwin(SwinArch(32, (2, 1, 1, 1), (1, 2, 4, 8), 4, 2.0)), ("rgb", "depth"), 5, head={"width": 16}
    )
    model.double().train(train)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    # Padded and shifted windows; those of another size are other code in evaluation, and the same in training.
    for size in [(40, 48), (44, 60)][train:]:
        inputs = {m: torch.rand(1, 3, *size, dtype=torch.float64) for m in ("rgb", "depth")}
        results = []
        with torch.set_grad_enabled(train):
            for forward in (model, compiled):
                torch.manual_seed(0)  # dropout and stochastic depth
                results.append(forward(inputs).logits)
        assert torch.allclose(*results, rtol=1e-8, atol=1e-10)
    if train:
        results[1].square().mean().backward()
        assert all(p.grad is not None for p in model.head.parameters())
