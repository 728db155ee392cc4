"""What ktb does on a GPU, in one command of at most eight minutes: is it right, how fast is it, where does the time go?

    python scripts/gpu_check.py                                   # everything, on the first GPU
    python scripts/gpu_check.py --sections correctness --seconds 120
    python scripts/gpu_check.py --tiny                            # a rehearsal on the CPU with tiny sizes

Sections, in this order; each runs in a process of its own, so that one that fails or hangs costs no other:

    correctness   against the published numbers and against a CPU: logits, gradients, 20 steps; every precision; one
                  process of NCCL, CUDA graph, compiler, channels-last; operations that wait for the GPU
    kernels       forms of attention against each other, results and time: DSCF's in chunks or by the Triton kernel,
                  windows of several kinds or padded to one
    speed         images per second, peak memory, share of the card's matrix rate, ours and the published wiring
                  alternating (scripts/bench.py), with the targets of docs/benchmarks.md
    jobs          ktb-train itself: a run that is continued equals one that never stopped, how busy the GPU is, the demo
    profile       the most expensive kernels, gaps between kernels, how many are started

Every figure is in the JSON file and in the Markdown table beside it as soon as it is there; when the time is up, only
what comes last is missing. Speeds are those of synthetic data and random weights, which cost what real ones do.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the rule that fills weights and inputs of the reference cases is with the tests

from tests.ktb.reference import DATA, filled_state, inputs, label, load_json  # noqa: E402

import bench  # noqa: E402
from ktb.data.cores import usable_cores  # noqa: E402
from ktb.engine.draws import per_sample  # noqa: E402
from ktb.engine.optim import build_optimizer, published  # noqa: E402
from ktb.losses.masking import draw_masks  # noqa: E402
from ktb.losses.pixel import PixelLoss  # noqa: E402
from ktb.losses.self_teaching import SelfTeachingLoss  # noqa: E402
from ktb.metrics.counts import ConfusionMatrix, boundary_counts  # noqa: E402
from ktb.models.backbones.swin import FrozenSwin, SwinArch, shifted_window_attention  # noqa: E402
from ktb.models.fusion.dscf import DSCF, STRIDES, point_attention  # noqa: E402
from ktb.models.graph import CudaGraph  # noqa: E402
from ktb.models.layers import norm, window_fast  # noqa: E402
from ktb.models.layers.dscf_device import SWITCH  # noqa: E402
from ktb.models.layers.dscf_fast import sparse_attention  # noqa: E402
from ktb.models.layers.window_fast import Constants  # noqa: E402
from ktb.models.segmentor import KTBSegmentor  # noqa: E402
from ktb.weights.checkpoint import load_published  # noqa: E402
from ktb.weights.tensor_names import from_published, published_names  # noqa: E402

NAMES = ("rgb", "depth")
SMALL = SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0, 0.3)
CLASSES = 5
LARGE = 1024
"""Side in pixels of the images whose training must fit."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """One figure. `met`: whether it meets the target, None where there is none or nothing was found."""

    name: str
    found: float | None
    unit: str
    target: str = ""
    met: bool | None = None
    beside: str = ""


def at_most(name: str, found: float, limit: float, unit: str, beside: str = "") -> Row:
    return Row(name, found, unit, f"< {limit:g}", bool(found < limit), beside)


def at_least(name: str, found: float, limit: float, unit: str, beside: str = "") -> Row:
    return Row(name, found, unit, f"≥ {limit:g}", bool(found >= limit), beside)


@dataclass(frozen=True)
class Setup:
    """Where the checks run and how large they are. `deadline`: of `time.monotonic()`."""

    device: torch.device
    tiny: bool
    deadline: float

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def size(self) -> Size:
        return (64, 96) if self.tiny else (480, 640)

    def left(self) -> float:
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Check:
    """`rows` yields figures as they are found; with less than `seconds` left it is not begun."""

    rows: Callable[[Setup], Iterator[Row]]
    seconds: float = 10
    gpu: bool = False


# -------------------------------------------------------------------------------------------------------- correctness


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """float32 products, convolutions among them, in TF32 or not at all; PyTorch begins with convolutions only."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def published_model(reference: str) -> KTBSegmentor:
    state = filled_state(load_json(reference))
    model = load_published(state, NAMES).double()
    model.load_state_dict(from_published(state, NAMES))
    return model


