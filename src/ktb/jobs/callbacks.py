"""Callbacks of the group callbacks, and what of them a checkpoint holds."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from ktb.config.build import instantiate
from ktb.engine.callbacks.early_stopping import EarlyStopping, has_stopped
from ktb.engine.callbacks.ema import EMA, without_average
from ktb.engine.callbacks.gradient_clipping import GradientClipping
from ktb.errors import ConfigError
from ktb.jobs.lightning_callbacks import refuse_unfit
from ktb.models.imports import is_of_library, place_of
from ktb.run_folder.result import RunResult


def build_callbacks(cfg: DictConfig) -> dict[str, Callback]:
    """The callbacks that the user chose.

    Args:
        cfg: of ktb-train.

    Returns:
        Name in the group callbacks → callback.

    Raises:
        ConfigError: no callback, or one that can't work with the other settings.
    """
    found: dict[str, Callback] = {}
    for name, node in cfg.callbacks.items():
        if node is None:
            continue
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise ConfigError(f"callbacks.{name}={node}: expected a class, +callbacks.{name}._target_=...")
        callback = instantiate(node)
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks.{name}._target_={node._target_} is no lightning.pytorch.callbacks.Callback")
        _refuse_hooks(str(name), callback)
        refuse_unfit(name, callback, cfg.get("metrics") or ())
        if isinstance(callback, EarlyStopping) and cfg.trainer.limit_val_batches == 0:
            raise ConfigError(f"callbacks.{name} goes by the validation mIoU, but trainer.limit_val_batches=0")
        if isinstance(callback, GradientClipping) and cfg.trainer.gradient_clip_val is not None:
            raise ConfigError(
                f"callbacks.{name} and trainer.gradient_clip_val={cfg.trainer.gradient_clip_val} both clip gradients: "
                "give one of them"
            )
        found[str(name)] = callback
    keys = [callback.state_key for callback in found.values()]
    if twice := {type(c).__name__ for c in found.values() if keys.count(c.state_key) > 1}:
        raise ConfigError(f"callbacks: {', '.join(sorted(twice))} is there more than once")
    return found


def _refuse_hooks(name: str, callback: Callback) -> None:
    """Refuse a callback of the user's own with a hook that Lightning calls with other arguments.

    Raises:
        ConfigError: naming the hook and its arguments.
    """
    cls = type(callback)
    for hook, described in vars(Callback).items():
        method = getattr(cls, hook)
        if hook.startswith("_") or not inspect.isfunction(described) or method is described or is_of_library(cls):
            continue
        parameters = list(inspect.signature(described).parameters.values())[1:]  # without self
        given = [p.name for p in parameters if p.default is p.empty]
        signature = inspect.signature(getattr(callback, hook))
        try:
            signature.bind(*(p for p in given if p != "stage"), **({"stage": "fit"} if "stage" in given else {}))
        except TypeError:
            raise ConfigError(
                f"callbacks.{name}: {cls.__module__}.{cls.__qualname__}: its method {hook}{signature} is called as "
                f"{hook}({', '.join(given)}){place_of(cls, hook)}"
            ) from None


def settle_callbacks(content: dict[str, Any], callbacks: Sequence[Callback]) -> None:
    """Take out of a checkpoint what callbacks have put into it that training goes on without.

    Args:
        content: changed in place.
        callbacks: those of the training to come.
    """
    here = {callback.state_key for callback in callbacks}
    for key in [key for key in content["callbacks"] if key not in here]:
        state = content["callbacks"].pop(key)
        if key == EMA.__qualname__:
            without_average(content, state)


def stopped_early(content: dict[str, Any], cfg: DictConfig) -> str | None:
    """Where a checkpoint's training was stopped early; None also where early stopping is more patient now."""
    state = content["callbacks"].get(EarlyStopping.__qualname__)
    own = f"{EarlyStopping.__module__}.{EarlyStopping.__qualname__}"
    for name, node in cfg.callbacks.items() if state else ():
        if node is not None and node.get("_target_") == own and has_stopped(state, node.patience):
            patience = f"callbacks.{name}.patience={node.patience}"
            return f"epoch {state['epochs']}, where it was stopped early ({patience}; a larger one trains on)"
    return None


def early_stopping(trainer: L.Trainer) -> RunResult:
    """What result.json says of a training that early stopping has just ended; nothing of any other."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and (why := callback.reason()) is not None:
            assert callback.epochs is not None
            if trainer.is_global_zero:
                print(f"stopped early, in epoch {callback.epochs}: {why}", flush=True)
            return {"stopped_early": why, "epochs": callback.epochs}
    return {}
