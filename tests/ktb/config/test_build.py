"""What a node names is built; what a file may not name is refused."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf
from torch import Tensor, nn

from ktb.config.build import check_targets, instantiate
from ktb.data.spec import DatasetSpec
from ktb.errors import ConfigError, DataError, PartError
from ktb.losses.pixel import PixelLoss
from tests.ktb.config.composed import composed


def test_instantiate_builds_and_passes_errors_on() -> None:
    node = OmegaConf.create({"_target_": "ktb.data.spec.DatasetSpec", "name": "x", "classes": ["a"]})
    spec = instantiate(node, palette=((1, 2, 3),), modalities={})
    assert isinstance(spec, DatasetSpec)
    assert spec.num_classes == 1
    with pytest.raises(DataError, match="^broken list$"):
        instantiate(OmegaConf.create({"_target_": f"{__name__}.Raises"}))


class Raises:
    def __init__(self) -> None:
        raise DataError("broken list")


class HalfBuilt(PixelLoss):
    def __init__(self) -> None:
        self.half = 1


class Fails(PixelLoss):
    def __init__(self) -> None:
        super().__init__()
        raise KeyError("licence")


class HalfBuiltPart(nn.Module):
    def __init__(self) -> None:
        self.half = 1

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.mean()


@pytest.mark.parametrize("cls", [HalfBuilt, Fails, HalfBuiltPart])
def test_a_loss_of_ones_own_that_cannot_be_built_is_one_line(cls: type) -> None:
    node: dict[str, Any] = {"_target_": f"{__name__}.{cls.__name__}"}
    said = f"{__name__}.{cls.__name__} cannot be built: "
    if cls is HalfBuiltPart:
        node = {"_target_": "ktb.losses.pixel.PixelLoss", "kind": node}
        said = "ktb.losses.pixel.PixelLoss cannot be built: its HalfBuiltPart: "
    if cls is Fails:
        said += "KeyError: 'licence'"
    else:
        said += "the constructor does not call super().__init__()"
    line = cls.__init__.__code__.co_firstlineno + (2 if cls is Fails else 0)  # type: ignore[misc]
    with pytest.raises(PartError) as error:
        instantiate(OmegaConf.create(node))
    assert str(error.value) == f"{said} ({__file__}, line {line})"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "ktb.data.nowhere.Data"}, r"^_target_=ktb.data.nowhere.Data cannot be imported: "),
        ({"_target_": "ktb.errors.KTBErrors"}, r"^_target_=ktb.errors.KTBErrors cannot be imported: "),
        ({"_target_": "pathlib.PurePath.match", "nme": 1}, r"^pathlib.PurePath.match: .*'nme'"),
        ({"name": "x"}, r"^no _target_ in \[name\]"),
    ],
)
def test_instantiate_says_what_cannot_be_built(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        instantiate(OmegaConf.create(node))


def test_targets_of_this_package_are_accepted() -> None:
    saved = OmegaConf.to_container(composed("loss=ce", "run_dir=x"), resolve=True)  # as a run's config is
    check_targets({"loss": saved["loss"]}, "file")  # type: ignore[index,call-overload]
    check_targets({"deep": [{"er": {"_target_": "ktb.data.spec.ModalitySpec"}}]}, "file")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "ktb.jobs.train.os.system",  # through a module that ktb imports
        "ktb.weights.checkpoint.torch.load",
        "ktb.weights.checkpoint.Path",  # a class, but not of this package
        "ktb.cli.train.train",  # of this package, but not a class
        "ktb.nowhere.Thing",
        "ktbx.Thing",
        "ktb",
        "",
        7,
    ],
)
def test_foreign_targets_of_a_file_are_refused(target: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check_targets({"dataset": {"name": "x", "source": [{"_target_": target}]}}, "runs/x/config.yaml")
    assert str(caught.value).startswith(f"runs/x/config.yaml names dataset.source[0]._target_={target}, which is not")


@pytest.mark.parametrize(
    "node",
    [
        {"dataset": {"source": "${evil}"}, "evil": {"_target_": "os.system"}},
        {"dataset": {"_target_": "${evil}"}, "evil": "os.system"},
        {"dataset": {"list": ["\\${evil}"]}},  # an escaped reference comes alive when it is read once more
    ],
)
@pytest.mark.parametrize("wrap", [dict, OmegaConf.create])
def test_references_of_a_file_are_refused(node: dict[str, Any], wrap: Any) -> None:
    with pytest.raises(ConfigError, match=r"^file has a reference, dataset\.\S+=\S*\$\{evil\}: expected values only"):
        check_targets(wrap(node), "file")


def test_what_a_class_does_not_take_is_one_line() -> None:
    node = OmegaConf.create({"_target_": "ktb.losses.pixel.PixelLoss", "kind": "mse"})
    with pytest.raises(ConfigError, match=r"^ktb\.losses\.pixel\.PixelLoss: pixel loss must be one of"):
        instantiate(node)
    node = OmegaConf.create(
        {"_target_": "ktb.data.sets.synthetic.SyntheticDataModule", "streams": ["rgb"], "stride": 3}
    )
    with pytest.raises(ConfigError, match=r"SyntheticDataModule takes no setting 'stride'; did") as error:
        instantiate(node)
    assert "\n" not in str(error.value)


def test_a_file_may_name_optimisers_and_schedules_of_pytorch() -> None:
    check_targets({"optim": {"_target_": "torch.optim.SGD", "lr": 1}}, "file")
    check_targets({"schedule": {"_target_": "torch.optim.lr_scheduler.StepLR"}}, "file")
    for target in ("torch.optim.lr_scheduler.warnings", "torch.optim.swa_utils.AveragedModel", "torch.optim.os.system"):
        with pytest.raises(ConfigError, match="which is not a class of ktb"):
            check_targets({"optim": {"_target_": target}}, "file")
