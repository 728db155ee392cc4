"""The `ktb-model` command: look at models, translate, ship and export them. Arguments in, exit code out."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ktb.cli import common as commands
from ktb.cli.arguments import HelpFormatter, home
from ktb.errors import CheckpointError, ConfigError
from ktb.io import absent, expanded

if TYPE_CHECKING:
    from ktb.models.backbones.swin import SwinArch
    from ktb.models.segmentor import KTBSegmentor

SIZES = ((224, 224), (480, 640), (512, 512))
"""Sizes that `info` reports when none is given."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ktb-model`; the exit code: 0 done, 2 the call or a file was wrong, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
        return 0

    return commands.run(commands.name("ktb-model", argv), work, stopped=lambda word: f"{word}; nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ktb-model", description="Look at models, translate, ship and export them.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    source = "a run folder, a checkpoint of ktb-train, a published file or a bundle"

    sub = commands.add_parser(
        "info",
        help="parameters by part, operations, speed and memory",
        description="Parameters by part, operations per image, and speed and peak memory measured on this machine.",
        epilog="Example: ktb-model info --backbone swin_b --classes 40 --modalities rgb,depth --size 480x640",
        formatter_class=HelpFormatter,
    )
    sub.add_argument("source", nargs="?", help=f"{source}; without it, name an architecture")
    sub.add_argument("--backbone", help="an architecture: a member of the backbone group, such as swin_b")
    sub.add_argument("--classes", type=_positive, help="number of classes (of an architecture)")
    sub.add_argument("--size", type=_size, action="append", metavar="HxW", help="image size; may be given repeatedly")
    sub.add_argument("--repeat", type=_positive, default=5, help="timed runs per size (default: 5)")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it is measured (default: cpu)")
    sub.add_argument("--no-measure", action="store_true", help="count only: no time, no memory")
    sub.add_argument("--json", action="store_true", help="print JSON")
    _source_options(sub)
    sub.set_defaults(run=_info)

    sub = commands.add_parser(
        "convert",
        help="translate weight files between namings",
        description="Translate a weight file. What it is, is recognised by its names: published, ours, or a Swin "
        "backbone of timm, Microsoft, OpenMMLab or Hugging Face.",
    )
    sub.add_argument("input", help=f"{source}, or a file of backbone weights")
    sub.add_argument("output", type=expanded, help="a new file: .safetensors, or .pth")
    sub.add_argument(
        "--to",
        required=True,
        choices=("ktb", "published", "timm"),
        help="ktb: ours, with all parameters, for every command; published: for the published code; timm: the backbone",
    )
    _source_options(sub)
    sub.set_defaults(run=_convert)

    sub = commands.add_parser(
        "bundle",
        help="write a folder to ship: trained parameters, configuration, model card",
        description="Write a folder to ship: the trained parameters and running statistics (safetensors), config.json, "
        "config.yaml and a model card. Base weights are named with their SHA-256 and left out.",
    )
    sub.add_argument("source", help=source)
    sub.add_argument("output", type=expanded, metavar="OUT_DIR", help="a new folder")
    _source_options(sub)
    sub.set_defaults(run=_bundle)

    sub = commands.add_parser(
        "export",
        help="ONNX or torch.export, compared with the model",
        description="Write one file that runs without ktb. It is compared with the model on random inputs of three "
        "sizes (three draws of a fixed size) and not written when logits differ by more than 1e-4.",
    )
    sub.add_argument("source", help=source)
    sub.add_argument("output", type=expanded, metavar="OUT", help="a file called .onnx (ONNX) or .pt2 (torch.export)")
    sub.add_argument("--size", type=_size, required=True, metavar="HxW", help="image size")
    sub.add_argument(
        "--dynamic", action="store_true", help="any height and width that are multiples of 32, from 64 to 4096"
    )
    _source_options(sub)
    sub.set_defaults(run=_export)

    sub = commands.add_parser(
        "zoo",
        help="the published results and the commands that repeat them",
        description="Every row of the published model zoo, and the commands to evaluate and to train it.",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=_zoo)
    return parser


def _source_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--modalities",
        type=_modalities,
        metavar="NAME,...",
        help="of a published file (default: rgb,depth) or an architecture; NAME:CHANNELS where it is not 3",
    )
    sub.add_argument(
        "--base",
        type=home,
        metavar="FILE",
        help="the frozen backbone's weights, where the source names a file that is elsewhere",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 480x640")
    from ktb.data.readers.decode import MAX_PIXELS

    if int(match[1]) * int(match[2]) > MAX_PIXELS:  # no image that ktb reads is larger
        raise argparse.ArgumentTypeError(f"{text!r} has more than {MAX_PIXELS:,} pixels (8192x8192)")
    return int(match[1]), int(match[2])


def _modalities(text: str) -> dict[str, int]:
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"([A-Za-z_]\w*)(?::([1-9]\d*))?", part)
        if match is None or match[1] in found:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of names such as rgb,depth or rgb,lidar:1")
        found[match[1]] = int(match[2] or 3)
    return found


