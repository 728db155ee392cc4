"""DSCF's attention as one GPU kernel in Triton, forward and backward.

The distance bias is read from its table inside the kernel, so neither the scores nor the biases are ever written to
memory: a pass needs memory for its inputs and outputs only, and one launch instead of several for each chunk of
queries. `docs/method.md#dscf` says what is computed (step 6), and the form in plain PyTorch is what tests hold this to.

The gradient of the table is summed in another order in every run; everything else is the same each time.

This module imports Triton. PyTorch brings it on Linux; elsewhere it has to be installed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ktb.models.layers.dscf_positions import evenly_spaced

QUERIES, POINTS, WARPS = 32, 32, 4
"""A program holds tiles of queries by points of the scores, in the registers of so many warps. Of the tilings that were
compiled for an H100 this is the largest of which no value has to leave the registers; none has been timed."""

PROGRAMS = 1024
"""Programs that the gradient of keys and points is dealt out to, where there are enough queries: a few for each
multiprocessor of a large GPU."""


def attend(query: Tensor, key: Tensor, value: Tensor, points: Tensor, table: Tensor) -> Tensor:
    """Attention of all positions of a map over the sampling points.

    Args:
        query: (B, r, H, W), the heads' channels one after the other.
        key, value: (B, r, P).
        points: (B, groups, P, 2) as (y, x) in [-1, 1]; float32 or float64, in which everything is computed.
        table: (heads, height, width) distance biases; heads of a group share its points.

    Returns:
        (B, r, H, W), dtype of `query`.
    """
    out: Tensor = _Attend.apply(query, key, value, points, table)
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, points: Tensor, table: Tensor) -> Tensor:
        inputs = [x.contiguous() for x in (query, key, value, points, table)]
        b, r, h, w = query.shape
        heads, (ys, xs) = len(table), (evenly_spaced(size, points) for size in (h, w))
        out = torch.empty_like(inputs[0])
        log_sum = points.new_empty(b, heads, h * w)
        grid = (triton.cdiv(h * w, QUERIES), b * heads)
        _forward[grid](*inputs, ys, xs, out, log_sum, *_sizes(inputs), **_options(inputs))
        ctx.save_for_backward(*inputs, ys, xs, out, log_sum)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        *inputs, ys, xs, out, log_sum = ctx.saved_tensors
        query, key, value, points, table = inputs
        b, r, h, w = query.shape
        heads, count, grad = len(table), points.shape[2], grad.contiguous()
        # The gradient of a softmax's scores is p · (g - Σ p·g); the sum is the same as that of output and gradient.
        mean = (out.to(points.dtype) * grad).view(b, heads, -1, h * w).sum(2)
        shared = (*inputs, ys, xs, grad, log_sum, mean)
        sizes, options = _sizes(inputs), _options(inputs)
        grad_query = torch.empty_like(query)
        _backward_query[(triton.cdiv(h * w, QUERIES), b * heads)](*shared, grad_query, *sizes, **options)
        blocks, tiles = triton.cdiv(count, POINTS), triton.cdiv(h * w, QUERIES)
        parts = max(1, min(tiles, PROGRAMS // (blocks * b * heads)))
        grad_key, grad_value = (points.new_empty(parts, *key.shape) for _ in range(2))
        grad_points = points.new_empty(parts, b, heads, count, 2)
        grad_table = points.new_zeros(b, *table.shape)  # of each sample, or all would wait for the same few addresses
        _backward_points[(blocks, b * heads, parts)](
            *shared, grad_key, grad_value, grad_points, grad_table, triton.cdiv(tiles, parts), *sizes, **options
        )
        return (
            grad_query,
            grad_key.sum(0).to(key.dtype),
            grad_value.sum(0).to(value.dtype),
            grad_points.sum(0).unflatten(1, (points.shape[1], -1)).sum(2),
            grad_table.sum(0).to(table.dtype),
        )


def _sizes(inputs: list[Tensor]) -> tuple[int, ...]:
    """`length, width, count, heads, per_group, channels, table_y, table_x` of the kernels."""
    query, key, _, points, table = inputs
    heads = len(table)
    channels, per_group = query.shape[1] // heads, heads // points.shape[1]
    return query[0, 0].numel(), query.shape[3], key.shape[2], heads, per_group, channels, *table.shape[1:]


def _options(inputs: list[Tensor]) -> dict[str, Any]:
    query, points, table = inputs[0], inputs[3], inputs[4]
    channels = query.shape[1] // len(table)
    exact = query.dtype == points.dtype and torch.get_float32_matmul_precision() == "highest"
    return {
        "SCALE": channels**-0.5,
        "WIDE": tl.float64 if points.dtype == torch.float64 else tl.float32,
        "CHANNELS": max(16, triton.next_power_of_2(channels)),  # the smallest product there is an instruction for
        "QUERIES": QUERIES,
        "POINTS": POINTS,
        "PRECISION": "ieee" if exact else "tf32",
        "num_warps": WARPS,
    }


# ------------------------------------------------------------------------------------------------------------- kernels
# A tile of scores is (POINTS, QUERIES): neighbouring threads then have neighbouring queries, which read neighbouring
# entries of the table and neighbouring values of the maps. All kernels take the same first and last arguments.

LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def _place(distance, entries):  # type: ignore[no-untyped-def]
    """Entry of the table (rounded down) at distances in [-1, 1], and the share of the next one."""
    at = (distance + 1) * ((entries - 1) * 0.5)
    first = tl.floor(at)
    return first.to(tl.int32), at - first


@triton.jit
def _corners(table, y, x, table_y, table_x, inside):  # type: ignore[no-untyped-def]
    """The four entries around each place, 0 outside of the table; `table` points to that of the head."""
    at = table + y * table_x + x
    top, bottom = inside & (y >= 0) & (y < table_y), inside & (y >= -1) & (y < table_y - 1)
    left, right = (x >= 0) & (x < table_x), (x >= -1) & (x < table_x - 1)
    return (
        tl.load(at, mask=top & left, other=0.0),
        tl.load(at + 1, mask=top & right, other=0.0),
        tl.load(at + table_x, mask=bottom & left, other=0.0),
        tl.load(at + table_x + 1, mask=bottom & right, other=0.0),
    )


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    query, key, table, py, px, y, x, inside, table_y, table_x,
    SCALE: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores in units of ln 2 of points with keys (POINTS, CHANNELS) at (py, px), for queries (CHANNELS, QUERIES) at
    (y, x); and what their gradients need: where the table was read, and its slope there along y and x."""
    row, down = _place((y[None, :] - py[:, None]) * 0.5, table_y)
    column, right = _place((x[None, :] - px[:, None]) * 0.5, table_x)
    a, b, c, d = _corners(table, row, column, table_y, table_x, inside)
    a, b, c, d = a.to(WIDE), b.to(WIDE), c.to(WIDE), d.to(WIDE)
    upper, lower = a + (b - a) * right, c + (d - c) * right
    slope_x = (b - a) * (1 - down) + (d - c) * down
    bias = upper + (lower - upper) * down
    scores = (tl.dot(key, query, input_precision=PRECISION, out_dtype=WIDE) * SCALE + bias) * LOG2E
    return scores, row, column, down, right, lower - upper, slope_x


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    query, key, value, points, table, ys, xs, out, log_sum,
    length, width, count, heads, per_group, channels, table_y, table_x,
    SCALE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, QUERIES: tl.constexpr, POINTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Results of a block of queries (axis 0) of one sample's head (axis 1)."""
    head = tl.program_id(1).to(tl.int64)  # of all samples, one after the other
    points += head // per_group * count * 2
    table += head % heads * table_y * table_x
    at = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel, there = tl.arange(0, CHANNELS), at < length
    some = (channel < channels)[:, None]
    maps = (head * channels + channel[:, None]) * length + at[None, :]
    q = tl.load(query + maps, mask=some & there[None, :], other=0.0).to(WIDE)
    y = tl.load(ys + at // width, mask=there, other=0.0)
    x = tl.load(xs + at % width, mask=there, other=0.0)
    largest = tl.full([QUERIES], float("-inf"), WIDE)
    total = tl.zeros([QUERIES], WIDE)
    result = tl.zeros([CHANNELS, QUERIES], WIDE)
    for start in range(0, count, POINTS):
        point = start + tl.arange(0, POINTS)
        real = point < count
        py = tl.load(points + point * 2, mask=real, other=0.0)
        px = tl.load(points + point * 2 + 1, mask=real, other=0.0)
        rows = (head * channels + channel[:, None]) * count + point[None, :]
        k = tl.load(key + rows, mask=some & real[None, :], other=0.0).to(WIDE)
        v = tl.load(value + rows, mask=some & real[None, :], other=0.0).to(WIDE)
        inside = real[:, None] & there[None, :]
        scores, _, _, _, _, _, _ = _scores(
            q, tl.trans(k), table, py, px, y, x, inside, table_y, table_x, SCALE, WIDE, PRECISION
        )
        scores = tl.where(real[:, None], scores, float("-inf"))
        before = largest
        largest = tl.maximum(before, tl.max(scores, 0))
        fade = tl.exp2(before - largest)
        weights = tl.exp2(scores - largest[None, :])
        total = total * fade + tl.sum(weights, 0)
        result = result * fade[None, :] + tl.dot(v, weights, input_precision=PRECISION, out_dtype=WIDE)
    result = result / total[None, :]
    tl.store(out + maps, result.to(out.dtype.element_ty), mask=some & there[None, :])
    tl.store(log_sum + head * length + at, largest + tl.log2(total), mask=there)


@triton.jit
def _backward_query(  # type: ignore[no-untyped-def]
    query, key, value, points, table, ys, xs, grad, log_sum, mean, grad_query,
    length, width, count, heads, per_group, channels, table_y, table_x,
    SCALE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, QUERIES: tl.constexpr, POINTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of queries (axis 0) of one sample's head (axis 1)."""
    head = tl.program_id(1).to(tl.int64)
    points += head // per_group * count * 2
    table += head % heads * table_y * table_x
    at = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel, there = tl.arange(0, CHANNELS), at < length
    some = (channel < channels)[:, None]
    maps = (head * channels + channel[:, None]) * length + at[None, :]
    q = tl.load(query + maps, mask=some & there[None, :], other=0.0).to(WIDE)
    g = tl.load(grad + maps, mask=some & there[None, :], other=0.0).to(WIDE)
    y = tl.load(ys + at // width, mask=there, other=0.0)
    x = tl.load(xs + at % width, mask=there, other=0.0)
    of_query = tl.load(log_sum + head * length + at, mask=there, other=0.0)
    shift = tl.load(mean + head * length + at, mask=there, other=0.0)
    result = tl.zeros([CHANNELS, QUERIES], WIDE)
    for start in range(0, count, POINTS):
        point = start + tl.arange(0, POINTS)
        real = point < count
        py = tl.load(points + point * 2, mask=real, other=0.0)
        px = tl.load(points + point * 2 + 1, mask=real, other=0.0)
        rows = (head * channels + channel[:, None]) * count + point[None, :]
        k = tl.load(key + rows, mask=some & real[None, :], other=0.0).to(WIDE)
        v = tl.load(value + rows, mask=some & real[None, :], other=0.0).to(WIDE)
        inside = real[:, None] & there[None, :]
        scores, _, _, _, _, _, _ = _scores(
            q, tl.trans(k), table, py, px, y, x, inside, table_y, table_x, SCALE, WIDE, PRECISION
        )
        weights = tl.where(inside, tl.exp2(scores - of_query[None, :]), 0.0)
        of_weights = tl.dot(tl.trans(v), g, input_precision=PRECISION, out_dtype=WIDE)
        of_scores = weights * (of_weights - shift[None, :])
        result += tl.dot(k, of_scores, input_precision=PRECISION, out_dtype=WIDE)
    tl.store(grad_query + maps, (result * SCALE).to(grad_query.dtype.element_ty), mask=some & there[None, :])


@triton.jit
def _backward_points(  # type: ignore[no-untyped-def]
    query, key, value, points, table, ys, xs, grad, log_sum, mean,
    grad_key, grad_value, grad_points, grad_table, tiles,
    length, width, count, heads, per_group, channels, table_y, table_x,
    SCALE: tl.constexpr, WIDE: tl.constexpr, CHANNELS: tl.constexpr, QUERIES: tl.constexpr, POINTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys, values and places of a block of points (axis 0) of one sample's head (axis 1), and what they
    add to that of the table, over `tiles` blocks of queries (axis 2: which)."""
    head = tl.program_id(1).to(tl.int64)
    points += head // per_group * count * 2
    table += head % heads * table_y * table_x
    grad_table += head * table_y * table_x
    channel = tl.arange(0, CHANNELS)
    some = (channel < channels)[:, None]
    point = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    real = point < count
    py = tl.load(points + point * 2, mask=real, other=0.0)
    px = tl.load(points + point * 2 + 1, mask=real, other=0.0)
    rows = (head * channels + channel[:, None]) * count + point[None, :]
    k = tl.trans(tl.load(key + rows, mask=some & real[None, :], other=0.0).to(WIDE))
    v = tl.trans(tl.load(value + rows, mask=some & real[None, :], other=0.0).to(WIDE))
    of_key, of_value = tl.zeros([POINTS, CHANNELS], WIDE), tl.zeros([POINTS, CHANNELS], WIDE)
    of_y, of_x = tl.zeros([POINTS], WIDE), tl.zeros([POINTS], WIDE)
    first = tl.program_id(2) * tiles * QUERIES
    for start in range(first, tl.minimum(first + tiles * QUERIES, length), QUERIES):
        at = start + tl.arange(0, QUERIES)
        there = at < length
        maps = (head * channels + channel[:, None]) * length + at[None, :]
        q = tl.load(query + maps, mask=some & there[None, :], other=0.0).to(WIDE)
        g = tl.load(grad + maps, mask=some & there[None, :], other=0.0).to(WIDE)
        y = tl.load(ys + at // width, mask=there, other=0.0)
        x = tl.load(xs + at % width, mask=there, other=0.0)
        of_query = tl.load(log_sum + head * length + at, mask=there, other=0.0)
        shift = tl.load(mean + head * length + at, mask=there, other=0.0)
        inside = real[:, None] & there[None, :]
        scores, row, column, down, right, slope_y, slope_x = _scores(
            q, k, table, py, px, y, x, inside, table_y, table_x, SCALE, WIDE, PRECISION
        )
        weights = tl.where(inside, tl.exp2(scores - of_query[None, :]), 0.0)
        of_weights = tl.dot(v, g, input_precision=PRECISION, out_dtype=WIDE)
        of_scores = weights * (of_weights - shift[None, :])
        of_key += tl.dot(of_scores, tl.trans(q), input_precision=PRECISION, out_dtype=WIDE)
        of_value += tl.dot(weights, tl.trans(g), input_precision=PRECISION, out_dtype=WIDE)
        of_y += tl.sum(of_scores * slope_y, 1)
        of_x += tl.sum(of_scores * slope_x, 1)
        entry = grad_table + row * table_x + column
        top, bottom = inside & (row >= 0) & (row < table_y), inside & (row >= -1) & (row < table_y - 1)
        near, far = (column >= 0) & (column < table_x), (column >= -1) & (column < table_x - 1)
        upper, lower = of_scores * (1 - down), of_scores * down
        tl.atomic_add(entry, upper * (1 - right), mask=top & near, sem="relaxed")
        tl.atomic_add(entry + 1, upper * right, mask=top & far, sem="relaxed")
        tl.atomic_add(entry + table_x, lower * (1 - right), mask=bottom & near, sem="relaxed")
        tl.atomic_add(entry + table_x + 1, lower * right, mask=bottom & far, sem="relaxed")
    part = (tl.program_id(2).to(tl.int64) * tl.num_programs(1) + head) * count
    column = part * channels + channel[None, :] * count + point[:, None]
    stored = real[:, None] & (channel < channels)[None, :]
    tl.store(grad_key + column, of_key * SCALE, mask=stored)
    tl.store(grad_value + column, of_value, mask=stored)
    # A point that moves by 1 moves all distances to it by half of that, the other way.
    tl.store(grad_points + (part + point) * 2, of_y * (-0.25 * (table_y - 1)), mask=real)
    tl.store(grad_points + (part + point) * 2 + 1, of_x * (-0.25 * (table_x - 1)), mask=real)
