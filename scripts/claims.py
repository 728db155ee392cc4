"""Measure again what README and docs state, by name.

    python scripts/claims.py list                                 the claims, where they stand, their commands
    python scripts/claims.py run demo reference                   some of them, one after the other
    python scripts/claims.py run potholes --root DIR              real sensors; DIR holds the potholes data

Each claim is one or more commands of this repository, run as a user would; this script reads the figures out of what
they leave, and writes them with date, commit and machine into OUT/NAME.json. Of several runs (ablation, potholes) those
that have finished are not trained again, and robustness takes the demo of the same --out, both only at the same commit;
give another --out, or remove the runs, to measure anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from study import finished

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent


class Run(NamedTuple):
    """What a claim's commands are made of, and where they write."""

    out: Path
    root: str | None
    jobs: int
    overrides: Sequence[str]


class Claim(NamedTuple):
    """Figures of the documentation.

    Attributes:
        file, quote: where they stand, and words that stand beside them.
        commands: what measures them, in order.
        read: the figures, from the run and what the last command printed.
        reused: folders of runs that are not trained again if they have finished.
    """

    file: str
    quote: str
    commands: Callable[[Run], list[list[str]]]
    read: Callable[[Run, str], dict[str, Any]]
    reused: Callable[[Run], list[Path]] = lambda run: []


def _python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / script), *arguments]


def _ktb(command: str, *arguments: str) -> list[str]:
    module, function = _COMMANDS[command]
    return [sys.executable, "-c", f"import sys; from {module} import {function}; sys.exit({function}())", *arguments]


_COMMANDS = {
    "ktb-train": ("ktb.cli.train", "train"),
    "ktb-eval": ("ktb.cli.train", "evaluate"),
    "ktb-report": ("ktb.cli.report", "main"),
}


def _study(name: str, seeds: Sequence[int], *settings: str) -> Callable[[Run], list[list[str]]]:
    def commands(run: Run) -> list[list[str]]:
        root = ["--root", run.root] if run.root and name in NEEDS_ROOT else []
        options = ["--seeds", *map(str, seeds), "--out", str(run.out / name), "--jobs", str(run.jobs)]
        return [_python("study.py", name, *settings, *run.overrides, *root, *options)]

    return commands


def _jobs(name: str) -> Callable[[Run], list[Path]]:
    return lambda run: sorted(file.parent for file in (run.out / name).glob("*/result.json"))


def _demo(run: Run) -> list[list[str]]:
    return [_ktb("ktb-train", f"run_dir={run.out / 'demo'}", "overwrite=true", *run.overrides)]


def _robustness(run: Run) -> list[list[str]]:
    evaluate = ["ktb-eval", f"checkpoint={run.out / 'demo'}", f"run_dir={run.out / 'robustness'}", "robustness=all"]
    return [*([] if finished(run.out / "demo") else _demo(run)), _ktb(*evaluate)]


def _ablation(run: Run) -> list[list[str]]:
    out = str(run.out / "ablation")
    sweep = ["-m", "experiment=glob(ablation_*)", "seed=1,2,3", f"sweep={out}", f"jobs={run.jobs}", *run.overrides]
    return [_ktb("ktb-train", *sweep), _ktb("ktb-report", "sweep", out, "--format", "markdown")]


def _bench(name: str, *arguments: str) -> Claim:
    def commands(run: Run) -> list[list[str]]:
        return [_python("bench.py", *arguments, "--json", str(run.out / f"{name}_rows.json"))]

    def read(run: Run, printed: str) -> dict[str, Any]:
        return {"rows": _json(run.out / f"{name}_rows.json")["rows"]}

    return Claim("docs/benchmarks.md", f"python scripts/bench.py {' '.join(arguments)}", commands, read)


def _reference(run: Run) -> list[list[str]]:
    tests = [str(ROOT / "tests" / "ktb" / part) for part in ("models/test_reference.py", "engine")]
    return [[sys.executable, "-m", "pytest", "-q", *tests]]


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def _demo_figures(run: Run, printed: str) -> dict[str, Any]:
    result = _json(run.out / "demo" / "result.json")
    scores = {"miou": result["metrics"]["miou"]} if "metrics" in result else {}
    return {k: result[k] for k in ("steps", "wall_time_s", "peak_memory_mb")} | scores


def _robustness_figures(run: Run, printed: str) -> dict[str, Any]:
    return _json(run.out / "robustness" / "robustness.json")


def _table(run: Run, printed: str) -> dict[str, Any]:
    return {"table": [line for line in printed.splitlines() if line.startswith("|")]}


def _last_line(run: Run, printed: str) -> dict[str, Any]:
    lines = [line for line in printed.splitlines() if line.strip()]
    return {"printed": lines[-1] if lines else ""}


