"""What a model weighs: parameters by part, operations and, on this machine, time and memory per image size."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ktb.models.fusion.dscf import DSCF
from ktb.models.segmentor import KTBSegmentor

COUNTED = "matrix products, convolutions and attention, two per multiply-add; one image, without side heads"
"""What `flops` counts. Sums, normalisations, softmax and sampling are left out: together a few percent."""


def parameters(model: KTBSegmentor) -> list[dict[str, Any]]:
    """Parts of the model with their total and trained numbers of parameters; the parts add up to the model."""
    names = (
        ("backbone", "frozen backbone", "backbone."),
        ("patch_embeds", "patch embeddings of the other modalities", "patch_embeds."),
        ("prompts", "prompts (MAPA)", "prompts."),
        ("adapters", "adapters (MAPA)", "adapters."),
        ("fusion", "fusion (DSCF)", "fusion."),
        ("norms", "output norms", ("norms.", "fused_norms.")),
        ("head", "fused head", "head."),
        ("side_heads", "side heads (training only)", "side_heads."),
    )
    parts = []
    for key, title, prefix in names:
        chosen = [p for n, p in model.named_parameters() if n.startswith(prefix)]
        trained = sum(p.numel() for p in chosen if p.requires_grad)
        parts.append({"part": key, "title": title, "total": sum(p.numel() for p in chosen), "trained": trained})
    return parts


def table_parameters(model: KTBSegmentor) -> int:
    """Parameters of DSCF's distance tables, a part of those of the fusion."""
    return sum(block.table.numel() for block in model.fusion if isinstance(block, DSCF))


def flops(model: KTBSegmentor, size: tuple[int, int]) -> int:
    """Floating-point operations for one image, see `COUNTED`; computed from shapes alone."""
    with torch.device("meta"):
        shapes_only = KTBSegmentor.from_config(model.config).eval()
        inputs = {m: torch.empty(1, c, *size) for m, c in model.config["modalities"].items()}
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        shapes_only(inputs, side=False)
    return int(counter.get_total_flops())


def measure(model: KTBSegmentor, size: tuple[int, int], *, repeat: int, device: torch.device) -> dict[str, Any]:
    """Median and fastest time of a forward pass of one image, and peak memory.

    Memory is that of the whole process on a CPU (None where the system can't tell per size), on a GPU what its tensors
    take.
    """
    model = model.to(device).eval()
    inputs = {m: torch.randn(1, c, *size, device=device) for m, c in model.config["modalities"].items()}
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    fresh = gpu or _reset_peak()
    seconds = []
    with torch.inference_mode():
        model(inputs, side=False)
        for _ in range(repeat):
            start = time.perf_counter()
            model(inputs, side=False)
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    peak = None
    if fresh:
        peak = round((torch.cuda.max_memory_allocated() if gpu else _peak()) / 2**20)
    return {"median_s": statistics.median(seconds), "fastest_s": min(seconds), "peak_memory_mib": peak}


def peak_memory() -> int | None:
    """Bytes of memory that this process has had at most, since it began; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return _peak_of_windows() if sys.platform == "win32" else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, the others kilobytes


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of Windows."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def _peak_of_windows() -> int | None:
    counters = _Counters(ctypes.sizeof(_Counters))
    kernel: Any = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    told = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size)
    return int(counters.peak_working_set) if told else None


def _reset_peak() -> bool:
    """Let Linux measure this process's peak memory anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
