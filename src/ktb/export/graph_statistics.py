"""The statistics of a frame that its preparation needs, as tensor operations that an exporter can put into a graph:
percentiles and the dominating plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDS = 6
NEAR = 2.5 * 1.4826
"""Multiple of the median distance from the plane up to which a value takes part in the next fit."""

STEADY = 1e-12
"""Share of the normal equations' trace on their diagonal: values on one line, to which many planes fit, get the
flattest of them, as least squares by singular values gives. For others float32 could not show the difference."""


def percentiles(values: Tensor, counted: Tensor | None, low: float, high: float) -> tuple[Tensor, Tensor]:
    """As np.percentile of those that count; of all if none does.

    Args:
        values: (N) float32.
        counted: (N) bool; None: all.
        low, high: in percent.

    Returns:
        two numbers, float64.
    """
    if counted is None:
        number = torch.tensor(len(values))
    else:
        counted = counted | ~counted.any()
        values = torch.where(counted, values, math.inf)
        number = counted.sum()
    ordered = values.sort().values
    place = [(number.double() - 1) * (percent / 100) for percent in (low, high)]
    return _at(ordered, place[0]), _at(ordered, place[1])


def _at(ordered: Tensor, place: Tensor) -> Tensor:
    """Between two of the sorted values, float64."""
    below = place.floor()
    index = below.long().reshape(1)
    first, second = (ordered.index_select(0, i).double()[0] for i in (index, (index + 1).clamp(max=len(ordered) - 1)))
    share = place - below
    # The last place has nothing above it that counts; what stands there may be infinite.
    return torch.where(share > 0, first + (second - first) * share, first)


def plane_residual(image: Tensor, valid: Tensor | None) -> Tensor:
    """As `ktb.data.readers.plane.plane_residual`.

    Args:
        image: (H, W) float32.
        valid: (H, W) bool, False in holes; None: no holes.

    Returns:
        (H, W) float32: the image less its dominating plane.
    """
    height, width = image.shape
    step = max(int(math.sqrt(height * width / 2500)), 1)
    measured = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
    rows = torch.arange(0, height, step, dtype=torch.float64) / height
    columns = torch.arange(0, width, step, dtype=torch.float64) / width
    row, column = (grid.flatten() for grid in torch.meshgrid(rows, columns, indexing="ij"))
    used = measured[::step, ::step].flatten()
    values = torch.where(used, image[::step, ::step].flatten().double(), 0)
    terms = torch.stack([torch.ones_like(row), row, column])
    fitted = used
    stopped = torch.tensor(False)
    plane = _fit(terms, values, fitted)
    for _ in range(ROUNDS - 1):
        distance = (values - (terms * plane[:, None]).sum(0)).abs()
        near = used & (distance <= NEAR * _median(distance, fitted))
        stopped = stopped | (near.sum() < 3) | (near == fitted).all()
        fitted = (stopped & fitted) | (~stopped & near)  # runtimes choose between numbers only
        plane = _fit(terms, values, fitted)
    mean = torch.where(measured, image, 0).double().sum() / measured.sum().clamp(min=1)
    flat = torch.stack([mean, torch.zeros_like(mean), torch.zeros_like(mean)])
    plane = torch.where(used.sum() < 3, flat, plane)
    down = plane[0] + plane[1] * torch.arange(height, dtype=torch.float64) / height
    across = plane[2] * torch.arange(width, dtype=torch.float64) / width
    return image - (down.float()[:, None] + across.float())


def _median(values: Tensor, counted: Tensor) -> Tensor:
    """Of those that count, of which there is one at least."""
    ordered = torch.where(counted, values, math.inf).sort().values
    number = counted.sum()
    middle = [ordered.index_select(0, i.reshape(1))[0] for i in ((number - 1).clamp(min=0) // 2, number // 2)]
    return (middle[0] + middle[1]) / 2


def _fit(terms: Tensor, values: Tensor, counted: Tensor) -> Tensor:
    """Least squares by Cramer's rule: the three factors of `terms` (3, N) whose sum is nearest to `values` (N)."""
    weighed = terms * counted.double()
    a = (weighed[:, None] * terms).sum(-1)
    b = (weighed * values).sum(-1)
    a = a + STEADY * a.diagonal().sum() * torch.eye(3, dtype=a.dtype)
    after, before = torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])
    upper, lower = a.index_select(0, after), a.index_select(0, before)
    minors = upper.index_select(1, after) * lower.index_select(1, before)
    minors = minors - upper.index_select(1, before) * lower.index_select(1, after)
    return (minors * b[:, None]).sum(0) / (a[0] * minors[0]).sum()
