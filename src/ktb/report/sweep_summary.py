"""A sweep folder: what became of every job, and the scores over seeds.

`sweep.json` names the jobs; each job's folder is a run folder with a `job.json` beside its results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from ktb.errors import ReportError
from ktb.io import absent
from ktb.report.result_tables import MISSING_WAYS
from ktb.report.runs import check_readable, left_out, listed, mapping, newest_robustness, number, scored_how, without
from ktb.report.table_formats import Amount, Spread, Table, Value, as_rich
from ktb.run_folder.files import read_json
from ktb.run_folder.names import JOB, SWEEP
from ktb.run_folder.result import read_result

STATES = ("finished", "running", "pending", "interrupted", "failed")


@dataclass(frozen=True)
class JobSummary:
    """One job of a sweep, as its folder tells it; `scores` (in [0, 1]) are empty until it has finished."""

    name: str
    folder: Path
    overrides: tuple[str, ...]
    status: str
    error: str | None
    attempts: int
    scores: dict[str, float]
    scored: str
    """What the scores are of: data set, split, protocol."""
    mean_without: tuple[str, ...] = ()
    """Classes that the means leave out."""
    missing: dict[str, float] = field(default_factory=dict)
    """How missing modalities are given to the model → mean mIoU over all cases of them, none missing included."""
    trained: int | None = None
    """Parameters that were trained."""
    operations: tuple[str, float] | None = None
    """Size of one image, and what it costs."""
    seconds: float | None = None

    @property
    def setting(self) -> tuple[str, ...]:
        """Its overrides without the seed."""
        return tuple(o for o in self.overrides if not _is_seed(o))


@dataclass(frozen=True)
class SweepSummary:
    """A sweep as its folder tells it; its jobs stand in the order they were made."""

    folder: Path
    command: str
    created: str
    jobs: tuple[JobSummary, ...]

    def job_table(self) -> Table:
        """A row for every job: its state, what tells it apart, its mIoU, why it failed."""
        rows: list[list[Value]] = [
            [job.name, job.status, self.told_apart(job.overrides), job.scores.get("miou"), job.error]
            for job in self.jobs
        ]
        heads = ["job", "state", "settings", f"mIoU{self._without()}", "error"]
        if not any(job.error for job in self.jobs):
            heads, rows = heads[:-1], [row[:-1] for row in rows]
        return Table(self._titled("Jobs, mIoU in %"), heads, rows)

    def told_apart(self, overrides: tuple[str, ...]) -> str:
        """Those overrides that not all jobs share, or a dash."""
        return " ".join(o for o in overrides if o not in self.common()) or "-"

    def common(self) -> tuple[str, ...]:
        """The overrides that all jobs share; those of an only job tell nothing apart, and are not counted."""
        if len(self.jobs) < 2:
            return ()
        return tuple(o for o in self.jobs[0].overrides if all(o in job.overrides for job in self.jobs[1:]))

    def _titled(self, title: str) -> str:
        """Every table says what its scores are of, and what all its rows have in common."""
        scored = dict.fromkeys(job.scored for job in self.jobs if job.scored)
        return "; ".join(part for part in (title, " | ".join(scored), " ".join(self.common())) if part)

    def _without(self) -> str:
        """What the columns of means say where all jobs leave the same classes out; else the settings tell."""
        common = {job.mean_without for job in self.jobs if job.scores}
        return without(common.pop()) if len(common) == 1 else ""

    def groups(self) -> list[tuple[tuple[str, ...], list[JobSummary]]]:
        """Jobs that differ in nothing but the seed, best mean mIoU first, those without a score last."""
        found: dict[tuple[str, ...], list[JobSummary]] = {}
        for job in self.jobs:
            found.setdefault(job.setting, []).append(job)

        def rank(item: tuple[tuple[str, ...], list[JobSummary]]) -> float:
            scores = [job.scores["miou"] for job in item[1] if "miou" in job.scores]
            return -Spread.of(scores).mean if scores else 1.0

        return sorted(found.items(), key=rank)

    def score_table(self) -> Table:
        """Mean ± sample standard deviation over the seeds of each setting that have scores; beside them, where jobs
        know it, the scores with sensors missing and what the setting costs."""
        left = self._without()
        keys = {"miou": f"mIoU{left}", "macc": f"mAcc{left}", "pixel_acc": "pixel accuracy"}
        ways = dict.fromkeys(way for job in self.jobs for way in job.missing)
        groups = [(setting, jobs, [job for job in jobs if job.scores]) for setting, jobs in self.groups()]

        def spreads(of: Callable[[JobSummary], Mapping[str, float]], key: str) -> list[Value]:
            found = [[of(job)[key] for job in done if key in of(job)] for _, _, done in groups]
            return [Spread.of(values) if values else None for values in found]

        columns: dict[str, list[Value]] = {"setting": [self.told_apart(setting) for setting, _, _ in groups]}
        columns |= {head: spreads(lambda job: job.scores, key) for key, head in keys.items()}
        for way in ways:
            head = f"mIoU{left}, sensors missing, {MISSING_WAYS.get(way, way)}"
            columns[head] = spreads(lambda job: job.missing, way)
        costs = zip(*(_costs(done) for _, _, done in groups), strict=True)
        heads = ("trained, M", f"GFLOP{self._at()}", "minutes")
        columns |= {head: list(cost) for head, cost in zip(heads, costs, strict=False) if any(cost)}
        columns["scored"] = [f"{len(done)}/{len(jobs)}" for _, jobs, done in groups]
        title = "Mean ± standard deviation over seeds, %, best first"
        return Table(self._titled(title), list(columns), list(zip(*columns.values(), strict=True)))

    def _at(self) -> str:
        """Behind the operations of an image: its size, where it is the same for all jobs."""
        sizes = {job.operations[0] for job in self.jobs if job.operations}
        return f" at {sizes.pop()}" if len(sizes) == 1 else ""

    def counts(self) -> str:
        """ "5 jobs: 4 finished, 1 failed"."""
        states = Counter(job.status for job in self.jobs)
        parts = [f"{states[state]} {state}" for state in dict.fromkeys((*STATES, *states)) if states[state]]
        return f"{len(self.jobs)} job{'' if len(self.jobs) == 1 else 's'}: {', '.join(parts) or 'none'}"


def _costs(jobs: Sequence[JobSummary]) -> tuple[Value, Value, Value]:
    """Millions of trained parameters and 10⁹ operations of an image, of the first job that knows them; mean minutes."""
    trained = next((job.trained for job in jobs if job.trained is not None), None)
    operations = next((job.operations[1] for job in jobs if job.operations), None)
    seconds = [job.seconds for job in jobs if job.seconds is not None]
    return (
        None if trained is None else Amount(trained / 1e6, 3),
        None if operations is None else Amount(operations / 1e9, 2),
        Amount(fmean(seconds) / 60) if seconds else None,
    )


def _is_seed(override: str) -> bool:
    return override.partition("=")[0].lstrip("+") == "seed"


def summarise(folder: Path) -> SweepSummary:
    """Read a sweep folder, finished or not.

    Raises:
        ReportError: not a sweep folder, or a file in it that cannot be read.
    """
    file = folder / SWEEP
    check_readable(folder)
    if not file.is_file():
        what = absent(folder, f"no sweep folder of ktb-train -m (it holds no {SWEEP})")
        raise ReportError(f"{folder}: {what}")
    content = read_json(file)
    jobs = content.get("jobs")
    if not isinstance(jobs, dict):
        raise ReportError(f"{file}: expected jobs as {{folder: [overrides]}}, found {type(jobs).__name__}")
    command = content.get("command", "")
    return SweepSummary(
        folder=folder,
        command=" ".join(map(str, command)) if isinstance(command, list) else str(command),
        created=str(content.get("created", "")),
        jobs=tuple(_job(folder, str(name), overrides) for name, overrides in jobs.items()),
    )


def _job(sweep: Path, name: str, overrides: Any) -> JobSummary:
    folder = sweep / name
    if not folder.resolve().is_relative_to(sweep.resolve()):
        raise ReportError(f"{sweep / SWEEP}: job {name!r} lies outside the sweep's folder")
    state = read_json(folder / JOB)
    result = read_result(folder)
    overrides = state.get("overrides", overrides)
    metrics = {key: number(value) for key, value in mapping(result.get("metrics")).items()}
    attempts = state.get("attempts")
    emm = mapping(read_json(newest_robustness(folder)).get("emm"))
    averages = {way: number(mapping(mapping(group).get("summary")).get("avg")) for way, group in emm.items()}
    error = state.get("error")
    return JobSummary(
        name=name,
        folder=folder,
        overrides=tuple(map(str, overrides)) if isinstance(overrides, list) else (str(overrides),),
        status=str(state.get("status", result.get("status", "finished") if result else "pending")),
        error=None if error is None else " ".join(str(error).split()),
        attempts=attempts if isinstance(attempts, int) else 0,
        scores={key: value for key, value in metrics.items() if value is not None},
        scored=scored_how(result) if metrics else "",
        mean_without=left_out(result),
        missing={way: value for way, value in averages.items() if value is not None},
        trained=mapping(result.get("parameters")).get("trained"),
        operations=_operations(mapping(result.get("operations"))),
        seconds=number(result.get("wall_time_s")),
    )


def _operations(found: Mapping[str, Any]) -> tuple[str, float] | None:
    """Size and cost of an image, of what result.json says of them."""
    size, flops = listed(found.get("size")), number(found.get("flops"))
    return None if flops is None else ("x".join(map(str, size)), flops)


def show(folder: Path, console: Console) -> None:
    """Print the sweep: its jobs, then, where seeds were repeated, the scores over them."""
    sweep = summarise(folder)
    console.print(as_rich(sweep.job_table()))
    if any(len(jobs) > 1 for _, jobs in sweep.groups()):
        console.print(as_rich(sweep.score_table()))
    console.print(sweep.counts(), markup=False, highlight=False)
