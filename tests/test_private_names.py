"""Names of other packages that are not public: each use is known, and still there in the release that is installed."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import albumentations
import lightning
import optuna
import pytest
import timm.models
import torch
import torch.utils.data

ROOT = Path(__file__).parents[1]


def _trainer() -> lightning.Trainer:
    return lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def _module(name: str) -> Any:
    return __import__(name, fromlist=["x"])


def _workspace() -> Any:
    return pytest.importorskip("wandb_workspaces.workspaces").Workspace


ATEN: Callable[[], Any] = lambda: torch.ops.aten  # noqa: E731
STORAGE: Callable[[], Any] = lambda: torch.zeros(1).untyped_storage()  # noqa: E731
FAKE: Callable[[], Any] = lambda: _module("torch._subclasses.fake_tensor")  # noqa: E731

USED: dict[tuple[str, str], tuple[Callable[[], Any], str]] = {
    ("src/hydra_plugins/ktb_optuna.py", "_trial_id"): (lambda: optuna.trial.create_trial(value=1.0), "_trial_id"),
    ("src/ktb/cli/arguments.py", "_ArgumentGroup"): (lambda: argparse, "_ArgumentGroup"),
    ("src/ktb/cli/hydra_flags.py", "hydra._internal.utils"): (
        lambda: _module("hydra._internal.utils"),
        "get_args_parser",
    ),
    ("src/ktb/cli/predict.py", "_option_string_actions"): (argparse.ArgumentParser, "_option_string_actions"),
    ("src/ktb/data/augment.py", "_key2func"): (albumentations.HorizontalFlip, "_key2func"),
    ("src/ktb/engine/callbacks/finite.py", "_foreach_norm"): (lambda: torch, "_foreach_norm"),
    ("src/ktb/engine/callbacks/saving.py", "_data_fetcher"): (lambda: _trainer().fit_loop, "_data_fetcher"),
    ("src/ktb/engine/callbacks/saving.py", "_should_check_val_fx"): (
        lambda: _trainer().fit_loop.epoch_loop,
        "_should_check_val_fx",
    ),
    ("src/ktb/engine/callbacks/early_stopping.py", "_should_skip_check"): (
        lambda: lightning.pytorch.callbacks.EarlyStopping,
        "_should_skip_check",
    ),
    ("src/ktb/models/backbones/pyramid.py", "_pos_embed"): (
        lambda: _module("timm.models.hieradet_sam2").HieraDet,
        "_pos_embed",
    ),
    ("src/ktb/models/backbones/swin.py", "_scaled_dot_product_cudnn_attention"): (
        ATEN,
        "_scaled_dot_product_cudnn_attention",
    ),
    ("src/ktb/models/backbones/swin.py", "_scaled_dot_product_efficient_attention"): (
        ATEN,
        "_scaled_dot_product_efficient_attention",
    ),
    ("src/ktb/models/backbones/swin.py", "_scaled_dot_product_flash_attention"): (
        ATEN,
        "_scaled_dot_product_flash_attention",
    ),
    ("src/ktb/models/backbones/swin.py", "_scaled_dot_product_flash_attention_for_cpu"): (
        ATEN,
        "_scaled_dot_product_flash_attention_for_cpu",
    ),
    ("src/ktb/models/backbones/vit.py", "_pos_embed"): (lambda: timm.models.VisionTransformer, "_pos_embed"),
    ("src/ktb/models/layers/linear.py", "_linear_pointwise"): (lambda: torch.ops.mkldnn, "_linear_pointwise"),
    ("src/ktb/models/layers/statistics.py", "_NormBase"): (lambda: torch.nn.modules.batchnorm, "_NormBase"),
    ("src/ktb/models/layers/window_fast.py", "_get_rel_pos_bias"): (
        lambda: _module("timm.models.swin_transformer").WindowAttention,
        "_get_rel_pos_bias",
    ),
    ("src/ktb/models/layers/backbone_linear.py", "_forward_hooks"): (lambda: torch.nn.Linear(1, 1), "_forward_hooks"),
    ("src/ktb/models/layers/backbone_linear.py", "_forward_pre_hooks"): (
        lambda: torch.nn.Linear(1, 1),
        "_forward_pre_hooks",
    ),
    ("src/ktb/report/wandb_workspace.py", "_to_model"): (_workspace, "_to_model"),
    ("src/ktb/export/file.py", "_config"): (
        lambda: _module("torch.fx.experimental._config"),
        "backed_size_oblivious",
    ),
    ("scripts/bench.py", "_linear_pointwise"): (lambda: torch.ops.mkldnn, "_linear_pointwise"),
    ("scripts/bench.py", "_scaled_dot_product_flash_attention_for_cpu"): (
        ATEN,
        "_scaled_dot_product_flash_attention_for_cpu",
    ),
    ("scripts/bench_loader.py", "_iterator"): (lambda: torch.utils.data.DataLoader([0]), "_iterator"),
    ("scripts/bench_loader.py", "_workers"): (
        lambda: _module("torch.utils.data.dataloader")._MultiProcessingDataLoaderIter.__init__.__code__,
        "co_names",
    ),
    ("scripts/memory.py", "_cdata"): (STORAGE, "_cdata"),
    ("scripts/memory.py", "torch._subclasses.fake_tensor"): (FAKE, "unset_fake_temporarily"),
}
"""(file, name) → the object that has it, and the name that has to be there."""

PUBLIC = ("_replace", "_fields", "_asdict")
"""Of a namedtuple: documented, in spite of their names."""


def is_private(name: str) -> bool:
    """Whether a name says that it is for its own package; _target_ and the like are keys of configurations."""
    return name.startswith("_") and not name.endswith("_") and not name.startswith("__") and name not in PUBLIC


def own_names(trees: dict[str, ast.Module]) -> set[str]:
    """Names that the files themselves define."""
    names: set[str] = set()
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


def foreign(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """Private names in a file that none of ours defines: attributes, imports, and names given to getattr."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in ("ktb", "hydra_plugins"):
            if any(is_private(part) for part in (node.module or "").split(".")):
                yield str(node.module)
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in own:
                yield str(name.value)


def used() -> set[tuple[str, str]]:
    files = sorted(file for folder in ("src", "scripts") for file in (ROOT / folder).rglob("*.py"))
    trees = {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}
    own = own_names(trees)
    return {(file, name) for file, tree in trees.items() for name in foreign(tree, own)}


def test_every_use_is_known() -> None:
    """A new one needs a reason, one function around it, and a line in `USED`; one that went loses its line."""
    assert used() == set(USED)


def test_a_new_one_would_be_noticed() -> None:
    code = "import x\nfrom lightning.a._b import c\nfrom torch import _d\nx._e(x._mine)\ngetattr(x, '_f', x._replace)\n"
    assert sorted(foreign(ast.parse(code), {"_mine"})) == ["_d", "_e", "_f", "lightning.a._b"]


@pytest.mark.parametrize(("file", "name"), USED)
def test_it_is_still_there(file: str, name: str) -> None:
    thing, attribute = USED[file, name]
    assert hasattr(thing(), attribute), f"{name}, which {file} uses, is gone in the release that is installed"
