"""The configuration: where it lies, the types of its fixed part, its checks, and its errors in words.

Everything in `conf/` is composed by Hydra. What Hydra cannot know is here: values that contradict each other
(`check`), what a mistyped override probably meant (`mistake`), which of a saved run's settings an evaluation keeps
(`merge_saved`), and which classes a config that came out of a file may name (`check_targets`).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ktb.config.moved import current_target, with_current_targets
from ktb.errors import ConfigError, KTBError
from ktb.io import expanded, is_hidden

# --------------------------------------------------------------------------------------------------------------------
# Where conf/ is


def conf_dir() -> Path:
    """The folder with train.yaml: inside the package of an installed wheel, else at the top of the checkout."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "conf", package.parents[1] / "conf")
    for place in places:
        if (place / "train.yaml").is_file():
            return place
    raise ConfigError(f"no train.yaml in {places[0]} nor in {places[1]}: this installation of ktb is incomplete")


def groups(config_name: str, extra: Sequence[Path] = ()) -> dict[str, tuple[str, ...]]:
    """Config group → its members, for the groups that `config_name`'s defaults list offers, in that order.

    extra: further config folders of the user (--config-dir), whose members count too.
    """
    primary = yaml.safe_load((conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8"))
    names = [key for item in primary["defaults"] if isinstance(item, dict) for key in item if " " not in key]
    folders = (conf_dir(), *extra)
    found = {name: [f for d in folders for f in (d / name).glob("*.yaml") if not is_hidden(f.name)] for name in names}
    return {name: tuple(sorted({f.stem for f in files})) for name, files in found.items()}


# --------------------------------------------------------------------------------------------------------------------
# Types of the fixed part. Data set, loss, trainer and loggers are keyword arguments of the classes they name, which
# check them; Hydra's struct mode refuses keys their files do not have.


@dataclass
class ModalityConfig:
    name: str = MISSING
    streams: list[str] = MISSING


@dataclass
class BackboneConfig:
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
class ModelConfig:
    fusion: str = MISSING
    prompts: bool = MISSING
    head_dim: int = MISSING
    side_head_dim: int = MISSING
    head_init: str = MISSING
    recompute: bool = MISSING
    channels_last: bool = MISSING
    compile: bool = MISSING


@dataclass
class OptimConfig:
    lr: float = MISSING
    weight_decay: float = MISSING
    warmup_epochs: float = MISSING
    warmup_ratio: float = MISSING
    power: float = MISSING


@dataclass
class SaveConfig:
    every_n_steps: int | None = MISSING
    every_n_minutes: float | None = MISSING
    keep: int = MISSING


@dataclass
class TrainConfig:
    seed: int = MISSING
    run_dir: str = MISSING
    ckpt_path: str | None = None
    init_from: str | None = None
    overwrite: bool = False
    test: bool = True
    save: SaveConfig = field(default_factory=SaveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    dataset: dict[str, Any] = MISSING
    modality: ModalityConfig = field(default_factory=ModalityConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    loss: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    eval: dict[str, Any] = MISSING
    logger: dict[str, Any] | None = None
    published: dict[str, Any] | None = None
    """What an experiment of the model zoo reproduces: miou, split, source."""


@dataclass
class EvalConfig:
    checkpoint: str = MISSING
    split: str | None = None
    run_dir: str | None = None
    panels: int = MISSING
    seed: int = MISSING
    inherited: list[str] = MISSING
    dataset: dict[str, Any] = MISSING
    modality: ModalityConfig = field(default_factory=ModalityConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    eval: dict[str, Any] = MISSING
    robustness: dict[str, Any] | None = None
    trainer: dict[str, Any] = MISSING
    published: dict[str, Any] | None = None


ConfigStore.instance().store(name="train_schema", node=TrainConfig)
ConfigStore.instance().store(name="eval_schema", node=EvalConfig)


# --------------------------------------------------------------------------------------------------------------------
# Values that cannot work


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
    if missing := sorted(key for key in _missing(cfg) if key.split(".")[0] in looked_at):
        if missing == ["checkpoint"]:
            raise ConfigError("no checkpoint given: ktb-eval checkpoint=RUN_FOLDER or a .ckpt, .pth, .safetensors file")
        raise ConfigError(f"{', '.join(missing)} must be given: {missing[0]}=...")
    values: dict[str, Any] = {}
    for key in looked_at:
        try:
            value = cfg[key]
            values[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            raise ConfigError(_first_line(error, key=True)) from None
    for key, value in _leaves(values):
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
            raise ConfigError(f"{key}={value}: expected {_alternatives(allowed)}{_did_you_mean(str(value), allowed)}")

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


def _missing(cfg: DictConfig, path: str = "") -> Iterator[str]:
    """Dotted names of the mandatory settings without a value, interpolations not followed."""
    key: Any
    for key in cfg:
        here = f"{path}.{key}" if path else str(key)
        if OmegaConf.is_missing(cfg, key):
            yield here
        elif not OmegaConf.is_interpolation(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from _missing(cfg[key], here)


# --------------------------------------------------------------------------------------------------------------------
# Building what a node names


def instantiate(node: DictConfig, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate` with the user's mistakes in words: `node` names a class by `_target_`, its other keys
    and `kwargs` are the arguments.

    Anything importable may be named here, as the user's own config is the user's own code; what came out of a file
    has to pass `check_targets` first.

    Raises:
        ConfigError: the class cannot be imported, does not know one of the arguments or does not take its value.
        KTBError: whatever of it the class itself raises.
    """
    from hydra.utils import get_object
    from hydra.utils import instantiate as build

    target = node.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"no _target_ in {_flow(list(node))}: expected the dotted name of a class")
    node = node.copy()
    node["_target_"] = target = current_target(target)
    try:
        built = get_object(target)
    except Exception as error:
        raise ConfigError(f"_target_={target} cannot be imported: {_first_line(error)}") from None
    arguments = [key for key in (*map(str, node), *kwargs) if not key.startswith("_")]
    try:
        inspect.signature(built).bind_partial(**dict.fromkeys(arguments))
    except TypeError as error:
        raise ConfigError(f"{target}: {error}") from None
    try:
        return build(node, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, KTBError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, TypeError | ValueError | ImportError):
            raise ConfigError(f"{target}: {_first_line(error.__cause__)}") from None
        raise


def check_targets(node: Any, origin: str) -> None:
    """Refuse a config that came out of a file when it names anything but classes of this package.

    `_target_` runs whatever it names, so a checkpoint from elsewhere could otherwise run any code. A name below
    `ktb.` is not enough (`ktb.jobs.train.os.system`): it must be a class that this package defines. Nor may a value
    refer to another (`${...}`), as what it leads to would not have been looked at; saved configs are resolved.

    Raises:
        ConfigError: naming the value, where it stands and `origin`.
    """
    plain = OmegaConf.to_container(OmegaConf.create({"node": node}))
    assert isinstance(plain, dict)
    for key, value in _leaves(plain["node"]):
        if isinstance(value, str) and "${" in value:
            raise ConfigError(f"{origin} has a reference, {key}={value}: expected values only")
        if key.rpartition(".")[2] == "_target_" and not _is_own_class(str(value)):
            raise ConfigError(
                f"{origin} names {key}={value}, which is not a class of ktb: nothing of a file is run; if it is your "
                f"own code, give the group on the command line ({key.split('.')[0]}=..., --config-dir DIR)"
            )


def _is_own_class(target: str) -> bool:
    module, _, name = current_target(target).rpartition(".")
    if module.split(".")[0] != "ktb":
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return inspect.isclass(found) and found.__module__.split(".")[0] == "ktb"


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that holds nothing further; `_target_` in any case."""
    if isinstance(node, dict):
        for key, value in node.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield here, value
            else:
                yield from _leaves(value, here)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, node


# --------------------------------------------------------------------------------------------------------------------
# A saved run's config under the overrides of ktb-eval

_RUN_GROUPS = ("dataset", "modality", "backbone", "eval")
"""Groups of ktb-eval that a run decides. Its trainer is not among them: a model trained on eight GPUs is evaluated on a
laptop without saying so."""


def saved_config(checkpoint: str | Path) -> Path | None:
    """The config.yaml of the run that `checkpoint`, a run folder or a file in its checkpoints/, belongs to, or of the
    bundle it is or lies in; None for anything else, such as a published state dict."""
    path = expanded(checkpoint)
    if not path.is_dir():
        if path.parent.name != "checkpoints" and path.name != "model.safetensors":
            return None
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    file = path / "config.yaml"
    return file if file.is_file() else None


def inherit(overrides: Sequence[str], extra: Sequence[Path] = ()) -> list[str]:
    """`overrides` of ktb-eval, completed by the group members of the run that `checkpoint=` names.

    Without them `ktb-eval checkpoint=runs/x dataset.root=/data` would be composed with the default data set, which may
    not have a `root` at all. They only serve composition: `inherited=` lists the groups that `merge_saved` takes from
    the run. Of several runs (a sweep over checkpoints) a member is filled in where all agree.
    """
    parsed = {o.key_or_group: o for o in map(_parse_or_none, overrides) if o is not None}
    if "checkpoint" not in parsed or "inherited" in parsed or "experiment" in parsed:
        return list(overrides)
    runs = []
    for value in _values(parsed["checkpoint"]):
        try:
            path = saved_config(str(value))
            saved = OmegaConf.load(path) if path else OmegaConf.create()
            names = {g: OmegaConf.select(saved, f"{g}.name") for g in _RUN_GROUPS if g not in parsed}
            runs.append({g: name for g, name in names.items() if isinstance(name, str)})
        except (OSError, yaml.YAMLError, OmegaConfBaseException):
            return list(overrides)  # what is wrong with the run is for run.evaluate to say
    inherited = [group for group in _RUN_GROUPS if runs and all(group in run for run in runs)]
    offered = groups("eval", extra)
    agreed = [g for g in inherited if len({run[g] for run in runs}) == 1 and runs[0][g] in offered[g]]
    if not inherited:
        return list(overrides)
    return [*overrides, *(f"{group}={runs[0][group]}" for group in agreed), f"inherited=[{','.join(inherited)}]"]


def user_overrides(cfg: DictConfig) -> list[str]:
    """What the user wrote on the command line of the running job, without what `inherit` filled in."""
    filled = {"inherited", *(cfg.get("inherited") or ())}
    # Not resolved: an override may itself hold a reference, optim.lr='${dataset.recipe.lr}'.
    task = cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
    return [text for text in task if _parse(text).key_or_group not in filled]


def overridden(overrides: Sequence[str]) -> set[str]:
    """The groups and settings that overrides name, with or without "+" in front."""
    return {_parse(text).key_or_group for text in overrides}


def merge_saved(saved: DictConfig | dict[str, Any], composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The run's own config with what the user overrode on the command line of ktb-eval, and only that.

    `group=member` replaces the group's whole node, a dotted override its key; the settings of the evaluation itself
    (checkpoint, split, ...) and the trainer come from `composed`, but its precision is the run's unless overridden, so
    that the numbers are those that training printed.

    Args:
        saved: the run's config.yaml.
        composed: what Hydra composed for ktb-eval.
        overrides: `user_overrides(composed)`.

    Raises:
        ConfigError: an override that contradicts the checkpoint, or a kept node that names foreign code.
    """
    kept = OmegaConf.create(with_current_targets(OmegaConf.to_container(OmegaConf.create(saved))))
    assert isinstance(kept, DictConfig)
    parsed = [_parse(text) for text in overrides]
    chosen = {o.key_or_group for o in parsed}
    if "experiment" in chosen:
        raise ConfigError("experiment= describes a published checkpoint, but this one brings the config of its own run")
    kept.pop("logger", None)  # training's own, of foreign classes by nature
    check_targets({str(key): kept[key] for key in kept if key not in chosen}, "the checkpoint's config")

    precision = OmegaConf.select(kept, "trainer.precision")
    for key in composed:
        if key not in _RUN_GROUPS or key in chosen or key not in kept:
            kept[key] = _resolved(composed, str(key))
    if precision is not None and "trainer" not in chosen:
        OmegaConf.update(kept, "trainer.precision", precision)

    _override(kept, composed, [o for o in parsed if "." in o.key_or_group])
    kept.inherited = []
    OmegaConf.set_struct(kept, True)
    check(kept)
    return kept


def resume_saved(
    saved: DictConfig, composed: DictConfig, overrides: Sequence[str], folders: Sequence[Path] = ()
) -> DictConfig:
    """The config a resumed training goes on with: the run's own, with what the user overrode and only that.

    Args:
        saved: the run's.
        composed: what Hydra composed for ktb-train.
        overrides: `user_overrides(composed)`; an experiment stands for all that it sets.
        folders: where configurations lie beside `conf_dir()`.

    Raises:
        ConfigError: a kept node names foreign code, or a value that cannot work.
    """
    kept = OmegaConf.create(with_current_targets(OmegaConf.to_container(saved)))
    assert isinstance(kept, DictConfig)
    for key in composed:
        if key not in kept:  # a setting that is younger than the run
            kept[key] = _resolved(composed, str(key))
    parsed = [_parse(text) for text in overrides]
    if experiment := next((o for o in parsed if o.key_or_group == "experiment" and not o.is_delete()), None):
        parsed = [*map(_parse, _said_by_experiment(str(experiment.value()), folders)), *parsed]
    _override(kept, composed, parsed)
    chosen = {o.key_or_group for o in parsed}
    for group in ("dataset", "modality", "backbone", "model", "loss", "optim"):
        if group in kept and group not in chosen:
            check_targets({group: kept[group]}, "the checkpoint's config")
    OmegaConf.set_struct(kept, True)
    return kept


def config_folders() -> list[Path]:
    """The folders that the running job's configuration was composed from."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def _said_by_experiment(name: str, folders: Sequence[Path]) -> list[str]:
    """The groups and settings that a member of the group experiment sets, as overrides; only their names count."""
    file = next(
        (f for folder in (*folders, conf_dir()) if (f := folder / "experiment" / f"{name}.yaml").is_file()), None
    )
    if file is None:
        return []
    plain = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    groups = [key for entry in plain.pop("defaults", []) if isinstance(entry, dict) for key in entry]
    said = [f"{key.removeprefix('override ').strip().removeprefix('/')}=null" for key in groups]
    return said + [f"{key}=null" for key in _said(plain)]


def _said(node: dict[str, Any], path: str = "") -> Iterator[str]:
    """Dotted names of the values in a plain mapping."""
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            yield from _said(value, here)
        else:
            yield here


def _override(kept: DictConfig, composed: DictConfig, parsed: Sequence[Override]) -> None:
    """Put what the user overrode, as composed, over a saved config, whole groups before single settings in them.

    Raises:
        ConfigError: a setting of another member of a group than the run's.
    """
    before = kept.copy()
    keys = {override.key_or_group for override in parsed}
    for override in sorted(parsed, key=lambda override: "." in override.key_or_group):
        key = override.key_or_group
        if override.is_delete():
            parent, _, leaf = key.rpartition(".")
            node = OmegaConf.select(kept, parent) if parent else kept
            if isinstance(node, DictConfig):
                node.pop(leaf, None)
        elif key in composed or OmegaConf.select(composed, key) is not None:
            if not override.is_add() and not override.is_force_add():
                _refuse_other_member(key, before, composed, keys)
            OmegaConf.update(kept, key, _resolved(composed, key), merge=False, force_add=True)
    _follow_references(kept, before, composed, keys)


def _refuse_other_member(key: str, before: DictConfig, composed: DictConfig, given: set[str]) -> None:
    """A setting that only the composed member of its group has, while the run's own member stays."""
    group, _, rest = key.partition(".")
    ours, theirs = (OmegaConf.select(cfg, f"{group}.name") for cfg in (before, composed))
    if rest and group not in given and ours != theirs and ours is not None and key not in set(setting_names(before)):
        known = ", ".join(k for k in before[group] if not k.startswith("_"))
        raise ConfigError(f"{key}: the run's {group} is {ours!r}, which has no such setting (there are: {known})")


def _follow_references(kept: DictConfig, before: DictConfig, composed: DictConfig, given: set[str]) -> None:
    """A saved config is resolved. What refers to a changed setting (`optim.lr: ${dataset.recipe.lr}`) changes with it,
    unless the run had a value of its own there."""
    references = {key: ref for key in setting_names(composed) if (ref := _reference(composed, key))}
    ours = set(setting_names(before))
    changed = set(given)

    def under_given(key: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in given)

    def due(key: str) -> bool:
        if under_given(key):
            return True
        ref = references[key]
        touched = any(f"{ref.key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{ref.key}.") for name in changed)
        if not touched or not (ref.optional or OmegaConf.select(before, ref.key) is not None):
            return False
        was, now, own = ref.value(before), ref.value(kept), OmegaConf.select(before, key)
        if was == "auto" and isinstance(own, ListConfig):  # loss.class_weights: the numbers that auto stood for
            return bool(now != "auto")
        return bool(own == was)

    while waiting := [key for key in references if due(key)]:
        key = next((key for key in waiting if references[key].key not in waiting), waiting[0])
        ref = references[key]
        if ref.optional or OmegaConf.select(kept, ref.key) is not None:
            value = ref.value(kept)
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
            OmegaConf.update(kept, key, value, merge=False, force_add=True)
        elif key in ours:  # what it refers to is younger than the run, and composed for another one's groups
            OmegaConf.update(kept, key, _resolved(before, key), merge=False, force_add=True)
        changed.add(key)
        del references[key]


@dataclass(frozen=True)
class _Reference:
    """A setting whose value another one takes over as it is.

    key: its dotted name.
    optional: whether `default` stands where there is no such setting.
    """

    key: str
    optional: bool
    default: Any

    def value(self, cfg: DictConfig) -> Any:
        return OmegaConf.select(cfg, self.key, default=self.default)


def _reference(cfg: DictConfig, key: str) -> _Reference | None:
    """What `key` refers to, if it is nothing but a reference: `${a.b}` or `${oc.select:a.b,default}`."""
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig) or not OmegaConf.is_interpolation(node, leaf):
        return None
    text = str(OmegaConf.to_container(node, resolve=False)[leaf])  # type: ignore[index, call-overload]
    found = re.fullmatch(r"\$\{(oc\.select:)?\s*([\w.]+)\s*(?:,([^{}]*))?\}", text)
    if found is None or (found[3] is not None and not found[1]):
        return None
    return _Reference(found[2], bool(found[1]), yaml.safe_load(found[3]) if found[3] else None)


def differences(before: DictConfig, now: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted key → value before and now, of the settings that differ; None where there is none, as of a shorter list.

    Where a run lies and how it is logged is no part of what is trained and left out, and so is what ktb had no setting
    for yet when the earlier configuration was written.
    """
    apart = ("run_dir", "ckpt_path", "overwrite", "logger")
    old, new = (
        dict(_leaves({key: value for key, value in plain.items() if key not in apart and key in before}))
        for plain in (cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)) for cfg in (before, now))
    )
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def _resolved(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


# --------------------------------------------------------------------------------------------------------------------
# Composition errors in words


def mistake(
    config_name: str, overrides: Sequence[str], extra: Sequence[Path] = (), *, multirun: bool = False
) -> str | None:
    """One line for the first override that cannot be composed: what was found, what there is, what was probably meant.

    Hydra's own messages name neither the nearest key nor, for most errors, the alternatives, so the overrides are
    looked at here in the order in which they can go wrong. None: nothing wrong with them was found.
    """
    offered = groups(config_name, extra)
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed.append(_parse(text))
        except HydraException as broken:
            return _unreadable(text, broken, config_name)

    choices: list[str] = []
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        if override.is_sweep_override() and not multirun:
            written = text.partition("=")[2]
            return (
                f"'{text}' lists several values: add -m for one job each, or write {key}=[{written}] for a list, or "
                f"'{key}=\"{written}\"' for a text with a comma"
            )
        if key not in offered or override.is_delete():
            continue
        if override.is_add() and key != "experiment":
            return f"'{text}' adds a group that is there already: write {text[1:]}"
        for value in _values(override):
            if value is None and key not in ("experiment", "logger", "robustness"):
                return f"{key}=null: one of them is needed: {', '.join(offered[key])}"
            if value is not None and value not in offered[key]:
                near = _did_you_mean(str(value), offered[key])
                return f"unknown {key} '{value}'{near} (there are: {', '.join(offered[key])})"
        choices += [f"{key}={'null' if value is None else value}" for value in _values(override)[:1]]

    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            cfg = compose(config_name, overrides=[*choices, *_searchpath(extra)])
    except Exception as error:
        return composition_error(error)
    finally:
        GlobalHydra.instance().clear()

    keys = [*offered, *setting_names(cfg)]
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        if override.is_add() and key in keys and key not in offered:
            return f"'{text}' adds a setting that is there already: write {text[1:]}"
        if key in offered or override.is_hydra_override() or override.is_add() or override.is_force_add():
            continue
        if key not in keys:
            meant = _nearest_key(key, keys)
            if meant in offered:
                members = ", ".join(offered[meant])
                return f"unknown setting '{key}': did you mean '{meant}'? (there are: {members})"
            group = key.partition(".")[0]
            member = OmegaConf.select(cfg, f"{group}.name") if group in offered else None
            of = f" of {group}={member}" if member else ""
            hint = f": did you mean '{meant}'?" if meant else ""
            adds = "" if override.is_delete() else f" (+{text} adds a new one)"
            return f"unknown setting '{key}'{of}{hint}{adds}"
        if override.is_delete():
            continue
        for value in _values(override):
            try:
                OmegaConf.update(cfg, key, value, merge=True)
            except OmegaConfBaseException as error:
                wanted = "expected a list: [a,b]" if "ListConfig" in str(error) else _first_line(error)
                return f"{key}={value}: {wanted}"
    return None


def composition_error(error: Exception) -> str:
    """One line for an error of Hydra's that no single override explains."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        there = f" (there are: {', '.join(error.options)})" if error.options else ""
        return f"unknown {group} '{name}'{there}" if group else f"no config '{name}'"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return _first_line(error)


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The settings of which `overrides` give several values."""
    return [o.key_or_group for o in map(_parse, overrides) if o.is_sweep_override()]


def sweep_dir(config_name: str, overrides: Sequence[str], extra: Sequence[Path] = ()) -> Path:
    """Where Hydra would put this sweep, absolute; what is wrong with its launcher or sweeper is raised here.

    Raises:
        HydraException, OmegaConfBaseException: a launcher, a sweeper or one of their settings that there is not.
    """
    ours = [text for text in overrides if _parse(text).is_hydra_override() and not _parse(text).is_sweep_override()]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            cfg = compose(config_name, overrides=[*ours, *_searchpath(extra)], return_hydra_config=True)
    finally:
        GlobalHydra.instance().clear()
    return expanded(cfg.hydra.sweep.dir).absolute()


def _searchpath(extra: Sequence[Path]) -> list[str]:
    return [f"hydra.searchpath=[{','.join(repr(f'file://{p.resolve()}') for p in extra)}]"] if extra else []


def as_override(key: str, value: str) -> str:
    """`key=value` as Hydra reads it back, quoted where its grammar needs that."""
    text = f"{key}={value}"
    parsed = _parse_or_none(text)
    if parsed is not None and not parsed.is_sweep_override() and parsed.value() == value:
        return text
    # Of what stands between quotes, quotes need a backslash, and so do backslashes before a quote or at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value)
    return f"{key}='{escaped}'"


PATHS = ("dataset.root", "run_dir", "ckpt_path", "init_from", "checkpoint", "backbone.weights")
"""Settings that are one path, or a word in its place."""


def quoted_paths(overrides: Sequence[str]) -> list[str]:
    """`overrides` of one job with quotes around paths that Hydra's grammar would take for something else: a comma for
    several values, a bracket for a list, digits for a number. What is quoted already, and null, stay as they are."""
    found = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key.lstrip("+") in PATHS and value:
            parsed = _parse_or_none(text)
            if parsed is None or parsed.is_sweep_override() or not isinstance(parsed.value(), str | None):
                text = as_override(key, value)
        found.append(text)
    return found


def at_home(overrides: Sequence[str]) -> list[str]:
    """Overrides with the `~` of their paths replaced, which Hydra's grammar refuses (and bash replaces, zsh does not).

    In quotes it is left to `check`.
    """
    result = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if "~" in value and _parse_or_none(text) is None:
            value = re.sub(r"(?<![^\[,{:(=\s])~[^/\\,\]})\s]*", lambda m: expanded(m[0]).as_posix(), value)
            text = f"{key}{equals}{value}"
            if _parse_or_none(text) is None:
                text = as_override(key, value)
        result.append(text)
    return result


def _parse(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _parse_or_none(text: str) -> Override | None:
    try:
        return _parse(text)
    except HydraException:
        return None


def _values(override: Override) -> list[Any]:
    """The values of an override: one, or those of a sweep."""
    if not override.is_sweep_override():
        return [override.value()]
    try:
        return [value.text if isinstance(value, QuotedString) else value for value in override.sweep_iterator()]
    except HydraException:  # an interval or a pattern: nothing to enumerate
        return []


def _unreadable(text: str, error: HydraException, config_name: str) -> str:
    if "=" not in text and not text.startswith("~"):
        if config_name == "eval" and ("/" in text or Path(text).exists()):
            return f"cannot read '{text}': write checkpoint={text}"
        return f"cannot read '{text}': settings are written as key=value"
    key, _, value = text.partition("=")
    return (
        f"cannot read the value of '{key}' in '{text}' ({_first_line(error)}); "
        f"text with special characters needs quotes within quotes: '{key}=\"{value}\"'"
    )


def setting_names(cfg: DictConfig, path: str = "") -> Iterator[str]:
    """Dotted names of all settings, interpolations not followed."""
    key: Any
    for key in cfg:  # not all are text: label.map of a data set has stored ids
        here = f"{path}.{key}" if path else str(key)
        yield here
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            node = cfg[key]
            if isinstance(node, DictConfig):
                yield from setting_names(node, here)


def _nearest_key(key: str, keys: Sequence[str]) -> str | None:
    leaf = key.rpartition(".")[2]
    if same := [k for k in keys if k.rpartition(".")[2] == leaf]:
        return same[0]
    if close := difflib.get_close_matches(key, keys, n=1, cutoff=0.7):
        return close[0]
    leaves = {k.rpartition(".")[2]: k for k in reversed(keys)}
    close = difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.7)
    return leaves[close[0]] if close else None


def _did_you_mean(word: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f": did you mean '{close[0]}'?" if close else ""


def _alternatives(names: Sequence[str]) -> str:
    return " or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}"


def _flow(items: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, items))}]"


def _first_line(error: BaseException, *, key: bool = False) -> str:
    """The first line of an exception (or of its cause, where Hydra leaves its own empty), with the key if asked."""
    cause = error.__cause__
    source = cause if isinstance(cause, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(source).splitlines() if line.strip()] or [type(source).__name__]
    where = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    return f"{where}: {lines[0]}" if key and where else lines[0]
