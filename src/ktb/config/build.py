"""Building the object that a node of the configuration names, and refusing what a file may not name."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from ktb.config.keys import leaves
from ktb.config.moved import current_target
from ktb.errors import ConfigError, KTBError, first_line


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
        raise ConfigError(f"no _target_ in [{', '.join(map(str, node))}]: expected the dotted name of a class")
    node = node.copy()
    node["_target_"] = target = current_target(target)
    try:
        built = get_object(target)
    except Exception as error:
        raise ConfigError(f"_target_={target} cannot be imported: {first_line(error, limit=None)}") from None
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
            raise ConfigError(f"{target}: {first_line(error.__cause__, limit=None)}") from None
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
    for key, value in leaves(plain["node"]):
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
