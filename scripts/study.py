"""Run a study: several settings of ktb-train, several seeds each, one table.

    python scripts/study.py potholes --root DIR          RGB + disparity against each alone on real road frames

Every job is a ktb-train process of its own. A job that has finished is not run again, so a study that was interrupted
goes on where it stopped. Further arguments (key=value) are passed to every job.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ktb.data.cores import usable_cores
from ktb.report.runs import read_json


class Study(NamedTuple):
    rows: dict[str, list[str]]
    common: list[str]
    score: str  # a class whose IoU is compared


STUDIES = {
    "potholes": Study(
        rows={
            "RGB + disparity": [],
            "RGB only": ["modality.streams=[rgb]"],
            "disparity only": ["modality.streams=[disparity]"],
        },
        common=["dataset=potholes"],
        score="pothole",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--root", help="data root (dataset.root)")
    parser.add_argument("--out", type=Path, help="folder of the runs; default runs/study_NAME")
    parser.add_argument("--jobs", type=int, default=1, help="jobs at a time; the cores are shared among them")
    parser.add_argument("overrides", nargs="*", help="key=value for every job")
    args = parser.parse_intermixed_args()
    study, out = STUDIES[args.study], args.out or Path("runs", f"study_{args.study}")
    common = [*study.common, *([f"dataset.root={Path(args.root).absolute()}"] if args.root else []), *args.overrides]

    jobs = [(name, seed) for seed in args.seeds for name in study.rows]
    failed = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress, ThreadPoolExecutor(args.jobs) as pool:
        task = progress.add_task(f"{args.study}: jobs", total=len(jobs))

        def run(job: tuple[str, int]) -> None:
            name, seed = job
            folder = _folder(out, name, seed)
            if not finished(folder):
                command = [
                    sys.executable,
                    "-c",
                    "from ktb.cli.train import train; train()",
                    *common,
                    *study.rows[name],
                    f"seed={seed}",
                ]
                threads = max(1, usable_cores() // args.jobs)
                env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / "log.txt").open("w") as log:
                    command += [f"run_dir={folder}", "overwrite=true"]
                    if subprocess.run(command, stdout=log, stderr=log, env=env).returncode:
                        failed.append(folder / "log.txt")
                        progress.print(f"failed: {name}, seed {seed}; see {folder / 'log.txt'}")
            progress.advance(task)

        list(pool.map(run, jobs))
    print(table(study, args.seeds, out))
    return 1 if failed else 0


def finished(folder: Path) -> bool:
    """Whether the run in `folder` has its scores; one that has failed may have left a result.json as well."""
    return read_json(folder / "result.json").get("status") == "finished"


def _folder(out: Path, name: str, seed: int) -> Path:
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return out / f"{'_'.join(words)}_seed{seed}"


def table(study: Study, seeds: list[int], out: Path) -> str:
    """Markdown: mean ± standard deviation over the seeds that have finished, and the difference to the first row."""
    lines = [f"| | IoU of {study.score}, % | difference | seeds | minutes per run |", "|---|---|---|---|---|"]
    first: float | None = None
    for name in study.rows:
        folders = [_folder(out, name, seed) for seed in seeds]
        results = [json.loads((f / "result.json").read_text()) for f in folders if finished(f)]
        if not results:
            lines.append(f"| {name} | - | - | 0 | - |")
            continue
        values = [100 * _score(r, study.score) for r in results]
        first = mean(values) if first is None else first
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        minutes = mean(r["wall_time_s"] for r in results) / 60
        lines.append(
            f"| {name} | {mean(values):.1f}{spread} | {mean(values) - first:+.1f} | {len(values)} | {minutes:.1f} |"
        )
    return "\n".join(lines)


def _score(result: dict[str, Any], name: str) -> float:
    value = result["per_class"][name]["iou"]
    return 0.0 if value is None else float(value)


if __name__ == "__main__":
    sys.exit(main())
