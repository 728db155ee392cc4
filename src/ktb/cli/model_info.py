"""`ktb-model info`: parameters by part, operations, speed and memory of a model."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ktb.cli.arguments import HelpFormatter, Subparsers, named_path, picture_size, positive
from ktb.cli.model_onnx import show
from ktb.cli.model_source import SOURCE, add_source_options, backbones, open_source
from ktb.errors import ConfigError

if TYPE_CHECKING:
    from ktb.models.segmentor import KTBSegmentor

SIZES = ((224, 224), (480, 640), (512, 512))
"""Sizes that are reported when none is given."""


def add_info(commands: Subparsers) -> None:
    """Add `info` to the command's parser."""
    sub = commands.add_parser(
        "info",
        help="parameters by part, operations, speed and memory",
        description="Parameters by part, operations per image, and speed and peak memory measured on this machine.",
        epilog="Example: ktb-model info --backbone swin_b --classes 40 --modalities rgb,depth --size 480x640",
        formatter_class=HelpFormatter,
    )
    sub.add_argument("source", nargs="?", help=f"{SOURCE}; without it, name an architecture")
    sub.add_argument(
        "--onnx",
        type=named_path,
        metavar="FILE",
        help="an exported file instead: inputs, outputs, operations, time with ONNX Runtime; with a source (and "
        "dataset.root=DIR where its data has moved) also mIoU on the split that is reported on",
    )
    sub.add_argument("--threads", type=positive, metavar="N", help="of --onnx (default: one per core)")
    sub.add_argument(
        "--score-on", type=positive, metavar="N", help="of --onnx: frames for mIoU, evenly spread (default: all)"
    )
    sub.add_argument("--backbone", help="an architecture: a member of the backbone group, such as swin_b")
    sub.add_argument("--classes", type=positive, help="number of classes (of an architecture)")
    sub.add_argument(
        "--size", type=picture_size, action="append", metavar="HxW", help="image size; may be given repeatedly"
    )
    sub.add_argument("--repeat", type=positive, default=5, help="timed runs per size (default: 5)")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it is measured (default: cpu)")
    sub.add_argument("--no-measure", action="store_true", help="count only: no time, no memory")
    sub.add_argument("--json", action="store_true", help="print JSON")
    add_source_options(sub)
    sub.set_defaults(run=_info, settings=[])


def _info(arguments: argparse.Namespace) -> None:
    if arguments.onnx:
        show(arguments)
        return
    for option, given in (
        ("--threads", arguments.threads),
        ("--score-on", arguments.score_on),
        ("key=value", arguments.settings),
    ):
        if given:
            raise ConfigError(f"{option} is of --onnx FILE, which was not given")
    architecture = arguments.backbone or arguments.classes
    if bool(arguments.source) == bool(architecture):
        raise ConfigError("name either a source or an architecture: --backbone NAME --classes K --modalities rgb,depth")
    # Parts of the user's own may print, which is no part of the JSON.
    with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
        report, title = _measured(arguments)
    if arguments.json:
        print(json.dumps(report, indent=2, default=str))
    else:
        _show_info(report, title)


