"""`ktb-model zoo`: the published results and the commands that repeat them."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from ktb.cli.arguments import Subparsers
from ktb.cli.model_source import group_members


def add_zoo(commands: Subparsers) -> None:
    """Add `zoo` to the command's parser."""
    sub = commands.add_parser(
        "zoo",
        help="the published results and the commands that repeat them",
        description="Every row of the published model zoo, and the commands to evaluate and to train it.",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=_zoo)


def _zoo(arguments: argparse.Namespace) -> None:
    rows = zoo()
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    console = Console()
    table = Table(title="Published model zoo", title_justify="left")
    for name in ("experiment", "data set", "modality", "backbone"):
        table.add_column(name, no_wrap=True)
    table.add_column("mIoU, %", justify="right")
    table.add_column("split")
    for row in rows:
        cells = [str(row[key]) for key in ("experiment", "dataset", "modality", "backbone")]
        table.add_row(*cells, f"{row['miou']:.1f}", row["split"])
    console.print(table)
    print("\nevaluate a published file:  ktb-eval checkpoint=FILE experiment=EXPERIMENT dataset.root=DIR")
    print("train it:                   ktb-train experiment=EXPERIMENT dataset.root=DIR")


def zoo() -> list[dict[str, Any]]:
    """Rows of the published model zoo as conf/experiment/ has them."""
    rows = []
    for file, values in group_members("experiment"):
        published = values.get("published")
        if not published:
            continue
        chosen = {
            key.removeprefix("override /"): member
            for item in values["defaults"]
            if isinstance(item, dict)
            for key, member in item.items()
        }
        rows.append(
            {
                "experiment": file.stem,
                **{group: chosen[group] for group in ("dataset", "modality", "backbone")},
                **published,
                "evaluate": f"ktb-eval checkpoint=FILE experiment={file.stem} dataset.root=DIR",
                "train": f"ktb-train experiment={file.stem} dataset.root=DIR",
            }
        )
    return rows
