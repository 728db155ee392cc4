"""Values that no type rules out and that cannot work: each is refused in one line, before anything is built."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ktb.config.keys import leaves, missing_names, unresolved
from ktb.config.moved import with_current_settings
from ktb.config.overrides import PATHS
from ktb.config.trust import Trust
from ktb.errors import ConfigError, did_you_mean, first_line
from ktb.io import expanded

_GROUPS = ("dataset", "modality", "backbone", "peft", "fusion", "head", "loss", "optim", "schedule", "trainer", "eval")
"""Groups of which one member is needed."""
PIXEL_LOSSES = ("ce", "ohem", "dice", "lovasz")
"""Names of losses of one head, as `ktb.losses.pixel` has them."""

RANGES: tuple[tuple[str, float, float], ...] = (
    ("seed", 0, 2**32 - 1),
    ("panels", 0, math.inf),
    ("dataset.seed", 0, 2**32 - 1),
    ("dataset.batch_size", 1, math.inf),
    ("dataset.eval_batch_size", 1, math.inf),
    ("dataset.num_workers", 0, math.inf),
    ("backbone.drop_path", 0, 1),
    ("trainer.max_epochs", 1, math.inf),
    ("trainer.max_steps", -1, math.inf),
    ("trainer.check_val_every_n_epoch", 1, math.inf),
    ("trainer.accumulate_grad_batches", 1, math.inf),
    ("trainer.log_every_n_steps", 1, math.inf),
    ("trainer.gradient_clip_val", 0, math.inf),
    ("save.every_n_steps", 1, math.inf),
    ("save.every_n_minutes", 0, math.inf),
    ("save.keep", 1, math.inf),
    ("head.width", 1, math.inf),
    ("head.side.width", 1, math.inf),
    ("optim.lr", 0, math.inf),
    ("optim.weight_decay", 0, math.inf),
    ("schedule.warmup_epochs", 0, math.inf),
    ("schedule.warmup_ratio", 0, 1),
    ("schedule.power", 0, math.inf),
    ("schedule.min_ratio", 0, 1),
    ("loss.side_weight", 0, math.inf),
    ("loss.label_smoothing", 0, 1),
)
"""Setting, least and largest value."""
WHOLE = (
    "seed", "dataset.batch_size", "dataset.eval_batch_size", "dataset.num_workers", "trainer.max_epochs",
    "trainer.max_steps", "trainer.check_val_every_n_epoch", "trainer.accumulate_grad_batches",
    "trainer.log_every_n_steps", "save.every_n_steps", "save.keep",
)  # fmt: skip
"""Those that count something."""
ABOVE = ("optim.lr",)
"""Those of which the least value itself is too small."""


def check(cfg: DictConfig) -> None:
    """Refuse settings that no type rules out and that would fail later or, worse, not fail.

    Args:
        cfg: as composed. A leading `~` of a value becomes the home that it means, a path that exists in another form
            of Unicode that form, and the name of a class that it has today. Groups that ktb-eval will take from the
            checkpoint's run (`inherited`) are left to `merge_saved`.

    Raises:
        ConfigError: a missing value, an interpolation that leads nowhere, a value out of range, a contradiction.
    """
    _bring_up_to_date(cfg)
    looked_at = [str(key) for key in cfg if key not in (cfg.get("inherited") or ())]
    _refuse_missing(cfg, looked_at)
    values = _values(cfg, looked_at)
    for key, value in leaves(values):
        if key in PATHS and isinstance(value, str) and not value.strip():
            raise ConfigError(f"{key} is empty, which would mean the current folder; is a variable not set?")
        of_another_form = key in PATHS and not str(value).isascii()
        if isinstance(value, str) and (of_another_form or (value.startswith("~") and ".classes[" not in key)):
            OmegaConf.update(cfg, key, str(expanded(value)))
        if isinstance(value, float) and math.isnan(value) and not key.endswith(".hole_value"):
            raise ConfigError(f"{key}=nan: is not a number, and everything that follows from it would be none")
    _check_choices(values)
    Trust.of(values.get("trust"))
    if values.get("overwrite") and values.get("ckpt_path") is not None:
        raise ConfigError(f"overwrite=true starts anew but ckpt_path={values['ckpt_path']} continues: give one of them")
    _check_trainer(values["trainer"])
    for key, low, high in RANGES:
        _check_range(values, key, low, high)


def _bring_up_to_date(cfg: DictConfig) -> None:
    """Put classes and settings where they are now, in a user's YAML file or on a command line of earlier days."""
    given = unresolved(cfg)
    now = with_current_settings(given)
    with open_dict(cfg):
        for key, value in now.items():
            if key != "model" and value != given.get(key):
                OmegaConf.update(cfg, key, value, merge=False)
        for key in cfg.get("model") or ():
            if key not in now["model"]:
                cfg.model[key] = None


def _refuse_missing(cfg: DictConfig, looked_at: Sequence[str]) -> None:
    """Raise ConfigError for a group without member and for settings without a value."""
    for group in _GROUPS:
        if group in looked_at and not OmegaConf.is_missing(cfg, group) and cfg[group] is None:
            raise ConfigError(f"{group}=null: choose one with {group}=...")
    if missing := sorted(key for key in missing_names(cfg) if key.split(".")[0] in looked_at):
        if missing == ["checkpoint"]:
            raise ConfigError("no checkpoint given: ktb-eval checkpoint=RUN_FOLDER or a .ckpt, .pth, .safetensors file")
        raise ConfigError(f"{', '.join(missing)} must be given: {missing[0]}=...")