# ------------------------------------------------------------------------------------------------------------- sources


@dataclass
class _Source:
    model: KTBSegmentor
    file: Path
    published: bool


def _open(arguments: argparse.Namespace, path: str) -> _Source:
    """The model of a run, checkpoint, published file or bundle, in evaluation mode."""
    from ktb.weights.checkpoint import load_published, model_from_checkpoint
    from ktb.weights.files import find_checkpoint, is_ours, read_file, read_state_dict
    from ktb.weights.naming import is_published

    file = find_checkpoint(path)
    content = read_file(file)
    if is_ours(content):
        if arguments.modalities:
            raise ConfigError(f"{file} says its own modalities; leave --modalities out")
        model = model_from_checkpoint(content, str(file), weights=_base(arguments)).eval()
        return _Source(model, file, published=False)
    if not is_published(state := read_state_dict(_mapping(content, file))):
        raise CheckpointError(
            f"{file}: neither a checkpoint of ktb nor a published one (names like {next(iter(state))}); backbone "
            "weights can only be converted"
        )
    streams = arguments.modalities or {"rgb": 3, "depth": 3}
    if next(iter(streams)) != "rgb" or list(streams.values()) != [3, 3]:
        raise ConfigError(f"--modalities {','.join(streams)}: a published file has rgb and one other of 3 channels")
    model = load_published(content, ("rgb", list(streams)[1]))
    if arguments.base:
        model.about["backbone"] = _base_of(model, arguments.base)
    return _Source(model, file, published=True)


