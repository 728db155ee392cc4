"""Bundles: a trained model as a folder to ship, after the conventions of the Hugging Face hub.

`model.safetensors` holds what was trained and the running statistics, and in its header all that `ktb-eval`,
`ktb-predict` and `load_model` need; `config.json` repeats that for people and tools, `config.yaml` is the run's own
configuration, `README.md` the model card. The frozen backbone is left out when it is known under a name, and then
named with its SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ktb.errors import CheckpointError
from ktb.io import expanded
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.card import model_card
from ktb.weights.files import save_safetensors, written
from ktb.weights.hub import BUNDLE_WEIGHTS, TO_BE_HAD
from ktb.weights.states import fingerprint, refuse_not_finite

FORMAT = 1
"""Raised when a reader of today could not read what is written."""


def left_out(model: KTBSegmentor, *, whole: bool) -> set[str]:
    """Names of the model's state that need not be stored.

    Args:
        model: what is shipped.
        whole: whether its frozen backbone is stored.

    Returns:
        the backbone's names, unless `whole`, and those of output norms at identity.
    """
    state = model.state_dict()
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    norms = {
        k
        for k in state
        if k.startswith(("norms.", "fused_norms."))
        and k not in trained
        and bool((state[k] == (1 if k.endswith(".weight") else 0)).all())
    }
    return norms | (set() if whole else {k for k in state if k.startswith("backbone.")})


def knows_its_base(model: KTBSegmentor) -> bool:
    """Whether `about` names weights that can be had again and that the model's backbone still is."""
    base = model.about.get("backbone") or {}
    return base.get("weights") not in (None, "random") and base.get("sha256") == fingerprint(model.backbone)


def save_file_of(model: KTBSegmentor, file: Path, *, whole: bool) -> dict[str, Any]:
    """Write one .safetensors file that `load_model` reads.

    Args:
        model: with what is known of it in `about`.
        file: where to.
        whole: whether its frozen backbone is stored.

    Returns:
        what the file's header says about the model.

    Raises:
        CheckpointError: weights that are not finite, or the file can't be written.
    """
    about = {"format": FORMAT, **model.about, "model": model.config}
    if not whole:
        about["backbone"] = _portable(about["backbone"])
    skipped = left_out(model, whole=whole)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if k not in skipped}
    refuse_not_finite(state, f"{file}: not written: the model")
    save_safetensors(state, file, {"ktb": json.dumps(about)})
    return about


def save_bundle(model: KTBSegmentor, folder: str | Path, *, run_config: str | None = None) -> int:
    """Write a bundle.

    Args:
        model: with what is known of it in `about`.
        folder: new or empty.
        run_config: the run's configuration as YAML, for `ktb-eval`.

    Returns:
        size of its tensors' file in bytes.

    Raises:
        CheckpointError: the folder holds something already or can't be written.
    """
    folder = expanded(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: exists already; choose a new folder for the bundle")
    whole = not knows_its_base(model)
    if run_config is not None:
        model.about["config"] = run_config
    with written(folder) as partial:
        partial.mkdir()
        weights = partial / BUNDLE_WEIGHTS
        about = save_file_of(model, weights, whole=whole)
        config = {k: v for k, v in about.items() if k != "config"}
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if isinstance(about.get("config"), str):
            (partial / "config.yaml").write_text(about["config"], encoding="utf-8")
        size = weights.stat().st_size
        (partial / "README.md").write_text(model_card(model, about, folder.name, size, whole=whole), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
    return size


def _portable(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Base weights by name: the path they had on the machine of the training is nobody's business."""
    weights = str(backbone["weights"])
    return {**backbone, "weights": weights if weights in TO_BE_HAD else Path(weights).name}
