"""The subcommands of `ktb-model` that write a model into files of weights: convert, bundle."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktb.cli.arguments import Subparsers, named_path
from ktb.cli.model_source import SOURCE, add_source_options, open_source, state_dict_in, trusted
from ktb.errors import CheckpointError, ConfigError
from ktb.run_folder.names import RESULT, run_of

if TYPE_CHECKING:
    from ktb.models.segmentor import KTBSegmentor


def add_convert(commands: Subparsers) -> None:
    """Add `convert` to the command's parser."""
    sub = commands.add_parser(
        "convert",
        help="translate weight files between namings",
        description="Translate a weight file. What it is, is recognised by its names: published, ours, or a Swin "
        "backbone of timm, Microsoft, OpenMMLab or Hugging Face.",
    )
    sub.add_argument("input", help=f"{SOURCE}, or a file of backbone weights")
    sub.add_argument("output", type=named_path, help="a new file: .safetensors, or .pth")
    sub.add_argument(
        "--to",
        required=True,
        choices=("ktb", "published", "timm"),
        help="ktb: ours, with all parameters, for every command; published: for the published code; timm: the backbone",
    )
    add_source_options(sub)
    sub.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> None:
    from ktb.weights.bundle import save_file_of
    from ktb.weights.files import find_checkpoint, is_ours, read_file, read_state_dict, save_tensors
    from ktb.weights.tensor_names import backbone_to_timm, is_published

    output: Path = arguments.output
    if output.suffix not in (".safetensors", ".pth"):
        raise ConfigError(f"{output}: expected a new file called .safetensors or .pth")
    if arguments.to == "ktb" and output.suffix != ".safetensors":
        raise ConfigError(f"{output}: ours are .safetensors files, which also say how the model is built")
    if output.exists():
        raise CheckpointError(f"{output}: exists already; choose another name")
    file = find_checkpoint(arguments.input)
    content = state_dict_in(read_file(file), file)
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
    model = open_source(arguments, arguments.input).model
    if arguments.to == "ktb":
        save_file_of(model, output, whole=True)
        print(f"{output}: whole model, {len(model.state_dict())} tensors")
    elif arguments.to == "timm":
        from ktb.weights.timm_names import to_timm_names

        try:
            state = to_timm_names(model.backbone)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}; --to ktb writes the whole model") from None
        save_tensors(state, output)
        print(f"{output}: backbone in timm's naming, {len(state)} tensors")
    else:
        save_tensors(_published_state(model, file), output)
        print(f"{output}: published naming")


def _published_state(model: KTBSegmentor, file: Path) -> dict[str, Any]:
    """All that the published code loads, its index buffers included."""
    from ktb.models.backbones.swin import FrozenSwin
    from ktb.models.fusion.dscf import DSCF
    from ktb.models.heads.mlp import MLPHead
    from ktb.models.peft.mapa import MAPA
    from ktb.weights.tensor_names import to_published

    names = model.modalities
    if len(names) != 2 or names[0] != "rgb" or set(model.config["modalities"].values()) != {3}:
        raise CheckpointError(f"{file}: the published code takes rgb and one other of 3 channels, this model {names}")
    lacking = [
        name
        for name, there in (
            ("Swin", isinstance(model.backbone, FrozenSwin)),
            ("MAPA", isinstance(model.peft, MAPA) and model.peft.has_prompts and model.peft.has_adapters),
            ("DSCF", all(isinstance(block, DSCF) for block in model.fusion)),
            ("MLP heads", isinstance(model.head, MLPHead)),
            ("side heads", bool(model.side_heads)),
        )
        if not there
    ]
    if lacking:
        raise CheckpointError(f"{file}: the published code has no model without {' and '.join(lacking)}")
    return to_published(model.state_dict(), (names[0], names[1]))


def add_bundle(commands: Subparsers) -> None:
    """Add `bundle` to the command's parser."""
    sub = commands.add_parser(
        "bundle",
        help="write a folder to ship: trained parameters, configuration, model card",
        description="Write a folder to ship: the trained parameters and running statistics (safetensors), config.json, "
        "config.yaml and a model card. Base weights are named with their SHA-256 and left out.",
    )
    sub.add_argument("source", help=SOURCE)
    sub.add_argument("output", type=named_path, metavar="OUT_DIR", help="a new folder")
    add_source_options(sub)
    sub.set_defaults(run=_bundle)


def _bundle(arguments: argparse.Namespace) -> None:
    from ktb.jobs.saved_model import state_preparation
    from ktb.weights.bundle import knows_its_base, save_bundle

    source = open_source(arguments, arguments.source)
    model = source.model
    state_preparation(model, source.file, trusted(arguments))
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
    try:
        result = json.loads((run_of(file) / RESULT).read_text(encoding="utf-8"))
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
    for key in ("run_dir", "ckpt_path", "overwrite", "logger", "trust"):
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
