"""The forms of DSCF's attention against each other; the numbers themselves are in test_reference and test_wiring."""

from __future__ import annotations

import pytest
import torch

from ktb.models.fusion.dscf import DSCF, point_attention
from ktb.models.layers import dscf_fast as layer
from ktb.models.layers.dscf_blocks import blockwise_attention
from ktb.models.layers.dscf_fast import sparse_attention
from ktb.models.layers.plain_or_fast import plain_forms


@pytest.mark.parametrize("size", [(7, 11), (1, 9), (6, 1), (1, 1), (13, 12)])
@pytest.mark.parametrize(("heads", "groups", "count"), [(2, 1, 13), (8, 4, 3), (4, 2, 1)])
@pytest.mark.parametrize("chunk", [1 << 20, 200])  # all queries at once; a few rows, and samples one by one
def test_the_fast_forms_are_the_plain_one(
    size: tuple[int, int], heads: int, groups: int, count: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients; with a table of few entries the form by columns as well, which has no gradients."""
    monkeypatch.setattr(layer, "CPU_CHUNK", chunk)
    torch.manual_seed(0)
    query, weights = torch.randn(2, 2, heads * 3, *size, dtype=torch.float64)
    key, value = torch.randn(2, 2, heads * 3, count, dtype=torch.float64)
    points = (torch.rand(2, groups, count, 2, dtype=torch.float64) * 2.6 - 1.3).clamp(-1, 1)  # some on the border
    table = torch.randn(heads, 5, 7, dtype=torch.float64)
    found = []
    for attend in (sparse_attention, point_attention):
        given = [x.clone().requires_grad_() for x in (query, key, value, points, table)]
        out = attend(*given)
        found.append((out.detach(), *torch.autograd.grad((out * weights).sum(), given)))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        without = sparse_attention(query, key, value, points, table)
    assert torch.allclose(without, found[1][0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(7, 11), (1, 9), (6, 1), (1, 1), (40, 50)])
@pytest.mark.parametrize("table", [(2, 2), (2, 3), (3, 9), (4, 8), (8, 17), (119, 159)])
def test_products_with_blocks_of_the_table_give_the_same(table: tuple[int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 24, *size, dtype=torch.float64)
    key, value = torch.randn(2, 2, 24, 13, dtype=torch.float64)
    points = (torch.rand(2, 4, 13, 2, dtype=torch.float64) * 2.6 - 1.3).clamp(-1, 1)
    bias = torch.randn(8, *table, dtype=torch.float64)
    found = blockwise_attention(query, key, value, points, bias)
    assert torch.allclose(found, point_attention(query, key, value, points, bias), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("table", [(1, 1), (1, 7), (5, 1)])
def test_a_table_of_one_row_or_column(table: tuple[int, int]) -> None:
    """The bias then says nothing of that direction; (1, 1) is attention without a bias."""
    torch.manual_seed(0)
    block = DSCF(("rgb", "depth"), 32, 0, table=table).double().eval()
    features = torch.randn(2, 1, 9, 10, 32, dtype=torch.float64)
    expected = block(features).detach()
    with torch.no_grad():
        assert torch.allclose(block(features), expected, rtol=1e-10, atol=1e-12)
        with plain_forms():
            assert torch.allclose(block(features), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("size", "batch"), [((17, 30), 2), ((1, 23), 1), ((40, 1), 1), ((9, 41), 1)])
@pytest.mark.parametrize("stage", [0, 2])
def test_columns_give_what_grid_sample_gives(
    size: tuple[int, int], batch: int, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients large maps interpolate the table in two steps; a small table makes these maps large, and small
    chunks make several of each kind."""
    monkeypatch.setattr(layer, "CPU_CHUNK", 3000)
    torch.manual_seed(0)
    block = DSCF(("rgb", "depth"), 128, stage, table=(5, 7)).double().eval()
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.5)  # points far away too, and clamped to the border
    features = torch.randn(2, batch, *size, 128, dtype=torch.float64)
    calls = []
    by_columns = layer._by_columns
    monkeypatch.setattr(layer, "_by_columns", lambda *args: calls.append(1) or by_columns(*args))
    expected = block(features).detach()
    assert not calls
    with torch.no_grad():
        found = block(features)
    assert bool(calls) == (size[0] * size[1] > 35)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_large_scores_leave_the_range_in_no_form() -> None:
    """Scores in the thousands, 2 to the power of which float32 does not hold."""
    torch.manual_seed(0)
    block = DSCF(("rgb", "depth"), 128, 0, table=(5, 7)).eval()
    with torch.no_grad():
        block.attention_gain.fill_(1.0)
        block.query.weight.mul_(1000)
    features = torch.randn(2, 1, 12, 16, 128)
    expected = block.double()(features.double()).detach()
    with torch.no_grad():
        found = block.float()(features)
    assert found.isfinite().all()
    # One point takes all the weight, so a rounded score that is off by a hundredth may still tip a pair of points.
    assert (found - expected).abs().median() < 1e-3


