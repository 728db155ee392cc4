"""Time and memory of ktb against the published wiring (`published_wiring.py`), in one process and one run.

    python scripts/bench.py                                      # Swin-B, forward at 480 x 640, batch 1
    python scripts/bench.py --parts forward train parts metric   # see --help for all of them
    python scripts/bench.py --parts dscf --sizes 480x640 1024x1024 --repeats 5
    python scripts/bench.py --parts forward --sizes 480x640 1024x1024 --batch 1 4 --json bench.json
    python scripts/bench.py --parts forward graph train --device cuda --precision bf16 --batch 1 4 16
    python scripts/bench.py --scaling docs/scaling_cost.png --backbone swin_nano

Both wirings run on the same random weights and inputs; random weights cost what trained ones do. They alternate,
beginning with ours; a row holds the median time of each, and the median of the ratios ours / published of
neighbouring runs, which is what a busy machine disturbs least.

Columns:
    ours, published   median seconds
    ratio             median of ours / published per pair; below 1 is faster
    CPU               the same ratio in seconds of CPU time, which other programs on the machine disturb less
    MiB               peak memory above what was there before the call (weights and inputs); on a CPU the resident
                      memory of the process, whose high-water mark is reset before each call, with all free memory
                      given back first; on CUDA what PyTorch's allocator counts. Measured apart from the times, before.
    GFLOP             multiplications and additions counted by torch.utils.flop_counter in matrix products,
                      convolutions and attention
    rate              the share of the machine's own matrix rate that ours reaches on its GFLOP; the rate is that of
                      one 2048 x 2048 x 2048 product of the same precision, measured beside every pair (on CUDA
                      8192 x 8192 x 8192: the small one ends before such a device is busy)

On a CPU freed memory is kept for reuse while times are taken, as ktb's commands do: for both wirings.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import published_wiring as published
from ktb.data.cores import usable_cores
from ktb.engine.inference import multi_scale_flip
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.metrics.counts import ConfusionMatrix
from ktb.models.backbones.base import Tokens
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.graph import CudaGraph
from ktb.models.peft.mapa import MAPA
from ktb.models.segmentor import KTBSegmentor

BACKBONES: dict[str, tuple[SwinArch, int, int]] = {
    "swin_nano": (SwinArch(32, (2, 2, 4, 2), (1, 2, 4, 8), 8, 2.0, 0.0), 128, 64),
    "swin_t": (SwinArch(96, (2, 2, 6, 2), (3, 6, 12, 24), 7), 512, 256),
    "swin_b": (SwinArch(128, (2, 2, 18, 2), (4, 8, 16, 32), 12), 512, 256),
    "swin_l": (SwinArch(192, (2, 2, 18, 2), (6, 12, 24, 48), 12), 512, 256),
}
"""Architecture and head widths, as in conf/backbone."""

CLASSES = 40
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
PARTS = ("forward", "compiled", "graph", "train", "ms-flip", "metric", "dscf", "parts")

Call = Callable[[], Any]


class Seconds(NamedTuple):
    wall: float
    cpu: float


@dataclass
class Case:
    """What is measured: the same work in both wirings. `counted`: the same without the compiler, under which operations
    can't be counted."""

    name: str
    ours: Call
    published: Call
    counted: tuple[Call, Call] | None = None


@dataclass
class Row:
    """A line of the table; seconds, MiB, GFLOP."""

    name: str
    ours: float
    published: float
    ratio: float
    cpu_ratio: float
    ours_mib: float
    published_mib: float
    gflop: float
    published_gflop: float
    rate: float | None