def _mapping(content: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: expected a state dict (name → tensor), found {type(content).__name__}")
    return content


def _base(arguments: argparse.Namespace) -> str | None:
    base: str | None = arguments.base
    if base and base not in ("hub", "bundled") and not Path(base).is_file():
        raise CheckpointError(f"--base {base}: {absent(Path(base), 'no such file')}; check the path")
    return base


def _base_of(model: KTBSegmentor, weights: str) -> dict[str, Any]:
    """What a bundle says about the base weights of a published model, once they are the ones in it."""
    from ktb.weights.backbone import load_backbone
    from ktb.weights.states import fingerprint

    name, known = _known_backbone(model.backbone.arch)
    base = load_backbone(model.backbone.arch, weights, name=name, timm_name=known.get("timm_name"))
    if (sha256 := fingerprint(base)) != fingerprint(model.backbone):
        raise CheckpointError(f"--base {weights}: not the weights that are frozen in this model")
    return {"name": name, "timm_name": known.get("timm_name"), "weights": weights, "sha256": sha256}


def _known_backbone(arch: SwinArch) -> tuple[str, dict[str, Any]]:
    """Name and configuration of the backbone with this architecture; ("swin", {}) if none has."""
    for name, values in _backbones().items():
        numbers = ("embed_dim", "window_size", "depths", "num_heads")
        if all(_plain(getattr(arch, key)) == values[key] for key in numbers):
            return name, values
    return "swin", {}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _backbones() -> dict[str, dict[str, Any]]:
    return {file.stem: values for file, values in _members("backbone")}


def _members(group: str) -> list[tuple[Path, dict[str, Any]]]:
    import yaml

    from ktb.config.compose import conf_dir

    files = sorted((conf_dir() / group).glob("*.yaml"))
    return [(file, yaml.safe_load(file.read_text(encoding="utf-8"))) for file in files]


# ---------------------------------------------------------------------------------------------------------------- info


def _info(arguments: argparse.Namespace) -> None:
    architecture = arguments.backbone or arguments.classes
    if bool(arguments.source) == bool(architecture):
        raise ConfigError("name either a source or an architecture: --backbone NAME --classes K --modalities rgb,depth")
    import torch

    from ktb.models import profile

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here")
    if arguments.source:
        model = _open(arguments, arguments.source).model
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
    console = Console(stderr=True)
    for size in arguments.size or SIZES:
        row: dict[str, Any] = {"size": list(size), "flops": profile.flops(model, size)}
        if not arguments.no_measure:
            with console.status(f"{size[0]}x{size[1]}: {arguments.repeat} runs"):
                row |= profile.measure(model, size, repeat=arguments.repeat, device=torch.device(arguments.device))
        report["sizes"].append(row)
    if arguments.json:
        print(json.dumps(report, indent=2, default=str))
    else:
        _show_info(report, title)


def _architecture(arguments: argparse.Namespace, *, on_meta: bool) -> tuple[KTBSegmentor, str]:
    import torch

    from ktb.models.backbones.swin import FrozenSwin, SwinArch
    from ktb.models.segmentor import KTBSegmentor
    from ktb.weights.backbone import load_backbone

    known = _backbones()
    if arguments.backbone not in known:
        raise ConfigError(f"--backbone {arguments.backbone}: there are {', '.join(known)}")
    if not arguments.classes:
        raise ConfigError("--classes K: an architecture needs the number of classes")
    if arguments.base:
        raise ConfigError(f"--base {arguments.base}: an architecture by itself has random weights; leave --base out")
    values = known[arguments.backbone]
    numbers = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "drop_path")
    arch = SwinArch.from_dict({key: values[key] for key in numbers})
    streams = arguments.modalities or {"rgb": 3, "depth": 3}
    with torch.device("meta" if on_meta else "cpu"):
        swin = FrozenSwin(arch) if on_meta else load_backbone(arch, "random", name=arguments.backbone)
        heads = {key: values[key] for key in ("head_dim", "side_head_dim")}
        try:
            model = KTBSegmentor(swin, streams, arguments.classes, **heads).eval()
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
        table.add_row(part["title"], f"{part['total']:,}", f"{part['trained']:,}")
        if part["part"] == "fusion":
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
    console.print(
        f"GFLOP: {report['flops_counted']}.\nMedian time of one image on {machine['device']}, {machine['threads']} "
        f"threads, PyTorch {machine['torch']}; {where}.",
        highlight=False,
        soft_wrap=True,
    )


# ------------------------------------------------------------------------------------------------------------- convert


def _convert(arguments: argparse.Namespace) -> None:
    from ktb.weights.bundle import save_file_of
    from ktb.weights.files import find_checkpoint, is_ours, read_file, read_state_dict, save_tensors
    from ktb.weights.naming import backbone_to_timm, is_published

    output: Path = arguments.output
    if output.suffix not in (".safetensors", ".pth"):
        raise ConfigError(f"{output}: expected a new file called .safetensors or .pth")
    if arguments.to == "ktb" and output.suffix != ".safetensors":
        raise ConfigError(f"{output}: ours are .safetensors files, which also say how the model is built")
    if output.exists():
        raise CheckpointError(f"{output}: exists already; choose another name")
    file = find_checkpoint(arguments.input)
    content = _mapping(read_file(file), file)
    if not is_ours(content) and not is_published(state := read_state_dict(content)):
        if arguments.to != "timm":
            raise ConfigError(f"{file}: holds no whole model, so it can only be converted with --to timm")
        try:
            state = backbone_to_timm(state)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from None
        save_tensors(state, output)
        print(f"{output}: backbone in timm's naming, {len(state)} tensors")
        return
    model = _open(arguments, str(file)).model
    if arguments.to == "ktb":
        save_file_of(model, output, whole=True)
        print(f"{output}: whole model, {len(model.state_dict())} tensors")
    elif arguments.to == "timm":
        save_tensors(model.backbone.state_dict(), output)
        print(f"{output}: backbone in timm's naming, {len(model.backbone.state_dict())} tensors")
    else:
        save_tensors(_published_state(model, file), output)
        print(f"{output}: published naming")


