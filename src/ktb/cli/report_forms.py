"""The three forms of `ktb-report`: of runs, of a sweep, and a saved wandb workspace."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ktb.cli.arguments import named_path
from ktb.errors import ReportError
from ktb.io import atomic_file
from ktb.report.runs import Run, class_table, read_runs, run_table
from ktb.report.sweep_summary import SweepSummary, show, summarise
from ktb.report.table_formats import FORMATS, Table, as_rich, comma_separated, factored, latex, markdown
from ktb.run_folder.names import PAGE

_DESCRIPTION = "Report on run folders of ktb-train and ktb-eval: one HTML page that needs nothing else, or tables."
_EPILOG = """\
other forms:
  ktb-report sweep DIR ...   the jobs of a sweep, and scores over seeds
  ktb-report wandb ...       a saved wandb workspace with the sections one wants

examples:
  ktb-report runs/mine                               writes runs/mine/report.html
  ktb-report runs/a runs/b --out compare.html        both, side by side
  ktb-report runs/a runs/b --format latex            a table for the paper
  ktb-report sweep sweeps/2025-06-01_12-00-00 --format markdown
"""


def runs(argv: list[str]) -> int:
    """`ktb-report RUN ...`: a page or a table of runs; returns the exit code.

    Raises:
        ReportError: a folder that is no run, options that exclude each other, or a page that can't be written.
    """
    parser = argparse.ArgumentParser(
        prog="ktb-report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=named_path, metavar="RUN", help="run folder, finished or not")
    parser.add_argument(
        "--out", type=named_path, metavar="FILE", help="the page (default: report.html in the only RUN)"
    )
    parser.add_argument("--format", choices=FORMATS, help="print a table instead of writing a page")
    parser.add_argument(
        "--table",
        choices=("runs", "classes"),
        help="a row per run (default), or the IoU of every class; without --format as text",
    )
    arguments = parser.parse_args(argv)
    runs = read_runs(arguments.runs)
    if arguments.table and arguments.format is None:
        arguments.format = "text"
    if arguments.format is None:
        if len(runs) > 1 and arguments.out is None:
            raise ReportError(f"--out FILE is needed: the page of {len(runs)} runs belongs into none of their folders")
        _write(arguments.out or arguments.runs[0] / PAGE, runs)
        return 0
    if arguments.out is not None:
        raise ReportError("--out FILE is for the page; a table goes to standard output (> FILE)")
    _print({"runs": run_table, "classes": class_table}[arguments.table or "runs"](runs), arguments.format)
    return 0


def sweep(argv: list[str]) -> int:
    """`ktb-report sweep DIR`: a page or tables of a sweep; returns the exit code.

    Raises:
        ReportError: a folder that is no sweep, or a page that can't be written.
    """
    parser = argparse.ArgumentParser(
        prog="ktb-report sweep",
        description="What became of the jobs of a sweep, and mean ± standard deviation over the seeds of each setting.",
    )
    parser.add_argument("folder", type=named_path, metavar="DIR", help="sweep folder of ktb-train -m, finished or not")
    parser.add_argument("--out", type=named_path, metavar="FILE", help="write an HTML page instead")
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    parser.add_argument(
        "--table", choices=("scores", "jobs"), default="scores", help="of the other formats than text (default: scores)"
    )
    arguments = parser.parse_args(argv)
    if arguments.out is not None:
        sweep = summarise(arguments.folder)
        done = [job.folder for job in sweep.jobs if job.scores]
        _write(arguments.out, read_runs(done), sweep)
        return 0
    if arguments.format == "text":
        show(arguments.folder, Console())
        return 0
    sweep = summarise(arguments.folder)
    _print(sweep.score_table() if arguments.table == "scores" else sweep.job_table(), arguments.format)
    return 0


def wandb(argv: list[str]) -> int:
    """`ktb-report wandb`: a saved wandb workspace, or its specification; returns the exit code.

    Raises:
        ReportError: no such run or workspace, or wandb can't be reached.
    """
    parser = argparse.ArgumentParser(
        prog="ktb-report wandb",
        description="Create a saved wandb workspace for runs of ktb-train logger=wandb, or update one: results, "
        "training, validation, pictures with masks, differences. Without an account, or offline, its specification is "
        "printed.",
    )
    parser.add_argument("run", nargs="?", type=named_path, metavar="RUN", help="run folder, for the bars of each class")
    parser.add_argument("--entity", help="user or team (default: the account's)")
    parser.add_argument("--project", default="ktb", help="default: ktb, as in logger.wandb.project")
    parser.add_argument("--name", default="ktb", help="of a new workspace (default: ktb)")
    parser.add_argument("--url", help="of a saved workspace that gets these sections in place of its own")
    parser.add_argument("--print", action="store_true", dest="show", help="print the specification and save nothing")
    arguments = parser.parse_args(argv)
    from ktb.report import wandb_workspace  # wandb takes a second to import

    classes = list(read_runs([arguments.run])[0].per_class) if arguments.run else []
    own = None if arguments.show else wandb_workspace.account()
    if arguments.url and own is None:
        raise ReportError("--url needs an account, and not --print: the workspace there has to be read (wandb login)")
    if arguments.url:
        built = wandb_workspace.update(arguments.url, classes)
    else:
        built = wandb_workspace.workspace(arguments.entity or own or "", arguments.project, arguments.name, classes)
    if own is None:
        print(wandb_workspace.specification(built))
        if not arguments.show:
            print("ktb-report wandb: no account is set up or wandb is offline, so nothing was saved", file=sys.stderr)
    else:
        print(wandb_workspace.save(built))
    return 0


def _write(file: Path, runs: Sequence[Run], sweep: SweepSummary | None = None) -> None:
    from ktb.report.page import page

    text = page(runs, sweep)
    if not file.name:
        raise ReportError(f"--out {file}: no name of a file; expected one such as report.html")
    try:
        with atomic_file(file) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"{file}: can't be written ({error.strerror}); choose another place with --out FILE"
        ) from None
    print(file)


def _print(table: Table, form: str) -> None:
    if form == "text":
        Console().print(as_rich(factored(table)))
    else:
        print({"markdown": markdown, "latex": latex, "csv": comma_separated}[form](table), end="")