def largest_error(ours: Tensor, theirs: np.ndarray) -> float:
    """Relative to the largest number there should be."""
    return float(np.abs(ours.detach().double().cpu().numpy() - theirs).max() / np.abs(theirs).max())


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Norm of the difference of all numbers, relative to that of `theirs`."""
    pairs = [(a.detach().double().cpu(), b.detach().double().cpu()) for a, b in zip(ours, theirs, strict=True)]
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs)) / math.sqrt(
        sum(float(b.square().sum()) for _, b in pairs)
    )


def reference_logits(setup: Setup) -> Iterator[Row]:
    modes: dict[str, tuple[torch.dtype, bool, bool, float]] = {
        "float64": (torch.float64, False, False, 1e-6),
        "float32 without TF32": (torch.float32, False, False, 1e-4),
        "float32 with TF32": (torch.float32, True, False, 5e-2),
        "bfloat16": (torch.float32, False, True, 5e-2),
    }
    for reference in ("mini.json", *([] if setup.tiny else ["swin_b.json"])):
        cases = load_json(reference)["cases"]
        for mode, (dtype, fast, half, limit) in modes.items():
            model = published_model(reference).to(setup.device, dtype)
            error, agree = 0.0, 1.0
            for tag, case in list(cases.items())[: 1 if setup.tiny else None]:
                stored, stride = np.load(DATA / f"{tag}.npz"), case["logit_stride"]
                given = inputs(tag, case["batch"], case["height"], case["width"])
                given = {m: x.to(setup.device, dtype) for m, x in given.items()}
                with torch.no_grad(), tf32(fast), torch.autocast(setup.device.type, torch.bfloat16, enabled=half):
                    out = model(given, side=True)
                of_heads = (out.logits, *out.side.values())
                for name, logits in zip(("logits", "logits_rgb", "logits_x"), of_heads, strict=True):
                    error = max(error, largest_error(logits[..., ::stride, ::stride], stored[name]))
                classes = out.logits[..., ::stride, ::stride].argmax(1).cpu().numpy()
                agree = min(agree, float((classes == stored["logits"].argmax(1)).mean()))
            name = f"published logits, {reference.removesuffix('.json')}, {mode}"
            yield at_most(name, error, limit, "of the largest", f"same class in {agree:.2%} of the pixels")


def reference_gradients(setup: Setup) -> Iterator[Row]:
    tag = "mini_96x128"
    stored = np.load(DATA / f"{tag}.npz")
    names = published_names((2, 2, 2, 2), NAMES)
    scale = float(np.max(stored["grad_norms"]))
    for dtype, limit in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
        model = published_model("mini.json").to(setup.device, dtype)
        given = {m: x.to(setup.device, dtype) for m, x in inputs(tag, 2, 96, 128).items()}
        with tf32(False):
            terms = SelfTeachingLoss()(model(given, side=True), label(tag, 7, 2, 96, 128).to(setup.device))
            terms["loss"].backward()
        losses = torch.stack([terms[k] for k in ("loss", "loss_fused", "loss_rgb", "loss_depth")])
        kind = str(dtype).removeprefix("torch.")
        yield at_most(f"published losses, {kind}", largest_error(losses, stored["losses"]), limit, "of the largest")
        parameters = dict(model.named_parameters())
        found = [cast(Tensor, parameters[names[str(n)]].grad).norm() for n in stored["grad_names"]]
        error = float(np.abs(torch.stack(found).double().cpu().numpy() - stored["grad_norms"]).max()) / scale
        yield at_most(f"published gradients' norms, {kind}", error, limit, "of the largest")


def small_model(device: torch.device, dtype: torch.dtype = torch.float32) -> KTBSegmentor:
    torch.manual_seed(0)
    model = KTBSegmentor(FrozenSwin(SMALL), NAMES, CLASSES, head={"width": 32}, side_head={"width": 16})
    return model.to(device, dtype)


def small_batch(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = {m: torch.rand(4, 3, 72, 88, generator=generator, dtype=torch.float64) for m in NAMES}
    target = torch.randint(0, CLASSES + 1, (4, 72, 88), generator=generator)
    return {m: x.to(device, dtype) for m, x in images.items()}, target.masked_fill(target == CLASSES, 255).to(device)


def training(
    device: torch.device, dtype: torch.dtype, steps: int, wrap: Callable[[nn.Module], nn.Module] = lambda model: model
) -> tuple[list[Tensor], list[Tensor]]:
    """Losses of the steps, and the trained parameters after them; dropout, stochastic depth and masking included."""
    model = small_model(device, dtype).train()
    draws, loss, wrapped = per_sample(model), SelfTeachingLoss(), wrap(model)
    optimizer, schedule = build_optimizer(model, published(1e-3, 0.01, 1), epochs=4, steps_per_epoch=5)
    images, target = small_batch(device, dtype)
    losses = []
    for step in range(steps):
        draws.keys = torch.arange(4 * step, 4 * step + 4, dtype=torch.int32).to(device)
        masked = draw_masks(len(NAMES), 4, np.random.default_rng(step)).to(device)
        optimizer.zero_grad()
        value = loss(wrapped(images, side=True, masked=masked), target)["loss"]
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(value.detach())
    return losses, [p for p in model.parameters() if p.requires_grad]


def twenty_steps(setup: Setup) -> Iterator[Row]:
    steps = 3 if setup.tiny else 20
    exact = training(torch.device("cpu"), torch.float64, steps)
    for dtype, limits in ((torch.float64, (1e-8, 1e-6)), (torch.float32, (1e-3, 2e-2))):
        with tf32(False):
            found = training(setup.device, dtype, steps)
        kind = f"{steps} steps in {str(dtype).removeprefix('torch.')} against a CPU in float64"
        for name, ours, theirs, limit in zip(("losses", "weights"), found, exact, limits, strict=True):
            yield at_most(f"{kind}, {name}", distance(ours, theirs), limit, "relative")


def one_process_of_many(setup: Setup) -> Iterator[Row]:
    backend = "nccl" if setup.cuda else "gloo"
    with tempfile.TemporaryDirectory() as folder, tf32(False):
        plain = training(setup.device, torch.float64, 3)
        dist.init_process_group(backend, init_method=f"{Path(folder, 'store').as_uri()}", rank=0, world_size=1)
        try:
            found = training(setup.device, torch.float64, 3, DistributedDataParallel)
            yield at_most(f"DDP, {backend}, one process: weights", distance(found[1], plain[1]), 1e-8, "relative")
            x = torch.randn(4, 6, 5, 7, device=setup.device, dtype=torch.float64)
            results = []
            for synchronised in (False, True):
                torch.manual_seed(0)
                leaf = x.clone().requires_grad_()
                weight, bias = (torch.rand(6, device=setup.device, dtype=torch.float64) for _ in range(2))
                if synchronised:
                    out = norm._Synchronised.apply(leaf, weight, bias, 1e-5)[0]
                else:
                    out = nn.functional.batch_norm(leaf, None, None, weight, bias, True, 0.1, 1e-5)
                out.square().sum().backward()
                results.append([out, cast(Tensor, leaf.grad)])
            yield at_most(f"BatchNorm over processes, {backend}", distance(results[1], results[0]), 1e-10, "relative")
        finally:
            dist.destroy_process_group()


def gradients(logits: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    """Of the mean square of logits of the fused head; zero for the weights of the side heads."""
    return list(torch.autograd.grad(logits.square().mean(), weights, materialize_grads=True))


def other_forms(setup: Setup) -> Iterator[Row]:
    """The same model compiled, with channels last, and as a CUDA graph."""
    model = small_model(setup.device).eval()
    images, _ = small_batch(setup.device)
    with tf32(False):
        out = model(images)
        weights = [p for p in model.parameters() if p.requires_grad]
        grads = gradients(out.logits, weights)
        last = {m: x.contiguous(memory_format=torch.channels_last) for m, x in images.items()}
        other = small_model(setup.device).eval().to(memory_format=torch.channels_last)(last).logits
        yield at_most("channels last, logits", distance([other], [out.logits]), 1e-4, "relative")
        if setup.cuda:
            with torch.no_grad():
                graph = CudaGraph(model, images)
                moved = {m: x.flip(0) for m, x in images.items()}
                error = distance([graph(moved)], [model(moved).logits])
            yield at_most("CUDA graph, logits", error, 1e-5, "relative")
            again = small_model(setup.device).eval()
            other = torch.compile(again, fullgraph=True, dynamic=False)(images).logits
            yield at_most("compiled, logits", distance([other], [out.logits]), 1e-4, "relative")
            theirs = gradients(other, [p for p in again.parameters() if p.requires_grad])
            yield at_most("compiled, gradients", distance(theirs, grads), 1e-3, "relative")


def work(setup: Setup) -> dict[str, Callable[[], object]]:
    """What a step of training and of evaluation consists of."""
    model = small_model(setup.device)
    images, target = small_batch(setup.device)
    metric = ConfusionMatrix(CLASSES).to(setup.device)
    prediction = target.masked_fill(target == 255, 0)
    optimizer, _ = build_optimizer(model, published(1e-3, 0.01, 1), epochs=4, steps_per_epoch=5)

    def evaluate() -> None:
        with torch.no_grad():
            model.eval()(images)

    def step(loss: PixelLoss) -> None:
        optimizer.zero_grad()
        loss(model.train()(images), target)["loss"].backward()
        optimizer.step()

    return {
        "forward": evaluate,
        "training step, cross-entropy": partial(step, PixelLoss("ce")),
        "training step, OHEM": partial(step, PixelLoss("ohem")),
        "training step, self-teaching": partial(step, SelfTeachingLoss()),
        "confusion matrix": lambda: metric.update(prediction, target),
        "boundary counts": lambda: boundary_counts(prediction, target, CLASSES),
    }


WAITS = "called a synchronizing CUDA operation"
"""PyTorch's words."""


