"""The summary of a data set in the terminal, as JSON and as an HTML page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console, Group, RenderableType
from rich.markup import escape as plain
from rich.table import Table

from ktb.data.tools.check.summary import Report
from ktb.io import atomic_file

SHOWN = 20
"""Failures and findings printed in the terminal; the report files have all of them."""


def _rows(report: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, column heads, rows) of the tables that both the terminal and the HTML page show."""
    splits, labels, values, gaps, classes, conditions = [], [], [], [], [], []
    for name, split in report["splits"].items():
        published = "-" if split["published"] is None else str(split["published"])
        void = "-" if split["void_share"] is None else f"{split['void_share']:.2%}"
        splits.append([name, str(split["samples"]), published, str(split["failed"]), _listed(split["sizes"]), void])
        labels += [[name, *kind.split(": "), str(count)] for kind, count in split["labels"].items()]
        for modality, v in split["modalities"].items():
            numbers = ["-" if v[key] is None else f"{v[key]:.5g}" for key in ("min", "max", "mean")]
            measured = "-" if v["measured"] is None else f"{v['measured']:.2%}"
            values.append([name, modality, _listed(v["kinds"]), _listed(v["sizes"]), *numbers, measured])
        for partner, gap in split["gaps"].items():
            times = [f"{1000 * gap[key]:.3f}" for key in ("median", "p95", "max")]
            gaps.append([name, partner, str(gap["samples"]), *times])
        for condition, counted in split["conditions"].items():
            conditions.append([name, condition, ", ".join(f"{k} {n}" for k, n in counted.items())])
    for i, name in enumerate(next(iter(report["splits"].values()))["classes"]):
        classes.append([str(i), name, *(_share(s, name) for s in report["splits"].values())])
    tables = [
        (
            "Splits",
            ["split", "samples", "published", "failed", "label sizes (height x width)", "void"],
            splits,
        ),
        (
            "Values as read",
            ["split", "modality", "type x channels", "size of files", "min", "max", "mean", "measured"],
            values,
        ),
        ("Classes, share of labelled pixels", ["id", "class", *report["splits"]], classes),
    ]
    if labels:
        tables.insert(2, ("Labels as read", ["split", "stored as", "taken as", "files"], labels))
    if gaps:
        heads = ["split", "partner", "samples", "median", "95 %", "largest"]
        tables.append(("Gaps of pairs by time, milliseconds", heads, gaps))
    return [*tables, ("Conditions", ["split", "condition", "samples"], conditions)] if conditions else tables


def _share(split: Report, name: str) -> str:
    labelled = split["pixels"] - split["void"]
    return f"{split['classes'][name] / labelled:.2%}" if labelled else "-"


def _listed(counted: dict[str, int]) -> str:
    parts = [value if len(counted) == 1 else f"{value} ({n})" for value, n in list(counted.items())[:3]]
    return ", ".join([*parts, *([f"{len(counted) - 3} more"] if len(counted) > 3 else [])]) or "-"


def show(report: Report, console: Console) -> None:
    """Print the report as tables, then what is odd and what failed.

    Args:
        report: what `summarise` gave.
        console: where to print.
    """
    parts: list[RenderableType] = []
    for title, heads, rows in _rows(report):
        table = Table(title=title, title_justify="left")
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*map(plain, row))  # names must not be read as markup
        parts.append(table)
    console.print(Group(*parts))
    for title in ("findings", "failures"):
        lines = report[title]
        for line in lines[:SHOWN]:
            console.print(f"{title[:-1] if title == 'findings' else 'failed'}: {line}", markup=False, soft_wrap=True)
        if len(lines) > SHOWN:
            console.print(f"... and {len(lines) - SHOWN} more {title}: --out DIR writes all of them")


def write_report(report: Report, folder: Path) -> None:
    """Write report.json and report.html, which needs no other file.

    Args:
        report: what `summarise` gave.
        folder: an existing folder.
    """
    for name, text in (("report.json", json.dumps(report, indent=2) + "\n"), ("report.html", _page(report))):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


_NUMBER = re.compile(r"-|-?\d[\d.e+-]*%?")
_LONGEST_BAR = 5.5
"""In the width of a letter m."""


def _page(report: Report) -> str:
    templates = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("report.html").render(
        report=report,
        samples=sum(split["samples"] for split in report["splits"].values()),
        tables=[_drawn(title, heads, rows) for title, heads, rows in _rows(report)],
    )


def _drawn(title: str, heads: list[str], rows: list[list[str]]) -> dict[str, Any]:
    """A table as the page draws it: numbers to the right, and for classes a bar behind every percentage."""
    numbers = [all(_NUMBER.fullmatch(row[i]) for row in rows) for i in range(len(heads))]
    greatest = max((_percent(c) for row in rows for c in row[2:]), default=0) if title.startswith("Classes") else 0
    bars = [bool(greatest) and i > 1 for i in range(len(heads))]
    return {
        "title": title,
        # Heads of numbers are aligned to the right; above bars they would stand at the bars' end.
        "heads": [
            {"text": head, "right": number and not bar} for head, number, bar in zip(heads, numbers, bars, strict=True)
        ],
        "rows": [
            [
                {"text": text, "number": number, "bar": _LONGEST_BAR * _percent(text) / greatest if bar else None}
                for text, number, bar in zip(row, numbers, bars, strict=True)
            ]
            for row in rows
        ],
    }


def _percent(text: str) -> float:
    return 0.0 if text == "-" else float(text.removesuffix("%"))
