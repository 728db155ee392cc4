"""The types of a configuration's fixed part, which Hydra checks what is composed against.

Data set, loss, trainer and loggers are keyword arguments of the classes they name, which check them; Hydra's struct
mode refuses keys that their files do not have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class ModalitySettings:
    name: str = MISSING
    streams: list[str] = MISSING


@dataclass
class BackboneSettings:
    name: str = MISSING
    timm_name: str | None = MISSING
    weights: str = MISSING
    embed_dim: int = MISSING
    depths: list[int] = MISSING
    num_heads: list[int] = MISSING
    window_size: int = MISSING
    mlp_ratio: float = MISSING
    drop_path: float = MISSING
    head_dim: int = MISSING
    side_head_dim: int = MISSING
    lr: float = 4e-4
    """Peak learning rate for data sets whose recipe has none of its own."""


@dataclass
class ModelSettings:
    fusion: str = MISSING
    prompts: bool = MISSING
    head_dim: int = MISSING
    side_head_dim: int = MISSING
    head_init: str = MISSING
    recompute: bool = MISSING
    channels_last: bool = MISSING
    compile: bool = MISSING


@dataclass
class OptimSettings:
    lr: float = MISSING
    weight_decay: float = MISSING
    warmup_epochs: float = MISSING
    warmup_ratio: float = MISSING
    power: float = MISSING


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
    overwrite: bool = False
    test: bool = True
    save: SaveSettings = field(default_factory=SaveSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    dataset: dict[str, Any] = MISSING
    modality: ModalitySettings = field(default_factory=ModalitySettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    loss: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    eval: dict[str, Any] = MISSING
    logger: dict[str, Any] | None = None
    published: dict[str, Any] | None = None
    """What an experiment of the model zoo reproduces: miou, split, source."""


@dataclass
class EvalSettings:
    checkpoint: str = MISSING
    split: str | None = None
    run_dir: str | None = None
    panels: int = MISSING
    seed: int = MISSING
    inherited: list[str] = MISSING
    dataset: dict[str, Any] = MISSING
    modality: ModalitySettings = field(default_factory=ModalitySettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    eval: dict[str, Any] = MISSING
    robustness: dict[str, Any] | None = None
    trainer: dict[str, Any] = MISSING
    published: dict[str, Any] | None = None


ConfigStore.instance().store(name="train_schema", node=TrainSettings)
ConfigStore.instance().store(name="eval_schema", node=EvalSettings)
