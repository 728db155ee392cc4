"""Building the object that a node of the configuration names, and refusing what a file may not name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from ktb.config.keys import leaves, unresolved
from ktb.config.moved import current_target
from ktb.config.trust import Trust, is_dotted
from ktb.errors import ConfigError, KTBError, PartError, first_line
from ktb.models.imports import imported_class, look_in_working_directory, own_packages, raised_in_own_code, told
from ktb.models.parts import check_settings, refuse_unfinished, refused_setting
from ktb.models.setting_types import misfit, whole_numbers

_NOBODY = Trust()


def instantiate(node: DictConfig, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate` with the user's mistakes in words: `node` names a class by `_target_`, its other keys
    and `kwargs` are the arguments.

    Anything importable may be named here, as the user's own config is the user's own code; what came out of a file
    has to pass `check_targets` first.

    Raises:
        ConfigError: the class cannot be imported, does not know one of the arguments or does not take its value.
        KTBError: whatever of it the class itself raises.
    """
    from hydra.utils import instantiate as build

    target = node.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"no _target_ in [{', '.join(map(str, node))}]: expected the dotted name of a class")
    node = node.copy()
    node["_target_"] = target = current_target(target)
    outer, *inner = _nodes(unresolved(node))
    _refuse_misfit(outer, {key: value for key, value in kwargs.items() if key != "_convert_"})
    for part in inner:
        _refuse_misfit(part, {})
    node.update(whole_numbers(_named(target), {key: value for key, value in outer.items() if not key.startswith("_")}))
    try:
        built = build(node, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, KTBError):
            raise error.__cause__ from None
        named, cause = _named(target), error.__cause__
        if cause and inspect.isclass(named) and (refused := refused_setting(named, target, outer, cause)):
            raise refused from None
        if cause and raised_in_own_code(cause):
            raise PartError(f"{target} cannot be built: {told(cause, *own_packages())}") from None
        if _is_refusal(cause):
            raise ConfigError(f"{target}: {first_line(cause, limit=None)}") from None
        raise
    from torch import nn

    if isinstance(built, nn.Module):
        refuse_unfinished(built, target)
    return built


def _is_refusal(error: BaseException | None) -> TypeGuard[Exception]:
    """Whether it is what a library says of settings that cannot work."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, TypeError | ValueError | ImportError | MisconfigurationException)


def _nodes(plain: Any) -> Iterator[dict[str, Any]]:
    """Everything in plain values that names a class, but by a reference, what holds others first."""
    if isinstance(plain, dict):
        if isinstance(target := plain.get("_target_"), str) and "${" not in target:
            yield plain
        plain = list(plain.values())
    if isinstance(plain, list):
        for value in plain:
            yield from _nodes(value)


def _refuse_misfit(node: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Refuse a class, or a function, that is not there, or does not take what it is called with.

    Args:
        node: its name and the arguments of the configuration, references not followed.
        more: further arguments.

    Raises:
        ConfigError: saying which, and what was probably meant.
    """
    target = node["_target_"]
    named = _named(target)
    settings = {key: value for key, value in node.items() if not key.startswith("_")}
    also = {key: value for key, value in more.items() if not key.startswith("_")}
    if not inspect.isclass(named) or "_args_" in node:
        try:
            inspect.signature(named).bind_partial(**settings, **also)
        except TypeError as error:
            raise ConfigError(f"{target}: {error}") from None
        if wrong := misfit(named, settings):
            raise ConfigError(f"{target}: {wrong}")
    else:
        check_settings(named, target, settings, also=also, complete=not (more.get("_partial_") or "_partial_" in node))


def _named(target: str) -> Any:
    """What a dotted name stands for.

    Raises:
        ConfigError: it cannot be imported.
    """
    from hydra.utils import get_object

    look_in_working_directory(target.partition(".")[0])
    try:
        return get_object(target)
    except Exception as error:
        said = first_line(error, limit=None)
        try:
            imported_class(target)
        except PartError as why:  # Hydra's does not tell what is not there from what fails
            said = str(why)
        raise ConfigError(f"_target_={target} cannot be imported: {said}") from None