def _values(cfg: DictConfig, looked_at: Sequence[str]) -> dict[str, Any]:
    """The values as plain objects, references followed; ConfigError for one that leads nowhere."""
    values: dict[str, Any] = {}
    for key in looked_at:
        try:
            value = cfg[key]
            values[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            raise ConfigError(_with_key(error)) from None
    return values


def _check_choices(values: Mapping[str, Any]) -> None:
    """Lists of a certain length and words out of a few."""
    if "modality" in values:
        streams = values["modality"]["streams"]
        if streams is not None and not isinstance(streams, list):
            raise ConfigError(f"modality.streams={streams}: expected a list: [rgb,depth]")
        if not streams:
            raise ConfigError("modality.streams is empty: name one stream or more, e.g. modality.streams=[rgb,depth]")
        if repeated := sorted({name for name in streams if streams.count(name) > 1}):
            raise ConfigError(f"modality.streams={_flow(streams)}: '{repeated[0]}' appears more than once")
    backbone = values.get("backbone") or {}
    if "weights" in backbone and not isinstance(backbone["weights"], str):
        found = "null" if backbone["weights"] is None else backbone["weights"]
        raise ConfigError(f"backbone.weights={found}: expected hub, offline, bundled, random or the path of a file")
    depths, heads = (backbone.get(key) for key in ("depths", "num_heads"))
    if isinstance(depths, list) and isinstance(heads, list) and (len(depths) != 4 or len(heads) != 4):
        both = f"backbone.depths={_flow(depths)}, num_heads={_flow(heads)}"
        raise ConfigError(f"{both}: expected one entry per stage, 4")
    if "head" in values:
        side = values["head"].get("side")
        if side is not None and not isinstance(side, dict):
            raise ConfigError(f"head.side={side}: expected settings of its own, such as head.side.width=64")
        _check_word("head.init", values["head"].get("init", "published"), ("published", "small"))
    loss = values.get("loss") or {}
    for key in ("pixel_loss", "kind"):
        if key in loss:
            _check_pixel_loss(f"loss.{key}", loss[key])
    _check_class_weights(loss.get("class_weights"))
    for name, logger in (values.get("logger") or {}).items():
        if isinstance(logger, dict) and str(logger.get("_target_")).endswith(".WandbLogger") and "mode" in logger:
            _check_word(
                f"logger.{name}.mode", logger["mode"], ("online", "offline", "disabled", "shared", "run", "dryrun")
            )
    if "eval" in values:
        if absent := [key for key in ("name", "method", "scoring") if key not in values["eval"]]:
            raise ConfigError(f"the chosen member of the group eval has no {absent[0]}; see conf/eval/whole.yaml")
        _check_word("eval.scoring", values["eval"]["scoring"], ("native", "published"))


def _check_word(key: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        meant = did_you_mean(str(value), allowed, cutoff=0.5, before=": ")
        raise ConfigError(f"{key}={value}: expected {_alternatives(allowed)}{meant}")


def _check_pixel_loss(key: str, value: Any) -> None:
    """A name, a weighted sum of names, or something of the user's own, which has a `_target_`."""
    own = isinstance(value, dict) and "_target_" in value
    for name, weight in value.items() if isinstance(value, dict) and not own else ():
        if isinstance(weight, dict) and "_target_" in weight:
            continue
        _check_word(key, name, PIXEL_LOSSES)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ConfigError(f"{key}.{name}={weight}: expected its weight in the sum, a number of 0 or more")
    if not isinstance(value, dict):
        _check_word(key, value, PIXEL_LOSSES)


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    if not isinstance(trainer.get("sync_batchnorm", True), bool):
        raise ConfigError(f"trainer.sync_batchnorm={trainer['sync_batchnorm']}: expected true or false")
    if trainer.get("max_epochs", 1) is None:
        raise ConfigError("trainer.max_epochs=null: expected a number, the learning-rate schedule ends with it")
    if trainer.get("max_steps") == 0:
        raise ConfigError("trainer.max_steps=0: nothing would be trained; expected 1 or more, or -1 for no limit")
    if str(trainer.get("precision", "")).endswith(("16-true", "transformer-engine")):
        raise ConfigError(
            f"trainer.precision={trainer['precision']}: expected 32-true, 64-true, 16-mixed or bf16-mixed"
        )


def _check_range(values: Mapping[str, Any], key: str, low: float, high: float) -> None:
    value: Any = values
    for part in key.split("."):
        if not isinstance(value, dict) or value.get(part) is None:
            return  # not a setting of this command or data set
        value = value[part]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{key}={value}: expected a number")
    if key in WHOLE and isinstance(value, float):
        raise ConfigError(f"{key}={value:g}: expected a whole number")
    if not low <= value <= high or math.isinf(value) or (key in ABOVE and value == low):
        least = f"above {low:g}" if key in ABOVE else f"{low:g} or more"
        most = f", at most {high:.10g}" if high < math.inf else ", and finite" if value == math.inf else ""
        raise ConfigError(f"{key}={value:g}: expected {least}{most}")


def _check_class_weights(value: Any) -> None:
    if value is None or value in ("auto", "balanced"):
        return
    if not isinstance(value, list) or any(isinstance(w, bool) or not isinstance(w, int | float) for w in value):
        raise ConfigError(f"loss.class_weights={value}: expected auto, balanced, or one number per class: [1, 2.5, 6]")
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
