"""Data, loss and model, out of the configuration that describes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict
from torchmetrics import Metric

from ktb.config.build import instantiate
from ktb.config.schema import spec_of_backbone
from ktb.data import magnitudes
from ktb.data.balance import CLASS_WEIGHTS, count_pixels
from ktb.data.module import RGBXDataModule
from ktb.distributed import decisions as ranks
from ktb.engine.callbacks.robustness import Robustness
from ktb.engine.inference import Inference, inference
from ktb.errors import ConfigError, DataError
from ktb.jobs import resume
from ktb.losses.base import Loss
from ktb.metrics.own import build_metric
from ktb.models.layers.norm import BatchNorm
from ktb.models.parts import Spec
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.backbone import load_backbone

_DATASET_FACTS = ("name", "default_streams", "default_modality", "recipe")
"""Settings of the group dataset that are not arguments of the class that it names."""


def build_data(cfg: DictConfig) -> RGBXDataModule:
    """The DataModule that `cfg.dataset` describes; files are looked at in its `setup`."""
    data: RGBXDataModule = instantiate(without(cfg.dataset, *_DATASET_FACTS), scoring=cfg.eval.scoring)
    data.spec = replace(data.spec, name=cfg.dataset.name)  # a user's own data set is called as its config is
    return data


def training_data(cfg: DictConfig, point: resume.Checkpoint | None) -> RGBXDataModule:
    """The data of a training, set up, and of its test too: a missing file is better known now than after the training.

    Args:
        cfg: of ktb-train; `loss.class_weights=auto` or `balanced` is replaced by numbers.
        point: the checkpoint that is continued.

    Raises:
        KTBError: a mistake in the data, or other data than the checkpoint's.
    """
    data = build_data(cfg)
    if point is not None:
        resume.check_data(point, data)
    data.setup("fit")
    for text in ranks.decide("units of the files", lambda: _mixed_units(data), processes=resume.processes(cfg)):
        if ranks.is_first():
            print(f"note: {text}")
    if cfg.test:
        data.setup("test")
    _put_class_weights(cfg, data)
    return data


def _mixed_units(data: RGBXDataModule) -> list[str]:
    """What to say of modalities whose files seem to be in different units.

    Raises:
        DataError: they certainly are.
    """
    found = magnitudes.mixed(data, ("train", data.spec.selection_split))
    if certain := [mixed.text for mixed in found if mixed.certain]:
        raise DataError(f"{data.spec.name}: {certain[0]}")
    return [f"{data.spec.name}: {mixed.text}" for mixed in found]


def _put_class_weights(cfg: DictConfig, data: RGBXDataModule) -> None:
    """Replace a word for class weights by numbers, so that the run's config and a resumed run have them."""
    given = cfg.loss.get("class_weights")
    if given is None:
        return
    classes = data.spec.classes
    if isinstance(given, str):
        rule = CLASS_WEIGHTS[given]
        weights = ranks.decide(
            "class weights", lambda: rule(count_pixels(data).counts), processes=resume.processes(cfg)
        )
        with open_dict(cfg):
            cfg.loss.class_weights = weights
    elif len(given) != len(classes):
        raise ConfigError(
            f"loss.class_weights has {len(given)} numbers, but {data.spec.name} has {len(classes)} classes "
            f"({', '.join(classes[:4])}{', ...' * (len(classes) > 4)}); expected one each, auto or balanced"
        )
    if ranks.is_first():
        named = ", ".join(f"{name} {weight:g}" for name, weight in zip(classes, cfg.loss.class_weights, strict=True))
        print(f"class weights: {named}")


def build_loss(cfg: DictConfig) -> Loss:
    """The loss of the group loss.

    Raises:
        ConfigError: settings that it does not have or that do not go together, or no loss.
    """
    loss = instantiate(without(cfg.loss, "name"))
    if not isinstance(loss, Loss):
        raise ConfigError(
            f"loss._target_={cfg.loss._target_} is no ktb.losses.base.Loss; a loss of logits and labels is given as "
            "the pixel loss of one: loss=ce 'loss.kind={_target_: ...}'"
        )
    return loss


def build_metrics(cfg: DictConfig, num_classes: int) -> dict[str, Metric]:
    """The metrics of the user's own, name → metric; one that is null is left out."""
    given = plain(without(cfg.metrics)) if cfg.get("metrics") else {}
    return {name: build_metric(name, spec, num_classes) for name, spec in given.items() if spec is not None}


def build_model(cfg: DictConfig, data: RGBXDataModule, *, side_heads: bool) -> KTBSegmentor:
    """The model of the groups backbone, peft, fusion, head and model for the data's modalities and classes.

    Args:
        cfg: of ktb-train.
        data: what it is for.
        side_heads: whether every stream gets a head of its own.

    Raises:
        ConfigError: settings that do not go together.
        CheckpointError: the backbone's weights cannot be used.
    """
    head = plain(without(cfg.head, "name"))
    side = head.pop("side", None) or {}
    try:
        backbone = load_backbone(
            backbone_spec(cfg), cfg.backbone.weights, name=cfg.backbone.name, timm_name=cfg.backbone.get("timm_name")
        )
        model = KTBSegmentor(
            backbone,
            {m.name: m.channels for m in data.modalities},
            data.spec.num_classes,
            peft=plain(without(cfg.peft, "name")),
            fusion=plain(without(cfg.fusion, "name")),
            head=head,
            side_head={**head, **side} if side_heads else None,
            recompute=cfg.model.recompute,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.synchronised = cfg.trainer.sync_batchnorm
    return model


def backbone_spec(cfg: DictConfig) -> Spec:
    """Class and settings of the backbone."""
    return spec_of_backbone(plain(without(cfg.backbone)))


def build_inference(cfg: DictConfig) -> Inference:
    """How the group eval has images predicted."""
    return inference(**plain(without(cfg.eval, "name", "scoring")))


def build_robustness(cfg: DictConfig, data: RGBXDataModule) -> Robustness | None:
    """What the group robustness asks for; None where it asks for nothing.

    Args:
        cfg: of ktb-train or ktb-eval.
        data: set up for the test.

    Raises:
        ConfigError: a value that cannot work, or a split without labels.
    """
    if not cfg.robustness:
        return None
    spec = data.spec
    if not data.labelled(spec.report_split):
        raise ConfigError(
            f"robustness= compares scores, but the {spec.report_split} split of {spec.name} has no labels; "
            f"choose another: {'split' if 'split' in cfg else 'dataset.report_split'}={spec.selection_split}"
        )
    return Robustness(plain(cfg.robustness), data.modalities, cfg.seed)


def plain(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node))


def without(node: DictConfig, *keys: str) -> DictConfig:
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return OmegaConf.create({k: v for k, v in values.items() if k not in keys})
