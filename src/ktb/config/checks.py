"""Values that no type rules out and that cannot work: each is refused in one line, before anything is built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ktb.config.keys import leaves, missing_names
from ktb.config.moved import current_target
from ktb.errors import ConfigError, did_you_mean, first_line
from ktb.io import expanded


def check(cfg: DictConfig) -> None:
    """Settings that no type rules out and that would fail later or, worse, not fail; `~` becomes the home it means.

    Groups that ktb-eval will take from the checkpoint's run (`inherited`) are left to `merge_saved`.

    Raises:
        ConfigError: a missing value, an interpolation that leads nowhere, a value out of range, a contradiction.
    """
    looked_at = [str(key) for key in cfg if key not in (cfg.get("inherited") or ())]
    for group in ("dataset", "modality", "backbone", "loss", "trainer", "eval"):
        if group in looked_at and not OmegaConf.is_missing(cfg, group) and cfg[group] is None:
            raise ConfigError(f"{group}=null: choose one with {group}=...")
    if missing := sorted(key for key in missing_names(cfg) if key.split(".")[0] in looked_at):
        if missing == ["checkpoint"]:
            raise ConfigError("no checkpoint given: ktb-eval checkpoint=RUN_FOLDER or a .ckpt, .pth, .safetensors file")
        raise ConfigError(f"{', '.join(missing)} must be given: {missing[0]}=...")
    values: dict[str, Any] = {}
    for key in looked_at:
        try:
            value = cfg[key]
            values[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            raise ConfigError(_with_key(error)) from None
    for key, value in leaves(values):
        if isinstance(value, str) and value.startswith("~") and ".classes[" not in key:
            OmegaConf.update(cfg, key, str(expanded(value)))
        elif isinstance(value, str) and key.rpartition(".")[2] == "_target_" and value != current_target(value):
            OmegaConf.update(cfg, key, current_target(value))

    def within(key: str, low: float, high: float = float("inf"), *, open_low: bool = False) -> None:
        value: Any = values
        for part in key.split("."):
            if not isinstance(value, dict) or value.get(part) is None:
                return  # not a setting of this command or data set
            value = value[part]
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{key}={value}: expected a number")
        if not low <= value <= high or (open_low and value == low):
            least = f"above {low:g}" if open_low else f"{low:g} or more"
            raise ConfigError(f"{key}={value:g}: expected {least}" + (f", at most {high:g}" if high < 1e300 else ""))

    def one_of(key: str, value: Any, allowed: Sequence[str]) -> None:
        if value not in allowed:
            meant = did_you_mean(str(value), allowed, cutoff=0.5, before=": ")
            raise ConfigError(f"{key}={value}: expected {_alternatives(allowed)}{meant}")

    if "modality" in values:
        streams = values["modality"]["streams"]
        if not streams:
            raise ConfigError("modality.streams is empty: name one stream or more, e.g. modality.streams=[rgb,depth]")
        if repeated := sorted({name for name in streams if streams.count(name) > 1}):
            raise ConfigError(f"modality.streams={_flow(streams)}: '{repeated[0]}' appears more than once")
    if "backbone" in values:
        depths, heads = values["backbone"]["depths"], values["backbone"]["num_heads"]
        if len(depths) != 4 or len(heads) != 4:
            both = f"backbone.depths={_flow(depths)}, num_heads={_flow(heads)}"
            raise ConfigError(f"{both}: expected one entry per stage, 4")
    if "model" in values:
        one_of("model.fusion", values["model"]["fusion"], ("dscf", "sum"))
        one_of("model.head_init", values["model"].get("head_init", "published"), ("published", "small"))
    for key in ("pixel_loss", "kind"):
        if key in (values.get("loss") or {}):
            one_of(f"loss.{key}", values["loss"][key], ("ce", "ohem"))
    _check_class_weights((values.get("loss") or {}).get("class_weights"))
    if "eval" in values:
        if absent := [key for key in ("name", "method", "scoring") if key not in values["eval"]]:
            raise ConfigError(f"the chosen member of the group eval has no {absent[0]}; see conf/eval/whole.yaml")
        one_of("eval.scoring", values["eval"]["scoring"], ("native", "published"))
    if values.get("overwrite") and values.get("ckpt_path") is not None:
        raise ConfigError(f"overwrite=true starts anew but ckpt_path={values['ckpt_path']} continues: give one of them")

    within("seed", 0, 2**32 - 1)
    within("panels", 0)
    within("dataset.batch_size", 1)
    within("dataset.eval_batch_size", 1)
    within("dataset.num_workers", 0)
    within("backbone.drop_path", 0, 1)
    if values["trainer"].get("max_epochs", 1) is None:
        raise ConfigError("trainer.max_epochs=null: expected a number, the learning-rate schedule ends with it")
    within("trainer.max_epochs", 1)
    within("trainer.max_steps", -1)
    if str(values["trainer"].get("precision", "")).endswith(("16-true", "transformer-engine")):
        raise ConfigError(
            f"trainer.precision={values['trainer']['precision']}: expected 32-true, 64-true, 16-mixed or bf16-mixed"
        )
    for key in ("check_val_every_n_epoch", "accumulate_grad_batches", "log_every_n_steps"):
        within(f"trainer.{key}", 1)
    within("save.every_n_steps", 1)
    within("save.every_n_minutes", 0)
    within("save.keep", 1)
    within("model.head_dim", 1)
    within("model.side_head_dim", 1)
    within("optim.lr", 0, open_low=True)
    within("optim.weight_decay", 0)
    within("optim.warmup_epochs", 0)
    within("optim.warmup_ratio", 0, 1)
    within("optim.power", 0)
    within("loss.side_weight", 0)


def _check_class_weights(value: Any) -> None:
    if value is None or value == "auto":
        return
    if not isinstance(value, list) or any(isinstance(w, bool) or not isinstance(w, int | float) for w in value):
        raise ConfigError(f"loss.class_weights={value}: expected auto, or one number per class: [1, 2.5, 6]")
    if not all(0 <= w < float("inf") for w in value) or not any(value):
        raise ConfigError(f"loss.class_weights={_flow(value)}: expected numbers of 0 or more, not all 0")


def _alternatives(names: Sequence[str]) -> str:
    return " or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}"


def _flow(items: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, items))}]"


def _with_key(error: OmegaConfBaseException) -> str:
    """The first line of an error, after the setting that it says it is about."""
    keys = re.findall(r"^\s*full_key:[ \t]*(\S.*?)\s*$", str(error), re.MULTILINE)
    line = first_line(error, limit=None)
    return f"{keys[0]}: {line}" if keys else line
