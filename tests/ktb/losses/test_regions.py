"""Dice, Lovász-softmax and smoothed cross-entropy against their definitions, in float64."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.losses.cross_entropy import cross_entropy
from ktb.losses.regions import dice, lovasz_softmax
from ktb.losses.smoothing import smoothed_cross_entropy
from tests.ktb.distributed.test_ddp import in_processes

Loss = Callable[..., Tensor]
WEIGHTS = [0.5, 2.0, 1.0, 7.25, 0.0]
LOSSES = [dice, lovasz_softmax, smoothed_cross_entropy]


def case(absent: int | None = 3) -> tuple[Tensor, Tensor]:
    """Logits and labels of five classes, with void, one of the classes absent."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64) * 2
    label = torch.randint(0, 5, (2, 6, 7), generator=generator)
    if absent is not None:
        label[label == absent] = 0
    label[torch.rand(2, 6, 7, generator=generator) < 0.25] = 255
    return logits, label


def dice_by_hand(logits: Tensor, label: Tensor, weights: list[float]) -> Tensor:
    p = logits.softmax(1)
    total, divisor = logits.new_zeros(()), 0.0
    for k in range(logits.shape[1]):
        if not (label == k).any():
            continue
        hit = size = guess = logits.new_zeros(())
        for b, y, x in (label != 255).nonzero().tolist():
            own = float(label[b, y, x] == k)
            hit, guess, size = hit + own * p[b, k, y, x], guess + p[b, k, y, x], size + own
        total, divisor = total + weights[k] * (1 - 2 * hit / (guess + size)), divisor + weights[k]
    return total / divisor


def lovasz_by_hand(logits: Tensor, label: Tensor, weights: list[float]) -> Tensor:
    """The Lovász extension from its definition, with the Jaccard loss of every set of wrong pixels counted out."""
    p, pixels = logits.softmax(1), (label != 255).nonzero().tolist()
    total, divisor = logits.new_zeros(()), 0.0
    for k in range(logits.shape[1]):
        own = {i for i, (b, y, x) in enumerate(pixels) if label[b, y, x] == k}
        if not own:
            continue
        errors = [1 - p[b, k, y, x] if i in own else p[b, k, y, x] for i, (b, y, x) in enumerate(pixels)]
        before, wrong = 0.0, set()
        for i in sorted(range(len(pixels)), key=lambda i: -errors[i].item()):
            wrong.add(i)
            after = 1 - len(own - wrong) / len(own | wrong)
            total, before = total + weights[k] * errors[i] * (after - before), after
        divisor += weights[k]
    return total / divisor


def value_and_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("loss", "by_hand"), [(dice, dice_by_hand), (lovasz_softmax, lovasz_by_hand)])
def test_values_and_gradients_are_those_of_the_definition(
    loss: Loss, by_hand: Loss, weights: list[float] | None
) -> None:
    logits, label = case()
    given = None if weights is None else torch.tensor(weights)
    ours = value_and_gradient(lambda x: loss(x, label, given), logits)
    for a, b in zip(ours, value_and_gradient(lambda x: by_hand(x, label, weights or [1.0] * 5), logits), strict=True):
        assert (a - b).abs().max() <= 1e-13
    assert ours[1].abs().max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    """Equal logits would be kinks of Lovász's; random ones are not."""
    logits, label = case()
    leaf = logits[:, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, label[:, :3, :3], torch.tensor(WEIGHTS)), leaf, eps=1e-7)


@pytest.mark.parametrize(
    ("loss", "score"), [(lovasz_softmax, lambda i, u, s: i / u), (dice, lambda i, u, s: 2 * i / s)]
)
def test_of_sure_predictions_it_is_one_minus_the_score(loss: Loss, score: Callable[..., float]) -> None:
    logits, label = case()
    guess = logits.argmax(1)
    logits = torch.full_like(logits, -1e3).scatter(1, guess[:, None], 1e3)
    valid, expected = label != 255, []
    for k in range(5):
        a, b = (guess == k) & valid, label == k
        if b.any():
            i, u, s = (int(x) for x in ((a & b).sum(), (a | b).sum(), a.sum() + b.sum()))
            expected.append(1 - score(i, u, s))
    assert loss(logits, label).item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    perfect = torch.full_like(logits, -1e3).scatter(1, label.where(valid, 0)[:, None], 1e3)
    assert loss(perfect, label).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothed_cross_entropy_is_torchs(smoothing: float) -> None:
    logits, label = case()
    ours = value_and_gradient(lambda x: smoothed_cross_entropy(x, label, smoothing=smoothing), logits)
    torchs = value_and_gradient(
        lambda x: F.cross_entropy(x, label, ignore_index=255, label_smoothing=smoothing), logits
    )
    for a, b in zip(ours, torchs, strict=True):
        assert (a - b).abs().max() <= 1e-13
    if smoothing == 0:
        weights = torch.tensor(WEIGHTS)
        found = smoothed_cross_entropy(logits, label, weights, smoothing=0.0)
        assert found.item() == pytest.approx(cross_entropy(logits, label, weights).item(), rel=1e-13)


