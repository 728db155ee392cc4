"""`ktb-model info --onnx`: inputs, outputs, operations, time and scores of an exported file."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ktb.cli.model_source import trusted
from ktb.cli.progress import watched
from ktb.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ktb.data.module import RGBXDataModule
    from ktb.export.session import OnnxFile


def show(arguments: argparse.Namespace) -> None:
    """Print what is known of a file, and measure it.

    Args:
        arguments: of `ktb-model info`.

    Raises:
        KTBError: the file cannot be run, or not on that data.
    """
    for option, given in (
        ("--backbone", arguments.backbone),
        ("--classes", arguments.classes),
        ("--modalities", arguments.modalities),
        ("--device cuda", arguments.device == "cuda"),
    ):
        if given:
            raise ConfigError(f"{option} is not of --onnx: the file says what it is, and runs on the CPU")
    if arguments.size and len(arguments.size) > 1:
        raise ConfigError("--size: with --onnx one size at a time")
    data = _data(arguments) if arguments.source else None

    from ktb.export.session import OnnxFile, operations

    file = OnnxFile(arguments.onnx, arguments.threads)
    operations_found = operations(file.path)
    report: dict[str, Any] = {
        "file": str(file.path),
        "bytes": file.path.stat().st_size,
        "inputs": {name: {"type": kind.__name__, "shape": shape} for name, (kind, shape) in file.inputs.items()},
        "outputs": {name: {"type": kind, "shape": shape} for name, (kind, shape) in file.outputs.items()},
        "about": {k: v for k, v in file.about.items() if k not in ("palette", "inputs")},
        "operations": {kind: {"count": n, "int8": small} for kind, (n, small) in operations_found.items()},
        "threads": arguments.threads,
    }
    if not arguments.no_measure:
        example = file.example(arguments.size[0] if arguments.size else None)
        with Console(stderr=True).status(f"{arguments.repeat} runs"):
            seconds = file.seconds(example, arguments.repeat)
        report["time"] = {
            "shapes": {name: list(array.shape) for name, array in example.items()},
            "median_s": statistics.median(seconds),
            "fastest_s": min(seconds),
        }
    if data is not None:
        report["score"] = _score(file, data, arguments.score_on)
    if arguments.json:
        print(json.dumps(report, indent=2, default=str))
    else:
        _print(report)


def _data(arguments: argparse.Namespace) -> RGBXDataModule:
    """The data set of a run, opened before anything is measured."""
    from ktb.jobs.device_files import open_with_data

    data, _ = open_with_data(
        arguments.source, arguments.settings, [], base=arguments.base, trust=trusted(arguments).modules
    )
    data.dataset(data.spec.report_split)
    return data


def _score(file: OnnxFile, data: RGBXDataModule, most: int | None) -> dict[str, Any]:
    from ktb.jobs.device_files import score

    classes = file.about.get("classes")
    if classes != list(data.spec.classes):
        raise CheckpointError(f"{file.path}: its classes are not those of {data.spec.name}; it is of another model")
    return {"dataset": data.spec.name, "split": data.spec.report_split, **score(file, data, most, watched)._asdict()}


def _print(report: Mapping[str, Any]) -> None:
    console = Console()
    console.print(f"{report['file']}: {report['bytes'] / 1e6:.1f} MB", highlight=False, markup=False, soft_wrap=True)
    table = Table()
    for name in ("", "name", "type", "shape"):
        table.add_column(name)
    for kind in ("inputs", "outputs"):
        for name, said in report[kind].items():
            table.add_row(kind[:-1], Text(name), said["type"], Text(" x ".join(map(str, said["shape"]))))
    console.print(table)
    table = Table()
    table.add_column("operation")
    table.add_column("count", justify="right")
    table.add_column("in 8 bits", justify="right")
    shown = [(kind, said) for kind, said in report["operations"].items()]
    for kind, said in shown[:MOST]:
        table.add_row(kind, str(said["count"]), str(said["int8"] or "-"))
    if rest := sum(said["count"] for _, said in shown[MOST:]):
        table.add_row(f"{len(shown) - MOST} others", str(rest), "-")
    console.print(table)
    if "time" in report:
        timed = report["time"]
        threads = report["threads"] or "all"
        console.print(
            f"{timed['median_s']:.3f} s per frame, {1 / timed['median_s']:.2f} frames per second (median; fastest "
            f"{timed['fastest_s']:.3f} s) with ONNX Runtime on {threads} threads",
            highlight=False,
            soft_wrap=True,
        )
    if "score" in report:
        from ktb.jobs.device_files import left_out

        found = report["score"]
        frames = f"{found['frames']} frames{left_out(found['other_size'])}"
        console.print(
            f"mIoU {found['miou']:.2f} on {found['split']} of {found['dataset']} ({frames})",
            highlight=False,
            soft_wrap=True,
        )


MOST = 12
"""Kinds of operations that are listed."""
