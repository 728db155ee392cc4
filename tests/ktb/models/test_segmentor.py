"""Properties every shape of the model has: sizes, numbers of modalities, what is trained, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.fusion.dscf import DSCF
from ktb.models.profile import flops
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.bundle import save_bundle
from ktb.weights.checkpoint import load_model

ARCH = SwinArch(embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4, mlp_ratio=2.0)
SWIN_B = SwinArch(128, (2, 2, 18, 2), (4, 8, 16, 32), 12)
SWIN_L = SwinArch(192, (2, 2, 18, 2), (6, 12, 24, 48), 12)


def build(modalities: tuple[str, ...] | dict[str, int] = ("rgb", "depth"), **options: object) -> KTBSegmentor:
    torch.manual_seed(0)
    return KTBSegmentor(
        FrozenSwin(ARCH), modalities, 5, **{"head": {"width": 16}, "side_head": {"width": 8}, **options}
    )  # type: ignore[arg-type]


def images(model: KTBSegmentor, b: int, h: int, w: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {m: torch.rand(b, c, h, w, generator=generator) for m, c in model.config["modalities"].items()}


@pytest.mark.parametrize(
    ("arch", "total", "trained"), [(SWIN_B, 94_433_942, 7_545_886), (SWIN_L, 207_937_722, 12_724_998)]
)
def test_published_parameter_counts(arch: SwinArch, total: int, trained: int) -> None:
    with torch.device("meta"):
        model = KTBSegmentor(FrozenSwin(arch), ("rgb", "depth"), 40)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    if arch is SWIN_B:
        parts = {n: sum(p.numel() for p in c.parameters() if p.requires_grad) for n, c in model.named_children()}
        assert parts == {
            "backbone": 0,
            "patch_embeds": 6_528,
            "peft": 576_080 + 1_770_464,
            "norms": 0,
            "fused_norms": 0,
            "fusion": 1_606_646,
            "head": 2_055_208,
            "side_heads": 1_530_960,
        }
        assert sum(f.table.numel() for f in model.fusion) == 567_630


@pytest.mark.parametrize("modalities", [("rgb",), ("depth",), ("rgb", "depth"), ("rgb", "aolp", "dolp", "nir")])
@pytest.mark.parametrize("size", [(32, 32), (45, 67), (64, 48)])
def test_any_number_of_modalities_and_any_size(modalities: tuple[str, ...], size: tuple[int, int]) -> None:
    model = build(modalities)
    out = model.train()(images(model, 2, *size))
    assert out.logits.shape == (2, 5, *size)
    assert {m: z.shape for m, z in out.side.items()} == dict.fromkeys(modalities, out.logits.shape)
    (out.logits.sum() + sum(z.sum() for z in out.side.values())).backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        assert p.grad is None or p.grad.isfinite().all(), name


def test_samples_of_a_batch_do_not_influence_each_other() -> None:
    model = build().double().eval()
    x = {m: v.double() for m, v in images(model, 3, 50, 70).items()}
    with torch.no_grad():
        together = model(x).logits
        alone = torch.cat([model({m: v[i : i + 1] for m, v in x.items()}).logits for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-12)


def test_side_heads_only_when_asked() -> None:
    model = build()
    x = images(model, 1, 32, 32)
    assert model.eval()(x).side == {}
    assert set(model.eval()(x, side=True).side) == {"rgb", "depth"}
    assert set(model.train()(x).side) == {"rgb", "depth"}
    without = build(side_head=None).train()
    assert without(x).side == {}
    with pytest.raises(ValueError, match="without side heads"):
        without(x, side=True)


def test_masking_a_modality_equals_its_absence() -> None:
    model = build().eval()
    x = images(model, 2, 40, 40)
    with torch.no_grad():
        masked = model(x, masked=torch.tensor([[False, False], [True, True]])).logits
        absent = model({"rgb": x["rgb"]}).logits
        mixed = model(x, masked=torch.tensor([[False, False], [True, False]])).logits
        full = model(x).logits
    assert torch.equal(masked, absent)
    assert torch.allclose(mixed, torch.stack([absent[0], full[1]]), atol=1e-6)
    assert not torch.allclose(full, absent, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {}, "some of"),
        (lambda x: {**x, "thermal": x["rgb"]}, "some of"),
        (lambda x: {**x, "depth": x["depth"][..., :30]}, "must agree"),
        (lambda x: {**x, "depth": x["depth"][:, :1]}, r"depth must be \(B, 3, H, W\)"),
    ],
)
def test_wrong_inputs_are_named(change: object, message: str) -> None:
    model = build()
    with pytest.raises(ValueError, match=message):
        model(change(images(model, 1, 32, 32)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("modalities", "options", "message"),
    [
        ((), {}, "one or more"),
        (("rgb", "rgb"), {}, "different"),
        (("rgb", "a.b"), {}, "a.b"),
        (("rgb", "keys"), {}, "keys"),
        ({"rgb": 4}, {}, "3 channels"),
        (("rgb",), {"fusion": {"_target_": "ktb.models.fusion.mean.Mean"}}, "has no module mean"),
    ],
)
def test_wrong_arguments_are_named(modalities: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(modalities, **options)  # type: ignore[arg-type]


def test_x_of_other_channel_counts_starts_from_the_rgb_filters() -> None:
    model = build({"rgb": 3, "nir": 1, "polar": 4})
    rgb = model.backbone.patch_embed.proj.weight
    nir, polar = (model.patch_embeds[m].proj.weight for m in ("nir", "polar"))
    assert torch.allclose(nir, 3 * rgb[:, :1])
    assert torch.allclose(polar[:, 3], 0.75 * rgb[:, 0])
    constant = torch.ones(1, 4, 8, 8)
    assert torch.allclose(
        model.patch_embeds["nir"].proj(constant[:, :1]),
        torch.conv2d(constant[:, :1], 3 * rgb[:, :1], stride=4) + model.backbone.patch_embed.proj.bias[:, None, None],
        atol=1e-5,
    )
    out = model(images(model, 1, 32, 32))
    assert out.logits.shape == (1, 5, 32, 32)


def test_an_untrained_adapter_adds_nothing() -> None:
    model = build().eval()
    tokens, add = torch.randn(2, 4, 5, 6, 32)
    assert torch.equal(model.peft.adapters[0][0](tokens, add), add)


LORA = {"_target_": "ktb.models.peft.lora.LoRA", "rank": 2}


def test_lora_is_folded_away_for_inference_and_the_model_stays_as_it_is(tmp_path: Path) -> None:
    model = build(peft=LORA).double()
    for p in model.peft.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x = {m: v.double() for m, v in images(model, 1, 40, 56).items()}
    with torch.no_grad():
        expected = model.eval()(x).logits
        before = {k: v.clone() for k, v in model.state_dict().items()}
        merged = model.merged()
        assert torch.allclose(merged(x).logits, expected, rtol=1e-9, atol=1e-9)
        assert not list(merged.peft.parameters())
        assert torch.equal(model(x).logits, expected)
    assert list(merged.state_dict()) == [k for k in before if not k.startswith("peft.")]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.config["peft"]["_target_"] == LORA["_target_"]
    out = model.train()(x)  # and can be trained on
    out.logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.peft.parameters())
    # What was folded is saved as what it is: a model without PEFT, and with its own backbone.
    merged.about = {"backbone": {"name": "a", "timm_name": None, "weights": "bundled", "sha256": "of another"}}
    save_bundle(merged.float(), tmp_path / "bundle")
    again = load_model(tmp_path / "bundle")
    with torch.no_grad():
        assert torch.allclose(again({m: v.float() for m, v in x.items()}).logits, expected.float(), atol=1e-4)


def test_what_cannot_be_folded_is_the_model_itself() -> None:
    for peft in ({}, {"_target_": "ktb.models.peft.base.Peft"}, {"_target_": "ktb.models.peft.full.Full"}):
        model = build(peft=peft)
        assert model.merged() is model


def test_lora_costs_no_operations_in_inference() -> None:
    counts = [flops(build(peft=peft), (64, 64)) for peft in (LORA, {"_target_": "ktb.models.peft.base.Peft"})]
    assert counts[0] == counts[1]


def test_recomputed_blocks_give_the_same_gradients() -> None:
    grads = []
    for recompute in (False, True):
        model = build(recompute=recompute).double().eval()  # eval: no random draws
        x = {m: v.double() for m, v in images(model, 1, 40, 40).items()}
        model(x).logits.square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_block_equals_timms_where_nothing_is_padded() -> None:
    """At sizes that are multiples of the window in every stage, pad-then-roll and timm's order are the same."""
    torch.manual_seed(0)
    swin = SwinTransformer(
        img_size=128, embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4, mlp_ratio=2.0,
        num_classes=0, always_partition=True,
    ).double().eval()  # fmt: skip
    ours = FrozenSwin(ARCH).double().eval()
    state = {k: v for k, v in swin.state_dict().items() if k.startswith(("patch_embed.", "layers."))}
    ours.load_state_dict(state)
    image = torch.randn(2, 3, 128, 128, dtype=torch.float64)
    with torch.no_grad():
        x, y = swin.patch_embed(image), ours.embed(image)
        for i in range(4):
            x = swin.layers[i](x)
            y = ours.stage(i, ours.enter(i, y) if i else y)
            assert torch.allclose(x, y.map, atol=1e-12), i