def test_a_broken_sensor_gives_nan_and_no_crash() -> None:
    block = DSCF(("rgb", "depth"), 128, 0, table=(5, 7)).eval()
    with torch.no_grad():
        assert block(torch.full((2, 1, 12, 12, 128), torch.nan)).isnan().all()


def test_samples_that_read_a_table_together_read_it_as_each_alone() -> None:
    torch.manual_seed(0)
    block = DSCF(("rgb", "depth"), 128, 2).double().eval()  # four groups of two heads
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.5)
    features = torch.randn(2, 3, 6, 8, 128, dtype=torch.float64)
    together = block(features)
    alone = torch.cat([block(features[:, i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(y.square().sum(), [block.table, block.query.weight]) for y in (together, alone)]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)


def test_the_papers_sizes_are_the_default() -> None:
    """Of Swin-B: channels of the block, sampling points, heads and groups of each stage."""
    found = []
    for stage in range(4):
        block = DSCF(("rgb", "depth"), 128 << stage, stage)
        points = block.sampling_points(torch.zeros(2, 1, (128 << stage) // 8, 120 >> stage, 160 >> stage))
        found.append((len(block.identity_gain), block.groups, block.heads, points.shape[2] // 2, block.stride))
    expected = [(16, 1, 2, 300, 4), (32, 2, 4, 300, 8), (64, 4, 8, 300, 16), (128, 8, 16, 300, 32)]
    assert found == expected


@pytest.mark.parametrize(("channels", "rank"), [((24, 40, 112, 320), (4, 8, 16, 48)), ((5, 7, 9, 11), (2, 4, 8, 16))])
def test_channels_that_heads_do_not_divide_are_rounded_up(channels: tuple[int, ...], rank: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for stage, (c, r) in enumerate(zip(channels, rank, strict=True)):
        block = DSCF(("rgb", "depth", "event"), c, stage, table=(5, 7)).double()
        assert len(block.identity_gain) == r
        features = torch.randn(3, 2, 6, 5, c, dtype=torch.float64, requires_grad=True)
        out = block(features)
        assert out.shape == (2, 6, 5, c)
        out.square().sum().backward()
        assert all(p.grad is not None for p in block.parameters())
        with torch.no_grad():
            fast = block.eval()(features)
            with plain_forms():
                assert torch.allclose(block(features), fast, rtol=1e-9, atol=1e-9)


def test_settings() -> None:
    block = DSCF(("rgb", "depth"), 64, 1, ratio=0.25, point_stride=3, groups=[1, 4, 1, 1], heads=8, table=(9, 11))
    assert len(block.identity_gain) == 16
    assert (block.groups, block.heads, tuple(block.table.shape)) == (4, 8, (8, 9, 11))
    assert block.sampling_points(torch.zeros(2, 1, 16, 12, 9)).shape == (1, 4, 2 * 4 * 3, 2)
    with pytest.raises(ValueError, match="stage 0: 3 heads can't share 2 groups of points equally"):
        DSCF(("rgb", "depth"), 64, 0, groups=2, heads=3)
    with pytest.raises(ValueError, match=r"heads must be one value or one per stage, got \[2\] for stage 1"):
        DSCF(("rgb", "depth"), 64, 1, heads=[2])
