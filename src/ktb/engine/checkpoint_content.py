"""What a training's checkpoint holds of its model, and whether a checkpoint is of this model.

Checkpoints keep what training changed, trained parameters and running statistics; the rest is the backbone's file, and
output norms that are as they are built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ktb.errors import CheckpointError
from ktb.models.parts import in_full
from ktb.models.segmentor import PARTS, KTBSegmentor


def without_frozen(state: Mapping[str, Tensor], model: KTBSegmentor) -> dict[str, Tensor]:
    """The part of a training's state that can't be had from elsewhere.

    Args:
        state: of the LightningModule, "model.NAME" → tensor.
        model: its model.

    Returns:
        the state without the frozen backbone, and without frozen norms that are at identity.
    """
    frozen = {
        f"model.{k}"
        for k, p in model.named_parameters()
        if not p.requires_grad and bool((p == (1 if k.endswith(".weight") else 0)).all())
    }
    # Of the backbone its statistics too.
    return {k: v for k, v in state.items() if k not in frozen and not k.startswith("model.backbone.")}


def refuse_other_model(
    checkpoint: Mapping[str, Any], model: KTBSegmentor, *, base: str | None, holds_frozen: bool
) -> None:
    """Refuse to go on from a checkpoint of another model; loading itself is not strict, as frozen parameters may be
    absent.

    Args:
        checkpoint: its content.
        model: what is being trained.
        base: SHA-256 of the backbone's weights here; None: not known.
        holds_frozen: whether checkpoints of this run hold the backbone too.

    Raises:
        CheckpointError: another architecture, other modalities, other backbone weights, or trained parameters missing.
    """
    theirs = _in_full(checkpoint.get("ktb", {}).get("model"), model.config)
    if theirs != model.config:
        raise CheckpointError(f"the checkpoint holds another model: {_difference(theirs, model.config)}")
    trained = {f"model.{k}" for k, p in model.named_parameters() if p.requires_grad}
    if missing := sorted(trained - set(checkpoint["state_dict"])):
        raise CheckpointError(f"the checkpoint lacks {len(missing)} trained parameters, {missing[0]} among them")
    if list(theirs["modalities"]) != list(model.modalities):  # equal as dicts, in another order
        raise CheckpointError(
            f"the checkpoint's modalities are {list(theirs['modalities'])}, here {list(model.modalities)}"
        )
    its_base = checkpoint["ktb"].get("backbone", {})
    its_frozen = any(k.startswith("model.backbone.") for k in checkpoint["state_dict"])
    if its_frozen != holds_frozen or (base and not its_frozen and its_base.get("sha256") != base):
        raise CheckpointError(
            f"the checkpoint was trained on other backbone weights, backbone.weights={its_base.get('weights')}; pass "
            "those"
        )


def _in_full(config: dict[str, Any] | None, ours: Mapping[str, Any]) -> dict[str, Any] | None:
    """A model's description with all settings of its parts, also those younger than it.

    Args:
        config: out of a file, so only parts of the classes that our model has are completed, and no other is imported.
        ours: the description of our model.
    """
    if config is None:
        return None

    def completed(key: str, value: Any) -> Any:
        known = isinstance(ours.get(key), Mapping) and isinstance(value, Mapping)
        return in_full(value) if key in PARTS and known and value.get("_target_") == ours[key]["_target_"] else value

    return {key: completed(key, value) for key, value in config.items()}


def _difference(theirs: dict[str, Any] | None, ours: dict[str, Any]) -> str:
    """The settings of the model that differ, those of its backbone by their own names."""
    if theirs is None:
        return "it was not written by ktb-train"
    theirs, ours = (dict(_settings(config)) for config in (theirs, ours))
    keys = list(dict.fromkeys([*ours, *theirs]))
    return "; ".join(f"{k} is {theirs.get(k)}, here {ours.get(k)}" for k in keys if theirs.get(k) != ours.get(k))


def _settings(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; a part's class by its last name."""
    for key, value in config.items():
        if key == "_target_":
            yield path, str(value).rpartition(".")[2]
        elif isinstance(value, Mapping) and key != "modalities":
            yield from _settings(value, f"{path}.{key}" if path else key)
        else:
            yield f"{path}.{key}" if path else key, value