def test_stochastic_depth_rates() -> None:
    rates = [getattr(b.drop_path1, "drop_prob", 0.0) for layer in FrozenSwin(SWIN_B).layers for b in layer.blocks]
    assert rates == pytest.approx([0.3 * i / 23 for i in range(24)])


def test_fusion_in_chunks_of_queries_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fusion = DSCF(("a", "b"), 64, 1).double()
    x = torch.randn(2, 2, 12, 10, 64, dtype=torch.float64, requires_grad=True)
    results = []
    for chunk in (1 << 22, 1000):
        monkeypatch.setattr("ktb.models.layers.dscf_fast.CHUNK", chunk)
        fusion.eval()
        out = fusion(x)
        grads = torch.autograd.grad(out.square().sum(), [x, *fusion.parameters()])
        results.append([out, *grads])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("train", [False, True])
def test_fusion_of_one_pixel_maps(train: bool) -> None:
    """A 32 x 32 image, alone in its batch, is one pixel at stage 3."""
    fusion = DSCF(("a", "b"), 256, 3).train(train)
    out = fusion(torch.randn(2, 1, 1, 1, 256))
    assert out.shape == (1, 1, 1, 256)
    assert out.isfinite().all()


@pytest.mark.parametrize("value", [None, 3, b"x", object()])
def test_arguments_and_inputs_of_another_type_are_named(value: object) -> None:
    with pytest.raises(TypeError, match="^backbone=.*: expected"):
        KTBSegmentor(value, ("rgb",), 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="^modalities=.*: expected"):
        KTBSegmentor(FrozenSwin(ARCH), value, 3)  # type: ignore[arg-type]
    if value is not None:
        with pytest.raises(TypeError, match="^peft=.*: expected settings"):
            KTBSegmentor(FrozenSwin(ARCH), ("rgb",), 3, peft=value)  # type: ignore[arg-type]
    model = build()
    for inputs in (value, {"rgb": value}):
        with pytest.raises(TypeError, match=r"^inputs must be modality → tensor \(B, C, H, W\), got "):
            model(inputs)


@pytest.mark.parametrize("count", [None, 0, 2.5, True, "3"])
def test_a_number_of_classes_that_is_none(count: object) -> None:
    with pytest.raises(ValueError, match="^num_classes=.*: expected a whole number of 1 or more"):
        KTBSegmentor(FrozenSwin(ARCH), ("rgb",), count)  # type: ignore[arg-type]
