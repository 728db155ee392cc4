"""Kill a training with SIGKILL at random moments, start the same command again, and compare with one left in peace.

    python scripts/chaos.py --kills 20

Each attempt is killed at a random moment after its training has begun; every third one while it writes a checkpoint.
At the end the weights, the optimiser and metrics.csv must be those of the undisturbed run, bit for bit, and all files
readable. With --ranks 2 both runs are distributed (gloo).
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ktb.weights.files import read_file

SETTINGS = (
    "dataset.size=[40,48]", "dataset.train=60", "dataset.val=12", "dataset.test=4", "dataset.eval_batch_size=1",
    "trainer.max_epochs=3", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1", "save.every_n_steps=3", "ckpt_path=auto", "test=false",
)  # fmt: skip
UNLIKE = ("train/samples_per_s",)
"""Columns of metrics.csv that tell the time."""


def start(folder: Path, ranks: int, log: Path) -> subprocess.Popen[bytes]:
    batch = [f"dataset.batch_size={4 // ranks}"]
    distributed = ["trainer=ddp", f"trainer.devices={ranks}"] if ranks > 1 else []
    command = [sys.executable, "-c", "from ktb.cli.train import train; train()"]
    if ranks > 1:  # Lightning starts the other ranks by the name of the program
        command = [str(Path(sys.executable).with_name("ktb-train"))]
    with log.open("ab") as out:
        return subprocess.Popen(
            [*command, *SETTINGS, *batch, *distributed, f"run_dir={folder}"],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def finish(folder: Path, ranks: int, log: Path) -> float:
    """Seconds until the command was through."""
    began = time.monotonic()
    if code := start(folder, ranks, log).wait():
        raise SystemExit(f"exit code {code}, see {log}")
    return time.monotonic() - began


def kill_somewhere(folder: Path, ranks: int, log: Path, *, within: float, while_saving: bool) -> str | None:
    """Start, wait for a moment, kill; where that was, or None if the command finished before."""
    seen = log.stat().st_size if log.exists() else 0
    process = start(folder, ranks, log)
    while b"run folder:" not in log.read_bytes()[seen:] and process.poll() is None:
        time.sleep(0.002)
    deadline = time.monotonic() + random.uniform(0, within)
    partial = folder / "checkpoints" / "last.ckpt.partial"
    while time.monotonic() < deadline and process.poll() is None:
        if while_saving and partial.exists():
            break
        time.sleep(0.0005)
    if process.poll() is not None:
        if process.returncode:
            raise SystemExit(f"exit code {process.returncode}, see {log}")
        return None
    saving = partial.exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if saving:
        return "while saving"
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        return "before the first checkpoint"
    loops = read_file(last)["loops"]["fit_loop"]
    return "in validation" if loops["epoch_loop.val_loop.batch_progress"]["total"]["ready"] else "in a step"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in UNLIKE} for row in csv.DictReader(file)]


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Dotted names of what differs between two checkpoints, beside what names the run."""
    if isinstance(theirs, dict):
        keys = [k for k in theirs if k not in ("config", "Timer")]
        if set(keys) - set(ours):
            return [where]
        return [d for k in keys for d in differences(ours[k], theirs[k], f"{where}.{k}")]
    if isinstance(theirs, list | tuple):
        pairs = zip(ours, theirs, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{where}[{i}]")]
    equal = torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs
    return [] if equal else [where]


def compare(killed: Path, undisturbed: Path) -> list[str]:
    """What is wrong with the killed run; empty: nothing."""
    wrong = []
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (read_file(folder / "checkpoints" / name) for folder in (killed, undisturbed))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "callbacks"):
            wrong += differences(ours[part], theirs[part], f"{name}: {part}")
    ours, theirs = rows(killed), rows(undisturbed)
    if ours != theirs:
        wrong.append(f"metrics.csv: {len(ours)} rows, expected {len(theirs)}")
    wrong += [f"left behind: {file}" for file in killed.rglob("*.partial")]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="chaos_"))
    undisturbed, killed, log = folder / "undisturbed", folder / "killed", folder / "log.txt"
    seconds = finish(undisturbed, arguments.ranks, log)
    print(f"undisturbed: {seconds:.0f} s")
    places: Counter[str] = Counter()
    steps = [0]
    while places.total() < arguments.kills:
        # A third of what an attempt needs: short enough to be hit often, long enough to get on.
        where = kill_somewhere(killed, arguments.ranks, log, within=seconds / 6, while_saving=places.total() % 3 == 2)
        if where is None:  # through before all kills were spent: begin anew
            if wrong := compare(killed, undisturbed):
                raise SystemExit("\n".join(wrong))
            shutil.rmtree(killed)
            steps.append(0)
            print("finished, and equal; begun anew")
            continue
        places[where] += 1
        last = killed / "checkpoints" / "last.ckpt"
        steps.append(read_file(last)["global_step"] if last.exists() else 0)
        if steps[-1] < steps[-2]:
            raise SystemExit(f"step {steps[-2]} had been saved, but now the last one is {steps[-1]}")
        print(f"kill {places.total()}: {where}, last saved step {steps[-1]}", flush=True)
    finish(killed, arguments.ranks, log)
    wrong = compare(killed, undisturbed)
    print("\n".join(wrong) if wrong else "weights, optimiser and metrics.csv are those of the undisturbed run")
    print(", ".join(f"{count} {where}" for where, count in places.most_common()))
    if wrong:
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
