"""The types of a configuration's fixed part, which Hydra checks what is composed against.

Data set, parts of the model, loss, optimiser, schedule, callbacks, trainer and loggers are keyword arguments of the
classes they name, which check them; Hydra's struct mode refuses keys that their files do not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class ModalitySettings:
    name: str = MISSING
    streams: list[str] = MISSING


@dataclass
class ModelSettings:
    """Settings of the model that belong to none of its parts.

    The last five are older names of settings of its parts (`fusion=`, `peft.prompts`, `head.width`, `head.side.width`,
    `head.init`), which older sweeps and command lines have.
    """

    recompute: bool = MISSING
    channels_last: bool = MISSING
    compile: bool = MISSING
    fusion: str | None = None
    prompts: bool | None = None
    head_dim: int | None = None
    side_head_dim: int | None = None
    head_init: str | None = None


def _older_settings_of_optim() -> dict[str, Any]:
    """Names of settings of the schedule in older sweeps and command lines, which belonged to the optimiser then."""
    return {"warmup_epochs": None, "warmup_ratio": None, "power": None}


@dataclass
class SaveSettings:
    every_n_steps: int | None = MISSING
    every_n_minutes: float | None = MISSING
    keep: int = MISSING


@dataclass
class TrainSettings:
    seed: int = MISSING
    run_dir: str = MISSING
    ckpt_path: str | None = None
    init_from: str | None = None
    trust: Any = None
    overwrite: bool = False
    test: bool = True
    save: SaveSettings = field(default_factory=SaveSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: dict[str, Any] = field(default_factory=_older_settings_of_optim)
    dataset: dict[str, Any] = MISSING
    modality: ModalitySettings = field(default_factory=ModalitySettings)
    backbone: dict[str, Any] = MISSING
    peft: dict[str, Any] = MISSING
    fusion: dict[str, Any] = MISSING
    head: dict[str, Any] = MISSING
    loss: dict[str, Any] = MISSING
    schedule: dict[str, Any] = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = MISSING
    eval: dict[str, Any] = MISSING
    metrics: dict[str, Any] | None = None
    robustness: dict[str, Any] | None = None
    logger: dict[str, Any] | None = None
    published: dict[str, Any] | None = None
    """What an experiment of the model zoo reproduces: miou, split, source."""


@dataclass
class EvalSettings:
    checkpoint: str = MISSING
    trust: Any = None
    split: str | None = None
    run_dir: str | None = None
    panels: int = MISSING
    seed: int = MISSING
    inherited: list[str] = MISSING
    dataset: dict[str, Any] = MISSING
    modality: ModalitySettings = field(default_factory=ModalitySettings)
    backbone: dict[str, Any] = MISSING
    eval: dict[str, Any] = MISSING
    robustness: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    trainer: dict[str, Any] = MISSING
    published: dict[str, Any] | None = None


BACKBONE_FACTS = ("name", "weights", "head_dim", "side_head_dim", "lr")
"""Settings of the group backbone that are not arguments of the class that it names."""


def spec_of_backbone(node: Mapping[str, Any]) -> dict[str, Any]:
    """Class and settings of a backbone.

    Args:
        node: a member of the group backbone, as plain values.
    """
    # For Swin, whose numbers say all, the name on timm's hub says only where weights are; others may have none.
    of_timm = "embed_dim" not in node and node.get("timm_name") is not None
    facts = BACKBONE_FACTS if of_timm else (*BACKBONE_FACTS, "timm_name")
    return {key: value for key, value in node.items() if key not in facts}


ConfigStore.instance().store(name="train_schema", node=TrainSettings)
ConfigStore.instance().store(name="eval_schema", node=EvalSettings)
