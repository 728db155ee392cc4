"""The configuration of a saved run, with what the user overrode put over it: for an evaluation and for a resumed
training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ktb.config.build import check_targets, named_classes, refuse_references
from ktb.config.checks import check
from ktb.config.compose import groups
from ktb.config.conf_folder import conf_dir
from ktb.config.keys import leaves, resolved, setting_names, unresolved
from ktb.config.modality import settle
from ktb.config.moved import with_current_settings
from ktb.config.overrides import of_today, parse, parse_or_none, values
from ktb.config.references import follow_references
from ktb.config.trust import Trust
from ktb.config.zoo import is_of_zoo, zoo_model
from ktb.errors import CheckpointError, ConfigError
from ktb.io import expanded
from ktb.run_folder.names import CHECKPOINTS, CONFIG, run_of

_RUN_GROUPS = ("dataset", "modality", "backbone", "eval")
"""Groups of ktb-eval that a run decides. Its trainer is not among them: a model trained on eight GPUs is evaluated on a
laptop without saying so."""


_BUILT = ("dataset",)
"""Groups of a run's configuration of which an evaluation builds something."""


def saved_config(checkpoint: str | Path) -> Path | None:
    """The config.yaml of the run that `checkpoint`, a run folder or a file in its checkpoints/, belongs to, or of the
    bundle it is or lies in; None for anything else, such as a published state dict."""
    path = expanded(checkpoint)
    if not path.is_dir():
        if path.parent.name != CHECKPOINTS and path.name != "model.safetensors":
            return None
        path = run_of(path)
    file = path / CONFIG
    return file if file.is_file() else None


def inherit(
    overrides: Sequence[str],
    extra: Sequence[Path] = (),
    *,
    fetched: Callable[[str], Path | None] = lambda _: None,
) -> list[str]:
    """`overrides` of ktb-eval, completed by the group members of the run that `checkpoint=` names.

    Without them `ktb-eval checkpoint=runs/x dataset.root=/data` would be composed with the default data set, which may
    not have a `root` at all. They only serve composition: `inherited=` lists the groups that `merge_saved` takes from
    the run. Of several runs (a sweep over checkpoints) a member is filled in where all agree. A published file of the
    zoo has no run, but an experiment.

    Args:
        overrides: as the user wrote them.
        extra: further config folders of the user (--config-dir).
        fetched: the file of a checkpoint that is given by name; None: it is a path.

    Raises:
        CheckpointError: the zoo has no model of such a name.
    """
    parsed = {o.key_or_group: o for o in map(parse_or_none, overrides) if o is not None}
    if "checkpoint" not in parsed or "inherited" in parsed or "experiment" in parsed:
        return list(overrides)
    checkpoints = [str(value) for value in values(parsed["checkpoint"])]
    runs = []
    for checkpoint in checkpoints:
        try:
            file = fetched(checkpoint)
        except CheckpointError:  # as of a path where nothing is: the evaluation says so
            file = None
        try:
            path = saved_config(file or checkpoint)
            saved = OmegaConf.load(path) if path else OmegaConf.create()
            names = {g: OmegaConf.select(saved, f"{g}.name") for g in _RUN_GROUPS if g not in parsed}
            runs.append({g: name for g, name in names.items() if isinstance(name, str)})
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
            return list(overrides)  # what is wrong with the run is for `ktb.jobs.evaluate` to say
    inherited = [group for group in _RUN_GROUPS if runs and all(group in run for run in runs)]
    offered = groups("eval", extra)
    agreed = [g for g in inherited if len({run[g] for run in runs}) == 1 and runs[0][g] in offered[g]]
    if not inherited:
        rows = {zoo_model(text).experiment if is_of_zoo(text) else None for text in checkpoints}
        experiment = rows.pop() if len(rows) == 1 else None
        return [*overrides, *([f"experiment={experiment}", "inherited=[experiment]"] if experiment else [])]
    return [*overrides, *(f"{group}={runs[0][group]}" for group in agreed), f"inherited=[{','.join(inherited)}]"]


