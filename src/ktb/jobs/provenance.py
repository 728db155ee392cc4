"""What a job writes down about itself: how it scored, on what it ran, from which code and weights."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ktb.data import label_size, magnitudes
from ktb.data.module import RGBXDataModule
from ktb.data.preparation import preparation
from ktb.engine.inference import describe
from ktb.jobs.build import plain, without
from ktb.jobs.measure import peak_memory
from ktb.models.profile import flops
from ktb.models.segmentor import KTBSegmentor
from ktb.run_folder.result import Operations, Protocol, RunResult
from ktb.weights.hub import TO_BE_HAD

PACKAGE = Path(__file__).parents[1]
"""The folder of ktb itself."""


def facts(cfg: DictConfig, data: RGBXDataModule, model: KTBSegmentor, started: float) -> RunResult:
    parameters = {"total": sum(p.numel() for p in model.parameters())}
    parameters["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    packages = ("ktb", "torch", "lightning", "timm", "torchmetrics", "albumentations", "numpy")
    return {
        "dataset": data.spec.name,
        "split": data.spec.report_split,
        "protocol": _protocol(cfg, data.spec.mean_without),
        "modalities": [m.name for m in data.modalities],
        "backbone": cfg.backbone.name,
        "seed": cfg.seed,
        "parameters": parameters,
        "operations": _operations(data, model) if cfg.get("test", True) else None,
        "wall_time_s": round(time.time() - started, 1),
        "peak_memory_mb": None if (peak := peak_memory()) is None else round(peak / 2**20),
        "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "git": git_state(),
        "command": sys.argv,
    }


def _operations(data: RGBXDataModule, model: KTBSegmentor) -> Operations | None:
    """Operations for one image of the report split, as large as the model gets it; None where they can't be counted."""
    samples = data.dataset(data.spec.report_split)
    height, width = next(iter(samples[0]["inputs"].values())).shape[-2:]
    try:
        return {"size": [height, width], "flops": flops(model, (height, width))}
    except Exception:  # a part of the user's own may ask for values, which tensors that only have a shape do not have
        return None


def git_state(package: Path = PACKAGE) -> dict[str, Any] | None:
    """The commit of the checkout that ktb runs from, and whether files of it have changed since; None for an installed
    wheel.

    Args:
        package: the folder of the package ktb.
    """

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *args],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        if not Path(git("rev-parse", "--show-toplevel"), "src", "ktb").samefile(package):
            return None  # a repository that merely contains the virtual environment
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _protocol(cfg: DictConfig, mean_without: Sequence[str]) -> Protocol:
    """How the split was scored: the name of the group's member, in words, its settings, and the classes that the means
    leave out."""
    settings = plain(without(cfg.eval, "name"))
    description = describe(**settings)
    if mean_without:
        description += f", means without {', '.join(mean_without)}"
    return {
        "name": cfg.eval.name,
        "description": description,
        "settings": settings,
        "mean_without": list(mean_without),
    }


def provenance(cfg: DictConfig, data: RGBXDataModule, sha256: str) -> dict[str, Any]:
    weights = cfg.backbone.weights
    sizes = label_size.measure(data, "train")
    return {
        "config": OmegaConf.to_yaml(cfg, resolve=True),
        "dataset": data.spec.name,
        "classes": list(data.spec.classes),
        "palette": [list(colour) for colour in data.spec.palette],
        "modalities": [asdict(m) for m in data.modalities],
        "preparation": preparation(data, label_size.known(sizes)),
        "values": magnitudes.measure(data, "train"),
        "label_size": sizes,
        "backbone": {
            "name": cfg.backbone.name,
            "timm_name": cfg.backbone.get("timm_name"),
            "weights": weights if weights in (*TO_BE_HAD, "random") else str(Path(weights).absolute()),
            "sha256": sha256,
        },
        "version": version("ktb"),
    }
