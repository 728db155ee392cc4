"""`ktb-model zoo`: the published results, which of their files are here, and the commands that use and repeat them."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from rich.console import Console
from rich.table import Table

from ktb.cli.arguments import Subparsers
from ktb.cli.model_source import group_members
from ktb.config.zoo import PREFIX, zoo_models


def add_zoo(commands: Subparsers) -> None:
    """Add `zoo` to the command's parser."""
    sub = commands.add_parser(
        "zoo",
        help="the published results and the commands that use and repeat them",
        description="Every row of the published model zoo: its name, whether its file is here (in the folder KTB_ZOO), "
        "and the commands to evaluate and to train it.",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=_zoo)


def _zoo(arguments: argparse.Namespace) -> None:
    from ktb.weights.by_name import PLACE

    rows = zoo()
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    console = Console()
    table = Table(title="Published model zoo", title_justify="left")
    for title in ("name", "mIoU, %", "split", "file", "row"):
        table.add_column(title, no_wrap=title != "row", justify="right" if title == "mIoU, %" else "left")
    for row in rows:
        table.add_row(row["name"], f"{row['miou']:.1f}", row["split"], "here" if row["path"] else "-", row["row"])
    console.print(table)
    place = os.environ.get(PLACE)
    print(
        f"{PLACE}={place}" if place else f"{PLACE} is not set (a folder with the files, or an organisation of the hub)"
    )
    print("\nevaluate:  ktb-eval checkpoint=zoo:NAME dataset.root=DIR")
    print("train it:  ktb-train experiment=NAME dataset.root=DIR")


def zoo() -> list[dict[str, Any]]:
    """Rows of the published model zoo, as `conf/zoo.yaml` and the members of `conf/experiment/` have them."""
    from ktb.weights.by_name import in_folder

    experiments = {file.stem: values for file, values in group_members("experiment")}
    rows = []
    for model in zoo_models().values():
        values = experiments[model.experiment]
        chosen = {
            key.removeprefix("override /"): member
            for item in values["defaults"]
            if isinstance(item, dict)
            for key, member in item.items()
        }
        path = in_folder(model)
        rows.append(
            {
                "name": model.name,
                "row": model.row,
                "experiment": model.experiment,
                **{group: chosen[group] for group in ("dataset", "modality", "backbone")},
                **values["published"],
                "file": model.file,
                "sha256": model.sha256,
                "hub": model.hub,
                "path": None if path is None else str(path),
                "evaluate": f"ktb-eval checkpoint={PREFIX}{model.name} dataset.root=DIR",
                "train": f"ktb-train experiment={model.experiment} dataset.root=DIR",
            }
        )
    return rows
