"""A small script in place of ktb-train as the job of a sweep, and what it leaves behind."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins

FAKE = """\
import json, math, os, pathlib, signal, sys, time

given = {key: value.strip("'") for key, _, value in (text.partition("=") for text in sys.argv[1:])}
folder = pathlib.Path(given["run_dir"])
plan = json.loads((pathlib.Path(__file__).parent / "plan.json").read_text())
job = plan.get(given.get("seed", "0"), {})
begun = time.time()

def note(**more):
    line = {"seed": int(given.get("seed", 0)), "begun": begun, "ended": time.time(), "argv": sys.argv[1:],
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "env": [k for k in ("LOCAL_RANK", "KTB_DECIDED", "SLURM_NTASKS", "WORLD_SIZE") if k in os.environ]}
    with open(pathlib.Path(__file__).parent / "ran.jsonl", "a") as file:
        file.write(json.dumps({**line, **more}) + "\\n")

def stop(*_):
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    note()
    print("ktb-train: terminated; continue with: ktb-train ...", file=sys.stderr)
    sys.exit(143)

signal.signal(signal.SIGTERM, signal.SIG_IGN if job.get("deaf") else stop)
(folder / "began").touch()
if job.get("die"):
    os.kill(os.getpid(), signal.SIGKILL)
if job.get("fail"):
    note()
    sys.exit("ktb-train: error: " + job["fail"])
if job.get("diverges") and float(given["optim.lr"]) > 1e-3:
    note()
    failure = {"status": "failed", "cause": "not finite", "error": "step 2: loss is nan"}
    (folder / "result.json").write_text(json.dumps(failure))
    print("ktb-train: error: step 2: loss is nan", file=sys.stderr)
    sys.exit(2)
if job.get("bug"):
    note()
    raise ZeroDivisionError("a bug")
until = begun + job.get("seconds", 0)
while time.time() < until or (job.get("held") and not (pathlib.Path(__file__).parent / "released").exists()):
    time.sleep(0.01)
best = 0.5
if "optim.lr" in given and "epochs" in job:  # the closer to 1e-3, the better, from the first epoch on
    best = 1 - abs(math.log10(float(given["optim.lr"])) + 3) / 4
    rows = ["epoch,val/miou"]
    for epoch in range(job["epochs"]):
        rows.append(f"{epoch},{best}")
        (folder / "metrics.csv").write_text("\\n".join(rows) + "\\n")
        time.sleep(job.get("pause", 0))
scores = {"best_val_miou": best, "metrics": {"miou": best}}
(folder / "result.json").write_text(json.dumps({"status": "finished", **scores}))
note()
"""

Train = Callable[..., int]


def plugin() -> Any:
    """The module as Hydra has loaded it, which is not always the one that an import statement would give."""
    Plugins.instance()
    return sys.modules["hydra_plugins.ktb"]


def ran() -> list[dict[str, Any]]:
    file = Path("ran.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("*/job.json"))}


def only_sweep() -> Path:
    [folder] = Path("sweeps").iterdir()
    return folder


def times(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("*/**/*") if p.is_file()}


def when(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def began(*seeds: int) -> bool:
    return all(list(Path("sweeps").glob(f"*/seed{seed}/began")) for seed in seeds)
