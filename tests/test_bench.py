"""`scripts/bench.py` on a small backbone: what it writes down adds up. Whether ktb is fast is not a test's to say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ktb.models.backbones.swin import SwinArch
from tests.ktb.commands import load_script, run_script


def bench(folder: Path, *arguments: str) -> dict[str, Any]:
    done = run_script(
        "bench", "--backbone", "swin_nano", "--repeats", 1, "--json", "found.json", *arguments, cwd=folder
    )
    assert done.returncode == 0
    return json.loads((folder / "found.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON


@pytest.mark.slow
def test_rows(tmp_path: Path) -> None:
    parts = ("forward", "train", "ms-flip", "metric", "dscf")
    found = bench(tmp_path, "--parts", *parts, "--sizes", "64x96", "--no-memory")
    rows = found["rows"]
    names = ["forward", "training step", "multi-scale flip", "metric update", *(f"DSCF, stage {i}" for i in range(4))]
    assert [row["name"].split(" 64x96")[0] for row in rows] == names
    for row in rows:
        assert row["ours_mib"] is None
        assert row["ours"] > 0
        assert row["published"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["published"])  # of one pair
    by_name = dict(zip(names, rows, strict=True))
    # The published wiring computes all heads, and on padding: 64 x 96 leaves maps smaller than a window.
    assert by_name["forward"]["gflop"] < 0.8 * by_name["forward"]["published_gflop"]
    assert by_name["metric update"]["gflop"] == 0
    assert found["machine"]["matrix_gflops"] > 0


@pytest.mark.slow
def test_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor takes minutes for what this is about: graphs are made where they can be, and counted and timed apart."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    small = SwinArch(32, (1, 1, 1, 1), (1, 2, 4, 8), 8, 2.0, 0.0), 32, 16
    monkeypatch.setitem(load_script("bench").BACKBONES, "swin_nano", small)
    parts = ("--parts", "forward", "compiled", "--sizes", "64x96", "--no-memory")
    plain, ours, both = bench(tmp_path, *parts)["rows"]
    assert [row["name"].split(", 64x96")[0] for row in (ours, both)] == [
        "forward, ours compiled",
        "forward, both compiled",
    ]
    for row in (ours, both):
        assert row["gflop"] == plain["gflop"]  # of the same model
        assert row["published_gflop"] == plain["published_gflop"]
        assert row["ours"] > 0
    torch.compiler.reset()


@pytest.mark.slow
def test_growth(tmp_path: Path) -> None:
    found = bench(tmp_path, "--scaling", "growth.png", "--megapixels", "0.1", "--sizes", "64x96")["scaling"]
    assert list(found)[1:] == ["modalities (64 x 96)", "batch (64 x 96)"]
    assert [len(points) for points in found.values()] == [1, 4, 4]
    assert all(seconds > 0 for points in found.values() for _, seconds in points)
    assert (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"