CLAIMS = {
    "demo": Claim("README.md", "**The demo** (`make demo`", _demo, _demo_figures),
    "ablation": Claim("README.md", "**Both modalities are needed**", _ablation, _table, _jobs("ablation")),
    "robustness": Claim(
        "README.md", "**A sensor fails**", _robustness, _robustness_figures, lambda run: [run.out / "demo"]
    ),
    "potholes": Claim(
        "README.md",
        "**Real sensors**",
        _study(
            "potholes",
            [1, 2, 3],
            "dataset.crop=[224,320]",
            "trainer.max_epochs=25",
            "optim.warmup_epochs=2",
            "optim.lr=2e-3",
            "trainer.limit_val_batches=0",
        ),
        _table,
        _jobs("potholes"),
    ),
    "reference": Claim("README.md", "**Reference numbers**", _reference, _last_line),
    "chaos": Claim(
        "README.md",
        "python scripts/chaos.py --kills 20",
        lambda run: [_python("chaos.py", "--kills", "20")],
        _last_line,
    ),
    "loader": Claim(
        "docs/benchmarks.md",
        "python scripts/bench_loader.py",
        lambda run: [_python("bench_loader.py")],
        lambda run, printed: {"printed": printed.splitlines()},
    ),
    "forward": _bench("forward", "--parts", "forward", "--repeats", "9"),
    "dscf": _bench("dscf", "--parts", "dscf", "--repeats", "15"),
    "train": _bench("train", "--parts", "train", "--sizes", "256x320", "--batch", "2", "--repeats", "7"),
    "ms-flip": _bench("ms-flip", "--parts", "ms-flip", "--no-memory", "--repeats", "1"),
}
NEEDS_ROOT = ("potholes",)


def measure(name: str, run: Run) -> str | None:
    """Run a claim's commands and write OUT/NAME.json; what went wrong, if something did."""
    claim, started, git = CLAIMS[name], datetime.now().astimezone(), _git_state()
    for folder in filter(finished, claim.reused(run)):
        before = _json(folder / "result.json").get("git")
        if not _covers(git, before):
            return (
                f"{name}: the run in {folder} is of {_version(before)}, and this is {_version(git)}; remove it, or "
                "give another --out"
            )
    log = run.out / f"{name}.log"
    commands = claim.commands(run)
    with log.open("w") as kept:
        for command in commands:
            print(f"{name}: {shlex.join(command)}", flush=True)
            printed = []
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    print(line, end="", flush=True)
                    kept.write(line)
                    printed.append(line)
            if process.returncode:
                said = [line.strip() for line in printed if line.strip()]
                return f"{name}: exit code {process.returncode} ({said[-1] if said else 'nothing was said'}); see {log}"
    result: dict[str, Any] = {
        "claim": name,
        "stands_in": claim.file,
        "date": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now().astimezone() - started).total_seconds(), 1),
        "git": git,
        "machine": _machine(),
        "commands": [shlex.join(command) for command in commands],
        "figures": claim.read(run, "".join(printed)),
    }
    (run.out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    machine = result["machine"]
    print(
        f"{name}: {json.dumps(result['figures'])}\n{name}: {started:%Y-%m-%d}, {_version(git)}, {machine['device']}, "
        f"{machine['cores']} cores, {machine['matrix_gflops']:.0f} GFLOP/s, PyTorch {machine['torch']}; "
        f"{result['seconds']} s; {run.out / name}.json"
    )
    return None


def _git_state() -> dict[str, Any] | None:
    from ktb.jobs.provenance import git_state  # PyTorch: not needed for a list

    return git_state()


def _covers(now: dict[str, Any] | None, before: dict[str, Any] | None) -> bool:
    """Whether figures of the state `before` may be written down as those of `now`."""
    if now is None or before is None:
        return now is before
    return now["commit"] == before["commit"] and (now["changed"] or not before["changed"])


def _version(git: dict[str, Any] | None) -> str:
    return f"commit {git['commit'][:7]}{' (changed)' if git['changed'] else ''}" if git else "no checkout"


def _machine() -> dict[str, Any]:
    import torch

    from bench import machine, product_rate

    cpu = torch.device("cpu")
    return machine(cpu, [product_rate(cpu, torch.float32) for _ in range(5)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="names, places, commands")
    measuring = actions.add_parser("run", help="measure claims again")
    measuring.add_argument("names", nargs="+", metavar="NAME", help=", ".join(CLAIMS))
    measuring.add_argument("--root", help="folder of the potholes data")
    measuring.add_argument("--out", type=Path, default=Path("runs", "claims"), help="default runs/claims")
    measuring.add_argument("--jobs", type=int, default=1, help="jobs of a study at a time")
    measuring.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="for demo and studies")
    args = parser.parse_args()
    if args.action == "list":
        run = Run(Path("runs", "claims"), "DIR", 1, [])
        for name, claim in CLAIMS.items():
            print(f"{name}: {claim.file}, {claim.quote}")
            for command in claim.commands(run):
                print(f"    {shlex.join(['python', *command[1:]])}")
        return 0
    if unknown := [name for name in args.names if name not in CLAIMS]:
        parser.error(f"there is no claim {unknown[0]!r}; there are {', '.join(CLAIMS)}")
    if not args.root and (needed := [name for name in args.names if name in NEEDS_ROOT]):
        parser.error(f"{needed[0]} needs its data: give --root DIR")
    root = None if args.root is None else Path(args.root).expanduser()
    if root is not None and not root.is_dir():
        parser.error(f"--root {root} is no folder")
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args.out.absolute(), None if root is None else str(root.absolute()), args.jobs, args.override)
    failures = [text for name in args.names if (text := measure(name, run))]
    for text in failures:
        print(text, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
