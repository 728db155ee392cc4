"""Fine-tuning: a new run that starts from the weights of another model, as far as they fit.

Parameters are matched by name and shape, classes and modalities by their names: the predictor's row of a class, and
what a block holds for a modality, are taken where the source has that class or modality, and stay freshly initialised
otherwise. Optimiser and schedule start anew. The frozen backbone has to be the source's, since everything else was
trained on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict
from torch import Tensor

from ktb.config.conf_folder import conf_dir
from ktb.config.overrides import overridden, user_overrides
from ktb.data.module import RGBXDataModule
from ktb.data.spec import ModalitySpec
from ktb.distributed import decisions as ranks
from ktb.errors import CheckpointError, ConfigError
from ktb.jobs.build import backbone_spec
from ktb.models.parts import Spec, plain
from ktb.models.segmentor import KTBSegmentor, backbone_of
from ktb.weights.checkpoint import load_published
from ktb.weights.files import find_checkpoint, is_ours, read_file, read_state_dict
from ktb.weights.states import fingerprint, load_exactly
from ktb.weights.tensor_names import is_published

_PER_CLASS = re.compile(r"(head|side_heads\.\w+)\.predict\.(weight|bias)")
_PER_MODALITY = (
    (re.compile(r"peft\.prompts\.\d+\.project\.weight"), 1),
    (re.compile(r"fusion\.\d+\.fuse\.0\.weight"), 1),
    (re.compile(r"fusion\.\d+\.weight\.2\.(weight|bias)"), 0),
)
"""Parameters with one block per modality, in the model's order, and the axis along which they lie."""


@dataclass(frozen=True)
class Source:
    """Another model's weights, as read from a file.

    state: name → tensor, in the names of `KTBSegmentor`; its backbone too where the file holds one.
    backbone: its description, class and settings.
    modalities: names, in its order.
    classes: names; None: unknown.
    about: what the file says of itself, empty for a published one.
    """

    path: Path
    state: dict[str, Tensor]
    backbone: Spec
    modalities: tuple[str, ...]
    classes: tuple[str, ...] | None
    about: Mapping[str, Any]

    @property
    def holds_backbone(self) -> bool:
        return any(k.startswith("backbone.") for k in self.state)

    @property
    def backbone_weights(self) -> str | None:
        """What `backbone.weights` has to be to have its backbone; None: unknown."""
        if self.holds_backbone:
            return str(self.path)
        weights = (self.about.get("backbone") or {}).get("weights")
        return None if weights is None else str(weights)