class Bench:
    """Model, machine and settings; makes cases and measures them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.precision: str = args.precision
        self.repeats: int = args.repeats
        if args.threads:
            torch.set_num_threads(args.threads)
        self.arch, self.head_dim, self.side_dim = BACKBONES[args.backbone]
        self.model = self.build(("rgb", "depth"))
        self.libc = ctypes.CDLL("libc.so.6") if platform.libc_ver()[0] == "glibc" else None
        self.rates: list[float] = []

    def build(self, modalities: tuple[str, ...]) -> KTBSegmentor:
        torch.manual_seed(0)
        backbone = FrozenSwin(self.arch)
        head, side_head = {"width": self.head_dim}, {"width": self.side_dim}
        model = KTBSegmentor(backbone, modalities, CLASSES, head=head, side_head=side_head)
        return model.to(self.device).eval()

    def inputs(self, model: KTBSegmentor, size: tuple[int, int], batch: int) -> dict[str, Tensor]:
        return {m: torch.rand(batch, 3, *size, device=self.device) for m in model.modalities}

    # ---------------------------------------------------------------------------------------------------------- cases

    def cases(self, part: str, size: tuple[int, int], batch: int) -> Iterator[Case]:
        model, label = self.model.eval(), f"{size[0]}x{size[1]}, batch {batch}"
        with torch.no_grad():
            model(self.inputs(model, (32, 32), 1))  # folds the head's matrices, which is done once
        inputs = self.inputs(model, size, batch)
        plain = partial(model, inputs), partial(published.forward, model, inputs)
        if part == "forward":
            yield Case(f"forward {label}", *plain)
        elif part == "compiled":
            fast, other = torch.compile(model, fullgraph=True, dynamic=False), torch.compile(published.forward)
            yield Case(f"forward, ours compiled, {label}", partial(fast, inputs), plain[1], plain)
            yield Case(f"forward, both compiled, {label}", partial(fast, inputs), partial(other, model, inputs), plain)
        elif part == "graph":
            graph = CudaGraph(model, inputs, autocast=torch.bfloat16 if self.precision == "bf16" else None)
            yield Case(f"forward as CUDA graph {label}", partial(graph, inputs), plain[1], plain)
        elif part == "train":
            model.train()
            loss = SelfTeachingLoss()
            target = torch.randint(0, CLASSES, (batch, *size), device=self.device)
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
            # AdamW's state exists before anything is measured: it is there in every step but the first.
            for p in optimizer.param_groups[0]["params"]:
                p.grad = torch.zeros_like(p)
            optimizer.step()

            def step(forward: Call) -> None:
                optimizer.zero_grad()
                with self.autocast():
                    loss(forward(), target)["loss"].backward()
                optimizer.step()

            yield Case(
                f"training step {label}",
                lambda: step(lambda: model(inputs, side=True)),
                lambda: step(lambda: published.forward(model, inputs)),
            )
            optimizer.zero_grad()
        elif part == "ms-flip":
            yield Case(
                f"multi-scale flip {label}",
                lambda: multi_scale_flip(model, inputs, size, scales=SCALES, flip=True),
                lambda: published.multi_scale_flip(model, inputs, SCALES),
            )
        elif part == "metric":
            prediction = torch.randint(0, CLASSES, (batch, *size), device=self.device)
            target = torch.randint(0, CLASSES, (batch, *size), device=self.device)
            metric, counts = ConfusionMatrix(CLASSES).to(self.device), np.zeros((CLASSES, 3), np.int64)
            yield Case(
                f"metric update {label}",
                lambda: metric.update(prediction, target),
                lambda: published.update_counts(counts, prediction, target, CLASSES),
            )
        else:
            yield from self.modules(inputs, size, label, only_fusion=part == "dscf")

    def modules(
        self, inputs: dict[str, Tensor], size: tuple[int, int], label: str, *, only_fusion: bool
    ) -> Iterator[Case]:
        """Each part of the model on random tokens of the right shape."""
        model, names = self.model, self.model.modalities
        batch = len(inputs[names[0]])
        grids = [[-(-side // (4 << i)) for side in size] for i in range(4)]
        maps = [torch.rand(2, batch, *g, c, device=self.device) for g, c in zip(grids, self.arch.channels, strict=True)]
        if not only_fusion:
            yield Case(
                f"patch embedding {label}",
                lambda: model._embed(inputs, None),
                lambda: published.embed(model, inputs),
            )
        for i, x in enumerate(maps):
            stage, streams = f"stage {i} {label}", list(x)
            if not only_fusion:
                assert isinstance(model.peft, MAPA)
                prompt, adapters = model.peft.prompts[i], model.peft.adapters_of(i)
                yield Case(f"prompt, {stage}", partial(prompt, x), partial(published.prompt, prompt, streams))
                yield Case(
                    f"Swin blocks, {stage}",
                    partial(model.backbone.stage, i, Tokens(x.flatten(0, 1)), adapters),
                    partial(published.stage, model, i, streams),
                )
            fusion = model.fusion[i]
            yield Case(f"DSCF, {stage}", partial(fusion, x), partial(published.fuse, fusion, streams))
        if not only_fusion:
            fused, heads = [x[0] for x in maps], [model.head, *model.side_heads.values()]
            yield Case(
                f"heads {label}",
                partial(model.head, fused, size),
                lambda: [published.head(head, fused, torch.Size(size)) for head in heads],
            )

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    # ------------------------------------------------------------------------------------------------------ measuring

    def run(self, call: Call, *, grad: bool) -> Seconds:
        self.synchronize()
        start, start_cpu = time.perf_counter(), time.process_time()
        with torch.set_grad_enabled(grad), self.autocast():
            call()
        self.synchronize()
        return Seconds(time.perf_counter() - start, time.process_time() - start_cpu)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def measure(self, case: Case, *, memory: bool, repeats: int) -> Row:
        grad = case.name.startswith("training")
        mib = [self.peak(call, grad) if memory else float("nan") for call in (case.ours, case.published)]
        self.keep_freed_memory()
        flops = [self.flops(call, grad) for call in case.counted or (case.ours, case.published)]  # warms up as well
        if case.counted:
            for call in (case.ours, case.published):  # such as compiles
                self.run(call, grad=grad)
        ours, theirs, rates = [], [], []
        for _ in range(repeats):
            ours.append(self.run(case.ours, grad=grad))
            theirs.append(self.run(case.published, grad=grad))
            rates.append(self.matrix_rate())
        self.rates += rates
        pairs = list(zip(ours, theirs, strict=True))
        seconds = statistics.median(t.wall for t in ours)
        return Row(
            name=case.name,
            ours=seconds,
            published=statistics.median(t.wall for t in theirs),
            ratio=statistics.median(a.wall / b.wall for a, b in pairs),
            cpu_ratio=statistics.median(a.cpu / b.cpu for a, b in pairs),
            ours_mib=mib[0],
            published_mib=mib[1],
            gflop=flops[0] / 1e9,
            published_gflop=flops[1] / 1e9,
            # A share of a rate means little where there are few products.
            rate=flops[0] / seconds / statistics.median(rates) if flops[0] > 1e9 else None,
        )

    def matrix_rate(self) -> float:
        return product_rate(self.device, torch.bfloat16 if self.precision == "bf16" else torch.float32)

    def flops(self, call: Call, grad: bool) -> float:
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

        def count(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
            return int(sdpa_flop_count(q, k, v))

        def in_place(x: Any, a: Any, b: Any, **kwargs: Any) -> int:
            return 2 * int(np.prod(a)) * int(b[-1])

        def linear(x: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
            return 2 * int(np.prod(out_shape)) * int(x[-1])

        mapping: Any = {attention: count, torch.ops.aten.baddbmm_: in_place}
        if torch.backends.mkldnn.is_available():  # not part of every build
            mapping[torch.ops.mkldnn._linear_pointwise] = linear
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            self.run(call, grad=grad)
        return float(counter.get_total_flops())

    def peak(self, call: Call, grad: bool) -> float:
        """Peak MiB above what is held before the call."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.run(call, grad=grad)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        if self.libc is None or not Path("/proc/self/clear_refs").exists():
            return float("nan")  # only Linux tells
        self.libc.mallopt(-4, 1 << 16)  # M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: glibc's own, but fixed, so
        self.libc.mallopt(-3, 1 << 17)  # that large tensors go back to the system when freed
        self.libc.mallopt(-1, 1 << 17)
        self.libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # peak := now
        before = _status("VmHWM")
        self.run(call, grad=grad)
        return (_status("VmHWM") - before) / 1024

    def keep_freed_memory(self) -> None:
        """As `ktb.jobs.train` does: otherwise zeroing of new pages takes a third of the time, in both wirings."""
        if self.device.type == "cpu" and self.libc is not None:
            self.libc.mallopt(-4, 0)  # M_MMAP_MAX
            self.libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD

    # -------------------------------------------------------------------------------------------------- cost's growth

    def scaling(self, path: Path, megapixels: float, size: tuple[int, int]) -> dict[str, list[tuple[float, float]]]:
        """CPU seconds of a forward pass over image area, modalities and batch: numbers, and a plot at `path`.

        Args:
            megapixels: of the largest image.
            size: of the images whose modalities and number grow.
        """
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        self.keep_freed_memory()
        areas = [(256, 384), (384, 640), (512, 960), (768, 1280), (1024, 1920), (1536, 2560)]
        label = f"{size[0]} x {size[1]}"
        several = {n: self.build(("rgb", "depth", "event", "lidar")[:n]) for n in range(1, 5)}
        series = {
            "image area, megapixel": [
                (h * w / 1e6, self.model, (h, w), 1) for h, w in areas if h * w <= 1e6 * megapixels
            ],
            f"modalities ({label})": [(float(n), m, size, 1) for n, m in several.items()],
            f"batch ({label})": [(float(b), self.model, size, b) for b in (1, 2, 4, 8)],
        }
        jobs = [(name, job) for name, points in series.items() for job in points]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in series}
        for name, (at, model, shape, batch) in track(jobs, "growth"):
            call = partial(model, self.inputs(model, shape, batch))
            times = [self.run(call, grad=False).cpu for _ in range(self.repeats + 1)]
            found[name].append((at, statistics.median(times[1:])))
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
        for axis, (name, points) in zip(axes, found.items(), strict=True):
            xs, ys = zip(*points, strict=True)
            axis.plot(xs, ys, "o-", label="measured")
            axis.plot((0, xs[-1]), (0, ys[-1]), "--", color="0.6", label="proportional to the largest")
            axis.set(xlabel=name, xlim=(0, None), ylim=(0, None))
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("CPU seconds per forward pass")
        axes[0].legend()
        figure.savefig(path, dpi=110)
        return found


