"""The Triton kernel against the form in plain PyTorch, on a CPU: Triton's interpreter runs it without a GPU, and its
compiler makes code for a GPU that is not there. Both have to be chosen before Triton is imported, so in processes of
their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

COMPARE = """
import json, torch
from ktb.models.fusion.dscf import DSCF
from ktb.models.layers import dscf_triton
from ktb.models.layers.dscf_fast import sparse_attention

torch.set_num_threads(1)
errors = {}
# Heads of 8, 6 and 16 channels; several heads and groups; sizes that fill no tile, one tile, several tiles; one point.
for stage, channels, batch, size, count in CASES:
    torch.manual_seed(0)
    fusion = DSCF(("a", "b"), channels, stage)
    torch.nn.init.normal_(fusion.table)
    shape = (batch, channels // 8, *size)
    query, weights = torch.randn(2, *shape)
    key, value = torch.randn(2, batch, channels // 8, count)
    points = torch.empty(batch, fusion.groups, count, 2).uniform_(-1.2, 1.2).clamp_(-1, 1)  # some lie on the border
    results = []
    for attend in (lambda *x: sparse_attention(*x, fusion.table), lambda *x: dscf_triton.attend(*x, fusion.table)):
        given = [x.clone().requires_grad_() for x in (query, key, value, points)]
        out = attend(*given)
        results.append([out.detach(), *torch.autograd.grad(out, [*given, fusion.table], weights)])
    names = ("out", "query", "key", "value", "points", "table")
    errors[f"{stage} {channels} {batch} {size} {count}"] = {
        name: float((a - b).norm() / a.norm().clamp(min=1e-4)) for name, a, b in zip(names, *results, strict=True)
    }
print(json.dumps(errors))
"""

CASES = [(0, 64, 2, (7, 11), 13), (1, 96, 1, (5, 9), 40), (3, 1024, 1, (3, 2), 6), (0, 128, 1, (1, 1), 1)]

COMPILE = """
import json, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from ktb.models.layers import dscf_triton as kernels

constants = {"SCALE": 0.35, "WIDE": tl.float32, "CHANNELS": 16, "QUERIES": kernels.QUERIES, "POINTS": kernels.POINTS}
sizes = ("length", "width", "count", "heads", "per_group", "channels", "table_y", "table_x", "tiles")
of_model = ("query", "key", "value", "out", "grad", "grad_query")
made = {}
for kernel in (kernels._forward, kernels._backward_query, kernels._backward_points):
    for dtype, precision in (("*bf16", "tf32"), ("*fp32", "ieee")):
        fixed = {**constants, "PRECISION": precision}
        kinds = {
            name: "constexpr" if name in fixed else "i32" if name in sizes else dtype if name in of_model else "*fp32"
            for name in kernel.arg_names
        }
        places = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
        source = ASTSource(kernel, kinds, constexprs=places)
        done = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": kernels.WARPS})
        made[f"{kernel.__name__} {dtype}"] = [done.metadata.shared, len(done.asm["cubin"])]
print(json.dumps(made))
"""


def run(code: str, folder: Path, **environment: str) -> dict[str, dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(folder), **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_same_results_and_gradients(tmp_path: Path) -> None:
    found = run(f"CASES = {CASES}\n{COMPARE}", tmp_path, TRITON_INTERPRET="1")
    assert len(found) == len(CASES)
    for case, errors in found.items():
        assert set(errors) == {"out", "query", "key", "value", "points", "table"}
        assert max(errors.values()) < 1e-5, (case, errors)
    assert max(found["0 64 2 (7, 11) 13"].values()) > 0  # two ways of computing it, not one


@pytest.mark.slow
def test_compiles_for_a_gpu_within_its_shared_memory(tmp_path: Path) -> None:
    """What the interpreter lets pass the compiler may not."""
    made = run(COMPILE, tmp_path, TRITON_INTERPRET="0")
    assert len(made) == 6
    for name, (shared, size) in made.items():
        assert 0 < shared <= 48 << 10, name  # what every GPU gives a program without being asked for more
        assert size > 0, name
