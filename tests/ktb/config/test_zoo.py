"""The table of models by name agrees with the experiments it stands for."""

from __future__ import annotations

import re

import pytest
import yaml

from ktb.config.conf_folder import conf_dir
from ktb.config.zoo import is_of_zoo, zoo_model, zoo_models
from ktb.errors import CheckpointError
from tests.ktb.config.composed import composed

EXPERIMENTS = {file.stem: yaml.safe_load(file.read_text()) for file in (conf_dir() / "experiment").glob("*.yaml")}


def test_every_published_row_has_a_name_of_its_own() -> None:
    models = zoo_models().values()
    assert sorted(m.experiment for m in models) == sorted(n for n, e in EXPERIMENTS.items() if e.get("published"))
    assert len({m.file for m in models}) == len({m.row for m in models}) == len(models) == 12


@pytest.mark.parametrize("name", zoo_models())
def test_a_row_is_its_experiments(name: str) -> None:
    model = zoo_models()[name]
    cfg = composed(f"experiment={model.experiment}", name="eval")
    assert tuple(cfg.dataset.streams) == model.modalities
    assert model.row.endswith({"swin_b": "Swin-B", "swin_l": "Swin-L"}[cfg.backbone.name])
    assert model.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", model.sha256)
    assert model.hub is None or re.fullmatch(r"[\w.-]+/[\w.-]+", model.hub)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("nyu_swin", "nyu_swin_[bl]"), ("NYU-Swin-B", "nyu_swin_b"), ("mfnet_swinl", "mfnet_swin_l")],
)
def test_a_misspelt_name_is_recognised(name: str, meant: str) -> None:
    assert is_of_zoo(f"zoo:{name}")
    with pytest.raises(
        CheckpointError, match=rf"^zoo:{name}: the zoo has no model of this name; did you mean '{meant}'"
    ):
        zoo_model(f"zoo:{name}")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(CheckpointError, match="there are deliver_rgb_e_swin_b, .*, sunrgbd_swin_l$"):
        zoo_model("zoo:?")