def _status(key: str) -> int:
    """KiB of a line of /proc/self/status."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(f"{key}:"))
    return int(line.split()[1])


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of one large matrix product: the best of three."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(3):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def machine(device: torch.device, rates: list[float]) -> dict[str, Any]:
    """What figures were measured on: processor, threads, versions, date, and the median of its matrix rates."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), name)
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    return {
        "device": name,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "cores": usable_cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        "matrix_gflops": statistics.median(rates) / 1e9 if rates else None,
        "load_average": os.getloadavg()[0],
    }


def _table(rows: list[Row]) -> Table:
    table = Table("", "ours", "published", "ratio", "CPU", "MiB", "published", "ratio", "GFLOP", "published", "rate")
    for column in table.columns[1:]:
        column.justify = "right"
    for r in rows:
        table.add_row(
            r.name, f"{r.ours:.4f}", f"{r.published:.4f}", f"{r.ratio:.2f}", f"{r.cpu_ratio:.2f}",
            f"{r.ours_mib:.0f}", f"{r.published_mib:.0f}", f"{r.ours_mib / max(r.published_mib, 1e-9):.2f}",
            f"{r.gflop:.1f}", f"{r.published_gflop:.1f}", "" if r.rate is None else f"{r.rate:.0%}",
        )  # fmt: skip
    return table


