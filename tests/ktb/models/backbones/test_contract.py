"""What every backbone promises, of every family."""

from __future__ import annotations

import copy
import itertools
import json
import pickle

import pytest
import torch
from torch import nn

from ktb.models.backbones.any_timm import AnyTimm
from tests.ktb.combinations import small_backbone
from tests.ktb.models.backbones.members import ALL, COMPILED, FEW, VITS, beside, features, member
from tests.ktb.models.test_device import Watch, pretended_gpu


@pytest.mark.parametrize("name", ALL)
def test_maps_have_the_promised_sizes(name: str) -> None:
    backbone = member(name)
    necks = backbone.necks()
    for size in ((32, 32), (33, 70), (1, 1)):
        h, w = backbone.covers(*size)
        assert h >= size[0]
        assert w >= size[1]
        tokens = backbone.embed(torch.randn(1, 3, *size))
        for i in range(4):
            if i:
                tokens = backbone.enter(i, tokens)
            assert tokens.map.shape[-1] == backbone.prompt_channels[i]
            tokens = backbone.stage(i, tokens)
            out = tokens.map if necks is None else necks[i](tokens.map)
            stride = backbone.strides[i]
            assert out.shape == (1, h / stride, w / stride, backbone.channels[i])
            assert out.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_nothing_of_it_is_trained_and_all_of_it_is_used(name: str) -> None:
    """Adapters get gradients, the state stays as it is bit for bit; and unfrozen, each parameter would have a part."""
    backbone = member(name).train()
    adapters = beside(backbone)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    sum(x.square().mean() for x in features(backbone, torch.randn(2, 3, 64, 64), adapters)).backward()
    assert all(p.grad is None for p in backbone.parameters())
    assert all(p.grad is not None and p.grad.any() for p in adapters.parameters())
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    backbone.requires_grad_(True)
    sum(x.square().mean() for x in features(backbone, torch.randn(1, 3, 64, 64))).backward()
    assert not [k for k, p in backbone.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", ["swin", *ALL])
def test_how_many_blocks_stand_before_each_parameter(name: str) -> None:
    """As gradients tell it: those of what block k is given are of all parameters that come before it."""
    backbone = small_backbone(name)
    found = backbone.blocks_before()
    given: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        given.append(sum(x.square().sum() for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)))

    for stage in range(4):
        for block in backbone.blocks(stage):
            # Our own Swin reads what its blocks hold, and does not call them.
            (block.norm1 if name == "swin" else block).register_forward_pre_hook(keep, with_kwargs=True)
    backbone.requires_grad_(True)
    features(backbone, torch.randn(1, 3, 64, 64))
    parameters = dict(backbone.named_parameters())
    expected = dict.fromkeys(parameters, 0)
    for x in given:
        of_x = torch.autograd.grad(x, list(parameters.values()), allow_unused=True, retain_graph=True)
        for key, gradient in zip(parameters, of_x, strict=True):
            expected[key] += gradient is None
    assert len(given) == sum(map(len, backbone.adapter_channels))
    assert found == expected


@pytest.mark.parametrize("name", FEW)
def test_blocks_called_again_give_the_same_gradients(name: str) -> None:
    backbone = member(name, drop_path=0.3).train()
    adapters = beside(backbone)
    images = torch.randn(2, 3, 64, 64)
    found = []
    for recompute in (False, True):
        torch.manual_seed(3)
        loss = sum(x.square().mean() for x in features(backbone, images, adapters, recompute=recompute))
        found.append(torch.autograd.grad(loss, list(adapters.parameters())))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_the_entry_of_another_modality(name: str) -> None:
    """A copy that is trained on its own, without its running statistics; what is alike in all channels gives the same
    in any number of them."""
    backbone = member(name)
    grey = torch.rand(2, 1, 64, 64)
    expected = backbone.embed(grey.expand(-1, 3, -1, -1), backbone.entry_for(3)).map
    assert torch.allclose(backbone.embed(grey.expand(-1, 6, -1, -1), backbone.entry_for(6)).map, expected, atol=1e-5)
    for channels in (1, 4):
        entry = backbone.entry_for(channels).train()
        assert all(p.requires_grad for p in entry.parameters())
        before = {k: v.clone() for k, v in entry.state_dict().items()}
        tokens = backbone.embed(torch.rand(2, channels, 64, 64), entry)
        assert tokens.map.shape == expected.shape
        tokens.map.square().mean().backward()
        assert all(p.grad is not None for p in entry.parameters())
        assert all(p.grad is None for p in backbone.parameters())
        assert all(torch.equal(v, before[k]) for k, v in entry.state_dict().items())


