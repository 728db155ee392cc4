"""CMX and CMNeXt's hub: numbers of the published implementation (float64), and what the block does in a model."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ktb.errors import PartError
from ktb.models.fusion.base import Fused, Fusion
from ktb.models.fusion.cmnext_hub import Hub, PoolingMixer, carried
from ktb.models.fusion.cmx import CMX, CrossFusion, Rectification, from_published
from tests.ktb.reference import DATA, filled_state, load_json, rng

C = 32
TOLERANCE = 1e-10


def stored(tag: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "fusion" / f"{tag}.npz") as file:
        return dict(file)


def given(tag: str, letters: str) -> Tensor:
    """The inputs of a case, each (2, 6, 5, 32), by letter."""
    maps = [rng(f"{tag}/{letter}").standard_normal((2, C, 6, 5)) for letter in letters]
    return torch.from_numpy(np.stack(maps)).movedim(2, -1)


def published(tag: str, part: str = "") -> dict[str, Tensor]:
    """The published weights of a case, those of one part without its prefix."""
    state = filled_state(load_json(f"fusion/{tag}.json"))
    return {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}


def loaded(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.double().load_state_dict(from_published(state))
    return module.eval()


def check(ours: Tensor, theirs: np.ndarray) -> None:
    """Ours is channels-last, or as stored."""
    if ours.dim() == 4 and tuple(ours.shape) != theirs.shape:
        ours = ours.movedim(-1, 1)
    assert tuple(ours.shape) == theirs.shape
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("training", [False, True])
def test_rectification_is_the_published_one(training: bool) -> None:
    reference, module = stored("cmx_frm"), loaded(Rectification(C), published("cmx_frm")).train(training)
    assert isinstance(module, Rectification)
    a, b = given("cmx_frm", "ab")
    out_a, out_b = module(a, b)
    check(out_a, reference["out_a"])
    check(out_b, reference["out_b"])
    channels, positions = module.weights(a, b)
    for i in range(2):
        check(channels[i].movedim(-1, 1), reference["cw"][i])
        check(positions[i].movedim(-1, 1), reference["sw"][i])


def test_cross_fusion_is_the_published_one() -> None:
    reference, module = stored("cmx_ffm"), loaded(CrossFusion(C, heads=4), published("cmx_ffm"))
    assert isinstance(module, CrossFusion)
    a, b = given("cmx_ffm", "ab")
    for ours, name in zip(module.exchange((a, b)), ("cross_a", "cross_b"), strict=True):
        check(ours.flatten(1, 2), reference[name])
    check(module(a, b), reference["fused"])
    check(module.train()(a, b), reference["fused_train"])
    buffers = dict(module.named_buffers())
    names = {"embed.4": "channel_emb.channel_embed.4", "fused_norm": "channel_emb.norm"}
    for ours, theirs in names.items():
        for kind in ("running_mean", "running_var"):
            check(buffers[f"{ours}.{kind}"], reference[f"buf.{theirs}.{kind}"])
        assert buffers[f"{ours}.num_batches_tracked"] == 1


def test_hub_is_the_published_one() -> None:
    reference, module = stored("cmnext_hub"), loaded(Hub(3, C), published("cmnext_hub"))
    assert isinstance(module, Hub)
    *maps, rectified = given("cmnext_hub", "abcr")
    scored, joint = module(torch.stack(maps))
    check(joint, reference["fused"])
    for i, letter in enumerate("abc"):
        check(module.scores(torch.stack(maps))[i][:, None], reference[f"score_{letter}"])
    as_published = carried(scored, rectified, scrambled=True)
    check(as_published[0], reference["carry_a"])
    check(as_published[2], reference["carry_c"])
    assert torch.equal(carried(scored, rectified), scored + rectified)


def test_pooling_mixer_is_the_published_one() -> None:
    reference, module = stored("cmnext_ppx"), loaded(PoolingMixer(C), published("cmnext_ppx"))
    assert isinstance(module, PoolingMixer)
    x = given("cmnext_ppx", "a")[0].movedim(-1, 1)
    check(module.mixed(x), reference["attn"])
    check(module(x), reference["out"])
    check(module.train()(x), reference["out_train"])
    for name, buffer in module.named_buffers():
        if not name.endswith("num_batches_tracked"):
            check(buffer, reference[f"buf.{name}"])


def test_a_stage_of_three_modalities_is_the_published_one() -> None:
    """Of the whole block the published stage lacks the two LayerNorms before the fusion: it normalises before it
    rectifies, as CMX does beside a Swin only."""
    tag = "cmnext_stage"
    reference = stored(tag)
    block = CMX(("rgb", "depth", "event"), C, 0, 4, heads=4, mixers=1, scrambled=True).double()
    norm = published(tag, "extra_norm.")
    parts = {
        "hub.": from_published(published(tag, "extra_score_predictor.")),
        "mixers.0.": from_published(published(tag, "extra_block.")),
        "mixer_norm.": norm,
        "rectify.": from_published(published(tag, "FRM.")),
        "fuse.": from_published(published(tag, "FFM.")),
        "norms.": dict(block.norms.state_dict()),
    }
    block.load_state_dict({prefix + k: v for prefix, state in parts.items() for k, v in state.items()})
    streams = given(tag, "rab")
    out = Fused.of(block.eval()(streams), streams, block)
    assert out.streams is not None
    check(out.streams[0], reference["out_r"])
    check(out.streams[1], reference["carry_a"])
    main, other, _ = block._pair(streams)
    main, other = block.rectify(main, other)
    check(other, reference["out_f"])
    check(block.fuse(main, other), reference["fused"])
    assert torch.equal(block.fuse(block.norms[0](main), block.norms[1](other)), out.map)


def by_hand(module: CrossFusion, a: Tensor, b: Tensor) -> list[Tensor]:
    """Cross-attention with a loop over heads and positions, from the formulas."""
    streams, inner = [a.flatten(1, 2), b.flatten(1, 2)], module.key_value[0].in_features
    d = inner // module.heads
    hidden = [torch.relu(x @ split.weight.T + split.bias) for x, split in zip(streams, module.split, strict=True)]
    out = []
    for i, x in enumerate(streams):
        other = 1 - i
        u, mine = hidden[other][..., inner:], hidden[i]
        projected = u @ module.key_value[other].weight.T
        attended = torch.zeros_like(u)
        for head in range(module.heads):
            part = slice(head * d, (head + 1) * d)
            scores = sum(
                projected[:, n, :inner][:, part, None] * projected[:, n, inner:][:, None, part]
                for n in range(x.shape[1])
            ) / math.sqrt(d)
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            attended[..., part] = mine[..., inner:][..., part] @ weights
        y = x + torch.cat([mine[..., :inner], attended], -1) @ module.join[i].weight.T + module.join[i].bias
        out.append(torch.nn.functional.layer_norm(y, y.shape[-1:], module.norm[i].weight, module.norm[i].bias))
    return out


@pytest.mark.parametrize(("heads", "reduction", "inner"), [(2, 2, 16), (5, 1, 35), (3, 2, 18), (64, 64, 64)])
def test_heads_and_reduction(heads: int, reduction: int, inner: int) -> None:
    """Widths that the heads do not divide are rounded up; the numbers are those of the formulas."""
    torch.manual_seed(0)
    module = CrossFusion(C, heads, reduction).double().eval()
    assert module.key_value[0].in_features == inner
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    a, b = torch.randn(2, 2, 3, 4, C, dtype=torch.float64)
    for ours, expected in zip(module.exchange((a, b)), by_hand(module, a, b), strict=True):
        assert torch.allclose(ours.flatten(1, 2), expected, rtol=1e-10, atol=1e-12)


def test_rectification_with_reduction_by_hand() -> None:
    torch.manual_seed(0)
    module = Rectification(C, 2, 0.3, 0.7).double()
    a, b = torch.randn(2, 2, 3, 4, C, dtype=torch.float64)
    both = torch.cat([a, b], -1)
    pooled = torch.cat([both.mean((1, 2)), both.flatten(1, 2).max(1).values], -1)
    (l0, _, l1, _), (s0, _, s1, _) = module.channel, module.spatial
    assert tuple(l0.weight.shape) == (2 * C, 4 * C)
    assert tuple(s0.weight.shape) == (C // 2, 2 * C)
    w = (torch.relu(pooled @ l0.weight.T + l0.bias) @ l1.weight.T + l1.bias).sigmoid()[:, None, None]
    s = (torch.relu(both @ s0.weight.T + s0.bias) @ s1.weight.T + s1.bias).sigmoid()
    ours = module(a, b)
    assert torch.allclose(ours[0], a + 0.3 * w[..., C:] * b + 0.7 * s[..., 1:] * b, rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours[1], b + 0.3 * w[..., :C] * a + 0.7 * s[..., :1] * a, rtol=1e-12, atol=1e-12)


MODALITIES = {1: ("depth",), 2: ("rgb", "depth"), 3: ("depth", "rgb", "event"), 4: ("a", "b", "c", "d")}


@pytest.mark.parametrize("count", MODALITIES)
@pytest.mark.parametrize("size", [(6, 5), (1, 1)])
def test_any_number_of_modalities(count: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = CMX(MODALITIES[count], 48, 1, 8, heads=[1, 5, 2, 2], mixers=[0, 1, 0, 0])
    streams = torch.randn(count, 2, *size, 48, requires_grad=True)
    out = Fused.of(block(streams), streams, block)
    assert (out.streams is None) == (count == 1)
    (out.map.square().sum() + (0 if out.streams is None else out.streams.sum())).backward()
    assert streams.grad is not None
    for i in range(count):
        assert streams.grad[i].abs().sum() > 0
    unused = [name for name, p in block.named_parameters() if p.grad is None]
    assert unused == []
    assert all(p.dtype == torch.float32 and tuple(p.shape) == (2, *size) and p.min() >= 0 and p.max() <= 1
               for p in block.eval().pictures(streams.detach()).values())  # fmt: skip
    assert len(block.pictures(streams.detach())) == {1: 0, 2: 2, 3: 4, 4: 5}[count]


def test_streams_keep_their_places() -> None:
    """Without rectification two streams are what they were, wherever "rgb" stands; scored ones follow the order."""
    torch.manual_seed(0)
    for names in (("rgb", "depth"), ("depth", "rgb")):
        streams = torch.randn(2, 1, 4, 4, C)
        out = CMX(names, C, 0, 4, lambda_channel=0.0, lambda_spatial=0.0).eval()(streams)
        assert isinstance(out, Fused)
        assert out.streams is not None
        assert torch.equal(out.streams, streams)
    block = CMX(("depth", "rgb", "event"), C, 0, 4, lambda_channel=0.0, lambda_spatial=0.0).eval()
    streams = torch.randn(3, 1, 4, 4, C)
    out = block(streams)
    scored, joint = block.hub(streams[[0, 2]])
    assert isinstance(out, Fused)
    assert out.streams is not None
    assert torch.equal(out.streams[1], streams[1])
    assert torch.equal(out.streams[0], scored[0] + joint)
    assert torch.equal(out.streams[2], scored[1] + joint)


@pytest.mark.parametrize("count", [2, 3])
def test_rectified_streams_can_be_kept_to_the_fusion(count: int) -> None:
    torch.manual_seed(0)
    block = CMX(MODALITIES[count], C, 0, 4).eval()
    streams = torch.randn(count, 1, 4, 4, C)
    both = block(streams)
    alone = CMX(MODALITIES[count], C, 0, 4, pass_on=False).eval()
    alone.load_state_dict(block.state_dict())
    out = Fused.of(alone(streams), streams, alone)
    assert isinstance(both, Fused)
    assert torch.equal(out.map, both.map)
    assert out.streams is None


def test_one_modality_passes_through() -> None:
    block = CMX(("rgb",), C, 0, 4)
    streams = torch.randn(1, 2, 3, 3, C)
    assert torch.equal(block(streams), streams[0])
    assert list(block.parameters()) == []


def test_bfloat16_keeps_large_scores() -> None:
    """Under autocast the summary, whose scores grow with the map, is that of float32 up to its inputs' rounding."""
    torch.manual_seed(0)
    module = CrossFusion(C, heads=2).eval()
    x = (torch.randn(1, 40, 40, 2 * C).relu() * 0.3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = module._summary(x)
    key, value = x.double().flatten(1, 2).unflatten(2, (2, 2, -1)).permute(2, 0, 3, 1, 4)
    scores = key.mT @ value / 4
    assert scores.abs().max() > 5
    assert found.dtype == torch.float32
    assert (found.double() - scores.softmax(2)).abs().max() < 1e-5


@pytest.mark.parametrize("bad", ["map", "streams", "losses"])
def test_a_block_that_returns_other_shapes_is_told(bad: str) -> None:
    given_, right, block = torch.zeros(2, 1, 4, 4, C), torch.zeros(1, 4, 4, C), Fusion(("rgb", "d"), C, 1, 8)
    results = {
        "map": torch.zeros(1, C, 4, 4),
        "streams": Fused(right, streams=torch.zeros(1, 4, 4, C)),
        "losses": Fused(right, losses={"balance": torch.zeros(3)}),
    }
    with pytest.raises(PartError, match=rf"block ktb\.models\.fusion\.base\.Fusion returned {bad}.* expected"):
        Fused.of(results[bad], given_, block)  # type: ignore[arg-type]
    fine = Fused.of(Fused(right, losses={"balance": torch.zeros(())}), given_, block)
    assert list(fine.losses) == ["balance"]
    assert Fused.of(right, given_, block).map is right


def test_settings_per_stage() -> None:
    assert [CMX(("rgb", "d"), 64 << i, i, 4 << i).fuse.heads for i in range(4)] == [2, 4, 8, 16]
    assert [CMX(("rgb", "d"), 64, i, 4, heads=[1, 2, 4, 8]).fuse.heads for i in range(4)] == [1, 2, 4, 8]
    assert CMX(("rgb", "d"), 24, 3, 4, heads=3).fuse.heads == 3
    with pytest.raises(ValueError, match=r"heads must be one value or one per stage, got \[1, 2\] for stage 2"):
        CMX(("rgb", "d"), 64, 2, 4, heads=[1, 2])


class Both(nn.Module):
    """Map and streams as a tuple, which exporters can return."""

    def __init__(self, block: CMX) -> None:
        super().__init__()
        self.block = block

    def forward(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        out = Fused.of(self.block(streams), streams, self.block)
        return out.map, streams if out.streams is None else out.streams


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_compiles_and_exports_and_is_copied(count: int) -> None:
    torch.manual_seed(0)
    model = Both(CMX(MODALITIES[count], C, 0, 4, mixers=1)).eval()
    streams, other = torch.randn(count, 2, 9, 7, C), torch.randn(count, 2, 12, 5, C)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    size = {2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    exported = torch.export.export(model, (streams,), dynamic_shapes=(size,)).module()
    with torch.no_grad():
        for x in (streams, other):
            for found in (compiled(x), exported(x), copy.deepcopy(model)(x)):
                for a, b in zip(found, model(x), strict=True):
                    assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_nothing_waits_for_the_device() -> None:
    """Tensors without values: whatever asks for one fails."""
    with torch.device("meta"):
        block = CMX(("rgb", "depth", "event"), C, 0, 4, mixers=1)
        streams = torch.zeros(3, 2, 6, 5, C, requires_grad=True)
    out = Fused.of(block(streams), streams, block)
    assert out.streams is not None
    (out.map.sum() + out.streams.sum()).backward()
    assert streams.grad is not None
    with pytest.raises((NotImplementedError, RuntimeError)):
        out.map.sum().item()