def waiting(setup: Setup) -> Iterator[Row]:
    """Operations for which the host waits, by PyTorch's own count."""
    for name, call in work(setup).items():
        call()  # constants are made once
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if setup.cuda:
                torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                if setup.cuda:
                    torch.cuda.set_sync_debug_mode("default")
        waits = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if WAITS in str(w.message)]
        where = ", ".join(f"{n} × {place}" for place, n in Counter(waits).most_common(3))
        yield at_most(f"waits of a {name}", len(waits), 1, "operations", where)


# ------------------------------------------------------------------------------------------------------------- kernels


def median_seconds(setup: Setup, call: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of a call."""
    taken = []
    for _ in range(repeats + 1):
        if setup.cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if setup.cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def attention(setup: Setup, stage: int, batch: int, size: Size, dtype: torch.dtype) -> tuple[DSCF, list[Tensor]]:
    """A fusion block of Swin-B's widths, and queries, keys, values and points for its attention."""
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    fusion = DSCF(NAMES, 128 << stage, stage).to(setup.device, wide)
    nn.init.normal_(fusion.table)
    apart = STRIDES[stage]
    r, count = 16 << stage, 2 * math.prod(-(-side // apart) for side in size)
    query = torch.randn(batch, r, *size, device=setup.device, dtype=dtype)
    key, value = torch.randn(2, batch, r, count, device=setup.device, dtype=dtype)
    points = torch.rand(batch, fusion.groups, count, 2, device=setup.device, dtype=wide) * 2 - 1
    return fusion, [x.requires_grad_() for x in (query, key, value, points)]


def triton_results(setup: Setup) -> Iterator[Row]:
    from ktb.models.layers import dscf_triton

    shapes = [(0, (7, 9)), (1, (5, 3))] if setup.tiny else [(0, (61, 80)), (1, (23, 31)), (3, (15, 20))]
    for dtype, fast, limit in (
        (torch.float64, False, 1e-10),
        (torch.float32, False, 1e-4),  # places between entries of the table are rounded differently
        (torch.float32, True, 1e-2),
        (torch.bfloat16, False, 2e-2),
    ):
        worst = 0.0
        for stage, size in shapes:
            fusion, given = attention(setup, stage, 2, size, dtype)
            weights = torch.randn_like(given[0])
            exact = [x.detach().to(fusion.table.dtype).requires_grad_() for x in given]
            with tf32(False):
                plain = partial(point_attention, table=fusion.table)(*exact)
                expected = [plain, *torch.autograd.grad(plain, [*exact, fusion.table], weights.to(plain.dtype))]
            with tf32(fast):
                out = partial(dscf_triton.attend, table=fusion.table)(*given)
                found = [out, *torch.autograd.grad(out, [*given, fusion.table], weights)]
            worst = max(worst, *(distance([a], [b]) for a, b in zip(found, expected, strict=True)))
        kind = str(dtype).removeprefix("torch.") + (" with TF32" if fast else "")
        yield at_most(f"Triton's results and gradients, {kind}", worst, limit, "relative")


def triton_times(setup: Setup) -> Iterator[Row]:
    """A stage's attention, forward, and forward and backward: in chunks, and the kernel in several tilings."""
    from ktb.models.layers import dscf_triton

    def milliseconds(attend: Callable[..., Tensor], given: list[Tensor], backward: bool) -> float:
        def call() -> None:
            with torch.set_grad_enabled(backward):
                out = attend(*given)
            if backward:
                out.sum().backward()

        return 1e3 * median_seconds(setup, call, 1 if setup.tiny else 5)

    def tiled(tiling: tuple[int, int, int], table: Tensor, *given: Tensor) -> Tensor:
        dscf_triton.QUERIES, dscf_triton.POINTS, dscf_triton.WARPS = tiling
        return partial(dscf_triton.attend, table=table)(*given)

    tilings = [(32, 32, 4)] if setup.tiny else [(32, 32, 4), (64, 16, 8), (64, 32, 8)]
    for batch in (1,) if setup.tiny else (1, 4, 16):
        for stage in (3,) if setup.tiny else range(4):
            size = tuple(-(-side // (4 << stage)) for side in setup.size)
            fusion, given = attention(setup, stage, batch, cast(Size, size), torch.float32)
            for backward in (False, True):
                chunks = milliseconds(partial(sparse_attention, table=fusion.table), given, backward)
                found = {t: milliseconds(partial(tiled, t, fusion.table), given, backward) for t in tilings}
                best = min(found, key=lambda t: found[t])
                name = f"DSCF's attention, stage {stage}, batch {batch}, forward{' and backward' if backward else ''}"
                beside = ", ".join(f"{t}: {ms:.3f}" for t, ms in found.items())
                yield Row(name, chunks / found[best], "× in chunks", beside=f"in chunks {chunks:.3f} ms; {beside} ms")


@contextmanager
def forms(triton: bool, padded: bool) -> Iterator[None]:
    """DSCF's attention by the Triton kernel or in chunks; windows padded to one kind, or of several kinds."""
    with (
        patch.dict(os.environ, {SWITCH: str(int(triton))}),
        patch.object(window_fast, "_alike_costs_less", lambda *args: padded),
    ):
        yield


def window_results(setup: Setup) -> Iterator[Row]:
    for dtype, fast, limit in (
        (torch.float64, False, 1e-10),
        (torch.float32, False, 1e-4),
        (torch.float32, True, 1e-2),
        (torch.bfloat16, False, 3e-2),
    ):
        for padded in (False, True):
            worst = 0.0
            for size, shift in itertools.product(((13, 17), (24, 30)), (0, 3)):
                torch.manual_seed(0)
                attn = WindowAttention(64, num_heads=2, window_size=6).to(setup.device, torch.float64)
                attn.requires_grad_(False).relative_position_bias_table.normal_()
                x, weights = torch.randn(2, 3, *size, 64, device=setup.device, dtype=torch.float64)
                exact = x.clone().requires_grad_()
                expected = [shifted_window_attention(attn, exact, 6, shift)]
                expected += torch.autograd.grad(expected[0], exact, weights)
                given = x.to(dtype).requires_grad_()
                with tf32(fast), forms(False, padded):
                    found = [window_fast.window_attention(attn.to(dtype), given, 6, shift, Constants(9))]
                    found += torch.autograd.grad(found[0], given, weights.to(dtype))
                worst = max(worst, *(distance([a], [b]) for a, b in zip(found, expected, strict=True)))
            kind = str(dtype).removeprefix("torch.") + (" with TF32" if fast else "")
            name = f"windows {'padded' if padded else 'of several kinds'}: results and gradients, {kind}"
            yield at_most(name, worst, limit, "relative")


def whole_model(
    setup: Setup, batch: int, *, train: bool, half: bool
) -> tuple[KTBSegmentor, dict[str, Tensor], Callable[[], None]]:
    """A model as it is trained or evaluated, its inputs, and a call of forward, or of forward and backward."""
    arch, head, side = bench.BACKBONES["swin_nano" if setup.tiny else "swin_b"]
    torch.manual_seed(0)
    model = KTBSegmentor(FrozenSwin(arch), NAMES, bench.CLASSES, head={"width": head}, side_head={"width": side})
    model.to(setup.device).train(train)
    images = {m: torch.rand(batch, 3, *setup.size, device=setup.device) for m in NAMES}
    target = torch.randint(0, bench.CLASSES, (batch, *setup.size), device=setup.device)
    loss = SelfTeachingLoss()

    def call() -> None:
        with torch.set_grad_enabled(train), torch.autocast(setup.device.type, torch.bfloat16, enabled=half):
            out = model(images)
            if train:
                loss(out, target)["loss"].backward()
                model.zero_grad()

    return model, images, call


def form_times(setup: Setup) -> Iterator[Row]:
    """The whole model in each form; which of them become the default is decided by these."""
    for batch, train, (triton, padded) in itertools.product(
        (1, 4, 16), (False, True), ((False, False), (False, True), (True, False), (True, True))
    ):
        if train != (batch == 4) or (setup.tiny and batch > 1):
            continue
        model, images, call = whole_model(setup, batch, train=train, half=not setup.tiny)
        with forms(triton, padded):
            ways: dict[str, Callable[[], object]] = {"training" if train else "eager": call}
            if setup.cuda and not train:
                ways["CUDA graph"] = partial(CudaGraph(model, images, autocast=torch.bfloat16), images)
            for way, run in ways.items():
                seconds = median_seconds(setup, run, 1 if setup.tiny else 10)
                form = f"{'Triton' if triton else 'chunks'}, {'padded windows' if padded else 'kinds of windows'}"
                beside = f"{1e3 * seconds:.3f} ms"
                yield Row(f"model, batch {batch}, {way}: {form}", batch / seconds, "images/s", beside=beside)


# --------------------------------------------------------------------------------------------------------------- speed


def measured(setup: Setup, parts: tuple[tuple[str, int, str, float | None], ...]) -> Iterator[Row]:
    """Cases of scripts/bench.py as rows: part, batch, precision, least images per second."""
    options = argparse.Namespace(
        device=str(setup.device), precision="fp32", repeats=1 if setup.tiny else 10, threads=0,
        backbone="swin_nano" if setup.tiny else "swin_b",
    )  # fmt: skip
    cases = bench.Bench(options)
    alone: dict[str, float] = {}
    for part, batch, precision, least in parts:
        cases.precision = precision
        for case in cases.cases(part, setup.size, batch):
            found = cases.measure(case, memory=setup.cuda, repeats=cases.repeats)
            name = f"{found.name}, {precision}"
            alone[f"{part} {batch} {precision}"] = found.ours
            alone[f"published {part} {batch} {precision}"] = found.published
            share = "" if found.rate is None else f"; {found.rate:.0%} of the matrix rate"
            beside = (
                f"{1e3 * found.ours:.2f} ms; published {1e3 * found.published:.2f} ms, {1 / found.ratio:.2f} ×; "
                f"{found.ours_mib:.0f} and {found.published_mib:.0f} MiB{share}"
            )
            speed = batch / found.ours
            if least is None:
                yield Row(name, speed, "images/s", beside=beside)
            else:
                yield at_least(name, speed, least, "images/s", beside)
    for name, other, mine, least in (
        ("training step, bf16, over published in fp32", "published train 4 fp32", "train 4 bf16", 5.0),
        ("training step, bf16, over published in bf16", "published train 4 bf16", "train 4 bf16", 2.0),
    ):
        if mine in alone and other in alone:
            yield at_least(name, alone[other] / alone[mine], least, "× faster")


def inference_speed(setup: Setup) -> Iterator[Row]:
    forms = ("forward", "graph") if setup.cuda else ("forward",)
    wanted = {("graph", 1, "bf16"): 120.0, ("graph", 16, "bf16"): 400.0}
    batches, precisions = ((1,), ("fp32",)) if setup.tiny else ((1, 16), ("bf16", "fp32"))
    cases = [(f, b, p) for b in batches for p in precisions for f in forms]
    yield from measured(setup, tuple((*case, wanted.get(case)) for case in cases))


def training_speed(setup: Setup) -> Iterator[Row]:
    precisions = ("fp32",) if setup.tiny else ("bf16", "fp32")
    yield from measured(setup, tuple(("train", 4, precision, None) for precision in precisions))


def training_memory(setup: Setup) -> Iterator[Row]:
    """A step on large images, ours alone: the published wiring may not fit."""
    # The one that may not fit comes last.
    cases = [("bf16", False), ("bf16", True), ("fp32", True), ("fp32", False)]
    for precision, recompute in cases[2:] if setup.tiny else cases:
        step = large_step(setup, recompute=recompute, half=precision == "bf16")
        step()  # the optimiser's state is made
        if setup.cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = median_seconds(setup, step, 1 if setup.tiny else 3)
        name = f"memory of a step, {LARGE} x {LARGE}, batch 4, {precision}{', recompute' if recompute else ''}"
        beside = f"{4 / seconds:.2f} images/s, {1e3 * seconds:.0f} ms"
        if setup.cuda:
            yield at_most(name, torch.cuda.max_memory_allocated() / 2**30, 24, "GiB", beside)
            del step
            torch.cuda.empty_cache()
        else:
            yield Row(name, None, "GiB", beside=beside)


def large_step(setup: Setup, *, recompute: bool, half: bool) -> Callable[[], None]:
    arch, head, side = bench.BACKBONES["swin_nano" if setup.tiny else "swin_b"]
    length = 96 if setup.tiny else LARGE
    torch.manual_seed(0)
    model = KTBSegmentor(
        FrozenSwin(arch), NAMES, bench.CLASSES, head={"width": head}, side_head={"width": side}, recompute=recompute
    )
    model.to(setup.device).train()
    optimizer, _ = build_optimizer(model, published(1e-6, 0.01, 1), epochs=4, steps_per_epoch=5)
    images = {m: torch.rand(4, 3, length, length, device=setup.device) for m in NAMES}
    target = torch.randint(0, bench.CLASSES, (4, length, length), device=setup.device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(setup.device.type, torch.bfloat16, enabled=half):
            SelfTeachingLoss()(model(images), target)["loss"].backward()
        optimizer.step()

    return step


def compiled_speed(setup: Setup) -> Iterator[Row]:
    yield from measured(setup, (("compiled", 1, "bf16", None),))


# ---------------------------------------------------------------------------------------------------------------- jobs


@contextmanager
def ktb_train(folder: Path, setup: Setup, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A job that has ended well when the block is left.

    Raises:
        TimeoutExpired: there was no time left for it.
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-c", "from ktb.cli.train import train; train()", f"run_dir={folder}", *settings]
    accelerator = f"trainer.accelerator={'gpu' if setup.cuda else 'cpu'}"
    log = folder.with_suffix(".log")
    with log.open("wb") as out:
        job = subprocess.Popen([*command, accelerator, "trainer.enable_progress_bar=false"], stdout=out, stderr=out)
        try:
            yield job
            code = job.wait(timeout=max(1.0, setup.left()))
        finally:
            job.kill()
    if code:
        raise RuntimeError(f"ktb-train: exit code {code}: {log.read_text(encoding='utf-8', errors='replace')[-800:]}")


def continued_run(setup: Setup) -> Iterator[Row]:
    """Stopped after 5 of 8 steps and continued, against 8 steps at once."""
    settings = (
        "dataset.size=[40,48]", "dataset.train=8", "dataset.val=2", "dataset.test=2", "dataset.batch_size=2",
        "trainer.max_epochs=2", "trainer.num_sanity_val_steps=0", "test=false",
    )  # fmt: skip
    states = []
    with tempfile.TemporaryDirectory() as folder:
        for name, runs in (("whole", ((8, "null"),)), ("continued", ((5, "null"), (8, "last")))):
            for steps, start in runs:
                limits = (f"trainer.max_steps={steps}", f"ckpt_path={start}")
                with ktb_train(Path(folder, name), setup, *settings, *limits):
                    pass
            file = Path(folder, name, "checkpoints", "last.ckpt")
            states.append(torch.load(file, map_location="cpu", weights_only=True)["state_dict"])
    whole, continued = states
    found = distance([continued[k] for k in whole], list(whole.values()))
    yield at_most("a continued run's weights", found, 1e-2, "relative", "sums on a GPU have no fixed order")


def utilisation(job: subprocess.Popen[bytes]) -> list[float]:
    """The driver's figure, in per cent, about five times a second until the job has ended."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    found = []
    while job.poll() is None:
        said = subprocess.run(query, capture_output=True, encoding="utf-8", check=True).stdout
        found.append(float(said.split()[0]))
        time.sleep(0.1)
    return found


def busy(setup: Setup) -> Iterator[Row]:
    """Training of Swin-B on scenes that loader processes draw."""
    workers = max(1, min(15, usable_cores() - 1))
    settings = (
        "backbone=swin_b", "backbone.weights=random", "dataset.size=[480,640]", "dataset.train=400", "dataset.val=2",
        "dataset.test=2", "dataset.batch_size=4", "dataset.eval_batch_size=1", f"dataset.num_workers={workers}",
        "trainer.precision=bf16-mixed", "trainer.max_epochs=3", "trainer.num_sanity_val_steps=0", "test=false",
        "trainer.max_time=00:00:01:10", "trainer.log_every_n_steps=10",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with ktb_train(Path(folder, "run"), setup, *settings) as job:
            seen = utilisation(job)
        with Path(folder, "run", "metrics.csv").open(newline="", encoding="utf-8") as file:
            speeds = [float(row["train/samples_per_s"] or "nan") for row in csv.DictReader(file)]
    start = next((i for i, share in enumerate(seen) if share > 0), 0)
    steady = seen[start:][len(seen[start:]) // 4 :]
    median = statistics.median(speed for speed in speeds if speed == speed)
    beside = f"{median:.1f} samples/s (median), {workers} loader processes; mean of {len(steady)} readings"
    yield at_least("GPU busy in ktb-train, Swin-B, batch 4, bf16", statistics.mean(steady), 90, "%", beside)


def demo(setup: Setup) -> Iterator[Row]:
    start = time.monotonic()
    small = ("dataset.train=8", "dataset.val=2", "dataset.test=2", "trainer.max_epochs=1") if setup.tiny else ()
    with tempfile.TemporaryDirectory() as folder:
        with ktb_train(Path(folder, "run"), setup, *small):
            pass
        result = json.loads(Path(folder, "run", "result.json").read_text(encoding="utf-8"))
    yield at_most("the demo", time.monotonic() - start, 60, "s", f"mIoU {result['metrics']['miou']:.3f}")


# ------------------------------------------------------------------------------------------------------------- profile


@dataclass(frozen=True)
class Span:
    name: str
    start: float
    end: float


def spans(setup: Setup, call: Callable[[], object]) -> list[Span]:
    """What ran on the device in a call, in microseconds; without a GPU, the outermost operators."""
    call()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setup.cuda else [])]
    with profile(activities=activities) as found:
        call()
        if setup.cuda:
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA if setup.cuda else torch.autograd.DeviceType.CPU
    events = [e for e in found.events() or [] if e.device_type == kind and not getattr(e, "is_user_annotation", False)]
    events = [e for e in events if setup.cuda or e.cpu_parent is None]
    return sorted((Span(e.name, e.time_range.start, e.time_range.end) for e in events), key=lambda s: s.start)


def profiles(setup: Setup) -> Iterator[Row]:
    cases = [(1, False, True), (16, False, True), (4, True, True), (1, False, False), (4, True, False)]
    for batch, train, half in [(1, False, False), (1, True, False)] if setup.tiny else cases:
        _, _, call = whole_model(setup, batch, train=train, half=half)
        what = f"{'forward and backward' if train else 'forward'}, batch {batch}, {'bf16' if half else 'fp32'}"
        found = spans(setup, call)
        yield Row(f"kernels: {what}", len(found), "launches")
        reached, waited = found[0].start, 0.0
        for span in found:
            waited += max(0.0, span.start - reached)
            reached = max(reached, span.end)
        whole = reached - found[0].start
        yield Row(f"gaps between kernels: {what}", waited / whole, "of the time", beside=f"{whole / 1e3:.2f} ms in all")
        times: Counter[str] = Counter()
        counts = Counter(span.name for span in found)
        for span in found:
            times[span.name] += span.end - span.start  # type: ignore[assignment]
        for rank, (name, micro) in enumerate(times.most_common(25), start=1):
            beside = f"{micro / 1e3:.3f} ms in {counts[name]} launches: {name[:110]}"
            yield Row(f"kernel {rank}: {what}", micro / whole, "of the time", beside=beside)


# ----------------------------------------------------------------------------------------------------------- reporting

SECTIONS: dict[str, tuple[Check, ...]] = {
    "correctness": (
        Check(reference_logits, 15),
        Check(reference_gradients, 10),
        Check(waiting, 10),
        Check(twenty_steps, 30),
        Check(one_process_of_many, 15),
        Check(other_forms, 60),
    ),
    "kernels": (Check(window_results, 10), Check(triton_results, 30), Check(form_times, 60), Check(triton_times, 40)),
    "speed": (
        Check(inference_speed, 40),
        Check(training_speed, 30),
        Check(training_memory, 30),
    ),
    "jobs": (Check(demo, 45), Check(busy, 80, gpu=True), Check(continued_run, 40)),
    "profile": (Check(profiles, 20), Check(compiled_speed, 150, gpu=True)),
}


class Report:
    """Rows in a JSON file and, beside it, in a Markdown table; both are written anew with every row."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.content: dict[str, Any] = {"machine": {}, "rows": []}
        if file.exists():
            self.content = json.loads(file.read_text(encoding="utf-8"))

    def add(self, section: str, row: Row) -> None:
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}
        self.content["rows"].append({"section": section, **known})
        print(line(self.content["rows"][-1]), flush=True)
        self.write()

    def write(self) -> None:
        for path, text in (
            (self.file, json.dumps(self.content, indent=1, ensure_ascii=False)),
            (self.file.with_suffix(".md"), self.table()),
        ):
            part = path.with_name(path.name + ".part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)

    def table(self) -> str:
        head = "| | what | found | target | | beside |\n|---|---|---|---|---|---|\n"
        machine = ", ".join(f"{k} {v}" for k, v in self.content["machine"].items() if v is not None)
        return f"{machine}\n\n{head}" + "\n".join(map(line, self.content["rows"])) + "\n"


def line(row: dict[str, Any]) -> str:
    found = "" if row["found"] is None else f"{row['found']:.4g} {row['unit']}"
    met = {True: "met", False: "**missed**", None: ""}[row["met"]]
    return f"| {row['section']} | {row['name']} | {found} | {row['target']} | {met} | {row['beside']} |"


def run_section(section: str, setup: Setup, report: Report) -> None:
    for check in SECTIONS[section]:
        what = check.rows.__name__.replace("_", " ")
        if check.gpu and not setup.cuda:
            report.add(section, Row(what, None, "", beside="left out: needs a GPU"))
            continue
        if setup.left() < check.seconds and not setup.tiny:
            report.add(section, Row(what, None, "", beside=f"left out: {max(0.0, setup.left()):.0f} s were left"))
            continue
        try:
            for row in check.rows(setup):
                report.add(section, row)
        except Exception as error:  # the others are still wanted
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}".replace("\n", " ").replace("|", "/")[:600]
            text += f" ({Path(where.filename).name}:{where.lineno})"
            report.add(section, Row(what, None, "", met=False, beside=text))


def in_processes(sections: list[str], arguments: argparse.Namespace, deadline: float) -> None:
    """Each section in a process of its own, which ends when the time is up."""
    for section in sections:
        left = deadline - time.monotonic()
        command = [sys.executable, __file__, "--sections", section, "--json", str(arguments.json), "--append"]
        command += ["--seconds", f"{max(1.0, left - 3):.0f}", *(["--tiny"] if arguments.tiny else [])]
        environment = dict(os.environ)
        if arguments.tiny and section == "kernels":
            environment["TRITON_INTERPRET"] = "1"  # read when Triton is imported
        try:
            code = subprocess.run(command, env=environment, timeout=max(1.0, left), check=False).returncode
            said = f"its process ended with exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            said = "stopped: the time was up"
        if said:
            Report(arguments.json).add(section, Row(section, None, "", met=False, beside=said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all of them")
    parser.add_argument("--seconds", type=float, default=480, help="for everything together (default: 480)")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="default: gpu_check.json")
    parser.add_argument("--append", action="store_true", help="add to the rows that this file holds already")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: on the CPU, tiny sizes")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here; --tiny rehearses on the CPU")
    if not arguments.append:
        arguments.json.unlink(missing_ok=True)
    if len(arguments.sections) > 1:
        in_processes(arguments.sections, arguments, deadline)
        print(f"\n{Report(arguments.json).table()}")
        return
    device = torch.device("cpu" if arguments.tiny else "cuda")
    report = Report(arguments.json)
    if not report.content["machine"]:
        rates = [] if arguments.tiny else [bench.product_rate(device, torch.bfloat16)]
        report.content["machine"] = bench.machine(device, rates)
    run_section(arguments.sections[0], Setup(device, arguments.tiny, deadline), report)


if __name__ == "__main__":
    main()