@pytest.mark.parametrize("name", FEW)
def test_its_description_builds_it_again(name: str) -> None:
    backbone = member(name, drop_path=0.0)
    spec = json.loads(json.dumps(backbone.spec()))
    assert spec.pop("_target_") == f"{type(backbone).__module__}.{type(backbone).__name__}"
    again = type(backbone).from_config(spec).eval()
    again.load_state_dict(backbone.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for a, b in zip(features(backbone, images), features(again, images), strict=True):
        assert torch.equal(a, b)
    with torch.device("meta"):
        empty = type(backbone).from_config(spec)
    assert {k: v.shape for k, v in empty.state_dict().items()} == {k: v.shape for k, v in again.state_dict().items()}
    assert empty.adapter_channels == backbone.adapter_channels
    assert empty.covers(33, 33) == backbone.covers(33, 33)


@pytest.mark.parametrize("name", FEW)
def test_a_copy_is_a_model_of_its_own(name: str) -> None:
    backbone = member(name)
    images = torch.randn(1, 3, 64, 64)
    expected = features(backbone, images, beside(backbone))
    copies = copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))
    for p in backbone.parameters():
        p.data.zero_()
    for one in copies:
        for a, b in zip(features(one, images, beside(one)), expected, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


class Whole(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = member(name)
        self.adapters = beside(self.backbone)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return features(self.backbone, images, self.adapters)


@pytest.mark.parametrize("name", COMPILED)
def test_it_compiles_without_a_break_and_exports(name: str) -> None:
    model = Whole(name).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(images)
        compiled = torch.compile(model, fullgraph=True, backend="eager")(images)
        exported = torch.export.export(model, (images,)).module()(images)
    for found in (compiled, exported):
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["convnext_atto", "tf_efficientnet_lite0", "pvt_v2_b0", "vit_small_patch16_dinov3"])
def test_a_gpu_need_not_wait(name: str) -> None:
    """No tensor of a later pass is on the CPU, and no value is read."""
    model = Whole(name).train()
    with pretended_gpu():
        tensors = itertools.chain(model.named_parameters(), model.named_buffers())
        state = {k: torch.empty(v.shape, dtype=v.dtype, device="cuda") for k, v in tensors}
        images = torch.empty(2, 3, 64, 96, device="cuda")
        torch.func.functional_call(model, state, (images,))  # what is kept per size is made in the first pass
        with Watch("cuda") as watch:
            found = torch.func.functional_call(model, state, (images,))
    assert all(x.device.type == "cuda" for x in found)
    assert watch.kernels


@pytest.mark.parametrize("name", FEW)
def test_half_precision(name: str) -> None:
    backbone = member(name)
    images = torch.randn(1, 3, 64, 64)
    expected = features(backbone, images, beside(backbone))
    with torch.autocast("cpu", torch.bfloat16):
        found = features(backbone, images, beside(backbone))
    for a, b in zip(found, expected, strict=True):
        assert (a.float() - b).abs().max() < 0.1 * b.abs().max()


@pytest.mark.parametrize("name", FEW)
def test_the_family_is_found_by_structure(name: str) -> None:
    assert AnyTimm.from_config({"timm_name": name, "options": ALL[name]}).spec() == member(name).spec()
    assert (member(name).necks() is not None) == (name in VITS)