def _published_state(model: KTBSegmentor, file: Path) -> dict[str, Any]:
    """All that the published code loads, its index buffers included."""
    from ktb.weights.naming import to_published

    names = model.modalities
    if len(names) != 2 or names[0] != "rgb" or set(model.config["modalities"].values()) != {3}:
        raise CheckpointError(f"{file}: the published code takes rgb and one other of 3 channels, this model {names}")
    lacking = [
        name
        for name, there in (
            ("prompts", model.config["prompts"]),
            ("DSCF", model.config["fusion"] == "dscf"),
            ("side heads", model.config["side_heads"]),
        )
        if not there
    ]
    if lacking:
        raise CheckpointError(f"{file}: the published code has no model without {' and '.join(lacking)}")
    return to_published(model.state_dict(), (names[0], names[1]))


# -------------------------------------------------------------------------------------------------------------- bundle


def _bundle(arguments: argparse.Namespace) -> None:
    from ktb.weights.bundle import knows_its_base, save_bundle

    source = _open(arguments, arguments.source)
    model = source.model
    if not source.published and (result := _result(source.file)):
        model.about["result"] = result
    config = model.about.get("config")
    size = save_bundle(model, arguments.output, run_config=_portable(config) if config else None)
    base = model.about.get("backbone") or {}
    print(f"{arguments.output}: {size / 1e6:.1f} MB of tensors")
    if knows_its_base(model):
        print(f"base weights left out: {base['name']}, {base['weights']}, SHA-256 {base['sha256'][:16]}...")
    else:
        print("the frozen backbone is in it, as no base weights are known; --base FILE names and leaves them out")


def _result(file: Path) -> dict[str, Any] | None:
    """What a run's result.json says about the checkpoint's scores."""
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or Path(str(result.get("checkpoint"))).name != file.name:
        return None
    keys = ("dataset", "split", "scoring", "protocol", "metrics", "per_class", "seed", "epochs", "versions")
    return {key: result[key] for key in keys if key in result}


def _portable(config: str) -> str:
    """A run's configuration without the paths of the machine it ran on."""
    import yaml

    values = yaml.safe_load(config)
    for key in ("run_dir", "ckpt_path", "overwrite", "logger"):
        values.pop(key, None)

    def strip(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {k: strip(v, str(k)) for k, v in node.items()}
        if isinstance(node, list):
            return [strip(v) for v in node]
        if isinstance(node, str) and Path(node).is_absolute():
            return f"data/{Path(node).name}" if key == "root" else Path(node).name
        return node

    text: str = yaml.safe_dump(strip(values), sort_keys=False, allow_unicode=True)
    return text


# -------------------------------------------------------------------------------------------------------------- export


def _export(arguments: argparse.Namespace) -> None:
    from ktb.weights.export import STEP, TOLERANCE, export

    model = _open(arguments, arguments.source).model
    with Console(stderr=True).status("tracing and comparing; a dynamic size takes minutes"):
        compared = export(model, arguments.output, arguments.size, dynamic=arguments.dynamic)
    h, w = arguments.size
    size = f"any height and width that are multiples of {STEP}" if arguments.dynamic else f"{h}x{w} only"
    worst = ", ".join(f"{difference:.1e} at {where}" for where, difference in compared)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB, {size}")
    print(f"inputs {', '.join(model.modalities)}: (1, C, H, W) float32, normalised; output logits (1, K, H, W)")
    print(f"largest difference of logits from the model's: {worst} (allowed {TOLERANCE:.0e})")


# ----------------------------------------------------------------------------------------------------------------- zoo


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
    for file, values in _members("experiment"):
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


if __name__ == "__main__":
    sys.exit(main())
