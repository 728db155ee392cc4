"""The model that a `ktb-model` subcommand is asked about: of a run, a checkpoint, a published file or a bundle."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktb.cli.arguments import add_trust, home
from ktb.config.trust import Trust
from ktb.errors import CheckpointError, ConfigError
from ktb.io import absent

if TYPE_CHECKING:
    from ktb.models.backbones.base import Backbone
    from ktb.models.segmentor import KTBSegmentor

SOURCE = "a run folder, a checkpoint of ktb-train, a published file, a bundle, OWNER/NAME or zoo:NAME"


def add_source_options(sub: argparse.ArgumentParser) -> None:
    """The options of every subcommand that takes a source."""
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
    add_trust(sub)


def _modalities(text: str) -> dict[str, int]:
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"([A-Za-z_]\w*)(?::([1-9]\d*))?", part)
        if match is None or match[1] in found:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of names such as rgb,depth or rgb,lidar:1")
        found[match[1]] = int(match[2] or 3)
    return found


@dataclass
class Source:
    """A model and where it comes from.

    Args:
        model: in evaluation mode.
        file: its weight file.
        published: whether the file has the names of the published code.
    """

    model: KTBSegmentor
    file: Path
    published: bool


def open_source(arguments: argparse.Namespace, path: str) -> Source:
    """The model of a run, checkpoint, published file or bundle, in evaluation mode.

    Args:
        arguments: with the options of `add_source_options`.
        path: the run folder, file or bundle.

    Raises:
        CheckpointError: there is no such file, or no model in it.
        ConfigError: --modalities that the file cannot have.
    """
    from ktb.config.zoo import is_of_zoo, zoo_model
    from ktb.weights.checkpoint import load_published, model_from_checkpoint
    from ktb.weights.files import find_checkpoint, is_ours, read_file, read_state_dict
    from ktb.weights.tensor_names import is_published

    file = find_checkpoint(path)
    content = read_file(file)
    if is_ours(content):
        if arguments.modalities:
            raise ConfigError(f"{file} says its own modalities; leave --modalities out")
        trust = trusted(arguments)
        model = model_from_checkpoint(content, str(file), trust=trust, weights=_base(arguments)).eval()
        return Source(model, file, published=False)
    if not is_published(state := read_state_dict(state_dict_in(content, file))):
        raise CheckpointError(
            f"{file}: neither a checkpoint of ktb nor a published one (names like {next(iter(state))}); backbone "
            "weights can only be converted"
        )
    ours = zoo_model(path).modalities if is_of_zoo(path) else ("rgb", "depth")
    streams = arguments.modalities or dict.fromkeys(ours, 3)
    if next(iter(streams)) != "rgb" or list(streams.values()) != [3, 3]:
        raise ConfigError(f"--modalities {','.join(streams)}: a published file has rgb and one other of 3 channels")
    model = load_published(content, ("rgb", list(streams)[1]))
    if arguments.base:
        model.about["backbone"] = _base_of(model, arguments.base)
    return Source(model, file, published=True)


def trusted(arguments: argparse.Namespace) -> Trust:
    """What --trust says that a file may name beside classes of ktb.

    Raises:
        ConfigError: something that is no name of a module.
    """
    return Trust.of(arguments.trust, spelling="flag")


def state_dict_in(content: Any, file: Path) -> Mapping[str, Any]:
    """The state dict (name → tensor) that a weight file holds.

    Args:
        content: what was read of the file.
        file: for the message.

    Raises:
        CheckpointError: it holds something else.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: expected a state dict (name → tensor), found {type(content).__name__}")
    return content


def _base(arguments: argparse.Namespace) -> str | None:
    base: str | None = arguments.base
    from ktb.weights.hub import TO_BE_HAD

    if base and base not in TO_BE_HAD and not Path(base).is_file():
        raise CheckpointError(f"--base {base}: {absent(Path(base), 'no such file')}; check the path")
    return base


def _base_of(model: KTBSegmentor, weights: str) -> dict[str, Any]:
    """What a bundle says about the base weights of a published model, once they are the ones in it."""
    from ktb.weights.backbone import load_backbone
    from ktb.weights.states import fingerprint

    name, known = _known_backbone(model.backbone)
    base = load_backbone(model.backbone.spec(), weights, name=name, timm_name=known.get("timm_name"))
    if (sha256 := fingerprint(base)) != fingerprint(model.backbone):
        raise CheckpointError(f"--base {weights}: not the weights that are frozen in this model")
    return {"name": name, "timm_name": known.get("timm_name"), "weights": weights, "sha256": sha256}


def _known_backbone(backbone: Backbone) -> tuple[str, dict[str, Any]]:
    """Name and configuration of the member of the group backbone that is built alike; ("swin", {}) if none is."""
    from ktb.config.schema import spec_of_backbone
    from ktb.models.parts import plain

    ours = plain(backbone.spec())
    for name, values in backbones().items():
        if all(ours.get(key) == value for key, value in spec_of_backbone(values).items() if key != "drop_path"):
            return name, values
    return "swin", {}


def backbones() -> dict[str, dict[str, Any]]:
    """Name → configuration of every member of the group backbone."""
    return {file.stem: values for file, values in group_members("backbone")}


def group_members(group: str) -> list[tuple[Path, dict[str, Any]]]:
    """The files of a configuration group by name, and what stands in them."""
    import yaml

    from ktb.config.conf_folder import conf_dir

    files = sorted((conf_dir() / group).glob("*.yaml"))
    return [(file, yaml.safe_load(file.read_text(encoding="utf-8"))) for file in files]