def read(path: str | Path, streams: Sequence[str]) -> Source:
    """The weights of a run folder, checkpoint, bundle or published file.

    Args:
        path: where they are.
        streams: the modalities to train on; the first that is not "rgb" is what a published file's second stream
            becomes, since such a file does not name it.

    Raises:
        CheckpointError: no such file, or none of these.
    """
    file = find_checkpoint(path).absolute()
    content = read_file(file)
    if is_ours(content):
        about = content["ktb"]
        state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
        try:
            backbone = dict(about["model"]["backbone"])
            modalities = tuple(about["model"]["modalities"])
            classes = about.get("classes") and tuple(map(str, about["classes"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: damaged: it does not describe its model ({error})") from None
        return Source(file, state, backbone, modalities, classes, about)
    tensors = read_state_dict(content if isinstance(content, Mapping) else file)
    if not is_published(tensors):
        raise CheckpointError(
            f"{file}: init_from takes a run of ktb-train, a bundle or a published checkpoint, and this is none (names "
            f"like {next(iter(tensors))}); weights of a backbone alone are given as backbone.weights=FILE"
        )
    second = next((name for name in streams if name != "rgb"), "depth")
    model = load_published(tensors, ("rgb", second))
    return Source(file, model.state_dict(), model.backbone.spec(), ("rgb", second), None, {})


def chosen(cfg: DictConfig, data: RGBXDataModule) -> Source | None:
    """The weights that `init_from` of a new run names; None without it.

    Args:
        cfg: of ktb-train; `init_from` becomes the file's path, and `backbone.weights`, unless the user gave others,
            those that all else in it was trained on.
        data: what is trained on.

    Raises:
        CheckpointError: they can't be used, or not with this backbone.
        ConfigError: settings of the backbone that cannot work.
    """
    if not cfg.init_from:
        return None
    source = read(cfg.init_from, [m.name for m in data.modalities])
    try:
        spec = backbone_of(backbone_spec(cfg)).spec()  # with what the configuration leaves to the class
    except ValueError as error:
        raise ConfigError(str(error)) from None
    check_backbone(source, spec, cfg.backbone.name)
    with open_dict(cfg):
        cfg.init_from = str(source.path)
        if source.backbone_weights and "backbone.weights" not in overridden(user_overrides(cfg)):
            cfg.backbone.weights = source.backbone_weights
    return source


def begin(source: Source, model: KTBSegmentor, data: RGBXDataModule) -> dict[str, Any]:
    """Put what fits of `source` into `model` and say so; returns what was taken, as plain values."""
    summary = start_from(source, model, classes=data.spec.classes, modalities=data.modalities)
    if ranks.is_first():
        print(describe(summary))
    return summary


def check_backbone(source: Source, spec: Spec, name: str) -> None:
    """Refuse another architecture than the source's.

    Raises:
        CheckpointError: saying which backbone to choose.
    """
    ours, theirs = (_architecture(a) for a in (spec, source.backbone))
    if ours != theirs:
        sizes = "; ".join(f"{k} is {v}, here {ours.get(k)}" for k, v in theirs.items() if ours.get(k) != v)
        raise CheckpointError(
            f"{source.path}: its backbone is another one than {name} ({sizes}); choose its own with {_choice(source)}"
        )


def _choice(source: Source) -> str:
    """What of a command line chooses the source's backbone, as far as is known."""
    name, timm_name = (source.about.get("backbone") or {}).get("name"), source.backbone.get("timm_name")
    if timm_name and not (conf_dir() / "backbone" / f"{name}.yaml").is_file():
        return f"backbone=timm backbone.timm_name={timm_name}"
    return f"backbone={name or '...'}"


def _architecture(spec: Spec) -> dict[str, Any]:
    """What of a backbone's description its weights depend on."""
    return {key: plain(value) for key, value in spec.items() if key != "drop_path"}


def _check_weights(source: Source, model: KTBSegmentor) -> None:
    """Refuse another frozen backbone than the one that all else was trained on."""
    ours = fingerprint(model.backbone)
    theirs = (source.about.get("backbone") or {}).get("sha256")
    if source.holds_backbone:
        theirs_whole = backbone_of(source.backbone)
        state = {k.removeprefix("backbone."): v for k, v in source.state.items() if k.startswith("backbone.")}
        load_exactly(theirs_whole, state, str(source.path))
        theirs = fingerprint(theirs_whole)
    if theirs is not None and theirs != ours:
        raise CheckpointError(
            f"{source.path}: was trained on other backbone weights than these; set "
            f"backbone.weights={source.backbone_weights or 'FILE'}"
        )


def start_from(
    source: Source, model: KTBSegmentor, *, classes: Sequence[str], modalities: Sequence[ModalitySpec]
) -> dict[str, Any]:
    """Put what fits of `source` into `model`.

    Args:
        source: where from.
        model: freshly built, with its backbone; changed in place.
        classes: names of the model's classes.
        modalities: how its streams are normalised.

    Returns:
        what was taken and what not, as plain values; `describe` puts it into words.

    Raises:
        CheckpointError: other backbone weights, or nothing of it fits.
    """
    _check_weights(source, model)
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    state = {
        k: v
        for k, v in model.state_dict().items()
        if not k.startswith("backbone.") and (k in source.state or k not in frozen)
    }
    streams = [(i, source.modalities.index(m)) for i, m in enumerate(model.modalities) if m in source.modalities]
    if source.classes is not None:
        rows = [(i, source.classes.index(c)) for i, c in enumerate(classes) if c in source.classes]
    else:  # a published file: its order is that of the data set it was made for
        count = len(source.state.get("head.predict.bias", ()))
        rows = [(i, i) for i in range(count)] if count == len(classes) else []

    taken, fresh, misfits = 0, 0, []
    for name, ours in state.items():
        theirs = source.state.get(name)
        if theirs is not None:
            axis = next((axis for pattern, axis in _PER_MODALITY if pattern.fullmatch(name)), None)
            if _PER_CLASS.fullmatch(name):
                pairs, axis, blocks = rows, 0, (len(classes), len(theirs))
            elif axis is not None:
                pairs, blocks = streams, (len(model.modalities), len(source.modalities))
            else:
                pairs, axis, blocks = [(0, 0)], 0, (1, 1)
            if _take(ours, theirs, pairs, axis=axis, blocks=blocks):
                taken += bool(pairs)
                fresh += not pairs
                continue
            misfits.append(name)
        fresh += 1
    if not taken:
        raise CheckpointError(f"{source.path}: nothing of it fits this model: not one parameter of its name and shape")
    known = {str(m["name"]): m for m in source.about.get("modalities") or ()}
    return {
        "file": str(source.path),
        "tensors_taken": taken,
        "tensors_fresh": fresh,
        "other_shape": misfits,
        "classes_taken": [classes[i] for i, _ in rows],
        "classes_new": [c for i, c in enumerate(classes) if i not in {i for i, _ in rows}],
        "classes_left_out": [c for j, c in enumerate(source.classes or ()) if j not in {j for _, j in rows}],
        "class_names_known": source.classes is not None,
        "modalities_taken": [model.modalities[i] for i, _ in streams],
        "modalities_new": [m for m in model.modalities if m not in source.modalities],
        "modalities_left_out": [m for m in source.modalities if m not in model.modalities],
        "normalised_otherwise": [
            f"{m.name}: {key} was {theirs[key]}, here {ours_now}"
            for m in modalities
            if (theirs := known.get(m.name)) is not None
            for key in ("scale", "mean", "std", "validity")
            if key in theirs and plain(theirs[key]) != plain(ours_now := getattr(m, key))
        ],
    }


def _take(
    ours: Tensor, theirs: Tensor, pairs: Sequence[tuple[int, int]], *, axis: int, blocks: tuple[int, int]
) -> bool:
    """Copy block j of `theirs` over block i of `ours`, for all (i, j); whether their shapes allow it.

    Args:
        axis: along which the blocks lie.
        blocks: how many there are in either.
    """
    if theirs.ndim != ours.ndim or (ours.ndim and theirs.shape[axis] % blocks[1]):
        return False
    if ours.ndim == 0:  # such as BatchNorm's count of batches
        ours.copy_(theirs)
        return True
    to, source = ours.unflatten(axis, (blocks[0], -1)), theirs.unflatten(axis, (blocks[1], -1))
    if [s for d, s in enumerate(to.shape) if d != axis] != [s for d, s in enumerate(source.shape) if d != axis]:
        return False
    for i, j in pairs:
        to.select(axis, i).copy_(source.select(axis, j))
    return True


def describe(summary: Mapping[str, Any]) -> str:
    """A few lines on what `start_from` did."""

    def names(what: str) -> str:
        parts = [f"{label} {', '.join(summary[f'{what}_{key}'])}" for key, label in labels if summary[f"{what}_{key}"]]
        return f"  {what}: {'; '.join(parts)}"

    labels = (("taken", "taken"), ("new", "new, freshly initialised:"), ("left_out", "left out:"))
    total = summary["tensors_taken"] + summary["tensors_fresh"]
    lines = [f"starting from {summary['file']}: {summary['tensors_taken']} of {total} tensors taken"]
    lines += [names("classes"), names("modalities")]
    if not summary["class_names_known"]:
        lines.append(
            "  it does not name its classes: "
            + ("their number agrees, so they are taken in order" if summary["classes_taken"] else "none is taken")
        )
    if summary["other_shape"]:
        lines.append(f"  of another size, so freshly initialised: {', '.join(summary['other_shape'][:6])}")
    lines += [f"  normalised in another way, {text}" for text in summary["normalised_otherwise"]]
    return "\n".join(lines)