def _measured(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What `_info` reports of a model, and how the model is called."""
    import torch

    from ktb.jobs.measure import measure
    from ktb.models import profile

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here")
    if arguments.source:
        model = open_source(arguments, arguments.source).model
        title = arguments.source
    else:
        model, title = _architecture(arguments, on_meta=arguments.no_measure)
    parts = profile.parameters(model)
    report: dict[str, Any] = {
        "model": model.config,
        "about": {k: v for k, v in model.about.items() if k not in ("config", "palette")},
        "parameters": {
            "total": sum(part["total"] for part in parts),
            "trained": sum(part["trained"] for part in parts),
            "parts": parts,
            "fusion_tables": profile.table_parameters(model),
        },
        "flops_counted": profile.COUNTED,
        "machine": {"device": arguments.device, "threads": torch.get_num_threads(), "torch": torch.__version__},
        "sizes": [],
    }
    console, merged = Console(stderr=True), model.merged()
    for size in arguments.size or SIZES:
        row: dict[str, Any] = {"size": list(size), "flops": profile.flops(model, size)}
        if not arguments.no_measure:
            with console.status(f"{size[0]}x{size[1]}: {arguments.repeat} runs"):
                row |= measure(merged, size, repeat=arguments.repeat, device=torch.device(arguments.device))
        report["sizes"].append(row)
    return report, title


def _architecture(arguments: argparse.Namespace, *, on_meta: bool) -> tuple[KTBSegmentor, str]:
    import torch

    from ktb.config.schema import spec_of_backbone
    from ktb.models.segmentor import KTBSegmentor, backbone_of
    from ktb.weights.backbone import load_backbone

    known = backbones()
    if arguments.backbone not in known:
        raise ConfigError(f"--backbone {arguments.backbone}: there are {', '.join(known)}")
    if not arguments.classes:
        raise ConfigError("--classes K: an architecture needs the number of classes")
    if arguments.base:
        raise ConfigError(f"--base {arguments.base}: an architecture by itself has random weights; leave --base out")
    values = known[arguments.backbone]
    spec = spec_of_backbone(values)
    streams = arguments.modalities or {"rgb": 3, "depth": 3}
    with torch.device("meta" if on_meta else "cpu"):
        backbone = backbone_of(spec) if on_meta else load_backbone(spec, "random", name=arguments.backbone)
        try:
            model = KTBSegmentor(
                backbone,
                streams,
                arguments.classes,
                head={"width": values["head_dim"]},
                side_head={"width": values["side_head_dim"]},
            ).eval()
        except ValueError as error:
            raise ConfigError(f"--modalities {','.join(streams)}: {error}") from None
    return model, f"{arguments.backbone}, {arguments.classes} classes, {' + '.join(streams)}, random weights"


def _show_info(report: Mapping[str, Any], title: str) -> None:
    console = Console()
    numbers = report["parameters"]
    table = Table(title=Text(title), title_justify="left")
    table.add_column("part")
    for name in ("parameters", "trained"):
        table.add_column(name, justify="right")
    for part in numbers["parts"]:
        if not part["total"]:
            continue  # this model has none
        table.add_row(part["title"], f"{part['total']:,}", f"{part['trained']:,}")
        if part["part"] == "fusion" and numbers["fusion_tables"]:
            tables = f"{numbers['fusion_tables']:,}"
            table.add_row("  of it distance tables", tables, tables)
    table.add_section()
    share = 100 * numbers["trained"] / numbers["total"]
    table.add_row("all", f"{numbers['total']:,}", f"{numbers['trained']:,} ({share:.1f} %)", style="bold")
    console.print(table)

    about, machine = report["about"], report["machine"]
    if about.get("dataset"):
        base = about.get("backbone") or {}
        weights = f"; base weights {base['weights']}, SHA-256 {base['sha256'][:16]}..." if base.get("sha256") else ""
        console.print(f"data set {about['dataset']}{weights}", highlight=False, markup=False)
    table = Table()
    for name in ("size", "GFLOP", "s/image", "images/s", "peak MiB"):
        table.add_column(name, justify="right")
    for row in report["sizes"]:
        cells = ["-"] * 3
        if "median_s" in row:
            memory = row["peak_memory_mib"]
            cells = [f"{row['median_s']:.3f}", f"{1 / row['median_s']:.2f}", "-" if memory is None else f"{memory:,}"]
        table.add_row(f"{row['size'][0]}x{row['size'][1]}", f"{row['flops'] / 1e9:.1f}", *cells)
    console.print(table)
    where = "memory of the whole process" if machine["device"] == "cpu" else "memory of tensors"
    said = [f"GFLOP: {report['flops_counted']}."]
    if any("median_s" in row for row in report["sizes"]):
        machine_said = f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}"
        said.append(f"Median time of one image on {machine_said}; {where}.")
    console.print("\n".join(said), highlight=False, soft_wrap=True)