def check_targets(node: Any, origin: str, trust: Trust = _NOBODY) -> None:
    """Refuse a config that came out of a file when it names anything but classes of this package and trusted ones.

    `_target_` runs whatever it names, so a checkpoint from elsewhere could otherwise run any code. A name below
    `ktb.` is not enough (`ktb.jobs.train.os.system`): it must be a class that this package defines. A trusted module
    may be named for classes that something in a configuration is built of, never for a function. Nor may a value refer
    to another (`${...}`), as what it leads to would not have been looked at; saved configs are resolved.

    Args:
        node: what came out of the file.
        origin: that file, for messages.
        trust: what it may name beside classes of ktb.

    Raises:
        ConfigError: naming the value, where it stands and `origin`.
    """
    found = refuse_references(node, origin)
    targets = [(key, str(value)) for key, value in found if key.rpartition(".")[2] == "_target_"]
    foreign = [target for _, target in targets if _may_be_trusted(target) and not trust.covers(target)]
    for key, target in targets:
        if target in foreign:
            raise ConfigError(f"{origin} names {key}={target}, which is not a class of ktb; {trust.plea(foreign)}")
        try:
            fits = target in trust.named or (
                _is_part(target) if _may_be_trusted(target) else _is_own_class(target) or _only_computes(target)
            )
        except PartError as error:
            raise ConfigError(f"{origin} names {key}={target}: {error}") from None
        if not fits:
            what = "no part of a model or a training" if _may_be_trusted(target) else "not a class of ktb"
            raise ConfigError(f"{origin} names {key}={target}, which is {what}, so it is not built")


def refuse_references(node: Any, origin: str) -> list[tuple[str, Any]]:
    """Refuse a config that came out of a file when a value refers to another (`${...}`).

    Args:
        node: what came out of the file.
        origin: that file, for messages.

    Returns:
        its dotted keys and values.

    Raises:
        ConfigError: naming the value, where it stands and `origin`.
    """
    plain = OmegaConf.to_container(OmegaConf.create({"node": node}))
    assert isinstance(plain, dict)
    found = list(leaves(plain["node"]))
    for key, value in found:
        if isinstance(value, str) and "${" in value:
            raise ConfigError(f"{origin} has a reference, {key}={value}: expected values only")
    return found


def named_classes(cfg: DictConfig) -> Iterator[str]:
    """The dotted names of all classes that a configuration of the user's own names, but for the loggers, which no file
    has a say in."""
    for key, value in leaves({key: value for key, value in unresolved(cfg).items() if key != "logger"}):
        if key.rpartition(".")[2] == "_target_" and isinstance(value, str):
            yield current_target(value)


def _may_be_trusted(target: str) -> bool:
    """Whether this can be the name of a class that is somebody's own."""
    own = target.partition(".")[0] != "ktb" and not _only_computes(target)
    return own and "." in target and is_dotted(target)


def _is_part(target: str) -> bool:
    """Whether a trusted name is of a class that something in a configuration is built of: no function, and no class
    whose constructor does something else than to build it, such as `subprocess.Popen`.

    Raises:
        PartError: it cannot be imported, or is no class.
    """
    import lightning as L
    from lightning.pytorch.callbacks import Callback
    from torch import nn, optim

    kinds = (nn.Module, L.LightningDataModule, Callback, optim.Optimizer, optim.lr_scheduler.LRScheduler)
    return issubclass(imported_class(target), kinds)


def _only_computes(target: str) -> bool:
    """Whether it is an optimiser or a schedule of PyTorch's, which a file may name like a class of ktb."""
    module, _, name = target.rpartition(".")
    if module not in ("torch.optim", "torch.optim.lr_scheduler"):
        return False
    from torch import optim

    found = getattr(optim if module == "torch.optim" else optim.lr_scheduler, name, None)
    return inspect.isclass(found) and issubclass(found, optim.Optimizer | optim.lr_scheduler.LRScheduler)


def _is_own_class(target: str) -> bool:
    target = current_target(target)
    if target.partition(".")[0] != "ktb":
        return False
    try:
        found = imported_class(target)
    except PartError:
        return False
    return found.__module__.partition(".")[0] == "ktb"