def test_smoothed_cross_entropy_by_hand() -> None:
    logits, label = case()
    log_p = logits.log_softmax(1)
    total, divisor = 0.0, 0.0
    for b, y, x in (label != 255).nonzero().tolist():
        true = int(label[b, y, x])
        target = torch.full((5,), 0.3 / 5, dtype=torch.float64)
        target[true] += 0.7
        total -= WEIGHTS[true] * float((target * log_p[b, :, y, x]).sum())
        divisor += WEIGHTS[true]
    found = smoothed_cross_entropy(logits, label, torch.tensor(WEIGHTS), smoothing=0.3)
    assert found.item() == pytest.approx(total / divisor, rel=1e-12)
    with pytest.raises(ValueError, match="label smoothing must be from 0 to 1, got 1.5"):
        smoothed_cross_entropy(logits, label, smoothing=1.5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("label", "weights"), [(255, None), (0, [0.0, 1.0, 1.0])])
def test_nothing_that_counts_gives_zero_and_no_nan_gradient(
    loss: Loss, label: int, weights: list[float] | None
) -> None:
    given = None if weights is None else torch.tensor(weights)
    target = torch.full((1, 4, 4), label)
    value, gradient = value_and_gradient(lambda x: loss(x, target, given), torch.randn(1, 3, 4, 4))
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("loss", LOSSES)
def test_one_pixel_that_is_nan_makes_the_loss_nan(loss: Loss) -> None:
    logits, label = case(absent=None)
    label[0, 2, 3] = 1
    assert loss(logits, label).isfinite()
    logits[0, 2, 2, 3] = float("nan")
    assert loss(logits, label).isnan()


@pytest.mark.parametrize("loss", LOSSES)
def test_low_precision_is_widened(loss: Loss) -> None:
    logits, label = case()
    low = logits.bfloat16()
    found, exact = loss(low, label), loss(low.double(), label)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


def test_lovasz_of_many_pixels_in_single_precision() -> None:
    """A million pixels: the factors are a millionth each, and differences of Δ in float32 would be off by tenths."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 1000, 1000, generator=generator)
    label = (torch.rand(1, 1000, 1000, generator=generator) < 0.02).long()
    single = value_and_gradient(lambda x: lovasz_softmax(x, label), logits)
    double = value_and_gradient(lambda x: lovasz_softmax(x, label), logits.double())
    assert single[0].item() == pytest.approx(double[0].item(), rel=1e-5)
    assert (single[1] - double[1]).abs().max() < 1e-4 * double[1].abs().max()


def losses_as(rank: int, world: int, folder: Path) -> None:
    """Losses and gradients of this process's share of one batch; classes and void are dealt out unevenly."""
    if world > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    torch.manual_seed(0)
    logits, label = torch.randn(6, 5, 8, 8).double() * 3, torch.randint(0, 4, (6, 8, 8))
    label[1] = 255
    label[4] = torch.where(label[4] == 2, 3, label[4])
    logits[2] = logits[4]  # equal errors in two processes
    label[2] = label[4]
    kept = {}
    for loss in LOSSES:
        for weights in (None, torch.tensor(WEIGHTS)):
            leaf = logits[rank::world].clone().requires_grad_()
            value = loss(leaf, label[rank::world], weights)  # type: ignore[operator]
            (gradient,) = torch.autograd.grad(value, leaf)
            kept[f"{loss.__name__} {weights is not None}"] = value.item() / world, gradient / world  # type: ignore[attr-defined]
    torch.save(kept, folder / f"{world}_{rank}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_give_the_loss_of_the_global_batch(tmp_path: Path, world: int) -> None:
    losses_as(0, 1, tmp_path)
    in_processes(world, partial(losses_as, world=world, folder=tmp_path))
    one = torch.load(tmp_path / "1_0.pt")
    parts = [torch.load(tmp_path / f"{world}_{rank}.pt") for rank in range(world)]
    for name, (value, gradient) in one.items():
        assert sum(part[name][0] for part in parts) == pytest.approx(value, rel=1e-12), name
        found = torch.empty_like(gradient)
        for rank, part in enumerate(parts):
            found[rank::world] = part[name][1]
        if name.startswith("lovasz"):  # pixels of equal errors may share their slopes in another order
            found, gradient = found[[0, 1, 3, 5]], gradient[[0, 1, 3, 5]]
        assert (found - gradient).abs().max() < 1e-13, name
        assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_waits_for_the_device(loss: Loss, weights: list[float] | None) -> None:
    """Tensors without values: whatever asks for one, or makes a shape of one, fails."""
    logits = torch.zeros(2, 5, 6, 7, device="meta", requires_grad=True)
    label = torch.zeros(2, 6, 7, device="meta", dtype=torch.int64)
    given = None if weights is None else torch.tensor(weights, device="meta")
    loss(logits, label, given).backward()
    assert logits.grad is not None
    with pytest.raises((NotImplementedError, RuntimeError)):
        label[label == 0].sum()
    with pytest.raises((NotImplementedError, RuntimeError)):
        label.sum().item()
