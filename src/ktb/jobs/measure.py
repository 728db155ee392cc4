"""Time and memory on this machine: of a model, and of this process."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ktb.models.segmentor import KTBSegmentor


def measure(model: KTBSegmentor, size: tuple[int, int], *, repeat: int, device: torch.device) -> dict[str, Any]:
    """Time and memory of a forward pass of one image.

    Args:
        model: moved to `device` and set to evaluation mode.
        size: height and width of the image in pixels.
        repeat: timed passes, after one that is not timed.
        device: CPU or GPU.

    Returns:
        median_s and fastest_s, seconds of a pass; peak_memory_mib, on a CPU of the whole process (None where the system
        can't tell per size), on a GPU what its tensors take.
    """
    model = model.to(device).eval()
    inputs = {m: torch.randn(1, c, *size, device=device) for m, c in model.config["modalities"].items()}
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    fresh = not gpu and _reset_peak()
    seconds = []
    with torch.inference_mode():
        model(inputs, side=False)
        for _ in range(repeat):
            start = time.perf_counter()
            model(inputs, side=False)
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if gpu else _peak() if fresh else None
    return {
        "median_s": statistics.median(seconds),
        "fastest_s": min(seconds),
        "peak_memory_mib": None if peak is None else round(peak / 2**20),
    }


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


def _peak() -> int | None:
    """Bytes of memory since `_reset_peak`; None where the system, though it let itself be asked, does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
