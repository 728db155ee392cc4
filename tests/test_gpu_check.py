"""`scripts/gpu_check.py` rehearsed on a CPU with tiny sizes: it runs, and what it finds is right. Speed is not
judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ktb.commands import load_script, run_script

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("gpu_check")


def rows(script: Any, section: str, file: Path, seconds: float = 300) -> list[dict[str, Any]]:
    report = script.Report(file)
    script.run_section(section, script.Setup(torch.device("cpu"), True, time.monotonic() + seconds), report)
    found = json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)["rows"]  # NaN is not JSON
    assert file.with_suffix(".md").read_text(encoding="utf-8").count(f"\n| {section} |") == len(found)
    return found


@pytest.mark.slow
def test_correctness(script: Any, tmp_path: Path) -> None:
    found = rows(script, "correctness", tmp_path / "found.json")
    assert [row["name"] for row in found if not row["met"]] == []
    by_name = {row["name"]: row["found"] for row in found}
    assert by_name["published logits, mini, float64"] < 1e-6
    assert 1e-9 < by_name["published logits, mini, float32 without TF32"] < 1e-5  # another precision was at work
    assert by_name["published logits, mini, bfloat16"] > 1e-4
    assert by_name["3 steps in float64 against a CPU in float64, losses"] == 0  # here it is the same device
    assert 0 < by_name["3 steps in float32 against a CPU in float64, weights"] < 1e-3
    for part in ("gradients' norms, float64", "DDP, gloo", "BatchNorm over processes", "channels last", "OHEM"):
        assert any(part in name for name in by_name), part


@pytest.mark.slow
def test_speed_and_profile(script: Any, tmp_path: Path) -> None:
    speed = rows(script, "speed", tmp_path / "speed.json")
    assert [row["name"].split(" 64x96")[0] for row in speed[:2]] == ["forward", "training step"]
    assert all(row["found"] > 0 and row["unit"] == "images/s" for row in speed[:2])
    assert "published" in speed[0]["beside"]
    assert [row["found"] for row in speed[2:]] == [None, None]  # memory is a GPU's
    profile = rows(script, "profile", tmp_path / "profile.json")
    launches = {row["name"]: row["found"] for row in profile if row["name"].startswith("kernels: ")}
    forward, both = (
        launches["kernels: forward, batch 1, fp32"],
        launches["kernels: forward and backward, batch 1, fp32"],
    )
    assert 100 < forward < both
    shares = [row["found"] for row in profile if row["name"].startswith("kernel ") and " and " not in row["name"]]
    assert len(shares) == 25
    assert shares == sorted(shares, reverse=True)
    assert 0.2 < sum(shares) <= 1
    assert profile[-1]["beside"] == "left out: needs a GPU"


def run(file: Path, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--tiny", "--json", str(file), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["machine"]["torch"] == torch.__version__
    return content["rows"]


@pytest.mark.slow
def test_sections_in_processes_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    found = run(tmp_path / "found.json", "--sections", "kernels", "jobs")
    assert {row["section"] for row in found} == {"kernels", "jobs"}
    by_name = {row["name"]: row for row in found}
    assert by_name["Triton's results and gradients, float64"]["found"] < 1e-12
    assert by_name["Triton's results and gradients, float32"]["found"] < 1e-5
    assert by_name["a continued run's weights"]["found"] == 0
    assert by_name["the demo"]["found"] > 0
    assert by_name["busy"]["beside"] == "left out: needs a GPU"


def test_a_check_that_fails_costs_no_other(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(setup: Any) -> Any:
        yield script.at_most("before", 1.0, 2.0, "s")
        raise RuntimeError("CUDA error: | out of\nmemory")

    def works(setup: Any) -> Any:
        yield script.at_least("after", 1.0, 2.0, "images/s", "beside it")

    checks = (script.Check(fails), script.Check(works, gpu=False), script.Check(works, gpu=True))
    monkeypatch.setitem(script.SECTIONS, "speed", checks)
    found = rows(script, "speed", tmp_path / "found.json")
    assert [(row["name"], row["met"]) for row in found] == [
        ("before", True), ("fails", False), ("after", False), ("works", None),
    ]  # fmt: skip
    assert "RuntimeError: CUDA error: / out of memory (test_gpu_check.py:" in found[1]["beside"]
    assert "| speed | after | 1 images/s | ≥ 2 | **missed** | beside it |" in capsys.readouterr().out


def test_without_a_gpu_there_is_one_line(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = run_script("gpu_check", cwd=tmp_path)
    assert done.returncode == 2
    assert "PyTorch finds no GPU here; --tiny rehearses on the CPU" in done.stderr
    assert list(tmp_path.iterdir()) == []