def merge_saved(
    saved: DictConfig | dict[str, Any], composed: DictConfig, overrides: Sequence[str], trust: Trust, origin: str
) -> DictConfig:
    """The run's own config with what the user overrode on the command line of ktb-eval, and only that.

    `group=member` replaces the group's whole node, a dotted override its key; the settings of the evaluation itself
    (checkpoint, split, ...) and the trainer come from `composed`, but its precision is the run's unless overridden, so
    that the numbers are those that training printed.

    Args:
        saved: the run's config.yaml.
        composed: what Hydra composed for ktb-eval.
        overrides: `user_overrides(composed)`.
        trust: what the run's configuration may name beside classes of ktb.
        origin: what the run's configuration is called in messages.

    Raises:
        ConfigError: an override that contradicts the checkpoint, or a kept node that names foreign code.
    """
    kept = OmegaConf.create(with_current_settings(unresolved(OmegaConf.create(saved))))
    assert isinstance(kept, DictConfig)
    parsed = [parse(text) for text in overrides]
    chosen = {o.key_or_group for o in parsed}
    if "experiment" in chosen:
        raise ConfigError("experiment= describes a published checkpoint, but this one brings the config of its own run")
    kept.pop("logger", None)  # training's own, of foreign classes by nature
    from_file = {str(key): kept[key] for key in kept if key not in chosen}
    refuse_references(from_file, origin)
    # The model comes from the checkpoint's description of it, and its loss is not needed any more.
    check_targets({key: node for key, node in from_file.items() if key in _BUILT}, origin, trust)

    precision = OmegaConf.select(kept, "trainer.precision")
    for key in composed:
        if key not in (*_RUN_GROUPS, "metrics") or key in chosen or key not in kept:
            kept[key] = resolved(composed, str(key))
    if precision is not None and "trainer" not in chosen:
        OmegaConf.update(kept, "trainer.precision", precision)

    _override(kept, composed, [o for o in parsed if "." in o.key_or_group])
    kept.inherited = []
    settle(kept, chosen, before=OmegaConf.create(saved))
    OmegaConf.set_struct(kept, True)
    check(kept)
    return kept


def resume_saved(
    saved: DictConfig, composed: DictConfig, overrides: Sequence[str], origin: str, folders: Sequence[Path] = ()
) -> DictConfig:
    """The config a resumed training goes on with: the run's own, with what the user overrode and only that.

    Args:
        saved: the run's.
        composed: what Hydra composed for ktb-train.
        overrides: `user_overrides(composed)`; an experiment stands for all that it sets.
        origin: what the run's configuration is called in messages.
        folders: where configurations lie beside `conf_dir()`.

    Raises:
        ConfigError: a kept node names foreign code, or a value that cannot work.
    """
    kept = OmegaConf.create(with_current_settings(unresolved(saved)))
    assert isinstance(kept, DictConfig)
    for key in composed:
        if key not in kept:  # a setting that is younger than the run
            kept[key] = resolved(composed, str(key))
    parsed = [parse(text) for text in overrides]
    if experiment := next((o for o in parsed if o.key_or_group == "experiment" and not o.is_delete()), None):
        parsed = [*map(parse, map(of_today, _said_by_experiment(str(experiment.value()), folders))), *parsed]
    _override(kept, composed, parsed)
    chosen = {o.key_or_group for o in parsed}
    kept.trust = composed.get("trust")
    trust = Trust.of(kept.trust, named_classes(composed))
    # The loggers are those of this call, not of the file.
    check_targets({str(key): kept[key] for key in kept if key not in {*chosen, "logger"}}, origin, trust)
    settle(kept, chosen, folders, before=saved)
    OmegaConf.set_struct(kept, True)
    return kept


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
    for key in keys:  # another class has other settings
        group, dot, rest = key.rpartition(".")
        if dot and rest == "_target_" and OmegaConf.select(kept, key) != OmegaConf.select(composed, key):
            OmegaConf.update(kept, group, resolved(composed, group), merge=False, force_add=True)
    for override in sorted(parsed, key=lambda override: "." in override.key_or_group):
        key = override.key_or_group
        if override.is_delete():
            parent, _, leaf = key.rpartition(".")
            node = OmegaConf.select(kept, parent) if parent else kept
            if isinstance(node, DictConfig):
                node.pop(leaf, None)
        elif _is_there(composed, key):
            if not override.is_add() and not override.is_force_add():
                _refuse_other_member(key, before, composed, keys)
            OmegaConf.update(kept, key, resolved(composed, key), merge=False, force_add=True)
    follow_references(kept, before, composed, keys)


def _is_there(cfg: DictConfig, key: str) -> bool:
    """Whether there is a setting of this dotted name, null or not."""
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and leaf in node


def _refuse_other_member(key: str, before: DictConfig, composed: DictConfig, given: set[str]) -> None:
    """A setting that only the composed member of its group has, while the run's own member stays."""
    group, _, rest = key.partition(".")
    ours, theirs = (OmegaConf.select(cfg, f"{group}.name") for cfg in (before, composed))
    if rest and group not in given and ours != theirs and ours is not None and key not in set(setting_names(before)):
        known = ", ".join(k for k in before[group] if not k.startswith("_"))
        raise ConfigError(f"{key}: the run's {group} is {ours!r}, which has no such setting (there are: {known})")


def differences(before: DictConfig, now: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted key → value before and now, of the settings that differ; None where there is none, as of a shorter list.

    Where a run lies and how it is logged is no part of what is trained and left out, and so is what ktb had no setting
    for yet when the earlier configuration was written. Of the modalities the streams of the data set count, from which
    the rest follows (`ktb.config.modality`).
    """
    apart = ("run_dir", "ckpt_path", "overwrite", "logger", "trust")
    derived = ("modality.name", "modality.streams") if OmegaConf.select(now, "dataset.streams") else ("modality.name",)
    old, new = (
        dict(leaves({key: value for key, value in plain.items() if key not in apart and key in before}))
        for plain in (cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)) for cfg in (before, now))
    )
    keys = [key for key in {**old, **new} if key.partition("[")[0] not in derived]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
