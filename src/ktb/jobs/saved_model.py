"""The model and the data of a checkpoint, whether ktb-train has written it or it is a published one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ktb.config.build import named_classes
from ktb.config.checked import checked
from ktb.config.overrides import as_override, at_home, overridden, quoted_paths
from ktb.config.saved import inherit, merge_saved
from ktb.config.trust import Spelling, Trust
from ktb.data.label_size import known
from ktb.data.module import RGBXDataModule
from ktb.data.preparation import preparation
from ktb.errors import CheckpointError, KTBError, first_line
from ktb.jobs.build import build_data
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.checkpoint import load_published, model_from_checkpoint, refuse_other_data
from ktb.weights.files import find_checkpoint, is_ours, read_file, read_state_dict
from ktb.weights.tensor_names import is_published


def open_checkpoint(
    file: Path, cfg: DictConfig, overrides: Sequence[str], *, spelling: Spelling = "setting"
) -> tuple[DictConfig, RGBXDataModule, KTBSegmentor]:
    """The model of a checkpoint of ktb-train or of a published one, and the data it belongs to.

    Args:
        file: the checkpoint.
        cfg: what was composed for ktb-eval.
        overrides: what the user wrote on the command line; of a checkpoint that brings the config of its own run, only
            that is put over it.
        spelling: how the user says which classes the file may name.

    Returns:
        the config that counts, its DataModule (no file has been looked at yet), and the model.

    Raises:
        KTBError: the checkpoint cannot be used, or not with that data.
    """
    content = read_file(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: expected a state dict (name → tensor), found {type(content).__name__}")
    ours = is_ours(content)
    about = content["ktb"] if ours else {}
    trust = Trust.of(cfg.trust, named_classes(cfg), spelling=spelling)
    if "config" in about:  # not in a bundle of a published checkpoint, whose data the groups say
        cfg = merge_saved(_config_in(about, file), cfg, overrides, trust, _origin(file))
    with open_dict(cfg):
        if cfg.split:
            cfg.dataset.report_split = cfg.split
    data = build_data(cfg)
    data.label_sizes = known(about.get("label_size")) or None
    streams = [m.name for m in data.modalities]
    if ours:
        given = "config" in about or "backbone.weights" in overridden(overrides)
        moved = cfg.backbone.weights if given else None
        if moved == (about.get("backbone") or {}).get("weights"):
            moved = None
        model = model_from_checkpoint(content, str(file), trust=trust, weights=moved)
    elif is_published(read_state_dict(content)):
        if len(streams) != 2 or streams[0] != "rgb":
            raise CheckpointError(f"{file}: a published checkpoint takes rgb and one other modality, got {streams}")
        model = load_published(content, ("rgb", streams[1]))
    else:
        raise CheckpointError(
            f"{file}: neither a checkpoint of ktb-train nor a published one "
            f"(names like {next(iter(read_state_dict(content)))})"
        )
    refuse_other_data(
        model.config,
        about.get("classes"),
        str(file),
        dataset=data.spec.name,
        classes=data.spec.classes,
        channels={m.name: m.channels for m in data.modalities},
        remedy="",
    )
    return cfg, data, model


def open_for_pictures(
    source: str | Path, settings: Sequence[str], folders: Sequence[Path], *, spelling: Spelling
) -> tuple[Path, dict[str, str], RGBXDataModule, KTBSegmentor]:
    """The model of a checkpoint, and the data set as which the user's own pictures are read.

    Args:
        source: the checkpoint's path or name, see `ktb.weights.files.find_checkpoint`.
        settings: of ktb-eval, as the user wrote them.
        folders: further config folders of the user (--config-dir).
        spelling: how the user says which classes the file may name; settings has it as trust=.

    Returns:
        the checkpoint's file, the settings of the data set that decide how a file is read, the DataModule, the model
        as `merged` has it.

    Raises:
        KTBError: a setting is wrong, or the checkpoint cannot be used with them.
    """
    file = find_checkpoint(source)
    overrides = quoted_paths(at_home(settings))
    completed = inherit([as_override("checkpoint", str(source)), *overrides], folders, fetched=lambda _: file)
    cfg = checked("eval", completed, folders)
    cfg, data, model = open_checkpoint(file, cfg, overrides, spelling=spelling)
    # Where the data set lies and how its training is fed says nothing about how a file is read.
    ignored = ("root", "batch_size", "eval_batch_size", "num_workers", "crop", "seed", "recipe", "max_pixels")
    read_as = {str(key): str(value) for key, value in cfg.dataset.items() if key not in ignored}
    return file, read_as, data, model.merged()


def state_preparation(model: KTBSegmentor, file: Path, trust: Trust) -> None:
    """Let `about` of a model say how its arrays are prepared, where its checkpoint is of a version that did not.

    A model that does not know its run's configuration, such as a published one, stays as it is, and so does one whose
    data set there is none of here: the card then says that it is not recorded.

    Args:
        model: out of `file`.
        file: the checkpoint.
        trust: what it may name beside classes of ktb.
    """
    if "config" not in model.about or "preparation" in model.about:
        return
    composed = checked("eval", [as_override("checkpoint", str(file))], [])
    try:
        data = build_data(merge_saved(_config_in(model.about, file), composed, [], trust, _origin(file)))
    except KTBError:
        return
    model.about["preparation"] = preparation(data, known(model.about.get("label_size")))


def _origin(file: Path) -> str:
    """What the run's configuration in a checkpoint is called in messages."""
    return f"{file}: its configuration"


def _config_in(about: Mapping[str, Any], file: Path) -> DictConfig:
    """The run's own configuration out of a checkpoint."""
    try:
        config = OmegaConf.create(str(about["config"]))
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged: the config in it is no YAML ({first_line(error)})") from None
    if not isinstance(config, DictConfig):
        raise CheckpointError(f"{file}: damaged: the config in it is no mapping")
    return config