def _size(text: str) -> tuple[int, int]:
    h, w = text.split("x")
    return int(h), int(w)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["forward"], help="what is measured")
    parser.add_argument("--sizes", nargs="+", type=_size, default=[(480, 640)], metavar="HxW")
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--backbone", choices=BACKBONES, default="swin_b")
    parser.add_argument("--repeats", type=int, default=3, help="pairs per row")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: PyTorch's choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast, both wirings")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument(
        "--scaling",
        type=Path,
        metavar="PNG",
        help="plot how cost grows instead, modalities and batch at the first of --sizes; ours only",
    )
    parser.add_argument("--megapixels", type=float, default=4.0, help="largest image of --scaling")
    args = parser.parse_args()
    if "graph" in args.parts and torch.device(args.device).type != "cuda":
        parser.error(f"--parts graph records a CUDA graph, got --device {args.device}: give --device cuda")
    bench = Bench(args)
    console = Console(width=max(Console().width, 150))
    result: dict[str, Any] = {"arguments": {k: str(v) for k, v in vars(args).items()}}
    if args.scaling:
        result["scaling"] = bench.scaling(args.scaling, args.megapixels, args.sizes[0])
        for name, points in result["scaling"].items():
            console.print(f"{name}: " + ", ".join(f"{x:.3g}: {y:.3f} s" for x, y in points))
    else:
        jobs = [(p, s, b) for p in args.parts for s in args.sizes for b in args.batch]
        rows = []
        for part, size, batch in track(jobs, "measuring", console=console):
            for case in bench.cases(part, size, batch):
                rows.append(bench.measure(case, memory=not args.no_memory, repeats=args.repeats))
        console.print(_table(rows))
        # JSON knows no NaN, which memory is where it was not measured.
        result["rows"] = [{k: None if v != v else v for k, v in asdict(r).items()} for r in rows]
    result["machine"] = machine(bench.device, bench.rates)
    console.print(result["machine"])
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
